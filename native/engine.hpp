// The server as a machine, twin of server/engine.py: the same rules, the same refusals, byte for byte.
//
// The driver owns the peers: it makes one for each connection (it may derive from Peer), and destroys it after
// `disconnect`, or after the engine's `closed`. The bytes owed to a peer are in its `output`; the driver takes them
// from there. An engine that is destroyed lets go of its peers first, so they outlive it or are disconnected before.
// Nothing here makes a system call, reads a clock or throws.
//
// Identical requests are answered together: a MULTI_GET like the one before is answered with the same bytes, in memory
// once, while no key has changed; a list of names that was found present is present until a name vanishes.
#pragma once

#include <math.h>

#include "keyspace.hpp"
#include "output.hpp"
#include "waiters.hpp"

namespace rallypoint {

// One connection as the engine sees it.
struct Peer : Waiter {
    int64_t id = 0;  // the driver's number for it
    Output output;
    bool is_paused = false;  // fed nothing until `resume`
    // The rest is the engine's own.
    bool is_known = false;
    Reader reader;
    uint64_t held = 0;  // of its input, as counted
    double deadline = 0;
    Link<Peer> of_all;  // in the order of connection
    Link<Peer> of_strangers;
};

// What an event causes, told to the driver while the step runs. The driver only takes note; it must not call back.
class Driver {
  public:
    // The peer's output was empty and is not any more (any peer, not only the one that asked).
    virtual void owes(Peer &peer) = 0;
    // The peer caused too much output: send it, feed nothing, then call `resume`.
    virtual void paused(Peer &peer) = 0;
    // The engine has forgotten the peer: send what it is owed, then close. `detail` is one sentence, valid in the call.
    virtual void closed(Peer &peer, int reason, const char *detail) = 0;

  protected:
    ~Driver() = default;
};

// Twin of vocabulary.Statistics, in its order; `closed` by reason.
struct Statistics {
    uint64_t connections, validated, paused, keys, queues, stored_size, waiting, input_held, requests;
    uint64_t closed[ENDED + 1];
};

class Engine {
  public:
    Engine(const Limits &limits, Driver &driver, uint64_t hash_key_0, uint64_t hash_key_1)
        : limits_(limits), driver_(driver), keyspace_(limits, {hash_key_0, hash_key_1}),
          waiters_({hash_key_0, hash_key_1}) {}

    ~Engine() {
        // Nobody is left to be called to a queue, so the newest goes first and nobody is told anything.
        while (Peer *newest = peers_.last) {
            newest->called.drop();
            disconnect(*newest);
        }
    }

    // The steps of `Engine.step`. A peer that is unknown, closed by the engine or disconnected is ignored.
    void connect(Peer &peer, double now) {
        if (connections_ >= limits_.connections_max) {
            refusal_.say(TOO_MANY_CONNECTIONS, "%" PRIu64 " peers are connected, the limit is %" PRIu64, connections_,
                         limits_.connections_max);
            close(peer);
            return;
        }
        ++connections_;
        peer.is_known = true;
        peer.deadline = now + limits_.handshake_timeout_s;
        peers_.add(peer);
        strangers_.add(peer);
    }

    void receive(Peer &peer, const char *data, size_t size) {
        if (!peer.is_known) return;
        peer.reader.feed(data, size);
        serve(peer);
    }

    void resume(Peer &peer) {
        if (!peer.is_known) return;
        peer.is_paused = false;
        serve(peer);
    }

    void disconnect(Peer &peer) {
        if (!peer.is_known) return;
        peer.is_known = false;
        --connections_;
        input_held_ -= peer.held;
        peer.held = 0;
        peers_.remove(peer);
        if (!peer.reader.is_validated) strangers_.remove(peer);
        peer.reader.close();
        abandon(peer);
    }

    void tick(double now) {
        while (strangers_.first != nullptr && strangers_.first->deadline <= now) {
            refusal_.say(HANDSHAKE_TIMEOUT, "VALIDATE did not come within %g s", limits_.handshake_timeout_s);
            close(*strangers_.first);
        }
    }

    // When `tick` is due, infinity if no time matters.
    double next_deadline() const {
        return strangers_.first == nullptr ? static_cast<double>(INFINITY) : strangers_.first->deadline;
    }

    // The numbers. Cost: the number of peers.
    Statistics statistics() const {
        Statistics statistics = {connections_, 0, 0, keyspace_.key_count(), keyspace_.queue_count(),
                                 keyspace_.stored_size(), waiters_.count(), input_held_, requests_, {}};
        for (const Peer *peer = peers_.first; peer != nullptr; peer = peer->of_all.after) {
            statistics.validated += peer->reader.is_validated;
            statistics.paused += peer->is_paused;
        }
        memcpy(statistics.closed, closed_, sizeof(closed_));
        return statistics;
    }

  private:
    // A shorter list is looked up as fast as it is compared and kept.
    static constexpr size_t MEMO_SIZE_MIN = 128;
    // What memos keep beyond the store's own bytes, at most.
    static constexpr size_t MEMO_SIZE_MAX = 16 << 20;

    // Apply the peer's whole requests, until there are no more or they have caused too much output.
    void serve(Peer &peer) {
        produced_ = 0;
        while (!peer.is_paused) {
            Bytes request;
            const Reader::Step step = peer.reader.next(limits_.input_size_max, &request, refusal_);
            if (step == Reader::MORE) break;
            if (step == Reader::REFUSED || (++requests_, !apply(peer, request))) {
                close(peer);
                return;
            }
            if (produced_ > limits_.output_size_max) {
                peer.is_paused = true;
                driver_.paused(peer);
            }
        }
        peer.reader.keep();
        if (peer.held > 0 || peer.reader.held() > 0) hold(peer);
    }

    // Account for what the peer's reader keeps; over the total, close those that keep the most.
    void hold(Peer &peer) {
        input_held_ += peer.reader.held() - peer.held;
        peer.held = peer.reader.held();
        while (input_held_ > limits_.input_total_max) {
            Peer *largest = peers_.first;
            for (Peer *each = peers_.first; each != nullptr; each = each->of_all.after) {
                if (each->held > largest->held) largest = each;
            }
            refusal_.say(INPUT_TOTAL,
                         "begun requests of all peers hold %" PRIu64 " bytes, this one's %" PRIu64
                         ", the limit is %" PRIu64, input_held_, largest->held, limits_.input_total_max);
            close(*largest);
        }
    }

    // Close a peer because of the last refusal.
    void close(Peer &peer) {
        ++closed_[refusal_.reason];
        disconnect(peer);
        driver_.closed(peer, refusal_.reason, refusal_.detail);
    }

    // --- replies and releases ---------------------------------------------------------------------------------

    // Give the peer's output, to put something into it.
    Output &owed(Peer &peer) {
        if (peer.output.empty()) driver_.owes(peer);
        return peer.output;
    }

    template <typename Number>
    bool answer(Peer &peer, Number number) {
        store(owed(peer).extend(sizeof(number)), number);
        produced_ += sizeof(number);
        return true;
    }

    bool answer_text(Peer &peer, Bytes text) {
        text.copy_to(store<uint64_t>(owed(peer).extend(8 + text.size), text.size));
        produced_ += 8 + text.size;
        return true;
    }

    bool answer_value(Peer &peer, Value *value) {
        if (value == nullptr) return answer<uint64_t>(peer, 0);
        if (value->size <= Output::COPIED_SIZE_MAX) return answer_text(peer, value->bytes());
        answer<uint64_t>(peer, value->size);
        peer.output.append(value);
        produced_ += value->size;
        return true;
    }

    void go_on(const Ring<Waiter *> &released) {
        for (size_t at = 0; at < released.count(); ++at) *owed(static_cast<Peer &>(*released[at])).extend(1) = kGoOn;
    }

    // Release those whom a new key completes. Gives false for a change that was refused.
    bool created(const Name &name, Keyspace::Change change) {
        if (change == Keyspace::CREATED) go_on(waiters_.appeared(name, !keyspace_.has_queue(name)));
        return change != Keyspace::REFUSED;
    }

    // Drop what the peer waits for; pass on its call to a queue that it did not pop.
    void abandon(Peer &peer) {
        waiters_.drop(peer);
        if (!peer.called) return;
        const Name name = keyspace_.name(peer.called->bytes());
        if (keyspace_.has_queue(name)) go_on(waiters_.pushed(name, false));
        peer.called.drop();
    }

    void vanished(const Name &name) {
        present_.drop();
        waiters_.vanished(name);
    }

    // The last MULTI_GET's reply holds no longer.
    void changing() {
        got_.drop();
        reply_.clear();
    }

    bool all_present(Bytes list) {
        if (present_.equals(list)) return true;
        Fields fields = {list.data};
        for (int64_t left = fields.number(); left > 0; --left) {
            if (!keyspace_.has(keyspace_.name(fields.text()))) return false;
        }
        if (list.size >= MEMO_SIZE_MIN && list.size <= MEMO_SIZE_MAX) present_.hold(make_value(list));
        return true;
    }

    // --- verbs ------------------------------------------------------------------------------------------------

    bool apply(Peer &peer, Bytes request) {
        const Verb verb = static_cast<Verb>(request.data[0]);
        const Bytes list = {request.data + 1, request.size - 1};
        Fields fields = {list.data};
        switch (verb) {
        case Verb::VALIDATE:
            strangers_.remove(peer);
            return peer.reader.is_validated = true;
        case Verb::CHECK: return answer(peer, all_present(list) ? kReady : kNotReady);
        case Verb::WAIT: return wait(peer, list);
        case Verb::CANCEL_WAIT:
            abandon(peer);
            return answer(peer, kCancelled);
        case Verb::GETNUMKEYS: return answer<uint64_t>(peer, keyspace_.key_count());
        case Verb::LIST_KEYS:
            owed(peer).append(keyspace_.listing());
            produced_ += keyspace_.listing()->size;
            return true;
        case Verb::MULTI_GET: return multi_get(peer, list);
        case Verb::MULTI_SET: return multi_set(list);
        case Verb::PING: return answer(peer, load<uint32_t>(list.data));
        default:
            return apply_to(keyspace_.name(fields.text()), verb, peer, fields);
        }
    }

    // Apply a request whose first field is a name; the other fields are left.
    bool apply_to(const Name &name, Verb verb, Peer &peer, Fields fields) {
        switch (verb) {
        case Verb::GET: return answer_value(peer, keyspace_.get(name));
        case Verb::SET:
            changing();
            return created(name, keyspace_.set(name, fields.text(), refusal_));
        case Verb::APPEND:
            changing();
            return created(name, keyspace_.append(name, fields.text(), refusal_));
        case Verb::ADD: {
            changing();
            int64_t total;
            const Keyspace::Change change = keyspace_.add(name, fields.number(), &total, refusal_);
            return created(name, change) && answer(peer, total);
        }
        case Verb::COMPARE_SET: {
            const Bytes expected = fields.text();
            return compare_set(peer, name, expected, fields.text());
        }
        case Verb::DELETE_KEY: {
            changing();
            const bool is_removed = keyspace_.remove(name);
            if (is_removed && !keyspace_.has_queue(name)) vanished(name);
            return answer<uint64_t>(peer, is_removed);
        }
        case Verb::QUEUE_PUSH: return queue_push(name, fields.text());
        case Verb::QUEUE_POP: return queue_pop(peer, name);
        case Verb::QUEUE_LEN: return answer<uint64_t>(peer, keyspace_.queue_length(name));
        case Verb::BARRIER: return barrier(peer, name, fields.number());
        default:
            return true;  // none is left
        }
    }

    bool compare_set(Peer &peer, const Name &name, Bytes expected, Bytes desired) {
        Value *current = keyspace_.get(name);
        if (current == nullptr && expected.size > 0) return answer_text(peer, expected);
        if (current != nullptr && !(current->bytes() == expected)) return answer_value(peer, current);
        changing();
        return created(name, keyspace_.set(name, desired, refusal_)) && answer_value(peer, keyspace_.get(name));
    }

    bool wait(Peer &peer, Bytes list) {
        abandon(peer);
        // A set that is shared knows how many are absent; it may be complete and wait still, see QUEUE_PUSH.
        WaitSet *set = waiters_.find(list);
        if (set != nullptr ? set->missing == 0 : all_present(list)) return answer(peer, kGoOn);
        const bool is_new = set == nullptr;
        if (is_new) set = waiters_.make(list, [this](const Name &name) { return keyspace_.has(name); });
        const uint64_t total = waiters_.names_held() + set->count;
        if (total <= limits_.waited_names_max) {
            waiters_.wait(peer, set);
            return true;
        }
        if (is_new) waiters_.discard(set);
        return refusal_.say(TOO_MANY_WAITED, "all peers would wait for %" PRIu64 " names, the limit is %" PRIu64, total,
                            limits_.waited_names_max);
    }

    bool multi_get(Peer &peer, Bytes list) {
        if (!got_.equals(list)) {
            changing();
            size_t copied = list.size;
            Fields fields = {list.data};
            for (int64_t left = fields.number(); left > 0; --left) {
                Value *value = keyspace_.get(keyspace_.name(fields.text()));
                const size_t size = value == nullptr ? 0 : value->size;
                store<uint64_t>(reply_.extend(8), size);
                if (size > 0) reply_.append(value);
                copied += size <= Output::COPIED_SIZE_MAX ? 8 + size : 8;
            }
            if (copied <= MEMO_SIZE_MAX) got_.hold(make_value(list));
        }
        if (!reply_.empty()) owed(peer).append(reply_);
        produced_ += reply_.size();
        if (!got_) changing();
        return true;
    }

    bool multi_set(Bytes pairs) {
        if (!keyspace_.allows(pairs, refusal_)) return false;
        changing();
        Fields fields = {pairs.data};
        for (int64_t left = fields.number(); left > 0; --left) {
            const Name name = keyspace_.name(fields.text());
            created(name, keyspace_.set(name, fields.text(), refusal_, true));
        }
        return true;
    }

    bool queue_push(const Name &name, Bytes item) {
        const bool was_present = keyspace_.has(name);
        if (!keyspace_.push(name, item, refusal_)) return false;
        go_on(waiters_.pushed(name, !was_present));
        return true;
    }

    bool queue_pop(Peer &peer, const Name &name) {
        if (peer.called.equals(name)) peer.called.drop();
        Value *item = nullptr;
        const size_t length = keyspace_.pop(name, &item);
        answer<uint64_t>(peer, length);
        if (item == nullptr) return true;
        if (length == 1 && !keyspace_.has_key(name)) vanished(name);
        answer_value(peer, item);
        release(item);
        return true;
    }

    bool barrier(Peer &peer, const Name &name, int64_t world_size) {
        abandon(peer);
        changing();
        int64_t count = 0;
        if (!created(name, keyspace_.add(name, 1, &count, refusal_))) return false;
        go_on(waiters_.arrived(name, count));
        if (count >= world_size) return answer(peer, kGoOn);
        waiters_.wait_barrier(peer, name, world_size);
        return true;
    }

    const Limits limits_;
    Driver &driver_;
    Keyspace keyspace_;
    Waiters waiters_;
    List<Peer, &Peer::of_all> peers_;
    List<Peer, &Peer::of_strangers> strangers_;  // not validated yet
    uint64_t connections_ = 0;
    uint64_t input_held_ = 0;
    uint64_t requests_ = 0;
    uint64_t produced_ = 0;  // bytes of replies that the requests of this step made for their peer
    uint64_t closed_[ENDED + 1] = {};
    Refusal refusal_;
    Held present_;  // a list of names that are all present
    Held got_;      // a MULTI_GET ...
    Output reply_;  // ... and its reply
};

}  // namespace rallypoint
