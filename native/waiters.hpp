// Who waits for what, and whom a change releases; twin of server/waiters.py, by the same rules.
//
// Theory of operation. Peers that wait for the same list share one `WaitSet`: n peers that wait for m names cost m + n.
// A set is registered under all its names and counts those that are absent. Where a change completes several sets,
// their members are released in the order in which they came, which each one's `turn` tells. A set whose last member
// has gone is shared no more; if it has many names it leaves their lists in portions, and has no members meanwhile.
#pragma once

#include "codec.hpp"
#include "containers.hpp"

namespace rallypoint {

struct WaitSet;
struct Barrier;
struct Watched;

// One peer's wait, if it has one, or that of a session's request: for a set of names or at a barrier.
struct Waiter {
    WaitSet *set = nullptr;
    Barrier *barrier = nullptr;
    Link<Waiter> in_line;
    uint64_t turn = 0;
    int64_t world_size = 0;
    Held called;  // the queue whose item released it, until it pops
    double since = 0;
    bool is_of_session = false;
};

using WaitLine = List<Waiter, &Waiter::in_line>;

// A set under one of its names.
struct Watch {
    WaitSet *set;
    Watched *name;
    Watch *next;  // of the same set
    Link<Watch> of_name;
};

// All sets under one name.
struct Watched {
    List<Watch, &Watch::of_name> watches;
};

struct WaitSet {
    WaitLine line;
    Watch *watches = nullptr;  // one for each name, each name once
    Table<WaitSet *>::Entry *list = nullptr;  // the names as on the wire; null if this set is not shared
    uint64_t list_hash = 0;
    uint32_t count = 0;
    uint32_t missing = 0;
    Link<WaitSet> of_left;
};

struct Barrier {
    WaitLine line;
    int64_t least = INT64_MAX;  // no world size of a member is below it
};

class Waiters {
  public:
    explicit Waiters(const HashKey &key) : key_(key), names_(key), sets_(key), barriers_(key) {}
    ~Waiters() { tidy(UINT64_MAX); }

    // Peers that wait.
    size_t count() const { return count_; }
    // Names that peers wait for, each counted once for each peer.
    uint64_t names_held() const { return names_held_; }

    const Table<Barrier> &barriers() const { return barriers_; }

    // Give the set of those that wait for this list, null if nobody does. `list` is KEYS as on the wire.
    WaitSet *find(Bytes list) {
        if (latest_ != nullptr && latest_->list->name() == list) return latest_;
        if (sets_.count() == 0) return nullptr;
        const auto *found = sets_.find(Name(key_, list));
        return found == nullptr ? nullptr : latest_ = found->item;
    }

    // Give a new one, for `wait` or `discard`.
    template <typename IsPresent>
    WaitSet *make(Bytes list, IsPresent is_present) {
        WaitSet *set = new (take_memory(sizeof(WaitSet))) WaitSet;
        Fields fields = {list.data};
        const int64_t count = fields.number();
        if (left_.first != nullptr) tidy(static_cast<uint64_t>(count));
        for (int64_t i = 0; i < count; ++i) {
            const Name name(key_, fields.text());
            auto *entry = names_.find(name);
            if (entry == nullptr) entry = names_.insert(name);
            auto &others = entry->item.watches;
            if (others.last != nullptr && others.last->set == set) continue;  // named twice
            set->watches = new (take_memory(sizeof(Watch))) Watch{set, &entry->item, set->watches, {}};
            others.add(*set->watches);
            set->missing += !is_present(name);
            ++set->count;
        }
        // A list that names something twice would take more memory than its names are counted for.
        if (set->count == count && list.size <= UINT32_MAX) {
            const Name all(key_, list);
            set->list = sets_.insert(all);
            set->list_hash = all.hash;
            set->list->item = latest_ = set;
        }
        return set;
    }

    void discard(WaitSet *set) {
        if (latest_ == set) latest_ = nullptr;
        if (set->list != nullptr) sets_.erase(set->list, set->list_hash);
        left_.add(*set);
        if (set->count <= kAtOnceMax) take_out(*set, UINT64_MAX);
    }

    // Whether nothing is left of waits that are over; and take that out of the lists of so many names.
    bool is_tidy() const { return left_.first == nullptr; }
    void tidy(uint64_t count = kTidyMax) {
        while (left_.first != nullptr && count > 0) count = take_out(*left_.first, count);
    }

    // Register a peer that waits for nothing.
    void wait(Waiter &waiter, WaitSet *set) {
        waiter.set = set;
        names_held_ += set->count;
        join(waiter, set->line);
    }
    void wait_barrier(Waiter &waiter, const Name &name, int64_t world_size) {
        auto *entry = barriers_.find(name);
        if (entry == nullptr) entry = barriers_.insert(name);
        waiter.barrier = &entry->item;
        waiter.world_size = world_size;
        if (world_size < entry->item.least) entry->item.least = world_size;
        join(waiter, entry->item.line);
    }

    // Drop what a peer waits for, if it waits.
    void drop(Waiter &waiter) {
        WaitSet *set = waiter.set;
        Barrier *barrier = waiter.barrier;
        if (set == nullptr && barrier == nullptr) return;
        --count_;
        if (set != nullptr) {
            names_held_ -= set->count;
            set->line.remove(waiter);
            if (set->line.first == nullptr) discard(set);
        } else {
            barrier->line.remove(waiter);
            if (barrier->line.first == nullptr) barriers_.erase(Table<Barrier>::entry_of(barrier));
        }
        waiter.set = nullptr;
        waiter.barrier = nullptr;
    }

    // What changed, as in Python. Those released are valid until the next call.
    const Ring<Waiter *> &appeared(const Name &name, bool is_newly_present) {
        released_.clear();
        size_t sets = 0;
        for (Watch *watch = first_watch(name); watch != nullptr; watch = watch->of_name.after) {
            watch->set->missing -= is_newly_present;
            if (watch->set->missing > 0) continue;
            ++sets;
            for (Waiter *each = watch->set->line.first; each != nullptr; each = each->in_line.after) {
                released_.push(each);
            }
        }
        if (sets > 1) qsort(&released_[0], released_.count(), sizeof(Waiter *), compare_turns);
        return drop_released();
    }

    const Ring<Waiter *> &pushed(const Name &name, bool is_newly_present) {
        released_.clear();
        Waiter *first = nullptr;
        for (Watch *watch = first_watch(name); watch != nullptr; watch = watch->of_name.after) {
            watch->set->missing -= is_newly_present;
            Waiter *candidate = watch->set->line.first;
            if (watch->set->missing == 0 && candidate != nullptr && (first == nullptr || candidate->turn < first->turn)) first = candidate;
        }
        if (first == nullptr) return released_;
        first->called.hold(make_value(static_cast<Bytes>(name)));
        released_.push(first);
        return drop_released();
    }

    void vanished(const Name &name) {
        for (Watch *watch = first_watch(name); watch != nullptr; watch = watch->of_name.after) ++watch->set->missing;
    }

    const Ring<Waiter *> &arrived(const Name &name, int64_t arrived) {
        released_.clear();
        auto *entry = barriers_.find(name);
        if (entry == nullptr || arrived < entry->item.least) return released_;
        entry->item.least = INT64_MAX;
        for (Waiter *each = entry->item.line.first; each != nullptr; each = each->in_line.after) {
            if (arrived >= each->world_size) {
                released_.push(each);
            } else if (each->world_size < entry->item.least) {
                entry->item.least = each->world_size;
            }
        }
        return drop_released();
    }

  private:
    // Take a set out of the lists of so many names, and give it back once it is in none; gives how many are not used.
    uint64_t take_out(WaitSet &set, uint64_t count) {
        while (Watch *watch = set.watches) {
            if (count-- == 0) return 0;
            set.watches = watch->next;
            watch->name->watches.remove(*watch);
            if (watch->name->watches.first == nullptr) names_.erase(Table<Watched>::entry_of(watch->name));
            free(watch);
        }
        left_.remove(set);
        free(&set);
        return count;
    }

    static int compare_turns(const void *left, const void *right) {
        return (*static_cast<Waiter *const *>(left))->turn < (*static_cast<Waiter *const *>(right))->turn ? -1 : 1;
    }

    Watch *first_watch(const Name &name) const {
        const auto *entry = names_.find(name);
        return entry == nullptr ? nullptr : entry->item.watches.first;
    }
    void join(Waiter &waiter, WaitLine &line) {
        waiter.turn = ++turns_;
        line.add(waiter);
        ++count_;
    }
    const Ring<Waiter *> &drop_released() {
        for (size_t at = 0; at < released_.count(); ++at) drop(*released_[at]);
        return released_;
    }

    const HashKey key_;
    Table<Watched> names_;
    Table<WaitSet *> sets_;  // by list
    Table<Barrier> barriers_;
    WaitSet *latest_ = nullptr;
    Ring<Waiter *> released_;
    List<WaitSet, &WaitSet::of_left> left_;  // of which nobody is a member any more
    size_t count_ = 0;
    uint64_t names_held_ = 0;
    uint64_t turns_ = 0;
};

}  // namespace rallypoint
