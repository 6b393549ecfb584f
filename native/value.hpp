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
    uint32_t reserved;
    size_t size;
    size_t capacity;

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
    value->reserved = 0;
    value->size = value->capacity = size;
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

inline void release(Value *value) {
    if (value != nullptr && --value->owners == 0) free(value);
}

}  // namespace rallypoint
