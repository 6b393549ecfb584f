// What one peer is owed: bytes in order, small ones copied together, large ones shared.
//
// The first few lie in the peer itself, the rest in pieces: shared values, and values of our own that bytes are copied
// into. The driver hands the front to `writev` and says how much of it went out.
#pragma once

#include <sys/uio.h>

#include "containers.hpp"

namespace rallypoint {

class Output {
  public:
    // A value up to this size is copied; a larger one is shared.
    static constexpr size_t COPIED_SIZE_MAX = 4096;

    ~Output() { clear(); }

    bool empty() const { return size_ == 0; }
    // Bytes in the queue.
    size_t size() const { return size_; }

    // Lengthen the queue; gives where the caller has to put the `size` bytes, at least one.
    char *extend(size_t size) {
        size_ += size;
        if (pieces_.count() == 0 && few_end_ + size <= sizeof(few_)) {
            few_end_ += size;
            return few_ + few_end_ - size;
        }
        Value *last = pieces_.count() == 0 ? nullptr : pieces_[pieces_.count() - 1];
        if (last == nullptr || last->owners > 1 || last->room < size) {
            const size_t usual = last == nullptr ? FIRST_SIZE : LATER_SIZE;
            pieces_.push(last = make_value(size > usual ? size : usual));
        }
        return last->extend(size);
    }
    // Put a value at the end; unless it is small, the queue becomes one more of its owners.
    void append(Value *value) {
        if (value->size > COPIED_SIZE_MAX) {
            pieces_.push(share(value));
            size_ += value->size;
        } else if (value->size > 0) {
            value->bytes().copy_to(extend(value->size));
        }
    }
    // Put at the end what another queue holds, of which nothing went out.
    void append(const Output &other) {
        if (other.few_end_ > 0) memcpy(extend(other.few_end_), other.few_, other.few_end_);
        for (size_t at = 0; at < other.pieces_.count(); ++at) append(other.pieces_[at]);
    }

    // Describe the front of the queue; gives the number of entries, `count` at most.
    int front(iovec *entries, int count) {
        int used = 0;
        size_t start = start_;
        if (few_end_ > 0) {
            entries[used++] = {few_ + start, few_end_ - start};
            start = 0;
        }
        for (size_t at = 0; at < pieces_.count() && used < count; ++at, start = 0) {
            entries[used++] = {pieces_[at]->data() + start, pieces_[at]->size - start};
        }
        return used;
    }
    // Look at the values of which the queue holds some; gives the bytes that it holds besides.
    template <typename Look>
    size_t each_piece(Look look) const {
        for (size_t at = 0; at < pieces_.count(); ++at) look(pieces_[at]);
        return few_end_;
    }
    // Forget the first `size` bytes: they went out.
    HOT void consume(size_t size) {
        size_ -= size;
        start_ += size;
        if (start_ < few_end_) return;
        start_ -= few_end_;
        few_end_ = 0;
        while (pieces_.count() > 0 && start_ >= pieces_[0]->size) {
            start_ -= pieces_[0]->size;
            release(pieces_.pop());
        }
    }
    void clear() { consume(size_); }

  private:
    // The first piece is of a size that the allocator keeps at hand for each thread; more of them mean much to send.
    static constexpr size_t FIRST_SIZE = 960;
    static constexpr size_t LATER_SIZE = 16 * 1024;

    size_t size_ = 0;
    size_t start_ = 0;  // the first byte of the front that did not go out
    size_t few_end_ = 0;
    Ring<Value *> pieces_;
    char few_[64];
};

}  // namespace rallypoint
