// What the engine keeps things in: a list through the things themselves, a ring, and a table by name.
//
// Rules: the table's hash is keyed, because names come from peers and a peer may be an enemy. Entries stay where they
// are. No step of any of them costs more because there is much in it, growing a ring apart.
#pragma once

#include <new>

#include "value.hpp"

namespace rallypoint {

// A place in a list.
template <typename Thing>
struct Link {
    Thing *before = nullptr;
    Thing *after = nullptr;
};

// Things in a row, through one of their links; each is in it once at most.
template <typename Thing, Link<Thing> Thing::*LINK>
struct List {
    Thing *first = nullptr;
    Thing *last = nullptr;

    void add(Thing &thing) {
        thing.*LINK = {last, nullptr};
        (last != nullptr ? (last->*LINK).after : first) = &thing;
        last = &thing;
    }
    void remove(Thing &thing) {
        const Link<Thing> link = thing.*LINK;
        (link.before != nullptr ? (link.before->*LINK).after : first) = link.after;
        (link.after != nullptr ? (link.after->*LINK).before : last) = link.before;
        thing.*LINK = {};
    }
    Thing *take_first() {
        Thing *taken = first;
        if (taken != nullptr) remove(*taken);
        return taken;
    }

    // For what may be in this list, and is in no other one through the same link.
    bool has(const Thing &thing) const { return (thing.*LINK).before != nullptr || first == &thing; }
    void put(Thing &thing) {
        if (!has(thing)) add(thing);
    }
    void drop(Thing &thing) {
        if (has(thing)) remove(thing);
    }
};

// Items, oldest first. An empty one holds no memory.
template <typename Item>
class Ring {
  public:
    Ring() = default;
    ~Ring() { free(items_); }
    Ring(const Ring &) = delete;
    Ring &operator=(const Ring &) = delete;

    size_t count() const { return count_; }
    Item &operator[](size_t at) const { return items_[(first_ + at) & (room_ - 1)]; }

    void push(Item item) {
        if (count_ == room_) {
            const size_t room = room_ == 0 ? 1 : room_ * 2;
            items_ = static_cast<Item *>(resize_memory(items_, room * sizeof(Item)));
            // What lay in front of the oldest item follows the newest again.
            for (size_t at = 0; at < first_; ++at) items_[room_ + at] = items_[at];
            room_ = room;
        }
        (*this)[count_++] = item;
    }
    Item pop() {
        const Item item = (*this)[0];
        first_ = (first_ + 1) & (room_ - 1);
        if (--count_ == 0) clear();
        return item;
    }
    void clear() {
        free(items_);
        items_ = nullptr;
        first_ = count_ = room_ = 0;
    }

  private:
    Item *items_ = nullptr;
    size_t first_ = 0, count_ = 0;
    size_t room_ = 0;  // a power of 2
};

// When things are due, soonest first: a heap of things that know their place in it.
struct Due {
    double due_at = 0;
    size_t place = 0;     // 0: it is never due
    uint64_t order = 0;   // the lower one is first, of two that are due together

    bool is_before(const Due &other) const {
        return due_at < other.due_at || (due_at == other.due_at && order < other.order);
    }
};

class Deadlines {
  public:
    ~Deadlines() { free(heap_); }

    Due *first() const { return count_ == 0 ? nullptr : heap_[1]; }

    // Have a thing be due, or due at another time.
    void put(Due &due, double at) {
        due.due_at = at;
        if (due.place == 0) {
            if (++count_ >= room_) {
                room_ = room_ == 0 ? 4 : room_ * 2;
                heap_ = static_cast<Due **>(resize_memory(heap_, room_ * sizeof(Due *)));
            }
            due.place = count_;
        }
        settle(due);
    }
    void drop(Due &due) {
        if (due.place == 0) return;
        Due &last = *heap_[count_--];
        if (&last != &due) {
            last.place = due.place;
            settle(last);
        }
        due.place = 0;
    }

  private:
    void seat(Due &due, size_t place) { heap_[due.place = place] = &due; }
    void settle(Due &due) {
        size_t place = due.place;
        for (; place > 1 && due.is_before(*heap_[place / 2]); place /= 2) seat(*heap_[place / 2], place);
        for (size_t next; (next = place * 2) <= count_; place = next) {
            next += next < count_ && heap_[next + 1]->is_before(*heap_[next]);
            if (!heap_[next]->is_before(due)) break;
            seat(*heap_[next], place);
        }
        seat(due, place);
    }

    Due **heap_ = nullptr;  // from 1 on
    size_t count_ = 0, room_ = 0;
};

struct HashKey {
    uint64_t first, second;

    // SipHash-1-3.
    uint64_t hash(Bytes text) const {
        uint64_t state[4] = {first ^ 0x736f6d6570736575, second ^ 0x646f72616e646f6d, first ^ 0x6c7967656e657261,
                             second ^ 0x7465646279746573};
        uint64_t word;
        size_t at = 0;
        for (; at + 8 <= text.size; at += 8) {
            memcpy(&word, text.data + at, 8);
            mix(state, word);
        }
        word = 0;
        if (at < text.size) memcpy(&word, text.data + at, text.size - at);
        mix(state, word | static_cast<uint64_t>(text.size) << 56);
        state[2] ^= 0xff;
        for (int i = 0; i < 3; ++i) mix(state, 0);
        return state[0] ^ state[1] ^ state[2] ^ state[3];
    }

  private:
    static uint64_t rotated(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }
    static void mix(uint64_t (&state)[4], uint64_t word) {
        auto &[a, b, c, d] = state;
        d ^= word;
        a += b, b = rotated(b, 13) ^ a, a = rotated(a, 32);
        c += d, d = rotated(d, 16) ^ c;
        a += d, d = rotated(d, 21) ^ a;
        c += b, b = rotated(b, 17) ^ c, c = rotated(c, 32);
        a ^= word;
    }
};

// A name on the way to a table, hashed once.
struct Name : Bytes {
    Name(const HashKey &key, Bytes text) : Bytes(text), hash(key.hash(text)) {}

    uint64_t hash;
};

// Names and what is kept under them, in the order in which they came: what a dict is to the Python twin.
//
// Theory of operation: linear hashing. There are as many chains as there ever were entries; with each that is one more,
// the entries of the next chain of the lower half are parted between it and its new twin in the upper half.
template <typename Item>
class Table {
  public:
    struct Entry {
        Item item;
        Link<Entry> order;
        Entry *next;  // in its chain
        uint32_t size;

        // Right behind the size, where the compiler would leave a gap.
        char *data() { return reinterpret_cast<char *>(&size + 1); }
        Bytes name() { return {data(), size}; }
    };

    static Entry *entry_of(Item *item) { return reinterpret_cast<Entry *>(item); }  // its first member

    explicit Table(const HashKey &key) : key_(key) {}
    ~Table() {
        while (order_.first != nullptr) erase(order_.first);
        free(chains_);
    }
    Table(const Table &) = delete;
    Table &operator=(const Table &) = delete;

    size_t count() const { return count_; }
    // The oldest; each one's `order.after` is the next.
    Entry *first() const { return order_.first; }

    // Null if it is not there.
    HOT Entry *find(const Name &name) const {
        if (count_ == 0) return nullptr;
        Entry *entry = *chain(name.hash);
        while (entry != nullptr && !(entry->name() == name)) entry = entry->next;
        return entry;
    }

    // The name is not there; its item is made of nothing.
    Entry *insert(const Name &name) {
        if (count_++ == chain_count_) add_chain();
        const size_t size = offsetof(Entry, size) + sizeof(uint32_t) + name.size;
        Entry *entry = new (take_memory(size > sizeof(Entry) ? size : sizeof(Entry))) Entry{};
        entry->size = static_cast<uint32_t>(name.size);
        name.copy_to(entry->data());
        Entry **head = chain(name.hash);
        entry->next = *head;
        *head = entry;
        order_.add(*entry);
        return entry;
    }

    void erase(Entry *entry) { erase(entry, key_.hash(entry->name())); }
    // The same for who has remembered the hash of a long name.
    void erase(Entry *entry, uint64_t hash) {
        Entry **at = chain(hash);
        while (*at != entry) at = &(*at)->next;
        *at = entry->next;
        order_.remove(*entry);
        entry->~Entry();
        free(entry);
        if (--count_ > 0 || chain_count_ == 1) return;  // one that always has one entry is not made anew each time
        free(chains_);
        chains_ = nullptr;
        chain_count_ = room_ = 0;
    }

  private:
    Entry **chain(uint64_t hash) const {
        const size_t at = hash & (room_ - 1);
        return &chains_[at < chain_count_ ? at : at - room_ / 2];
    }

    void add_chain() {
        if (chain_count_ == room_) {
            room_ = room_ == 0 ? 1 : room_ * 2;
            chains_ = static_cast<Entry **>(resize_memory(chains_, room_ * sizeof(Entry *)));
        }
        Entry **upper = &chains_[chain_count_], **lower = &chains_[chain_count_ - room_ / 2];
        *upper = nullptr;
        while (Entry *entry = *lower) {
            if ((key_.hash(entry->name()) & (room_ - 1)) == chain_count_) {
                *lower = entry->next;
                entry->next = *upper;
                *upper = entry;
            } else {
                lower = &entry->next;
            }
        }
        ++chain_count_;
    }

    const HashKey key_;
    List<Entry, &Entry::order> order_;
    Entry **chains_ = nullptr;
    size_t count_ = 0;
    size_t chain_count_ = 0;  // more than half of `room_`
    size_t room_ = 0;         // a power of 2
};

}  // namespace rallypoint
