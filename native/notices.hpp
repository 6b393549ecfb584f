// What the reactor has to tell its owner: lines about refusals, and that its state changed. The reactor's thread puts
// them here and goes on; whoever polls `fd` takes them.
#pragma once

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "value.hpp"

namespace rallypoint {

constexpr size_t NOTICES_SIZE_MAX = 128 * 1024;  // kept for an owner that does not come; later ones are counted only

// Threads: any, but `close` when nobody else is there.
class Notices {
  public:
    Notices() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
    ~Notices() {
        close();
        free(lines_);
        pthread_mutex_destroy(&mutex_);
    }
    Notices(const Notices &) = delete;
    Notices &operator=(const Notices &) = delete;

    // Readable when there is something to take or to look at; -1 if there was no descriptor left.
    int fd() const { return fd_; }

    // Make `fd` readable.
    void wake() {
        const uint64_t one = 1;
        if (write(fd_, &one, sizeof one) < 0) return;  // full: it is readable already
    }

    // Put a line: a CloseReason's position, or -1, a space and the words.
    [[gnu::format(printf, 3, 4), gnu::nonnull(3)]] void put(int reason, const char *format, ...) {
        char line[1024];
        const int start = snprintf(line, sizeof line, "%d ", reason);
        va_list words;
        va_start(words, format);
        vsnprintf(line + start, sizeof line - static_cast<size_t>(start), format, words);
        va_end(words);
        const size_t size = strlen(line) + 1;
        pthread_mutex_lock(&mutex_);
        if (size_ + size > NOTICES_SIZE_MAX) {
            ++left_out_;
        } else {
            lines_ = static_cast<char *>(resize_memory(lines_, size_ + size));
            memcpy(lines_ + size_, line, size);
            size_ += size;
        }
        pthread_mutex_unlock(&mutex_);
        wake();
    }

    // Take all lines, oldest first, a zero byte behind each; the caller frees them. Tells how many were left out.
    char *take(size_t *size, uint64_t *left_out) {
        uint64_t times;
        if (fd_ >= 0 && read(fd_, &times, sizeof times) < 0) times = 0;  // nobody has called; look all the same
        pthread_mutex_lock(&mutex_);
        char *lines = lines_;
        *size = size_;
        *left_out = left_out_;
        lines_ = nullptr;
        size_ = left_out_ = 0;
        pthread_mutex_unlock(&mutex_);
        return lines;
    }

    void close() {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }

  private:
    pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
    char *lines_ = nullptr;
    size_t size_ = 0;
    uint64_t left_out_ = 0;
    int fd_;
};

}  // namespace rallypoint
