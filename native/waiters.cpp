#include "waiters.hpp"

namespace rallypoint {

struct Barrier {
    WaitLine line;
    Entry *entry;
    uint32_t hash;
    int64_t least;  // no world size of a member is below it
};

namespace {

int compare_turns(const void *left, const void *right) {
    const uint64_t a = (*static_cast<Waiter *const *>(left))->turn, b = (*static_cast<Waiter *const *>(right))->turn;
    return a < b ? -1 : a > b;
}

}  // namespace

WaitSet *Waiters::find(Bytes list) {
    if (latest_ != nullptr && latest_->list->size == list.size &&
        memcmp(latest_->list->name(), list.data, list.size) == 0) {
        return latest_;
    }
    if (sets_.count() == 0 || list.size > UINT32_MAX) return nullptr;
    Entry *found = sets_.find(make_name(key_, list.data, list.size));
    return found == nullptr ? nullptr : latest_ = static_cast<WaitSet *>(found->item);
}

WaitSet *Waiters::make(Bytes list) {
    WaitSet *set = static_cast<WaitSet *>(take_memory(sizeof(WaitSet)));
    *set = {};
    Fields fields(list.data);
    const uint64_t count = static_cast<uint64_t>(fields.number());
    for (uint64_t i = 0; i < count; ++i) {
        const Bytes text = fields.text();
        const Name name = make_name(key_, text.data, text.size);
        Entry *entry = names_.find(name);
        if (entry == nullptr) entry = names_.insert(name, nullptr);
        Watch *others = static_cast<Watch *>(entry->item);
        if (others != nullptr && others->set == set) continue;  // named twice
        Watch *watch = static_cast<Watch *>(take_memory(sizeof(Watch)));
        *watch = {set, entry, nullptr, others, set->watches, name.hash};
        if (others != nullptr) others->before = watch;
        entry->item = set->watches = watch;
        ++set->count;
    }
    // A list that names something twice would take more memory than its names are counted for.
    if (set->count == count && list.size <= UINT32_MAX) {
        const Name whole = make_name(key_, list.data, list.size);
        set->list = sets_.insert(whole, set);
        set->list_hash = whole.hash;
        latest_ = set;
    }
    return set;
}

void Waiters::discard(WaitSet *set) {
    for (Watch *watch = set->watches; watch != nullptr;) {
        if (watch->after != nullptr) watch->after->before = watch->before;
        if (watch->before != nullptr) {
            watch->before->after = watch->after;
        } else if (watch->after != nullptr) {
            watch->entry->item = watch->after;
        } else {
            names_.erase(watch->name());
        }
        Watch *next = watch->next;
        free(watch);
        watch = next;
    }
    if (latest_ == set) latest_ = nullptr;
    if (set->list != nullptr) sets_.erase({set->list->name(), set->list->size, set->list_hash});
    free(set);
}

void Waiters::join(Waiter &waiter, WaitLine &line) {
    waiter.turn = ++turns_;
    waiter.before = line.last;
    waiter.after = nullptr;
    (line.last == nullptr ? line.first : line.last->after) = &waiter;
    line.last = &waiter;
    ++count_;
}

void Waiters::wait(Waiter &waiter, WaitSet *set) {
    waiter.set = set;
    names_held_ += set->count;
    join(waiter, set->line);
}

void Waiters::wait_barrier(Waiter &waiter, const Name &name, int64_t world_size) {
    Entry *entry = barriers_.find(name);
    if (entry == nullptr) {
        Barrier *made = static_cast<Barrier *>(take_memory(sizeof(Barrier)));
        *made = {{nullptr, nullptr}, nullptr, name.hash, INT64_MAX};
        entry = made->entry = barriers_.insert(name, made);
    }
    Barrier *barrier = waiter.barrier = static_cast<Barrier *>(entry->item);
    waiter.world_size = world_size;
    if (world_size < barrier->least) barrier->least = world_size;
    join(waiter, barrier->line);
}

void Waiters::drop(Waiter &waiter) {
    if (waiter.set == nullptr && waiter.barrier == nullptr) return;
    WaitLine &line = waiter.set != nullptr ? waiter.set->line : waiter.barrier->line;
    (waiter.before == nullptr ? line.first : waiter.before->after) = waiter.after;
    (waiter.after == nullptr ? line.last : waiter.after->before) = waiter.before;
    --count_;
    if (waiter.set != nullptr) {
        names_held_ -= waiter.set->count;
        if (line.first == nullptr) discard(waiter.set);
    } else if (line.first == nullptr) {
        Entry *entry = waiter.barrier->entry;
        barriers_.erase({entry->name(), entry->size, waiter.barrier->hash});
        free(waiter.barrier);
    }
    waiter.set = nullptr;
    waiter.barrier = nullptr;
}

Value *Waiters::forget(Waiter &waiter) {
    drop(waiter);
    Value *called = waiter.called;
    waiter.called = nullptr;
    return called;
}

Watch *Waiters::first_watch(const Name &name) const {
    Entry *entry = names_.find(name);
    return entry == nullptr ? nullptr : static_cast<Watch *>(entry->item);
}

void Waiters::release_later(Waiter *waiter, size_t *count) {
    if (*count == room_) {
        room_ = room_ == 0 ? 64 : room_ * 2;
        released_ = static_cast<Waiter **>(resize_memory(released_, room_ * sizeof(Waiter *)));
    }
    released_[(*count)++] = waiter;
}

size_t Waiters::appeared(const Name &name, bool is_newly_present) {
    size_t count = 0, sets = 0;
    for (Watch *watch = first_watch(name); watch != nullptr; watch = watch->after) {
        watch->set->missing -= is_newly_present;
        if (watch->set->missing > 0) continue;
        ++sets;
        for (Waiter *each = watch->set->line.first; each != nullptr; each = each->after) release_later(each, &count);
    }
    if (sets > 1) qsort(released_, count, sizeof(Waiter *), compare_turns);
    for (size_t at = 0; at < count; ++at) drop(*released_[at]);
    return count;
}

Waiter *Waiters::pushed(const Name &name, bool is_newly_present) {
    Waiter *first = nullptr;
    for (Watch *watch = first_watch(name); watch != nullptr; watch = watch->after) {
        watch->set->missing -= is_newly_present;
        Waiter *candidate = watch->set->line.first;
        if (watch->set->missing == 0 && (first == nullptr || candidate->turn < first->turn)) first = candidate;
    }
    if (first != nullptr) {
        drop(*first);
        first->called = make_value(name.data, name.size);
    }
    return first;
}

void Waiters::popped(Waiter &waiter, const Name &name) {
    Value *called = waiter.called;
    if (called == nullptr || called->size != name.size || memcmp(called->data(), name.data, name.size) != 0) return;
    release(called);
    waiter.called = nullptr;
}

void Waiters::vanished(const Name &name) {
    for (Watch *watch = first_watch(name); watch != nullptr; watch = watch->after) ++watch->set->missing;
}

size_t Waiters::arrived(const Name &name, int64_t arrived) {
    Entry *entry = barriers_.find(name);
    Barrier *barrier = entry == nullptr ? nullptr : static_cast<Barrier *>(entry->item);
    if (barrier == nullptr || arrived < barrier->least) return 0;
    size_t count = 0;
    barrier->least = INT64_MAX;
    for (Waiter *each = barrier->line.first; each != nullptr; each = each->after) {
        if (arrived >= each->world_size) {
            release_later(each, &count);
        } else if (each->world_size < barrier->least) {
            barrier->least = each->world_size;
        }
    }
    for (size_t at = 0; at < count; ++at) drop(*released_[at]);
    return count;
}

}  // namespace rallypoint
