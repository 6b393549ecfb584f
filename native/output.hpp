// What one peer is owed: bytes in order, small ones copied together, large ones shared.
//
// A queue of segments. Small replies are appended to the last segment while it has room; a shared value is a segment
// of its own and is never copied. The driver hands the front to `writev` and says how much of it went out. An empty
// queue holds no memory.
#pragma once

#include <sys/uio.h>

#include "value.hpp"

namespace rallypoint {

class Output {
  public:
    Output() = default;
    ~Output() { clear(); }
    Output(const Output &) = delete;
    Output &operator=(const Output &) = delete;

    bool empty() const { return first_ == nullptr; }
    // Bytes in the queue.
    size_t size() const { return size_; }

    // Copy `size` bytes to the end.
    void append(const char *data, size_t size) {
        if (size > 0) memcpy(extend(size), data, size);
    }
    // Lengthen the queue; gives where the caller has to put the `size` bytes, at least one.
    char *extend(size_t size) {
        if (last_ == nullptr || last_->room < size) add_segment(size);
        char *end = last_->bytes() + last_->end;
        last_->end += size;
        last_->room -= size;
        size_ += size;
        return end;
    }
    // Put a value at the end without copying it; the queue becomes one more of its owners.
    void append_shared(Value *value);

    // Describe the front of the queue; gives the number of entries, `count` at most.
    int front(iovec *entries, int count) const;
    // Forget the first `size` bytes: they went out.
    void consume(size_t size);
    void clear();

  private:
    struct Segment {
        Segment *next;
        Value *shared;  // null: the bytes follow here
        size_t start;   // the first byte that did not go out
        size_t end;
        size_t room;

        char *bytes() { return shared == nullptr ? reinterpret_cast<char *>(this + 1) : shared->data(); }
    };

    void add_segment(size_t size);
    Segment *link(size_t capacity);
    void drop_first();

    Segment *first_ = nullptr;
    Segment *last_ = nullptr;
    size_t size_ = 0;
};

}  // namespace rallypoint
