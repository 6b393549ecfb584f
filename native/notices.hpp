// What the reactor has to tell its owner: lines about refusals and ended connections, and that its state changed. The reactor's thread puts
// them here and goes on; whoever polls `fd` takes them. Guarded by the reactor's lock.
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "value.hpp"

namespace rallypoint {

constexpr int kOwnNote = -100;  // the machine's own, in place of a reason
constexpr size_t NOTICES_SIZE_MAX = 128 * 1024;  // kept for an owner that does not come; later ones are counted only

struct Notices {
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);  // readable when there is something to take or to look at
    Value *lines = make_value(0);                     // oldest first, a zero byte behind each
    uint64_t left_out = 0;

    // Make an eventfd readable; if it is full it is already.
    static void wake(int fd) {
        if (fd >= 0) eventfd_write(fd, 1);
    }

    // Put a line: a CloseReason's position, -1 for none, or -2 less an EndReason's, a space and the words.
    [[gnu::format(printf, 3, 4)]] void put(int reason, const char *format, ...) {
        char line[1024];
        const int start = snprintf(line, sizeof line, "%d ", reason);
        va_list words;
        va_start(words, format);
        vsnprintf(line + start, sizeof line - static_cast<size_t>(start), format, words);
        va_end(words);
        const size_t size = strlen(line) + 1;
        if (lines->size + size > NOTICES_SIZE_MAX) {
            ++left_out;
        } else {
            lines = grow(lines, {line, size});
        }
        wake(fd);
    }

    // Take all lines in exchange for an empty value; tells how many were left out.
    uint64_t take(Value *&empty) {
        eventfd_t times;
        if (fd >= 0) eventfd_read(fd, &times);
        Value *taken = lines;
        lines = empty;
        empty = taken;
        const uint64_t count = left_out;
        left_out = 0;
        return count;
    }
};

}  // namespace rallypoint
