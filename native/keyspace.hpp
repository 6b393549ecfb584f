// The keys and the queues, twin of server/keyspace.py, by the same rules: two name spaces; a method does all it says or
// refuses and changes nothing.
//
// Values are shared, never changed while somebody else owns them too. APPEND grows a value in place if it can.
#pragma once

#include "codec.hpp"
#include "table.hpp"

namespace rallypoint {

// Items in a ring, oldest first.
struct Queue {
    Value **items;
    size_t first, count, room;
};

class Keyspace {
  public:
    enum Change { REFUSED, REPLACED, CREATED };

    Keyspace(const Limits &limits, const HashKey &key) : limits_(limits), key_(key) {}
    ~Keyspace();

    Name name(Bytes text) const { return make_name(key_, text.data, text.size); }
    size_t key_count() const { return values_.count(); }
    size_t queue_count() const { return queues_.count(); }
    uint64_t stored_size() const { return stored_size_; }

    bool has_key(const Name &name) const { return values_.find(name) != nullptr; }
    bool has_queue(const Name &name) const { return queues_.find(name) != nullptr; }
    bool has(const Name &name) const { return has_key(name) || has_queue(name); }
    // Null for a missing key; the keyspace stays an owner.
    Value *get(const Name &name) const {
        Entry *entry = values_.find(name);
        return entry == nullptr ? nullptr : static_cast<Value *>(entry->item);
    }
    // All keys as LIST_KEYS answers; kept until a key comes or goes.
    Value *listing();

    Change set(const Name &name, Bytes value, Refusal &refusal);
    // Whether all pairs together can be set, each with `put` then; `pairs` is PAIRS as on the wire.
    bool allows(Bytes pairs, Refusal &refusal) const;
    Change put(const Name &name, Bytes value);
    Change append(const Name &name, Bytes value, Refusal &refusal);
    Change add(const Name &name, int64_t delta, int64_t *total, Refusal &refusal);
    bool remove(const Name &name);
    bool push(const Name &name, Bytes item, Refusal &refusal);
    // Give the length before; the item, if there was one, is now the caller's.
    size_t pop(const Name &name, Value **item);
    size_t queue_length(const Name &name) const;

  private:
    bool refuse_full(uint64_t size, Refusal &refusal) const;
    bool read_number(const Name &name, const Value &value, int64_t *number, Refusal &refusal) const;
    void forget_listing();

    const Limits limits_;
    const HashKey key_;
    Table values_;
    Table queues_;
    Value *listing_ = nullptr;
    uint64_t stored_size_ = 0;
};

}  // namespace rallypoint
