// Names and what is kept under them, in the order in which they came: what a dict is to the Python twin.
//
// Rules: the hash is keyed, because names come from peers and a peer may be an enemy. Entries stay where they are while
// the table grows. A growth looks at no entry, only at the stored hashes.
//
// Theory of operation, as in Python's dict: `order` is a list of entries with holes where one was erased, `slots` an
// open-addressed index into it, probed one after the other. Erasing shifts back what probed past the hole; holes in
// `order` are closed when they are the most of it.
#pragma once

#include "value.hpp"

namespace rallypoint {

struct HashKey {
    uint64_t first, second;
};

// SipHash-1-3.
uint64_t hash_bytes(const HashKey &key, const char *data, size_t size);

// A name on the way to a table: its bytes are somebody else's.
struct Name {
    const char *data;
    uint32_t size;
    uint32_t hash;
};

inline Name make_name(const HashKey &key, const char *data, size_t size) {
    return {data, static_cast<uint32_t>(size), static_cast<uint32_t>(hash_bytes(key, data, size))};
}

struct Entry {
    void *item;
    uint32_t size;

    // Right behind the size, where the compiler would leave a gap.
    char *name() { return reinterpret_cast<char *>(&size + 1); }
};

class Table {
  public:
    Table() = default;
    ~Table();  // of the entries; their items are the owner's
    Table(const Table &) = delete;
    Table &operator=(const Table &) = delete;

    size_t count() const { return count_; }
    // Null if it is not there.
    Entry *find(const Name &name) const {
        if (count_ == 0) return nullptr;
        for (uint32_t at = name.hash & mask_; slots_[at].position != EMPTY; at = (at + 1) & mask_) {
            if (slots_[at].hash != name.hash) continue;
            Entry *entry = order_[slots_[at].position];
            if (entry->size == name.size && memcmp(entry->name(), name.data, name.size) == 0) return entry;
        }
        return nullptr;
    }
    // The name is not there.
    Entry *insert(const Name &name, void *item);
    // The name is there.
    void erase(const Name &name);

    // Walk in the order of insertion: `for (size_t at = 0; Entry *entry = next(&at);)`.
    Entry *next(size_t *at) const {
        while (*at < end_) {
            if (Entry *entry = order_[(*at)++]) return entry;
        }
        return nullptr;
    }

  private:
    static constexpr uint32_t EMPTY = UINT32_MAX;
    struct Slot {
        uint32_t hash;
        uint32_t position;
    };

    void grow_slots();
    void close_holes();
    void place(Slot slot);

    Slot *slots_ = nullptr;
    Entry **order_ = nullptr;
    size_t count_ = 0;
    uint32_t mask_ = 0;
    uint32_t end_ = 0;  // of `order_`, holes included
    uint32_t room_ = 0;
};

}  // namespace rallypoint
