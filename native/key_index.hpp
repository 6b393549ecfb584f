// The keys of a table in order, so that those with a prefix are found without looking at all of them; twin of
// server/key_index.py, by another way, because entries of a table end with their keys.
//
// Rules: until somebody asks for the first time, noting a key costs nothing, and the first question orders all keys.
// From then on it holds exactly the table's entries.
//
// Theory of operation. Entries stand in blocks, in order in each and from block to block. A block that is full is parted
// in two halves, an empty one goes.
#pragma once

#include "containers.hpp"

namespace rallypoint {

template <typename Entry>
class KeyIndex {
  public:
    ~KeyIndex() {
        while (count_ > 0) free(blocks_[--count_]);
        free(blocks_);
    }

    // Note that the table has an entry more, or has one for the last time.
    void add(Entry *entry) {
        if (is_on_) put(entry);
    }
    void drop(Entry *entry) {
        if (!is_on_) return;
        const size_t place = block_of(entry->name());
        Block &block = *blocks_[place];
        const size_t at = first_from(block, entry->name());
        --block.count;
        memmove(&block.entries[at], &block.entries[at + 1], (block.count - at) * sizeof(Entry *));
        if (block.count > 0) return;
        free(&block);
        memmove(&blocks_[place], &blocks_[place + 1], (--count_ - place) * sizeof(Block *));
    }

    // Give the entries of a table, whose first is this, that begin with a prefix, in order; so many of them at most.
    void find(Entry *first, size_t count, Bytes prefix, uint64_t most, Ring<Entry *> &found) {
        if (!is_on_) order_all(first, count);
        if (count_ == 0) return;
        size_t place = block_of(prefix), at = first_from(*blocks_[place], prefix);
        for (; place < count_; ++place, at = 0) {
            for (const Block &block = *blocks_[place]; at < block.count; ++at) {
                const Bytes name = block.entries[at]->name();
                if (name.size < prefix.size || !(Bytes{name.data, prefix.size} == prefix)) return;
                if (found.count() == most) return;
                found.push(block.entries[at]);
            }
        }
    }

  private:
    static constexpr size_t ROOM = 256;
    struct Block {
        size_t count;
        Entry *entries[ROOM];
    };

    static int compare(Bytes one, Bytes other) {
        const size_t size = one.size < other.size ? one.size : other.size;
        const int order = size == 0 ? 0 : memcmp(one.data, other.data, size);
        return order != 0 ? order : one.size < other.size ? -1 : one.size > other.size;
    }
    static int compare_entries(const void *left, const void *right) {
        return compare((*static_cast<Entry *const *>(left))->name(), (*static_cast<Entry *const *>(right))->name());
    }

    // The last block that does not begin behind a name, or the first one.
    size_t block_of(Bytes name) const {
        size_t low = 0, high = count_;
        while (high - low > 1) {
            const size_t middle = low + (high - low) / 2;
            (compare(blocks_[middle]->entries[0]->name(), name) <= 0 ? low : high) = middle;
        }
        return low;
    }
    // The place of the first entry in a block that is not before a name.
    static size_t first_from(const Block &block, Bytes name) {
        size_t low = 0, high = block.count;
        while (low < high) {
            const size_t middle = low + (high - low) / 2;
            if (compare(block.entries[middle]->name(), name) < 0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return low;
    }

    Block &insert_block(size_t place) {
        if (count_ == room_) {
            room_ = room_ == 0 ? 4 : room_ * 2;
            blocks_ = static_cast<Block **>(resize_memory(blocks_, room_ * sizeof(Block *)));
        }
        memmove(&blocks_[place + 1], &blocks_[place], (count_++ - place) * sizeof(Block *));
        blocks_[place] = static_cast<Block *>(take_memory(sizeof(Block)));
        blocks_[place]->count = 0;
        return *blocks_[place];
    }

    void put(Entry *entry) {
        if (count_ == 0) insert_block(0);
        size_t place = block_of(entry->name());
        if (blocks_[place]->count == ROOM) {
            // Keys that come in order leave full blocks behind them.
            const bool is_behind = place + 1 == count_ && first_from(*blocks_[place], entry->name()) == ROOM;
            const size_t kept = is_behind ? ROOM : ROOM / 2;
            Block &upper = insert_block(place + 1), &lower = *blocks_[place];
            upper.count = ROOM - kept;
            memcpy(upper.entries, &lower.entries[kept], upper.count * sizeof(Entry *));
            lower.count = kept;
            if (is_behind || compare(upper.entries[0]->name(), entry->name()) <= 0) ++place;
        }
        Block &block = *blocks_[place];
        const size_t at = first_from(block, entry->name());
        memmove(&block.entries[at + 1], &block.entries[at], (block.count++ - at) * sizeof(Entry *));
        block.entries[at] = entry;
    }

    void order_all(Entry *first, size_t count) {
        is_on_ = true;
        if (count == 0) return;
        Entry **all = static_cast<Entry **>(take_memory(count * sizeof(Entry *)));
        for (Entry **to = all; first != nullptr; first = first->order.after) *to++ = first;
        qsort(all, count, sizeof(Entry *), compare_entries);
        for (size_t at = 0; at < count; at += ROOM / 2) {
            Block &block = insert_block(count_);
            block.count = count - at < ROOM / 2 ? count - at : ROOM / 2;
            memcpy(block.entries, &all[at], block.count * sizeof(Entry *));
        }
        free(all);
    }

    Block **blocks_ = nullptr;
    size_t count_ = 0, room_ = 0;
    bool is_on_ = false;
};

}  // namespace rallypoint
