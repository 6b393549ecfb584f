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

#include "status.hpp"

namespace rallypoint {

class Engine : StatusVerb {
  public:
    Engine(const Limits &limits, Driver &driver, const Secrets &secrets) : StatusVerb(limits, driver, secrets) {}

    ~Engine() {
        changes_.is_on = false;
        // Nobody is left to be called to a queue, so the newest goes first and nobody is told anything.
        while (Peer *newest = peers_.last) {
            newest->called.drop();
            forget(*newest);
        }
    }

    // Begin with what an earlier life has left, before the first step, by one or more calls and `remember`.
    void restore(Bytes commit, double now) {
        now_ = now;
        changes_.is_on = false;
        SessionVerbs::restore(commit);
    }
    // Note every change from now on. The data are of this id, none for new ones, and had these numbers last.
    void remember(Bytes data_id, int64_t revision, int64_t lease_last) {
        if (data_id.size == sizeof(data_id_)) data_id.copy_to(data_id_);
        keyspace_.restore_revision(revision);
        leases_.restore_last(lease_last);
        changes_.is_on = true;
    }
    bool has_changed() const { return changes_.commit.count() > 0; }
    // Put the bytes of the next commit behind a value.
    Value *take_changes(Value *to) { return changes_.commit.take(to); }
    // How much all commits since the last time add up to, about; and that, behind a value.
    size_t sum_count() const { return changes_.sum.count() + changes_.keys.count() + changes_.queues.count(); }
    using SessionVerbs::sum_up;

    // The steps of `Engine.step`. A peer that is unknown, closed by the engine or disconnected is ignored.
    void connect(Peer &peer, double now) {
        now_ = now;
        if (connections_ >= limits_.connections_max) {
            Peer *oldest = strangers_.first;
            refusal_.say(oldest == nullptr ? TOO_MANY_CONNECTIONS : TOO_MANY_HANDSHAKES,
                         "%" PRIu64 " peers are connected, the limit is %" PRIu64 "%s", connections_,
                         limits_.connections_max, oldest == nullptr ? "" : ", and its handshake is the oldest");
            close(oldest == nullptr ? peer : *oldest);
            if (oldest == nullptr) return;
        }
        ++connections_;
        peer.is_known = true;
        peer.came_at = now;
        peers_.add(peer);
        await_handshake(peer);
    }

    // All peers together leave so much unread, and this one the most of it. The driver drops what it is owed after this.
    void leaves_unread(Peer &peer, uint64_t held, uint64_t total, double now) {
        if (!peer.is_known) return;
        now_ = now;
        refusal_.say(OUTPUT_TOTAL, "all peers leave %" PRIu64 " bytes unread, this one %" PRIu64 ", the limit is %" PRIu64,
                     total, held, limits_.output_total_max);
        close(peer);
    }

    void receive(Peer &peer, const char *data, size_t size, double now) {
        if (!peer.is_known) return;
        now_ = now;
        Bytes segment = {data, size};
        if (!peer.reader.is_validated && !begins(peer, segment)) return close(peer);
        peer.received += size;
        peer.reader.feed(segment.data, segment.size);
        serve(peer);
    }

    void resume(Peer &peer, double now) {
        if (!peer.is_known) return;
        now_ = now;
        peer.is_paused = false;
        if (peer.talk != nullptr && peer.talk->session != nullptr) read_again(*peer.talk->session);
        serve(peer);
    }

    // For the driver, where other machines want more of it: where to put what is received, and when a turn ends.
    char *room(Peer &, char *buffer, size_t &) { return buffer; }
    void end_turn() {}

    void disconnect(Peer &peer, double now) {
        now_ = now;
        forget(peer);
    }

    void tick(double now) {
        now_ = now;
        if (isnan(began_)) began_ = now;
        while (strangers_.first != nullptr && strangers_.first->deadline <= now) {
            refusal_.say(HANDSHAKE_TIMEOUT, "%s did not come within %g s",
                         strangers_.first->talk == nullptr ? "VALIDATE" : "HELLO", limits_.handshake_timeout_s);
            close(*strangers_.first);
        }
        end_sessions();
        end_leases();
        waiters_.tidy();
        readers_.tidy();
        settle();
    }

    // The server stops: what this owes to peers is the last. The sessions stay as they are.
    void say_last_words(double now) {
        now_ = now;
        refusal_.say(ENDED, "the server stops");
        for (Peer *peer = peers_.first; peer != nullptr; peer = peer->of_all.after) {
            if (peer->talk != nullptr) say_closing(*peer);
        }
    }

    // When `tick` is due, infinity if no time matters.
    double next_deadline() const {
        const Peer *first = strangers_.first;
        const double handshake = first == nullptr ? static_cast<double>(INFINITY) : first->deadline;
        const double work = waiters_.is_tidy() && readers_.is_tidy() ? static_cast<double>(INFINITY) : now_;
        return fmin(fmin(handshake, work), fmin(next_end(), leases_.next_deadline()));
    }

    // What metrics tell besides. Cost: the number of peers.
    struct Figures {
        uint64_t groups, leases, watches, received, sent;
    };
    Figures figures() const {
        const auto [received, sent] = traffic();
        return {groups_.count(), leases_.count(), watches_.count(), received, sent};
    }

    // The numbers. Cost: the number of peers.
    Statistics statistics() const override {
        Statistics statistics = {connections_, 0, 0, keyspace_.key_count(), keyspace_.queue_count(),
                                 keyspace_.stored_size(), waiting(), input_held_, requests_, sessions_.count(),
                                 sessions_.answers_size(), {}};
        for (const Peer *peer = peers_.first; peer != nullptr; peer = peer->of_all.after) {
            statistics.validated += peer->reader.is_validated;
            statistics.paused += peer->is_paused;
        }
        memcpy(statistics.closed, closed_, sizeof(closed_));
        return statistics;
    }

  private:
    double next_end() const {
        const double end = sessions_.next_end();
        return isinf(end) ? end : fmax(end, grace_until_);
    }

    // End the sessions whose time is over. A server that stood still could not hear those that came back.
    void end_sessions() {
        const double deadline = next_end();
        if (deadline > now_) return;
        if (now_ - deadline > kStallS) {
            grace_until_ = now_ + kGraceS;
            return;
        }
        while (Session *session = sessions_.ended(now_)) end(*session);
    }

    // Find out from the first byte which dialect a peer speaks; take the opening of a session off the segment.
    [[gnu::noinline]] bool begins(Peer &peer, Bytes &segment) {
        if (peer.talk != nullptr) return hears(peer, segment);
        if (segment.size == 0 || peer.reader.held() > 0) return true;
        if (segment.data[0] == kOpening[0]) {
            peer.talk = new Talk;
            return arrives(peer) && hears(peer, segment);
        }
        return (!wants_proof() || allows_c10d(peer)) && arrives(peer);
    }

    // What is no opening has come all the same.
    bool hears(Peer &peer, Bytes &segment) {
        if (opens(*peer.talk, segment)) return true;
        peer.received += segment.size;
        return false;
    }

    // Count a peer that says something under its address.
    bool arrives(Peer &peer) {
        char host[HOST_SIZE] = "";
        driver_.is_local(peer, host);
        if (host[0] == '\0') return true;
        widen(host);
        const Name name(key_, {host, strlen(host)});
        Table<uint64_t>::Entry *entry = hosts_.find(name);
        if (entry == nullptr) entry = hosts_.insert(name);
        if (entry->item >= limits_.connections_per_address_max) {
            return refusal_.say(TOO_MANY_FROM_ADDRESS, "%" PRIu64 " peers from %s are connected, the limit for one"
                                " address is %" PRIu64, entry->item, host, limits_.connections_per_address_max);
        }
        ++entry->item;
        peer.host = entry;
        return true;
    }

    // What a peer counts under: of an IPv6 address the network of 64 bits around it, which is one place.
    static void widen(char (&host)[HOST_SIZE]) {
        if (strchr(host, ':') == nullptr) return;
        uint8_t address[16];
        host[strcspn(host, "%")] = '\0';
        if (inet_pton(AF_INET6, host, address) != 1) return;
        memset(address + 8, 0, 8);
        inet_ntop(AF_INET6, address, host, HOST_SIZE - 4);
        strcat(host, "/64");
    }

    // Give a peer the time for a handshake; if too many have it, the oldest makes room.
    void await_handshake(Peer &peer) {
        if (stranger_count_ >= limits_.handshakes_max) {
            refusal_.say(TOO_MANY_HANDSHAKES, "%" PRIu64 " handshakes are under way, the limit is %" PRIu64
                         ", and this one is the oldest", stranger_count_, limits_.handshakes_max);
            close(*strangers_.first);
        }
        peer.deadline = now_ + limits_.handshake_timeout_s;
        strangers_.add(peer);
        ++stranger_count_;
    }
    void end_handshake(Peer &peer) {
        stranger_count_ -= strangers_.has(peer);
        strangers_.drop(peer);
    }

    // A peer that cannot prove the token may come from this machine only.
    bool allows_c10d(Peer &peer) {
        char host[HOST_SIZE] = "";
        if (driver_.is_local(peer, host)) return true;
        return refusal_.say(
            AUTHENTICATION_REQUIRED,
            "it speaks c10d, which cannot prove the token that this server wants; to let it in, start the server with"
            " --allow-plain %s/%d (RALLYPOINT_ALLOW_PLAIN for a server embedded in a program), or let it speak through"
            " `rallypoint relay` on its own host", host[0] != '\0' ? host : "ADDRESS",
            strchr(host, ':') != nullptr ? 128 : 32);
    }

    // Apply the peer's whole requests, until there are no more or they have caused too much output.
    void serve(Peer &peer) {
        produced_ = 0;
        if (peer.talk != nullptr) return serve_session(peer);
        for (uint64_t requests = 1; !peer.is_paused; ++requests) {
            Bytes request;
            const Reader::Step step = peer.reader.next(limits_.input_size_max, &request, refusal_);
            if (step == Reader::MORE) break;
            if (step == Reader::REFUSED || (++requests_, !apply(peer, request))) return close(peer);
            pause_if_much(peer);
            if (peer.reader.held() > 0 && !peer.is_paused && driver_.is_late(requests)) pause(peer);
        }
        finish(peer);
        if (peer.is_known) peer.sent += produced_;
    }
    // Not inlined, so that the other dialect does not pay for it.
    [[gnu::noinline]] void serve_session(Peer &peer) {
        for (uint64_t requests = 1; !peer.is_paused; ++requests) {
            const Reader::Step step = next(peer);
            if (step == Reader::MORE) break;
            if (step == Reader::REFUSED) {
                peer.sent += produced_;
                return close(peer);
            }
            ++requests_;
            if (produced_ > limits_.output_size_max) pause(peer);
            if (peer.reader.held() == 0) continue;
            if (requests == kStepRequestsMax || driver_.is_late(requests)) pause(peer);
        }
        peer.sent += produced_;
        finish(peer);
    }
    HOT void pause_if_much(Peer &peer) {
        if (produced_ <= limits_.output_size_max) return;
        peer.is_paused = true;
        driver_.paused(peer);
    }
    HOT void finish(Peer &peer) {
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
        note_refusal(peer);
        if (peer.talk != nullptr) say_closing(peer);
        forget(peer);
        driver_.closed(peer, refusal_.reason, refusal_.detail);
    }

    void forget(Peer &peer) {
        if (!peer.is_known) return;
        peer.is_known = false;
        --connections_;
        input_held_ -= peer.held;
        peer.held = 0;
        peers_.remove(peer);
        gone_received_ += peer.received;
        gone_sent_ += peer.sent;
        end_handshake(peer);
        if (peer.host != nullptr && --peer.host->item == 0) hosts_.erase(peer.host);
        peer.host = nullptr;
        peer.reader.close();
        if (peer.talk != nullptr) {
            leave(peer);
        } else {
            abandon(peer);
        }
    }

    const Peer *first_peer() const override { return peers_.first; }
    uint64_t handshakes() const override { return stranger_count_; }
    uint64_t most_of_one_host() const override {
        uint64_t most = 0;
        for (auto *each = hosts_.first(); each != nullptr; each = each->order.after) {
            if (each->item > most) most = each->item;
        }
        return most;
    }
    void admit(Peer &peer) override {
        end_handshake(peer);
        peer.reader.is_validated = true;
    }
    void dismiss(Peer &peer) override {
        await_handshake(peer);
        peer.reader.is_validated = false;
        settle();
    }
    void evict(Peer &peer) override { close(peer); }

    // --- replies and releases ---------------------------------------------------------------------------------

    template <typename Number>
    HOT bool answer(Peer &peer, Number number) {
        store(owed(peer).extend(sizeof(number)), number);
        produced_ += sizeof(number);
        return true;
    }

    HOT bool answer_text(Peer &peer, Bytes text) {
        text.copy_to(store<uint64_t>(owed(peer).extend(8 + text.size), text.size));
        produced_ += 8 + text.size;
        return true;
    }

    HOT bool answer_value(Peer &peer, Value *value) {
        if (value == nullptr) return answer<uint64_t>(peer, 0);
        if (value->size <= Output::COPIED_SIZE_MAX) return answer_text(peer, value->bytes());
        answer<uint64_t>(peer, value->size);
        peer.output.append(value);
        produced_ += value->size;
        return true;
    }

    // --- verbs ------------------------------------------------------------------------------------------------

    bool apply(Peer &peer, Bytes request) {
        const Verb verb = static_cast<Verb>(request.data[0]);
        const Bytes list = {request.data + 1, request.size - 1};
        Fields fields = {list.data};
        switch (verb) {
        case Verb::VALIDATE:
            admit(peer);
            return true;
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
        case Verb::MULTI_SET: return set_all(list);
        case Verb::PING: return answer(peer, load<uint32_t>(list.data));
        default:
            return apply_to(keyspace_.name(fields.text()), verb, peer, fields);
        }
    }

    // Apply a request whose first field is a name; the other fields are left.
    HOT bool apply_to(const Name &name, Verb verb, Peer &peer, Fields fields) {
        switch (verb) {
        case Verb::GET: return answer_value(peer, keyspace_.get(name));
        case Verb::SET:
            changing();
            return changed(name, keyspace_.set(name, fields.text(), refusal_));
        case Verb::APPEND:
            changing();
            return changed(name, keyspace_.append(name, fields.text(), refusal_), true);
        case Verb::ADD: {
            changing();
            int64_t total;
            const Keyspace::Change change = keyspace_.add(name, fields.number(), &total, refusal_);
            return changed(name, change) && answer(peer, total);
        }
        case Verb::COMPARE_SET: {
            const Bytes expected = fields.text();
            return compare_set(peer, name, expected, fields.text());
        }
        case Verb::DELETE_KEY: return answer<uint64_t>(peer, remove(name));
        case Verb::QUEUE_PUSH: return push(name, fields.text()) > 0;
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
        return changed(name, keyspace_.set(name, desired, refusal_)) && answer_value(peer, keyspace_.get(name));
    }

    bool wait(Peer &peer, Bytes list) {
        abandon(peer);
        // A set that is shared knows how many are absent; it may be complete and wait still, see QUEUE_PUSH.
        WaitSet *set = waiters_.find(list);
        if (set != nullptr ? set->missing == 0 : all_present(list)) return answer(peer, kGoOn);
        return wait_for(waiters_, set, list, &peer, [this](const Name &name) { return keyspace_.has(name); });
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

    bool queue_pop(Peer &peer, const Name &name) {
        if (peer.called.equals(name)) peer.called.drop();
        Value *item = nullptr;
        const size_t length = pop(name, &item);
        answer<uint64_t>(peer, length);
        if (item == nullptr) return true;
        answer_value(peer, item);
        release(item);
        return true;
    }

    bool barrier(Peer &peer, const Name &name, int64_t world_size) {
        abandon(peer);
        int64_t count = 0;
        if (!arrive(name, &count)) return false;
        if (count >= world_size) return answer(peer, kGoOn);
        peer.since = now_;
        waiters_.wait_barrier(peer, name, world_size);
        return true;
    }

    List<Peer, &Peer::of_all> peers_;
    List<Peer, &Peer::of_strangers> strangers_;  // not validated yet
    uint64_t stranger_count_ = 0;
    Table<uint64_t> hosts_{key_};  // peers that have said something, by their address
    uint64_t connections_ = 0;
    uint64_t input_held_ = 0;
    uint64_t requests_ = 0;
    double grace_until_ = -static_cast<double>(INFINITY);
    uint64_t closed_[ENDED + 1] = {};
};

}  // namespace rallypoint
