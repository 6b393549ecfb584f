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

struct Value {
    uint32_t owners;
    uint32_t room;  // bytes that can be added before it must move; only a value of one owner grows
    size_t size;

    char *data() { return reinterpret_cast<char *>(this + 1); }
    const char *data() const { return reinterpret_cast<const char *>(this + 1); }
};

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

// Give a value of one owner, its bytes not set yet.
inline Value *make_value(size_t size) {
    Value *value = static_cast<Value *>(take_memory(sizeof(Value) + size));
    value->owners = 1;
    value->room = 0;
    value->size = size;
    return value;
}

inline Value *make_value(const char *data, size_t size) {
    Value *value = make_value(size);
    if (size) memcpy(value->data(), data, size);
    return value;
}

inline Value *share(Value *value) {
    ++value->owners;
    return value;
}

// Add to the end of a value in place, or in a copy if others own it too; gives where it is now. Room doubles, so that n
// appends cost the sum of their sizes.
inline Value *grow(Value *value, const char *data, size_t size) {
    if (value->owners > 1 || value->room < size) {
        const size_t room = value->size + size < UINT32_MAX - 64 ? value->size + size + 64 : 0;
        const size_t needed = sizeof(Value) + value->size + size + room;
        if (value->owners > 1) {
            Value *copy = static_cast<Value *>(take_memory(needed));
            memcpy(static_cast<void *>(copy), value, sizeof(Value) + value->size);
            copy->owners = 1;
            --value->owners;
            value = copy;
        } else {
            value = static_cast<Value *>(resize_memory(value, needed));
        }
        value->room = static_cast<uint32_t>(room + size);
    }
    if (size) memcpy(value->data() + value->size, data, size);
    value->size += size;
    value->room -= static_cast<uint32_t>(size);
    return value;
}

inline void release(Value *value) {
    if (value != nullptr && --value->owners == 0) free(value);
}

}  // namespace rallypoint
