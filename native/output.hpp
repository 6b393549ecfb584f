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
    void append(const char *data, size_t size);
    // Put a value at the end without copying it; the queue becomes one more of its owners.
    void append_shared(Value *value);

    // Describe the front of the queue; gives the number of entries, `count` at most.
    int front(iovec *entries, int count) const;
    // Forget the first `size` bytes: they went out.
    void consume(size_t size);
    void clear();

  private:
    struct Segment;
    Segment *first_ = nullptr;
    Segment *last_ = nullptr;
    size_t size_ = 0;
};

}  // namespace rallypoint
