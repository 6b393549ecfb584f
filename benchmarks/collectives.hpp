// Barriers and exchanges of the session dialect: one request a member, several members on one connection.

#pragma once

#include "crowd.hpp"

namespace bench {

// All members arrive by MEET, or by EXCHANGE with a value, again and again under one name.
class Collective {
  public:
    Collective(const Options &options, bool is_exchange)
        : options_(options), is_exchange_(is_exchange), members_(options.connections * options.per) {
        reply_size_ = REPLY_HEAD + 8 + (is_exchange ? members_ * (8 + options.value.size()) : 0);
        for (size_t i = 0; i < options.connections; i++) {
            std::string batch;
            for (size_t rank = i * options.per; rank < (i + 1) * options.per; rank++) batch += arrival(rank);
            batches_.push_back(batch);
        }
        if (is_exchange) {
            for (size_t rank = 0; rank < members_; rank++) expected_ += counted(value_of(rank));
        }
    }

    // One generation: from the first arrival until the last member has its reply.
    double run(Crowd &crowd, Stretch &stretch) {
        const size_t whole = reply_size_ * options_.per;
        size_t missing = options_.connections;
        generation_++;
        for (Peer &peer : crowd.peers()) {
            stamp(batches_[peer.number], peer.next_id);
            peer.have = 0;
        }
        stretch.start();
        for (Peer &peer : crowd.peers()) crowd.post(peer, batches_[peer.number]);
        crowd.run(
            [&](Peer &peer, std::string_view data) {
                if (peer.number == 0) first_ += data;
                peer.have += data.size();
                if (peer.have > whole) die("the server said more than was asked");
                if (peer.have == whole) missing--;
            },
            [&] { return missing == 0; });
        double took_s = stretch.end();
        check();
        return took_s;
    }

  private:
    const Options &options_;
    bool is_exchange_;
    size_t members_, reply_size_ = 0;
    uint64_t generation_ = 0;
    std::vector<std::string> batches_;
    std::string first_, expected_;

    std::string value_of(size_t rank) const {
        std::string value = options_.value;
        memcpy(&value[0], &rank, std::min(sizeof rank, value.size()));
        return value;
    }

    std::string arrival(size_t rank) const {
        std::string fields = counted("/bench/together") + raw(static_cast<uint32_t>(rank)) +
                             raw(static_cast<uint32_t>(members_)) + counted("");
        return is_exchange_ ? frame(EXCHANGE, fields + counted(value_of(rank))) : frame(MEET, fields);
    }

    // Every reply on the first connection is looked at, the others' are counted.
    void check() {
        for (size_t at = 0; at < first_.size(); at += reply_size_) {
            std::string_view reply = std::string_view(first_).substr(at, reply_size_);
            if (reply[4] != 0) die("a member was not answered OK but %d", reply[4]);
            uint64_t generation = 0;
            memcpy(&generation, &reply[REPLY_HEAD], sizeof generation);
            if (generation < generation_) die("generation %lu has met instead of %lu", generation, generation_);
            if (reply.substr(REPLY_HEAD + 8) != expected_) die("EXCHANGE gave a wrong value");
        }
        first_.clear();
    }
};

inline void run_collective(const Options &options, bool is_exchange) {
    if (options.wire != Wire::session) die("only the session dialect has this");
    std::vector<double> ms;
    Stretch stretch(options);
    {
        Crowd crowd(options);
        Collective all(options, is_exchange);
        Stretch warm_up(options);
        all.run(crowd, warm_up);
        for (int turn = 0; turn < options.repeat; turn++) ms.push_back(all.run(crowd, stretch) * 1000);
    }
    printf("{");
    print_list("ms", ms);
    stretch.print_shares();
}

inline void meet(const Options &options) { run_collective(options, false); }

inline void gather(const Options &options) { run_collective(options, true); }

}  // namespace bench
