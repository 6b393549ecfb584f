// Keys that live while a session lives or a time to live runs, twin of server/leases.py, by the same rules. All sessions
// that come here have the same identity, so every lease is everybody's, but one that an earlier life granted to another.
#pragma once

#include "sessions.hpp"

namespace rallypoint {

struct Lease;

// A key of a lease.
struct Leased {
    Lease *lease = nullptr;
    Link<Leased> of_lease;
};

struct Lease : Due {
    int64_t id = 0, ttl_ms = 0;
    uint64_t session_number = 0;
    size_t key_count = 0;
    bool is_foreign = false;
    List<Leased, &Leased::of_lease> keys;  // as they came
    Link<Lease> of_session;
};

// What the end of a lease leaves to be done: a key, copied, is to be deleted and released; behind the last one, null,
// comes the lease's id, to be noted.
struct Leaving {
    Value *key;
    int64_t lease;
};

class Leases {
  public:
    Leases(const Limits &limits, const HashKey &key) : limits_(limits), key_(key), leases_(key), keys_(key), of_sessions_(key) {}
    ~Leases() {
        while (leases_.first() != nullptr) {
            free(leases_.first()->item);
            leases_.erase(leases_.first());
        }
    }

    size_t count() const { return leases_.count(); }
    // Look at each, oldest first.
    template <typename Look>
    void each(Look look) const {
        for (auto *entry = leases_.first(); entry != nullptr; entry = entry->order.after) look(*entry->item);
    }

    // Give a new lease; null if that is refused.
    Lease *grant(uint64_t session_number, int64_t ttl_ms, double now, Refusal &refusal) {
        if (ttl_ms < 0 || ttl_ms > static_cast<int64_t>(kLeaseTtlMsMax)) {
            refusal.say(BAD_ARGUMENT, "a lease was asked for with %" PRId64 " ms to live, it may have 0 to %" PRIu64,
                        ttl_ms, kLeaseTtlMsMax);
            return nullptr;
        }
        if (leases_.count() >= limits_.leases_max) {
            refusal.say(TOO_MANY_LEASES, "there are %zu leases, the limit is %" PRIu64, leases_.count(),
                        limits_.leases_max);
            return nullptr;
        }
        return &add(last_ + 1, session_number, ttl_ms, now);
    }
    // Give a lease with an id of its own, also one that an earlier life has left.
    Lease &add(int64_t id, uint64_t session_number, int64_t ttl_ms, double now) {
        Lease &lease = *new (take_memory(sizeof(Lease))) Lease;
        restore_last(lease.id = id);
        lease.order = static_cast<uint64_t>(id);
        lease.ttl_ms = ttl_ms;
        lease.session_number = session_number;
        leases_.insert(name_of(id))->item = &lease;
        if (ttl_ms == 0) {
            const Name name = name_of(session_number);
            auto *entry = of_sessions_.find(name);
            (entry != nullptr ? entry : of_sessions_.insert(name))->item.add(lease);
        }
        renew(lease, now);
        return lease;
    }
    // Never give an id up to this one again.
    void restore_last(int64_t last) { last_ = last > last_ ? last : last_; }
    // Null if there is none of this id, whoever it was granted.
    Lease *with_id(int64_t id) const {
        auto *entry = leases_.find(name_of(id));
        return entry == nullptr ? nullptr : entry->item;
    }
    // Null for one that is not there.
    Lease *find(int64_t id, Refusal &refusal) const {
        Lease *lease = with_id(id);
        if (lease != nullptr && !lease->is_foreign) return lease;
        refusal.say(NO_SUCH_LEASE, "there is no lease %" PRId64, id);
        return nullptr;
    }
    // Let a lease live its whole time again.
    void renew(Lease &lease, double now) {
        if (lease.ttl_ms > 0) ends_.put(lease, now + static_cast<double>(lease.ttl_ms) / 1000);
    }

    // A key has been written or deleted, and belongs to this lease now, null to none.
    void follow(const Name &key, Lease *lease) {
        auto *entry = keys_.find(key);
        if (entry == nullptr && lease == nullptr) return;
        if (entry != nullptr) {
            if (entry->item.lease == lease) return;
            part(entry);
        }
        if (lease == nullptr) return;
        Leased &leased = keys_.insert(key)->item;
        leased.lease = lease;
        lease->keys.add(leased);
        ++lease->key_count;
    }

    // The id of the lease that a key belongs to, 0 for none.
    int64_t lease_of(const Name &key) const {
        auto *entry = keys_.find(key);
        return entry == nullptr ? 0 : entry->item.lease->id;
    }

    // End a lease, and say what that leaves to be done.
    void end(Lease &lease, Ring<Leaving> &left) {
        while (Leased *leased = lease.keys.first) {
            auto *entry = Table<Leased>::entry_of(leased);
            left.push({make_value(entry->name()), lease.id});
            part(entry);
        }
        left.push({nullptr, lease.id});
        if (lease.ttl_ms == 0) {
            auto *entry = of_sessions_.find(name_of(lease.session_number));
            entry->item.remove(lease);
            if (entry->item.first == nullptr) of_sessions_.erase(entry);
        }
        ends_.drop(lease);
        leases_.erase(leases_.find(name_of(lease.id)));
        free(&lease);
    }
    // End the leases that end with a session, oldest first.
    void end_session(uint64_t number, Ring<Leaving> &left) {
        while (auto *entry = of_sessions_.count() == 0 ? nullptr : of_sessions_.find(name_of(number))) {
            end(*entry->item.first, left);
        }
    }
    // End the leases whose time is over, in the order of their ends, unless the server has stood still.
    void due(double now, Ring<Leaving> &left) {
        const double at = next_deadline();
        if (at > now) return;
        if (now - at > kStallS) {
            grace_until_ = now + kGraceS;
            return;
        }
        while (ends_.first() != nullptr && ends_.first()->due_at <= now) {
            end(*static_cast<Lease *>(ends_.first()), left);
        }
    }
    double next_deadline() const {
        return ends_.first() == nullptr ? static_cast<double>(INFINITY) : fmax(ends_.first()->due_at, grace_until_);
    }

  private:
    template <typename Number>
    Name name_of(const Number &number) const {
        return Name(key_, {reinterpret_cast<const char *>(&number), sizeof(number)});
    }
    void part(Table<Leased>::Entry *entry) {
        Lease &lease = *entry->item.lease;
        lease.keys.remove(entry->item);
        --lease.key_count;
        keys_.erase(entry);
    }

    const Limits &limits_;
    const HashKey key_;
    Table<Lease *> leases_;  // by id
    Table<Leased> keys_;
    Table<List<Lease, &Lease::of_session>> of_sessions_;  // those that end with them, by their number
    Deadlines ends_;
    double grace_until_ = -static_cast<double>(INFINITY);
    int64_t last_ = 0;
};

}  // namespace rallypoint
