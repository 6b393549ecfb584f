#include "output.hpp"

namespace rallypoint {

namespace {

// The first segment is of a size that the allocator keeps at hand for each thread; more of them mean that there is much.
constexpr size_t FIRST_SIZE = 960;
constexpr size_t LATER_SIZE = 16 * 1024;

}  // namespace

Output::Segment *Output::link(size_t capacity) {
    Segment *segment = static_cast<Segment *>(take_memory(sizeof(Segment) + capacity));
    *segment = {nullptr, nullptr, 0, 0, capacity};
    (last_ == nullptr ? first_ : last_->next) = segment;
    last_ = segment;
    return segment;
}

void Output::add_segment(size_t size) {
    const size_t usual = first_ == nullptr ? FIRST_SIZE : LATER_SIZE;
    link(size > usual ? size : usual);
}

void Output::append_shared(Value *value) {
    if (value->size == 0) return;
    Segment *segment = link(0);
    segment->shared = share(value);
    segment->end = value->size;
    size_ += value->size;
}

int Output::front(iovec *entries, int count) const {
    int used = 0;
    for (Segment *segment = first_; segment != nullptr && used < count; segment = segment->next) {
        entries[used++] = {segment->bytes() + segment->start, segment->end - segment->start};
    }
    return used;
}

void Output::consume(size_t size) {
    size_ -= size;
    while (size > 0) {
        const size_t there = first_->end - first_->start;
        if (size < there) {
            first_->start += size;
            return;
        }
        size -= there;
        drop_first();
    }
}

void Output::clear() {
    while (first_ != nullptr) drop_first();
    size_ = 0;
}

void Output::drop_first() {
    Segment *segment = first_;
    first_ = segment->next;
    if (first_ == nullptr) last_ = nullptr;
    release(segment->shared);
    free(segment);
}

}  // namespace rallypoint
