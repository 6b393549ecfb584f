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

constexpr size_t NOTICES_MAX = 1000;  // lines kept for an owner that does not come; more are counted only

struct Notice {
    Notice *next;
    int reason;  // a CloseReason, -1 for none
    char text[1];
};

// Threads: any, but `close` and `forget` when nobody else is there.
class Notices {
  public:
    Notices() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
    ~Notices() {
        close();
        uint64_t left_out;
        Notice *notice = take(&left_out);
        while (notice != nullptr) {
            Notice *next = notice->next;
            free(notice);
            notice = next;
        }
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

    [[gnu::format(printf, 3, 4)]] void put(int reason, const char *format, ...) {
        va_list words, again;
        va_start(words, format);
        va_copy(again, words);
        const int size = vsnprintf(nullptr, 0, format, words);
        Notice *notice = static_cast<Notice *>(take_memory(sizeof(Notice) + static_cast<size_t>(size)));
        vsnprintf(notice->text, static_cast<size_t>(size) + 1, format, again);
        va_end(again);
        va_end(words);
        notice->next = nullptr;
        notice->reason = reason;
        add(notice);
    }

    // Take all lines, oldest first; the caller frees each. Tells how many were left out before them.
    Notice *take(uint64_t *left_out) {
        uint64_t times;
        if (fd_ >= 0 && read(fd_, &times, sizeof times) < 0) times = 0;  // nobody has called; look all the same
        pthread_mutex_lock(&mutex_);
        Notice *notices = first_;
        *left_out = left_out_;
        first_ = last_ = nullptr;
        count_ = left_out_ = 0;
        pthread_mutex_unlock(&mutex_);
        return notices;
    }

    void close() {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }

  private:
    void add(Notice *notice) {
        pthread_mutex_lock(&mutex_);
        if (count_ >= NOTICES_MAX) {
            ++left_out_;
            pthread_mutex_unlock(&mutex_);
            free(notice);
            return;
        }
        (last_ != nullptr ? last_->next : first_) = notice;
        last_ = notice;
        ++count_;
        pthread_mutex_unlock(&mutex_);
        wake();
    }

    pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
    Notice *first_ = nullptr;
    Notice *last_ = nullptr;
    uint64_t count_ = 0, left_out_ = 0;
    int fd_;
};

}  // namespace rallypoint
