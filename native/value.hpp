// Immutable bytes that several owners share: a stored value, a list of keys, a reply that many peers get.
//
// A value is counted, not copied: a value that goes to 4,096 waiters is in memory once. Counts are plain numbers,
// because one thread owns an engine and all that it stores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace rallypoint {

// Memory that the system refuses ends the process, as in the interpreter's own small allocations: a server that goes
// on with half a change would be worse.
inline void *take_memory(size_t size) {
    void *memory = malloc(size ? size : 1);
    if (memory == nullptr) abort();
    return memory;
}

inline void *resize_memory(void *memory, size_t size) {
    memory = realloc(memory, size ? size : 1);
    if (memory == nullptr) abort();
    return memory;
}

// For what each request passes through: where much is in one unit, compilers call what they would inline elsewhere.
#define HOT [[gnu::always_inline]]

// Bytes that are somebody else's.
struct Bytes {
    const char *data;
    size_t size;

    HOT bool operator==(const Bytes &other) const {
        return size == other.size && (size == 0 || memcmp(data, other.data, size) == 0);
    }
    HOT char *copy_to(char *to) const {
        if (size > 0) memcpy(to, data, size);
        return to + size;
    }
};

struct Value {
    uint32_t owners;
    uint32_t room;  // bytes that can be added before it must move; only a value of one owner grows
    size_t size;

    char *data() { return reinterpret_cast<char *>(this + 1); }
    Bytes bytes() { return {data(), size}; }
    // Lengthen it within its room; gives where the new bytes have to be put.
    char *extend(size_t more) {
        size += more;
        room -= static_cast<uint32_t>(more);
        return data() + size - more;
    }
};

// Give an empty value of one owner.
inline Value *make_value(size_t room) {
    Value *value = static_cast<Value *>(take_memory(sizeof(Value) + room));
    *value = {1, static_cast<uint32_t>(room), 0};
    return value;
}

inline Value *make_value(Bytes text) {
    Value *value = make_value(text.size);
    text.copy_to(value->data());
    value->size = text.size;
    value->room = 0;
    return value;
}

inline Value *share(Value *value) {
    ++value->owners;
    return value;
}

inline void release(Value *value) {
    if (value != nullptr && --value->owners == 0) free(value);
}

// Add to the end of a value in place, or in a copy if others own it too; gives where it is now. Sizes double, up to
// steps of a GiB, so that n appends cost the sum of their sizes.
inline Value *grow(Value *value, Bytes more) {
    if (value->owners > 1 || value->room < more.size) {
        const size_t room = more.size + (value->size < (1 << 30) ? value->size + 64 : 1 << 30);
        if (value->owners > 1) {
            Value *copy = make_value(value->size + room);
            value->bytes().copy_to(copy->extend(value->size));
            release(value);
            value = copy;
        } else {
            value = static_cast<Value *>(resize_memory(value, sizeof(Value) + value->size + room));
            value->room = static_cast<uint32_t>(room);
        }
    }
    more.copy_to(value->extend(more.size));
    return value;
}

// One of a value's owners, or nothing.
class Held {
  public:
    ~Held() { release(value_); }

    explicit operator bool() const { return value_ != nullptr; }
    Value *operator->() const { return value_; }
    Value *get() const { return value_; }
    bool equals(Bytes text) const { return value_ != nullptr && value_->bytes() == text; }
    // Become the owner instead of whoever gives it.
    void hold(Value *value) {
        release(value_);
        value_ = value;
    }
    void drop() { hold(nullptr); }
    // Give the value to the caller.
    Value *take() {
        Value *taken = value_;
        value_ = nullptr;
        return taken;
    }

  private:
    Value *value_ = nullptr;
};

}  // namespace rallypoint
