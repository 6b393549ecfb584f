// The load generator: many clients in one thread, against any server of the c10d wire or of RESP.
//
// One process is one measurement: it connects, prepares, measures, checks what came back, and prints one line of JSON.
//
//   load --workload pingpong --target PORT --op get                       one client, one request at a time
//   load --workload flight   --target PORT --op get --connections 64 --depth 32
//   load --workload exchange --target PORT --connections 512 --value 1024
//   load --workload barrier  --target PORT --connections 4096 [--verb 1]
//   load --workload exchange --target PORT,PORT,... --connections 512      the first of them to the first port, and so on
//   load --workload storm    --target PORT --connections 4000
//   load --workload fill     --target PORT --keys 1000000                 writes the keys and leaves them
//   load --workload hold     --target PORT --connections 4000             holds them until the standard input ends
//   load --workload meet     --target PORT --wire session --connections 512 --per 8
//   load --workload gather   --target PORT --wire session --connections 512 --value 1024
//   load --workload puts     --target PORT --wire etcd --connections 64
//   load --workload members  --target PORT --connections 64               barriers and single gets, every delay kept
//
// So that the server is the slower side, requests are made before the clock runs, a whole batch goes out by one send, and
// replies are counted, not parsed: the first of each connection is compared byte by byte, ADD's counter at the end.
// `--floor 1` leaves out what only a real store can answer. `--pid` names the server, whose CPU time is then read.

#include <map>
#include <random>

#include "collectives.hpp"
#include "crowd.hpp"
#include "etcd.hpp"

namespace {

using namespace bench;

constexpr int POOL = 64;  // different batches, so that random keys are random

// --- preparing, checking -------------------------------------------------------------------------------------

// Writes the keys by one connection; the next batch is made while the server takes in the last one.
void write_keys(const Options &options) {
    size_t at_once = options.value.size() > 4096 ? 1 : 2048;
    Single single(options);
    Ask under_way;
    for (size_t begin = 0, end; begin < options.keys; begin = end) {
        end = std::min(begin + at_once, options.keys);
        std::vector<std::string> names;
        for (size_t i = begin; i < end; i++) names.push_back(key_name(i));
        Ask next = ask_many(options.wire, "set", names, options.value);
        if (begin > 0) read_reply(single.fd(), under_way);
        send_fully(single.fd(), single.prepared(next.request));
        under_way = std::move(next);
    }
    read_reply(single.fd(), under_way);
}

void prepare(const Options &options) {
    if (options.is_floor) return;
    if (options.op == "get" || options.op == "check") write_keys(options);
    if (options.op == "add") {  // the counter begins as a number, whatever was measured before
        Single single(options);
        single.ask(ask_many(options.wire, "set", {key_name(0)}, "0"));
    }
}

// ADD's counter tells how many requests the server has really served.
void check_counter(const Options &options, uint64_t asked) {
    if (options.is_floor || options.op != "add" || options.wire == Wire::resp) return;
    Single single(options);
    Ask zero = add(key_name(0), 0);
    const bool is_session = options.wire == Wire::session;
    single.ask(is_session ? framed(zero.request, 8) : zero);
    uint64_t counted = 0;
    memcpy(&counted, buffer + (is_session ? REPLY_HEAD : 0), sizeof counted);
    if (counted < asked) die("the server counted %lu of %lu requests", counted, asked);
}

std::vector<Ask> batches(const Options &options) {
    std::mt19937 random(1);
    std::vector<Ask> pool;
    for (int i = 0; i < (options.keys > 1 ? POOL : 1); i++) {
        std::vector<std::string> names;
        for (size_t k = 0; k < options.depth; k++) names.push_back(key_name(random() % options.keys));
        pool.push_back(ask_many(options.wire, options.op, names, options.value));
    }
    return pool;
}

// --- workloads -------------------------------------------------------------------------------------------------

void round_trip(int fd, std::string_view request, const Ask &ask, int64_t spin_ns) {
    send_fully(fd, request);
    if (spin_ns == 0) return read_reply(fd, ask);
    for (int64_t until = now_ns() + spin_ns; now_ns() < until;) {
        ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (got > 0) {
            if (ask.reply_lines == 0) read_fully(fd, buffer, ask.reply_size - static_cast<size_t>(got));
            return;
        }
    }
    read_reply(fd, ask);
}

void ping_pong(const Options &options) {
    prepare(options);
    Ask ask = batches(options)[0];
    std::vector<float> us;
    us.reserve(1 << 20);
    Stretch stretch(options);
    uint64_t asked = 0;
    {
        Single single(options);
        for (int i = 0; i < 200; i++, asked++) round_trip(single.fd(), single.prepared(ask.request), ask, options.spin_ns);
        if (!options.is_floor) single.ask(ask);
        stretch.start();
        int64_t end = now_ns() + options.ns;
        for (int64_t before = now_ns(); before < end; asked++) {
            round_trip(single.fd(), single.prepared(ask.request), ask, options.spin_ns);
            int64_t after = now_ns();
            us.push_back(static_cast<float>(after - before) / 1000);
            before = after;
        }
        stretch.end();
    }
    check_counter(options, asked);
    printf("{");
    print_quantiles("us", us);
    stretch.print_shares();
}

// Compares the first reply of a connection as it comes; gives false while it is not complete.
bool is_first_read(Peer &peer, std::string_view data, const Ask &ask) {
    peer.first.append(data);
    if (peer.first.size() < ask.reply_size) return false;
    if (peer.first != ask.reply) die("connection %u got a wrong reply", peer.number);
    peer.first = {};
    return true;
}

void flight(const Options &options) {
    prepare(options);
    std::vector<Ask> pool = batches(options);
    Stretch stretch(options);
    uint64_t answered = 0, before = 0;
    size_t next = 0;
    bool is_checked = !options.is_floor && pool[0].reply.size() == pool[0].reply_size && pool[0].reply_size > 0;
    size_t whole = pool[0].reply_lines > 0 ? pool[0].reply_lines : pool[0].reply_size;
    {
        Crowd crowd(options);
        for (Peer &peer : crowd.peers()) crowd.post_again(peer, pool[0].request);
        auto on_data = [&](Peer &peer, std::string_view data) {
            if (is_checked && peer.stage == 0) {
                if (!is_first_read(peer, data, pool[0])) return;
                peer.have = whole;
            } else if (pool[0].reply_lines > 0) {
                peer.have += static_cast<size_t>(std::count(data.begin(), data.end(), '\n'));
            } else {
                peer.have += data.size();
            }
            if (peer.have < whole) return;
            if (peer.have > whole) die("the server said more than was asked");
            peer.have = 0;
            peer.stage = 1;
            answered += options.depth;
            crowd.post_again(peer, pool[next++ % pool.size()].request);
        };
        // A warm-up, then the stretch that counts: in each there are as many answers as connections can have at once.
        uint64_t at_once = options.connections * options.depth;
        int64_t end = now_ns() + options.ns / 5;
        crowd.run(on_data, [&] { return now_ns() >= end && answered >= at_once; });
        before = answered;
        stretch.start();
        end = now_ns() + options.ns;
        crowd.run(on_data, [&] { return now_ns() >= end && answered - before >= at_once; });
        stretch.end();
    }
    check_counter(options, answered);
    double count = static_cast<double>(answered - before);
    printf("{\"per_s\": %.1f, \"bytes_per_s\": %.1f, \"server_us\": %.4f, \"generator_us\": %.4f, ",
           count / stretch.total_s, count * static_cast<double>(options.value.size()) / stretch.total_s,
           stretch.server_busy * 1e6 / count, stretch.own_busy * 1e6 / count);
    stretch.print_shares();
}

// Every member writes one value and waits for all, then reads all: WAIT and MULTI_GET, as the client's multi_get does.
class Exchange {
  public:
    Exchange(const Options &options, Crowd &crowd, int turn) : options_(options), crowd_(crowd) {
        size_t members = options.connections;
        for (size_t i = 0; i < members; i++) names_.push_back("/x" + std::to_string(turn) + key_name(i));
        std::vector<std::string> asked = names_;
        for (size_t i = 0; i < (options.is_rotated ? members : 1); i++) {
            waits_.push_back(wait(asked));
            reads_.push_back(multi_get(asked));
            std::rotate(asked.begin(), asked.begin() + 1, asked.end());
        }
        for (size_t i = 0; i < members; i++) {
            first_.push_back(set(names_[i], value_of(i)) + waits_[i % waits_.size()]);
            expected_ += counted(value_of(i));
        }
        whole_ = members * (8 + options.value.size());
    }

    double run(Stretch &stretch) {
        size_t missing = options_.connections;
        for (Peer &peer : crowd_.peers()) peer.stage = 0, peer.have = 0;
        stretch.start();
        for (Peer &peer : crowd_.peers()) crowd_.post(peer, first_[peer.number]);
        crowd_.run(
            [&](Peer &peer, std::string_view data) {
                if (peer.stage == 0) {
                    if (data.size() != 1 || data[0] != '\0') die("WAIT was answered by something else");
                    peer.stage = 1;
                    return crowd_.post(peer, reads_[peer.number % reads_.size()]);
                }
                if (peer.number == 0) compare(peer.have, data);
                peer.have += data.size();
                if (peer.have == whole_) missing--;
            },
            [&] { return missing == 0; });
        return stretch.end();
    }

    std::string removal() const {
        std::string all;
        for (const std::string &name : names_) all += remove(name);
        return all;
    }

    static std::string steps(size_t members, size_t value) {
        std::string name = "/x0" + key_name(0);
        size_t first = set(name, std::string(value, 'v')).size() + 9 + members * (8 + name.size());
        return "all:" + std::to_string(first * members) + ":1,each:" + std::to_string(9 + members * (8 + name.size())) +
               ":" + std::to_string(members * (8 + value));
    }

  private:
    const Options &options_;
    Crowd &crowd_;
    std::vector<std::string> names_, waits_, reads_, first_;
    std::string expected_;
    size_t whole_ = 0;

    std::string value_of(size_t i) const {
        std::string value = options_.value;
        memcpy(&value[0], &i, std::min(sizeof i, value.size()));
        return value;
    }

    // The first member's reply is compared whole, the others' are counted.
    void compare(size_t at, std::string_view data) const {
        if (options_.is_floor) return;
        if (expected_.compare(at, data.size(), data) != 0) die("MULTI_GET gave a wrong value");
    }
};

void exchange(const Options &options) {
    std::vector<double> ms;
    Stretch stretch(options);
    {
        Crowd crowd(options);
        for (int turn = 0; turn <= options.repeat; turn++) {  // the first one warms up
            Exchange one(options, crowd, turn % 10);
            if (turn == 0) {
                Stretch warm_up(options);
                one.run(warm_up);
            } else {
                ms.push_back(one.run(stretch) * 1000);
            }
            if (options.is_floor) continue;
            Single single(options);
            Ask removal{one.removal(), options.connections * 8, 0, ""};
            single.ask(removal);
        }
    }
    printf("{");
    print_list("ms", ms);
    stretch.print_shares();
}

// ADD and WAIT on one more key, which the last one sets; or the verb BARRIER.
double barrier_once(const Options &options, Crowd &crowd, Stretch &stretch, int turn) {
    std::string name = "/b" + std::to_string(turn) + key_name(0);
    std::string done = name + "/done";
    std::string arrive = add(name, 1).request, wait_done = wait({done}), finish = set(done, "1");
    std::string verb = barrier(name, static_cast<int64_t>(options.connections));
    size_t missing = options.connections;
    for (Peer &peer : crowd.peers()) peer.stage = options.by_verb ? 1 : 0;
    stretch.start();
    std::string last = finish + wait_done;
    for (Peer &peer : crowd.peers()) crowd.post(peer, options.by_verb ? verb : arrive);
    crowd.run(
        [&](Peer &peer, std::string_view data) {
            if (peer.stage == 1) {
                if (data.size() != 1 || data[0] != '\0') die("WAIT was answered by something else");
                missing--;
                return;
            }
            uint64_t arrived = 0;
            if (data.size() != sizeof arrived) die("ADD was answered by something else");
            memcpy(&arrived, data.data(), sizeof arrived);
            peer.stage = 1;
            crowd.post(peer, arrived == options.connections ? last : wait_done);
        },
        [&] { return missing == 0; });
    double took_s = stretch.end();
    if (!options.is_floor) {
        Single single(options);
        single.ask({remove(name) + remove(done), 16, 0, ""});
    }
    return took_s;
}

void barrier_of_all(const Options &options) {
    std::vector<double> ms;
    Stretch stretch(options);
    {
        Crowd crowd(options);
        Stretch warm_up(options);
        barrier_once(options, crowd, warm_up, 0);
        for (int turn = 1; turn <= options.repeat; turn++) {
            ms.push_back(barrier_once(options, crowd, stretch, turn % 10) * 1000);
        }
    }
    printf("{");
    print_list("ms", ms);
    stretch.print_shares();
}

// Everybody connects and greets; over when the last one is answered. No epoll: in order, each has its reply or waits.
void storm(const Options &options) {
    constexpr size_t AT_ONCE = 4000;  // more would not fit into the queue of connections to be accepted
    Ask hello = greeting(options.wire);
    std::vector<int> fds(options.connections);
    Stretch stretch(options);
    stretch.start();
    for (size_t begin = 0; begin < fds.size(); begin += AT_ONCE) {
        size_t end = std::min(begin + AT_ONCE, fds.size());
        for (size_t i = begin; i < end; i++) {
            fds[i] = open_socket(options, i);
            send_fully(fds[i], hello.request);
        }
        for (size_t i = begin; i < end; i++) greet(fds[i], hello);
    }
    double took_s = stretch.end();
    for (int fd : fds) close_at_once(fd);
    printf("{\"ms\": [%.3f], ", took_s * 1000);
    stretch.print_shares();
}

void fill(const Options &options) {
    Stretch stretch(options);
    stretch.start();
    write_keys(options);
    double took_s = stretch.end();
    printf("{\"per_s\": %.1f, ", static_cast<double>(options.keys) / took_s);
    stretch.print_shares();
}

void hold(const Options &options) {
    Crowd crowd(options);
    printf("{\"connections\": %zu}\n", options.connections);
    fflush(stdout);
    while (read(STDIN_FILENO, buffer, sizeof buffer) > 0) {
    }
}

// A job's members at work: all meet at a barrier, then each reads one value, one after the other; again and again.
void members(const Options &options) {
    write_keys(options);
    Ask ask = get(key_name(0), options.value);
    std::vector<float> get_us, barrier_us;
    Stretch stretch(options);
    {
        Crowd crowd(options);
        Stretch all(options);
        int64_t end = now_ns() + options.ns;
        for (int turn = 0; now_ns() < end; turn++) {
            barrier_us.push_back(static_cast<float>(barrier_once(options, crowd, stretch, turn % 10) * 1e6));
            for (Peer &peer : crowd.peers()) {
                int64_t before = now_ns();
                round_trip(peer.fd, ask.request, ask, 0);
                get_us.push_back(static_cast<float>(now_ns() - before) / 1000);
            }
        }
    }
    printf("{");
    print_quantiles("get_us", get_us);
    print_quantiles("barrier_us", barrier_us);
    stretch.print_shares();
}

// What a floor server has to be told for a workload: its --steps.
void print_steps(const Options &options, const std::string &workload) {
    std::string steps;
    if (workload == "exchange") {
        steps = Exchange::steps(options.connections, options.value.size());
    } else if (workload == "barrier") {
        std::string name = "/b0" + key_name(0);
        std::string done = name + "/done";
        size_t together = options.connections * wait({done}).size() + set(done, "1").size();
        steps = "count:" + std::to_string(add(name, 1).request.size()) + ":8,all:" + std::to_string(together) + ":1";
        if (options.by_verb) steps = "all:" + std::to_string(options.connections * barrier(name, 1).size()) + ":1";
    } else {
        Ask ask = batches(options)[0];
        size_t depth = options.op == "set" ? 1 : options.depth;  // one reply for a batch of SETs
        steps = "each:" + std::to_string(ask.request.size() / depth) + ":" + std::to_string(ask.reply_size / depth);
    }
    printf("{\"steps\": \"%s\"}\n", steps.c_str());
}

}  // namespace

int main(int argc, char **argv) {
    Arguments arguments(argc, argv);
    settle_in(arguments);
    Options options(arguments);
    std::string workload = arguments.text("workload");
    const std::map<std::string, void (*)(const Options &)> workloads = {
        {"pingpong", ping_pong}, {"flight", flight}, {"exchange", exchange}, {"barrier", barrier_of_all},
        {"storm", storm},        {"fill", fill},     {"hold", hold},         {"members", members},
        {"meet", meet},          {"gather", gather},     {"puts", etcd_puts},
    };
    if (arguments.number("print-steps", 0) != 0) {
        print_steps(options, workload);
        return 0;
    }
    auto found = workloads.find(workload);
    if (found == workloads.end()) die("there is no workload %s", workload.c_str());
    found->second(options);
    return 0;
}
