#include "keyspace.hpp"

#include <stdio.h>

namespace rallypoint {

namespace {

using Number = unsigned long long;

constexpr size_t DIGITS_MAX = 19;  // of a number of 64 bits
constexpr size_t TEXT_MAX = 99;    // bytes that are looked at to show a text

Value *value_of(Entry *entry) { return static_cast<Value *>(entry->item); }

// Put other bytes under an entry, in place where that wastes little.
void replace_value(Entry *entry, Bytes text) {
    Value *old = value_of(entry);
    const size_t capacity = old->size + old->room;
    if (old->owners == 1 && text.size <= capacity && capacity <= text.size * 2 + 16) {
        if (text.size > 0) memcpy(old->data(), text.data, text.size);
        old->size = text.size;
        old->room = static_cast<uint32_t>(capacity - text.size);
        return;
    }
    entry->item = make_value(text.data, text.size);
    release(old);
}

}  // namespace

Keyspace::~Keyspace() {
    for (size_t at = 0; Entry *entry = values_.next(&at);) release(value_of(entry));
    for (size_t at = 0; Entry *entry = queues_.next(&at);) {
        Queue *queue = static_cast<Queue *>(entry->item);
        for (size_t i = 0; i < queue->count; ++i) release(queue->items[(queue->first + i) % queue->room]);
        free(queue->items);
        free(queue);
    }
    release(listing_);
}

void Keyspace::forget_listing() {
    release(listing_);
    listing_ = nullptr;
}

Value *Keyspace::listing() {
    if (listing_ == nullptr) {
        size_t size = 8;
        for (size_t at = 0; Entry *entry = values_.next(&at);) size += 8 + entry->size;
        listing_ = make_value(size);
        char *to = store<uint64_t>(listing_->data(), values_.count());
        for (size_t at = 0; Entry *entry = values_.next(&at);) {
            to = store<uint64_t>(to, entry->size);
            memcpy(to, entry->name(), entry->size);
            to += entry->size;
        }
    }
    return listing_;
}

Keyspace::Change Keyspace::set(const Name &name, Bytes value, Refusal &refusal) {
    const Value *old = get(name);
    const uint64_t size = old == nullptr ? stored_size_ + name.size + value.size + kEntrySize
                                         : stored_size_ + value.size - old->size;
    if (size > limits_.stored_size_max) return refuse_full(size, refusal), REFUSED;
    return put(name, value);
}

Keyspace::Change Keyspace::put(const Name &name, Bytes value) {
    if (Entry *entry = values_.find(name)) {
        stored_size_ += value.size - value_of(entry)->size;
        replace_value(entry, value);
        return REPLACED;
    }
    stored_size_ += name.size + value.size + kEntrySize;
    values_.insert(name, make_value(value.data, value.size));
    forget_listing();
    return CREATED;
}

bool Keyspace::allows(Bytes pairs, Refusal &refusal) const {
    Fields fields(pairs.data);
    const uint64_t count = static_cast<uint64_t>(fields.number());
    if (stored_size_ + pairs.size + count * kEntrySize <= limits_.stored_size_max) return true;
    Table last;  // name -> the pair's value on the wire, of pairs that name the same the last one
    for (uint64_t i = 0; i < count; ++i) {
        const Name pair = name(fields.text());
        Entry *entry = last.find(pair);
        if (entry == nullptr) entry = last.insert(pair, nullptr);
        entry->item = const_cast<char *>(fields.at);
        fields.text();
    }
    uint64_t total = stored_size_;
    for (size_t at = 0; Entry *entry = last.next(&at);) {
        Entry *old = values_.find(name({entry->name(), entry->size}));
        total += load<uint64_t>(static_cast<char *>(entry->item));
        total = old == nullptr ? total + entry->size + kEntrySize : total - value_of(old)->size;
    }
    return total <= limits_.stored_size_max || refuse_full(total, refusal);
}

Keyspace::Change Keyspace::append(const Name &name, Bytes value, Refusal &refusal) {
    Entry *entry = values_.find(name);
    if (entry == nullptr) return set(name, value, refusal);
    const uint64_t length = value_of(entry)->size + value.size;
    if (length > limits_.value_stored_size_max) {
        refusal.say(STORED_VALUE_TOO_LARGE, "APPEND would grow the value of key %s to %llu bytes, the limit is %llu",
                    Shown({name.data, name.size}).text, static_cast<Number>(length),
                    static_cast<Number>(limits_.value_stored_size_max));
        return REFUSED;
    }
    const uint64_t size = stored_size_ + value.size;
    if (size > limits_.stored_size_max) return refuse_full(size, refusal), REFUSED;
    stored_size_ = size;
    entry->item = grow(value_of(entry), value.data, value.size);
    return REPLACED;
}

Keyspace::Change Keyspace::add(const Name &name, int64_t delta, int64_t *total, Refusal &refusal) {
    Entry *entry = values_.find(name);
    int64_t number = 0;
    if (entry != nullptr && !read_number(name, *value_of(entry), &number, refusal)) return REFUSED;
    *total = static_cast<int64_t>(static_cast<uint64_t>(number) + static_cast<uint64_t>(delta));
    char text[24];
    char *digit = text + sizeof(text);
    uint64_t rest = *total < 0 ? 0 - static_cast<uint64_t>(*total) : static_cast<uint64_t>(*total);
    do {
        *--digit = static_cast<char>('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (*total < 0) *--digit = '-';
    return set(name, {digit, static_cast<size_t>(text + sizeof(text) - digit)}, refusal);
}

bool Keyspace::remove(const Name &name) {
    Entry *entry = values_.find(name);
    if (entry == nullptr) return false;
    stored_size_ -= name.size + value_of(entry)->size + kEntrySize;
    release(value_of(entry));
    values_.erase(name);
    forget_listing();
    return true;
}

bool Keyspace::push(const Name &name, Bytes item, Refusal &refusal) {
    const uint64_t size = stored_size_ + name.size + item.size + kEntrySize;
    if (size > limits_.stored_size_max) return refuse_full(size, refusal);
    stored_size_ = size;
    Entry *entry = queues_.find(name);
    if (entry == nullptr) {
        entry = queues_.insert(name, take_memory(sizeof(Queue)));
        *static_cast<Queue *>(entry->item) = {nullptr, 0, 0, 0};
    }
    Queue *queue = static_cast<Queue *>(entry->item);
    if (queue->count == queue->room) {
        const size_t room = queue->room == 0 ? 1 : queue->room * 2;
        queue->items = static_cast<Value **>(resize_memory(queue->items, room * sizeof(Value *)));
        // What lay in front of the oldest item follows the newest again.
        if (queue->first > 0) memcpy(queue->items + queue->room, queue->items, queue->first * sizeof(Value *));
        queue->room = room;
    }
    queue->items[(queue->first + queue->count++) % queue->room] = make_value(item.data, item.size);
    return true;
}

size_t Keyspace::pop(const Name &name, Value **item) {
    Entry *entry = queues_.find(name);
    if (entry == nullptr) return 0;
    Queue *queue = static_cast<Queue *>(entry->item);
    const size_t length = queue->count--;
    *item = queue->items[queue->first];
    queue->first = (queue->first + 1) % queue->room;
    stored_size_ -= name.size + (*item)->size + kEntrySize;
    if (length == 1) {
        free(queue->items);
        free(queue);
        queues_.erase(name);
    }
    return length;
}

size_t Keyspace::queue_length(const Name &name) const {
    Entry *entry = queues_.find(name);
    return entry == nullptr ? 0 : static_cast<Queue *>(entry->item)->count;
}

// As C's strtoll reads base 10: white space, a sign, digits; the rest is not looked at.
bool Keyspace::read_number(const Name &name, const Value &value, int64_t *number, Refusal &refusal) const {
    const char *at = value.data(), *end = at + value.size;
    while (at < end && (*at == ' ' || (*at >= '\t' && *at <= '\r'))) ++at;
    const bool is_negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+')) ++at;
    const char *first = at;
    while (at < end && *at == '0') ++at;
    const char *significant = at;
    uint64_t size = 0;
    for (; at < end && *at >= '0' && *at <= '9'; ++at) {
        if (at - significant < static_cast<ptrdiff_t>(DIGITS_MAX)) size = size * 10 + static_cast<uint64_t>(*at - '0');
    }
    const uint64_t most = static_cast<uint64_t>(INT64_MAX) + is_negative;
    if (at > first && at - significant <= static_cast<ptrdiff_t>(DIGITS_MAX) && size <= most) {
        *number = static_cast<int64_t>(is_negative ? 0 - size : size);
        return true;
    }
    const Bytes text = {value.data(), value.size < TEXT_MAX ? value.size : TEXT_MAX};
    return refusal.say(NOT_A_NUMBER, "the value of key %s is %s, %s", Shown({name.data, name.size}).text,
                       Shown(text).text, at > first ? "which 64 bits cannot hold" : "not a decimal number");
}

bool Keyspace::refuse_full(uint64_t size, Refusal &refusal) const {
    return refusal.say(STORE_FULL, "the store would hold %llu bytes in %zu keys and %zu queues, the limit is %llu",
                       static_cast<Number>(size), values_.count(), queues_.count(),
                       static_cast<Number>(limits_.stored_size_max));
}

}  // namespace rallypoint
