#include "table.hpp"

namespace rallypoint {

namespace {

constexpr uint32_t FIRST_SLOTS = 16;

inline uint64_t rotated(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

struct Sip {
    uint64_t a, b, c, d;

    void round() {
        a += b, b = rotated(b, 13) ^ a, a = rotated(a, 32);
        c += d, d = rotated(d, 16) ^ c;
        a += d, d = rotated(d, 21) ^ a;
        c += b, b = rotated(b, 17) ^ c, c = rotated(c, 32);
    }
    void take(uint64_t word) {
        d ^= word;
        round();
        a ^= word;
    }
};

}  // namespace

uint64_t hash_bytes(const HashKey &key, const char *data, size_t size) {
    Sip sip = {key.first ^ 0x736f6d6570736575, key.second ^ 0x646f72616e646f6d, key.first ^ 0x6c7967656e657261,
               key.second ^ 0x7465646279746573};
    uint64_t word;
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        memcpy(&word, data + at, 8);
        sip.take(word);
    }
    word = 0;
    if (at < size) memcpy(&word, data + at, size - at);
    sip.take(word | static_cast<uint64_t>(size) << 56);
    sip.c ^= 0xff;
    for (int i = 0; i < 3; ++i) sip.round();
    return sip.a ^ sip.b ^ sip.c ^ sip.d;
}

Table::~Table() {
    for (size_t at = 0; Entry *entry = next(&at);) free(entry);
    free(order_);
    free(slots_);
}

void Table::place(Slot slot) {
    uint32_t at = slot.hash & mask_;
    while (slots_[at].position != EMPTY) at = (at + 1) & mask_;
    slots_[at] = slot;
}

// Twice the slots. Those of one old neighbourhood go to two new ones, so memory is walked in order.
void Table::grow_slots() {
    Slot *old = slots_;
    const size_t old_size = old == nullptr ? 0 : size_t{mask_} + 1;
    const size_t size = old_size == 0 ? FIRST_SLOTS : old_size * 2;
    slots_ = static_cast<Slot *>(take_memory(size * sizeof(Slot)));
    memset(static_cast<void *>(slots_), 0xff, size * sizeof(Slot));
    mask_ = static_cast<uint32_t>(size - 1);
    for (size_t at = 0; at < old_size; ++at) {
        if (old[at].position != EMPTY) place(old[at]);
    }
    free(old);
}

void Table::close_holes() {
    uint32_t *moved = static_cast<uint32_t *>(take_memory(end_ * sizeof(uint32_t)));
    uint32_t end = 0;
    for (uint32_t at = 0; at < end_; ++at) {
        moved[at] = end;
        if (order_[at] != nullptr) order_[end++] = order_[at];
    }
    end_ = end;
    for (size_t at = 0; at <= mask_; ++at) {
        if (slots_[at].position != EMPTY) slots_[at].position = moved[slots_[at].position];
    }
    free(moved);
}

Entry *Table::insert(const Name &name, void *item) {
    // At most 3 of 4 slots are used.
    if (slots_ == nullptr || count_ + 1 > (size_t{mask_} + 1) / 4 * 3) grow_slots();
    if (end_ == room_) {
        if (room_ >= UINT32_MAX / 2) abort();  // a thousand times what the memory of a machine holds
        room_ = room_ == 0 ? 8 : room_ + room_ / 2;
        order_ = static_cast<Entry **>(resize_memory(order_, room_ * sizeof(Entry *)));
    }
    Entry *entry = static_cast<Entry *>(take_memory(sizeof(void *) + sizeof(uint32_t) + name.size));
    entry->item = item;
    entry->size = name.size;
    memcpy(entry->name(), name.data, name.size);
    order_[end_] = entry;
    place({name.hash, end_++});
    ++count_;
    return entry;
}

void Table::erase(const Name &name) {
    uint32_t hole = name.hash & mask_;
    Entry *entry = nullptr;
    for (;; hole = (hole + 1) & mask_) {
        if (slots_[hole].hash != name.hash) continue;
        entry = order_[slots_[hole].position];
        if (entry->size == name.size && memcmp(entry->name(), name.data, name.size) == 0) break;
    }
    order_[slots_[hole].position] = nullptr;
    free(entry);
    --count_;
    // Whatever probed past the hole moves into it, unless its own place lies behind the hole.
    for (uint32_t at = (hole + 1) & mask_; slots_[at].position != EMPTY; at = (at + 1) & mask_) {
        if (((at - slots_[at].hash) & mask_) >= ((at - hole) & mask_)) {
            slots_[hole] = slots_[at];
            hole = at;
        }
    }
    slots_[hole] = {EMPTY, EMPTY};
    if (count_ == 0) {
        free(slots_);
        free(order_);
        slots_ = nullptr;
        order_ = nullptr;
        mask_ = end_ = room_ = 0;
    } else if (end_ >= 32 && count_ < end_ / 2) {
        close_holes();
    }
}

}  // namespace rallypoint
