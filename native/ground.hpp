// What the verbs of both dialects stand on, twin of server/ground.py: the keyspace, who waits for what in it, and what
// peers are owed.
//
// A change goes through here, whoever asks for it: what was remembered of the keys is dropped, and those that it
// releases are told, peers of the c10d dialect with one byte, requests of a session by `woken`.
#pragma once

#include <arpa/inet.h>
#include <math.h>

#include "keyspace.hpp"
#include "output.hpp"
#include "waiters.hpp"

namespace rallypoint {

struct Talk;  // a connection of the session dialect
struct Line;  // what a relay has of a peer

// One connection as the engine sees it.
struct Peer : Waiter {
    int64_t id = 0;  // the driver's number for it
    Output output;
    bool is_paused = false;  // fed nothing until `resume`
    bool is_held = false;    // fed nothing until the machine says so, by `held` as well
    int error = 0;           // the system's, by which the connection was lost; 0: the other end closed it
    // The rest is the engine's own.
    bool is_known = false;
    Reader reader;
    uint64_t held = 0;  // of its input, as counted
    double deadline = 0, came_at = 0;
    uint64_t received = 0, sent = 0;
    Talk *talk = nullptr;  // what belongs to the session dialect; null in c10d's
    Line *line = nullptr;  // a relay's
    Link<Peer> of_all;  // in the order of connection
    Link<Peer> of_strangers;
    Table<uint64_t>::Entry *host = nullptr;  // the address that it is counted under
};

constexpr size_t HOST_SIZE = 64, ADDRESS_SIZE = 128;

// What an event causes, told to the driver while the step runs. The driver only takes note; it must not call back.
class Driver {
  public:
    // The peer's output was empty and is not any more (any peer, not only the one that asked).
    virtual void owes(Peer &peer) = 0;
    // The peer caused too much output: send it, feed nothing, then call `resume`.
    virtual void paused(Peer &peer) = 0;
    // Whether the peer is fed has changed.
    virtual void held(Peer &) {}
    // The engine has forgotten the peer: send what it is owed, then close. `detail` is one sentence, valid in the call.
    virtual void closed(Peer &peer, int reason, const char *detail) = 0;
    // The machine has forgotten a peer that needs to be sent nothing more: close it now.
    virtual void dropped(Peer &) {}
    // Tell of the peer's input when so many bytes of it are there, or nearly as many as the system keeps.
    virtual void awaits(Peer &, size_t) {}
    // Say a line to the owner, who knows what to do with it.
    virtual void note(const char *) {}
    // Tell whether a peer is on this machine for certain, else put its address, as numbers, if there is one.
    virtual bool is_local(const Peer &peer, char (&host)[HOST_SIZE]) = 0;
    // Whether a step that has served so many requests, and was asked this after each, is to leave the rest for later.
    virtual bool is_late(uint64_t) { return false; }
    // Give the bytes that peers leave unread.
    virtual uint64_t unread_size() { return 0; }
    // Put where it comes from, for people.
    virtual void address(const Peer &peer, char (&address)[ADDRESS_SIZE]) = 0;

  protected:
    ~Driver() = default;
};

// Twin of vocabulary.Statistics, in its order but for `closed`, which is by reason.
struct Statistics {
    uint64_t connections, validated, paused, keys, queues, stored_size, waiting, input_held, requests, sessions,
        answers_size;
    uint64_t closed[ENDED + 1];
};

class Ground {
  protected:
    Ground(const Limits &limits, Driver &driver, const HashKey &key)
        : limits_(limits), driver_(driver), key_(key), changes_(key), keyspace_(limits, key, changes_), waiters_(key), readers_(key),
          poppers_(key) {}
    ~Ground() = default;

    // A request of a session got what it waits for.
    virtual void woken(Waiter &waiter) = 0;
    // A key has changed, and `is_followed_`: there are watches, or keys that belong to leases.
    virtual void followed(const Name &name, EventKind kind, bool is_appended) = 0;

    // A shorter list is looked up as fast as it is compared and kept.
    static constexpr size_t MEMO_SIZE_MIN = 128;
    // What memos keep beyond the store's own bytes, at most.
    static constexpr size_t MEMO_SIZE_MAX = 16 << 20;

    // Give the peer's output, to put something into it.
    HOT Output &owed(Peer &peer) {
        if (peer.output.empty()) driver_.owes(peer);
        return peer.output;
    }

    void go_on(const Ring<Waiter *> &released) {
        for (size_t at = 0; at < released.count(); ++at) {
            Waiter &waiter = *released[at];
            if (waiter.is_of_session) {
                woken(waiter);
            } else {
                *owed(static_cast<Peer &>(waiter)).extend(1) = kGoOn;
            }
        }
    }

    // Tell of a change, and release those whom a new key completes. Gives false for a change that was refused.
    HOT bool changed(const Name &name, Keyspace::Change change, bool is_appended = false) {
        if (change != Keyspace::REFUSED && is_followed_) followed(name, EventKind::SET, is_appended);
        if (change == Keyspace::CREATED) appeared(name);
        return change != Keyspace::REFUSED;
    }
    void appeared(const Name &name) {
        go_on(waiters_.appeared(name, !keyspace_.has_queue(name)));
        if (readers_.count() > 0) go_on(readers_.appeared(name, true));
    }

    // Drop what somebody waits for; pass on its call to a queue that it did not pop.
    void abandon(Waiter &waiter) {
        waiters_.drop(waiter);
        if (waiter.called) pass_on(waiter.called);
    }
    void pass_on(Held &call) {
        const Name name = keyspace_.name(call->bytes());
        if (keyspace_.has_queue(name)) go_on(waiters_.pushed(name, false));
        call.drop();
    }

    void vanished(const Name &name) {
        present_.drop();
        waiters_.vanished(name);
    }

    bool remove(const Name &name) {
        changing();
        if (!keyspace_.remove(name)) return false;
        if (is_followed_) followed(name, EventKind::DELETED, false);
        readers_.vanished(name);
        if (!keyspace_.has_queue(name)) vanished(name);
        return true;
    }

    // Put an item into a queue; gives the length after that, before anybody takes it, 0 if it was refused.
    size_t push(const Name &name, Bytes item) {
        const bool was_present = keyspace_.has(name);
        if (!keyspace_.push(name, item, refusal_)) return 0;
        const size_t length = keyspace_.queue_length(name);
        auto *entry = poppers_.find(name);
        if (entry == nullptr) {
            go_on(waiters_.pushed(name, !was_present));
        } else {
            Waiter &first = *entry->item.first;
            leave_queue(first, entry);
            woken(first);  // it takes the item: nobody else has seen the name become present
        }
        return length;
    }
    // As the keyspace's.
    size_t pop(const Name &name, Value **item) {
        const size_t length = keyspace_.pop(name, item);
        if (length == 1 && !keyspace_.has_key(name)) vanished(name);
        return length;
    }
    void wait_for_item(Waiter &waiter, const Name &name) {
        auto *entry = poppers_.find(name);
        if (entry == nullptr) entry = poppers_.insert(name);
        entry->item.add(waiter);
        ++popper_count_;
    }
    void leave_queue(Waiter &waiter, Table<WaitLine>::Entry *entry) {
        entry->item.remove(waiter);
        if (entry->item.first == nullptr) poppers_.erase(entry);
        --popper_count_;
    }

    // Count one more at c10d's barrier, release whom that completes.
    bool arrive(const Name &name, int64_t *count) {
        changing();
        if (!changed(name, keyspace_.add(name, 1, count, refusal_))) return false;
        go_on(waiters_.arrived(name, *count));
        return true;
    }

    size_t waiting() const { return waiters_.count() + readers_.count() + popper_count_; }

    // Have somebody wait for a list of names, in `waiters_` or for keys in `readers_`. False if that is too much.
    template <typename IsPresent>
    bool wait_for(Waiters &where, WaitSet *set, Bytes list, Waiter *waiter, IsPresent is_present) {
        const bool is_new = set == nullptr;
        if (is_new) set = where.make(list, is_present);
        const uint64_t total = waiters_.names_held() + readers_.names_held() + set->count;
        if (total <= limits_.waited_names_max) {
            waiter->since = now_;
            where.wait(*waiter, set);
            return true;
        }
        if (is_new) where.discard(set);
        return refusal_.say(TOO_MANY_WAITED, "all peers would wait for %" PRIu64 " names, the limit is %" PRIu64, total,
                            limits_.waited_names_max);
    }

    // The last MULTI_GET's reply holds no longer.
    HOT void changing() {
        got_.drop();
        reply_.clear();
    }

    // Set all pairs or none; those who wait see them together.
    bool set_all(Bytes pairs) {
        if (!keyspace_.allows(pairs, refusal_)) return false;
        changing();
        const int64_t before = keyspace_.revision();
        Ring<Name> created;
        Fields fields = {pairs.data};
        for (int64_t left = fields.number(); left > 0; --left) {
            const Name name = keyspace_.name(fields.text());
            if (keyspace_.set_one_of(name, fields.text(), before, refusal_) == Keyspace::CREATED) created.push(name);
        }
        fields = {pairs.data};
        int64_t revision = before;
        for (int64_t left = is_followed_ || changes_.is_on ? fields.number() : 0; left > 0; --left) {
            const Name name = keyspace_.name(fields.text());
            fields.text();
            if (keyspace_.revision_of(name) != revision + 1) continue;  // named once more
            changes_.key_set(name, keyspace_.get(name)->bytes(), ++revision);
            if (is_followed_) followed(name, EventKind::SET, false);
        }
        for (size_t at = 0; at < created.count(); ++at) appeared(created[at]);
        return true;
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

    const Limits limits_;
    Driver &driver_;
    const HashKey key_;
    Changes changes_;
    Keyspace keyspace_;
    Waiters waiters_;          // for names that are present, as WAIT does, and for a barrier's count
    Waiters readers_;          // for keys, as a GET that waits
    Table<WaitLine> poppers_;  // for an item, as a QUEUE_POP that waits
    size_t popper_count_ = 0;
    Refusal refusal_;
    bool is_followed_ = false;
    double now_ = 0;
    uint64_t produced_ = 0;  // bytes of replies that the requests of this step made for their peer
    Held present_;           // a list of names that are all present
    Held got_;               // a MULTI_GET ...
    Output reply_;           // ... and its reply
};

}  // namespace rallypoint
