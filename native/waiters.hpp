// Who waits for what, and whom a change releases; twin of server/waiters.py, by the same rules.
//
// Theory of operation. Peers that wait for the same list share one `WaitSet`: n peers that wait for m names cost m + n.
// A set is registered under all its names and counts those that are absent. Where a change completes several sets,
// their members are released in the order in which they came, which each one's `turn` tells.
#pragma once

#include "codec.hpp"
#include "table.hpp"

namespace rallypoint {

struct WaitSet;
struct Barrier;

// One peer's wait, if it has one: for a set of names or at a barrier.
struct Waiter {
    WaitSet *set = nullptr;
    Barrier *barrier = nullptr;
    Waiter *before = nullptr;  // of the same set or barrier
    Waiter *after = nullptr;
    uint64_t turn = 0;
    int64_t world_size = 0;
    Value *called = nullptr;  // the queue whose item released it, until it pops
};

struct WaitLine {
    Waiter *first;
    Waiter *last;
};

// A set under one of its names.
struct Watch {
    WaitSet *set;
    Entry *entry;
    Watch *before;  // of the same name
    Watch *after;
    Watch *next;  // of the same set
    uint32_t hash;

    Name name() const { return {entry->name(), entry->size, hash}; }
};

struct WaitSet {
    WaitLine line;
    Watch *watches;  // one for each name, each name once
    uint32_t count;
    uint32_t missing;
    Entry *list;  // the names as on the wire; null if this set is not shared
    uint32_t list_hash;
};

class Waiters {
  public:
    explicit Waiters(const HashKey &key) : key_(key) {}
    ~Waiters() { free(released_); }

    // Peers that wait.
    size_t count() const { return count_; }
    // Names that peers wait for, each counted once for each peer.
    uint64_t names_held() const { return names_held_; }

    // Give the set of those that wait for this list, null if nobody does.
    WaitSet *find(Bytes list);
    // Give a new one, all its names present; whoever makes it counts the absent. `list` is KEYS as on the wire.
    WaitSet *make(Bytes list);
    void discard(WaitSet *set);

    // Register a peer that waits for nothing.
    void wait(Waiter &waiter, WaitSet *set);
    void wait_barrier(Waiter &waiter, const Name &name, int64_t world_size);
    // Drop a peer's wait and its call; gives the queue that it was called to and did not pop, now the caller's.
    Value *forget(Waiter &waiter);

    // As in Python. Those released are in `released` until the next call; gives their number.
    size_t appeared(const Name &name, bool is_newly_present);
    size_t arrived(const Name &name, int64_t count);
    Waiter *released(size_t at) const { return released_[at]; }
    Waiter *pushed(const Name &name, bool is_newly_present);
    void popped(Waiter &waiter, const Name &name);
    void vanished(const Name &name);

  private:
    Watch *first_watch(const Name &name) const;
    void release_later(Waiter *waiter, size_t *count);
    void drop(Waiter &waiter);
    void join(Waiter &waiter, WaitLine &line);

    HashKey key_;
    Table names_;  // -> the first Watch
    Table sets_;   // list -> WaitSet
    Table barriers_;
    WaitSet *latest_ = nullptr;
    Waiter **released_ = nullptr;
    size_t room_ = 0;
    size_t count_ = 0;
    uint64_t names_held_ = 0;
    uint64_t turns_ = 0;
};

}  // namespace rallypoint
