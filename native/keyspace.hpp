// The keys and the queues, twin of server/keyspace.py, by the same rules: two name spaces; a method does all it says or
// refuses and changes nothing.
//
// Values are shared, never changed while somebody else owns them too. APPEND grows a value in place if it can.
//
// The keyspace has a revision, which counts the changes of keys; each key has that of its last change.
#pragma once

#include "changes.hpp"
#include "key_index.hpp"

namespace rallypoint {

class Keyspace {
  public:
    enum Change { REFUSED, REPLACED, CREATED };

    Keyspace(const Limits &limits, const HashKey &key, Changes &changes)
        : limits_(limits), key_(key), changes_(changes), values_(key), queues_(key) {}
    ~Keyspace() {
        for (Values::Entry *entry = values_.first(); entry != nullptr; entry = entry->order.after) release(entry->item.value);
        for (Queues::Entry *entry = queues_.first(); entry != nullptr; entry = entry->order.after) {
            while (entry->item.count() > 0) release(entry->item.pop());
        }
    }

    HOT Name name(Bytes text) const { return Name(key_, text); }
    size_t key_count() const { return values_.count(); }
    size_t queue_count() const { return queues_.count(); }
    uint64_t stored_size() const { return stored_size_; }
    int64_t revision() const { return revision_; }

    bool has_key(const Name &name) const { return values_.find(name) != nullptr; }
    bool has_queue(const Name &name) const { return queues_.find(name) != nullptr; }
    bool has(const Name &name) const { return has_key(name) || has_queue(name); }
    // Null for a missing key; the keyspace stays an owner.
    HOT Value *get(const Name &name) const {
        const Values::Entry *entry = values_.find(name);
        return entry == nullptr ? nullptr : entry->item.value;
    }
    // kNoRevision for a missing key.
    int64_t revision_of(const Name &name) const {
        const Values::Entry *entry = values_.find(name);
        return entry == nullptr ? static_cast<int64_t>(kNoRevision) : entry->item.revision;
    }
    // Look at each key, oldest first.
    template <typename Look>
    void each_key(Look look) const {
        for (Values::Entry *entry = values_.first(); entry != nullptr; entry = entry->order.after) look(entry->name());
    }

    struct Stored {
        Value *value;
        int64_t revision;
    };
    using Values = Table<Stored>;
    // Give the keys that begin so, in their order, so many of them at most.
    void find(Bytes prefix, uint64_t most, Ring<Values::Entry *> &found) {
        index_.find(values_.first(), values_.count(), prefix, most, found);
    }

    // The same with queues and their items.
    template <typename Look>
    void each_queue(Bytes prefix, Look look) const {
        for (Queues::Entry *entry = queues_.first(); entry != nullptr; entry = entry->order.after) {
            const Bytes name = entry->name();
            if (name.size >= prefix.size && Bytes{name.data, prefix.size} == prefix) look(name, entry->item);
        }
    }

    // All keys as LIST_KEYS answers; kept until a key comes or goes.
    Value *listing() {
        if (listing_) return listing_.get();
        size_t size = 8;
        for (Values::Entry *each = values_.first(); each != nullptr; each = each->order.after) size += 8 + each->size;
        listing_.hold(make_value(size));
        char *to = store<uint64_t>(listing_->extend(size), values_.count());
        for (Values::Entry *each = values_.first(); each != nullptr; each = each->order.after) {
            to = each->name().copy_to(store<uint64_t>(to, each->size));
        }
        return listing_.get();
    }

    HOT Change set(const Name &name, Bytes value, Refusal &refusal) {
        return put_and_note(values_.find(name), name, value, refusal);
    }
    // Set one of several pairs that `allows` has seen together; what has been set since a revision keeps its own.
    Change set_one_of(const Name &name, Bytes value, int64_t since, Refusal &refusal) {
        Values::Entry *entry = values_.find(name);
        const int64_t before = entry == nullptr ? since : entry->item.revision;
        const Change change = put(entry, name, value, refusal, true);
        if (before > since) {
            entry->item.revision = before;
            --revision_;
        }
        return change;
    }

    // Whether all pairs together can be set; `pairs` is PAIRS as on the wire.
    bool allows(Bytes pairs, Refusal &refusal) const {
        Fields fields = {pairs.data};
        const uint64_t count = static_cast<uint64_t>(fields.number());
        if (stored_size_ + pairs.size + count * kEntrySize <= limits_.stored_size_max &&
            values_.count() + count <= limits_.keys_max) {
            return true;
        }
        Table<size_t> sizes(key_);  // of pairs that name the same, the last one's
        for (uint64_t i = 0; i < count; ++i) {
            const Name pair = name(fields.text());
            Table<size_t>::Entry *entry = sizes.find(pair);
            if (entry == nullptr) entry = sizes.insert(pair);
            entry->item = fields.text().size;
        }
        uint64_t total = stored_size_, keys = values_.count();
        for (Table<size_t>::Entry *each = sizes.first(); each != nullptr; each = each->order.after) {
            const Value *old = get(name(each->name()));
            total += each->item;
            total = old == nullptr ? total + each->size + kEntrySize : total - old->size;
            keys += old == nullptr;
        }
        return has_room(keys, refusal) && fits(total, refusal);
    }

    Change append(const Name &name, Bytes value, Refusal &refusal) {
        Values::Entry *entry = values_.find(name);
        if (entry == nullptr) return set(name, value, refusal);
        const uint64_t length = entry->item.value->size + value.size;
        if (length > limits_.value_stored_size_max) {
            refusal.say(STORED_VALUE_TOO_LARGE,
                        "APPEND would grow the value of key %s to %" PRIu64 " bytes, the limit is %" PRIu64,
                        Shown(name).text, length, limits_.value_stored_size_max);
            return REFUSED;
        }
        if (!fits(stored_size_ + value.size, refusal)) return REFUSED;
        stored_size_ += value.size;
        entry->item.value = grow(entry->item.value, value);
        entry->item.revision = ++revision_;
        changes_.appended(name, value, revision_);
        return REPLACED;
    }

    Change add(const Name &name, int64_t delta, int64_t *total, Refusal &refusal) {
        Values::Entry *entry = values_.find(name);
        int64_t number = 0;
        if (entry != nullptr && !read_number(name, entry->item.value->bytes(), &number, refusal)) return REFUSED;
        *total = static_cast<int64_t>(static_cast<uint64_t>(number) + static_cast<uint64_t>(delta));
        char text[24];
        char *digit = text + sizeof(text);
        uint64_t rest = *total < 0 ? 0 - static_cast<uint64_t>(*total) : static_cast<uint64_t>(*total);
        do {
            *--digit = static_cast<char>('0' + rest % 10);
            rest /= 10;
        } while (rest > 0);
        if (*total < 0) *--digit = '-';
        const Bytes value = {digit, static_cast<size_t>(text + sizeof(text) - digit)};
        return put_and_note(entry, name, value, refusal);
    }

    // Give the number that a value is in decimal text, 0 for a missing key.
    bool count(const Name &name, int64_t *number, Refusal &refusal) const {
        const Values::Entry *entry = values_.find(name);
        return entry == nullptr || read_number(name, entry->item.value->bytes(), number, refusal);
    }

    bool remove(const Name &name) {
        Values::Entry *entry = values_.find(name);
        if (entry == nullptr) return false;
        stored_size_ -= name.size + entry->item.value->size + kEntrySize;
        changes_.key_deleted(name, ++revision_);
        release(entry->item.value);
        index_.drop(entry);
        values_.erase(entry);
        listing_.drop();
        return true;
    }

    bool push(const Name &name, Bytes item, Refusal &refusal) {
        const uint64_t size = stored_size_ + name.size + item.size + kEntrySize;
        if (!fits(size, refusal)) return false;
        put_behind(name, item);
        changes_.pushed(name, item);
        return true;
    }

    // Give the length before; the item, if there was one, is now the caller's.
    size_t pop(const Name &name, Value **item) {
        Queues::Entry *entry = queues_.find(name);
        if (entry == nullptr) return 0;
        const size_t length = entry->item.count();
        *item = entry->item.pop();
        stored_size_ -= name.size + (*item)->size + kEntrySize;
        changes_.popped(name, length);
        if (length == 1) queues_.erase(entry);
        return length;
    }

    size_t queue_length(const Name &name) const {
        const Queues::Entry *entry = queues_.find(name);
        return entry == nullptr ? 0 : entry->item.count();
    }

    // An item of a queue that is there.
    Value *item(const Name &name, size_t at) const { return queues_.find(name)->item[at]; }

    // Put back what an earlier life has left.
    void restore(const Name &name, Bytes value, int64_t revision) {
        Values::Entry *entry = values_.insert(name);
        entry->item = {make_value(value), revision};
        index_.add(entry);
        stored_size_ += name.size + value.size + kEntrySize;
    }
    void put_behind(const Name &name, Bytes item) {
        stored_size_ += name.size + item.size + kEntrySize;
        Queues::Entry *entry = queues_.find(name);
        if (entry == nullptr) entry = queues_.insert(name);
        entry->item.push(make_value(item));
    }
    void restore_revision(int64_t revision) { revision_ = revision; }

  private:
    using Queues = Table<Ring<Value *>>;

    static constexpr ptrdiff_t DIGITS_MAX = 19;  // of a number of 64 bits
    static constexpr size_t TEXT_MAX = 99;       // bytes that are looked at to show a text

    Change put_and_note(Values::Entry *entry, const Name &name, Bytes value, Refusal &refusal) {
        const Change change = put(entry, name, value, refusal);
        if (change != REFUSED) changes_.key_set(name, value, revision_);
        return change;
    }

    // Put other bytes under an entry, or under a new one.
    Change put(Values::Entry *entry, const Name &name, Bytes value, Refusal &refusal, bool is_allowed = false) {
        Value *old = entry == nullptr ? nullptr : entry->item.value;
        const uint64_t size =
            stored_size_ + value.size + (old == nullptr ? name.size + kEntrySize : 0 - uint64_t{old->size});
        const bool has_room_for_it = is_allowed || old != nullptr || has_room(values_.count() + 1, refusal);
        if (!has_room_for_it || (!is_allowed && !fits(size, refusal))) return REFUSED;
        stored_size_ = size;
        if (old == nullptr) {
            entry = values_.insert(name);
            entry->item = {make_value(value), ++revision_};
            index_.add(entry);
            listing_.drop();
            return CREATED;
        }
        entry->item.revision = ++revision_;
        const size_t capacity = old->size + old->room;
        if (old->owners == 1 && value.size <= capacity && capacity <= value.size * 2 + 16) {
            value.copy_to(old->data());  // it wastes little
            old->size = value.size;
            old->room = static_cast<uint32_t>(capacity - value.size);
        } else {
            entry->item.value = make_value(value);
            release(old);
        }
        return REPLACED;
    }

    // As C's strtoll reads base 10: white space, a sign, digits; the rest is not looked at, nor what is beyond a length.
    static bool read_number(const Name &name, Bytes text, int64_t *number, Refusal &refusal) {
        const char *at = text.data, *end = at + (text.size < kNumberSizeMax ? text.size : kNumberSizeMax);
        while (at < end && (*at == ' ' || (*at >= '\t' && *at <= '\r'))) ++at;
        const bool is_negative = at < end && *at == '-';
        if (at < end && (*at == '-' || *at == '+')) ++at;
        const char *first = at;
        while (at < end && *at == '0') ++at;
        const char *significant = at;
        uint64_t size = 0;
        for (; at < end && *at >= '0' && *at <= '9'; ++at) {
            if (at - significant < DIGITS_MAX) size = size * 10 + static_cast<uint64_t>(*at - '0');
        }
        const uint64_t most = static_cast<uint64_t>(INT64_MAX) + is_negative;
        if (at > first && at - significant <= DIGITS_MAX && size <= most) {
            *number = static_cast<int64_t>(is_negative ? 0 - size : size);
            return true;
        }
        const Bytes looked_at = {text.data, text.size < TEXT_MAX ? text.size : TEXT_MAX};
        return refusal.say(NOT_A_NUMBER, "the value of key %s is %s, %s", Shown(name).text, Shown(looked_at).text,
                           at > first ? "which 64 bits cannot hold" : "not a decimal number");
    }

    bool has_room(uint64_t count, Refusal &refusal) const {
        if (count <= limits_.keys_max) return true;
        return refusal.say(STORE_FULL, "the store would hold %" PRIu64 " keys, the limit is %" PRIu64, count,
                           limits_.keys_max);
    }

    bool fits(uint64_t size, Refusal &refusal) const {
        if (size <= limits_.stored_size_max) return true;
        return refusal.say(STORE_FULL, "the store would hold %" PRIu64 " bytes in %zu keys and %zu queues, the limit"
                           " is %" PRIu64, size, values_.count(), queues_.count(), limits_.stored_size_max);
    }

    const Limits limits_;
    const HashKey key_;
    Changes &changes_;
    Values values_;
    KeyIndex<Values::Entry> index_;
    Queues queues_;
    Held listing_;
    uint64_t stored_size_ = 0;
    int64_t revision_ = 0;
};

}  // namespace rallypoint
