// One blocking connection of a client, twin of class Stream in net/stream.py: one system call for a request, one for
// its reply in the common case, a deadline on every wait, and no wait that a signal does not end within a slice.
//
// All of this runs with the interpreter's lock held. It is given back around every call of the system that may block;
// only a small `send`, which never blocks, keeps it. Whatever gives false has set a Python error.
#pragma once

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "python.hpp"
#include "spec.inc"
#include "value.hpp"

namespace rallypoint {

constexpr size_t kSmallSize = 16384;        // a request up to this size is sent without giving the lock back
constexpr int kLooksMax = 8;                // in one call, without regard to its deadline
constexpr size_t kBufferSize = 65536;       // what is read ahead
constexpr size_t kBufferSizeMax = 1 << 20;  // ... and what a buffer may grow to for one reply

inline double monotonic() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

// The first look: nearly every reply comes within it, and it costs one call of the system. Runs without the lock.
inline ssize_t first_look(int fd, unsigned spin_us, char *target, size_t room) {
    if (spin_us) {
        double until = monotonic() + spin_us * 1e-6;
        do {
            ssize_t count = recv(fd, target, room, MSG_DONTWAIT);
            if (count >= 0 || errno != EAGAIN) return count;
        } while (monotonic() < until);
    }
    return recv(fd, target, room, 0);
}

inline unsigned forks = 0;  // how many forks lie between this process and the one that loaded the module

// True in the process of that number; else raises. A signal's handler may fork amid a call, and its child goes on.
inline bool check_fork(unsigned generation, PyObject *helper) {
    return generation == forks || raise_error(helper, "forked", "()");
}

// How long a caller waits, twin of Deadline in clock.py. Neither the clock nor the store's timeout is looked at before
// it matters, which is after the first look at the latest.
class Patience {
  public:
    // `source` is a float, or an object with a `_timeout_s`; both are borrowed.
    Patience(PyObject *helper, PyObject *source) : helper_(helper), source_(source) {}

    // The seconds since somebody asked first.
    double waited_s() {
        double now = monotonic();
        if (started_ < 0) started_ = now;
        return now - started_;
    }
    // Whether to look for bytes without a look at the clock: a few times only, for a reply may come in many pieces.
    bool may_look() { return looks_ < kLooksMax && ++looks_; }
    // The caller's timeout; below 0 with a Python error set.
    double timeout_s() {
        if (timeout_s_ >= 0) return timeout_s_;
        Ref seconds(PyFloat_Check(source_) ? Py_NewRef(source_) : PyObject_GetAttrString(source_, "_timeout_s"));
        if (!seconds) return -1;
        double timeout_s = PyFloat_AsDouble(seconds);
        if (PyErr_Occurred()) return -1;
        return timeout_s_ = timeout_s > 0 ? timeout_s : 0;
    }
    // The seconds left, of the caller's timeout or until an owed answer is overdue.
    bool left(bool is_owed, double *seconds) {
        double allowed_s = timeout_s();
        if (allowed_s < 0) return false;
        if (is_owed) {
            Ref grace(PyObject_CallMethod(helper_, "grace_s", nullptr));
            if (!grace) return false;
            allowed_s += PyFloat_AsDouble(grace);
        }
        double left_s = allowed_s - waited_s();
        *seconds = left_s > 0 ? left_s : 0;
        return true;
    }

  private:
    PyObject *helper_, *source_;
    double started_ = -1, timeout_s_ = -1;
    int looks_ = 0;
};

// Its user closes it: nothing happens at the end of its life.
class Stream {
  public:
    Stream() = default;
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    // Take over a connected, blocking descriptor with SO_RCVTIMEO set to the first look. `helper` is borrowed.
    void open(int fd, unsigned spin_us, PyObject *helper) {
        fd_ = fd;
        spin_us_ = spin_us;
        generation_ = forks;
        helper_ = helper;
        loss_ = 0;
        buffer_ = static_cast<char *>(take_memory(capacity_ = kBufferSize));
    }
    // End the connection for whoever waits on it; `close` is the business of its user.
    void shut_down() {
        if (fd_ >= 0) shutdown(fd_, SHUT_RDWR);
    }
    // In a forked child the parent's connection lives on: it is closed there without a word.
    void close(bool shuts_down) {
        if (shuts_down) shut_down();
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
        free(buffer_);
        buffer_ = nullptr;
        start_ = end_ = 0;
    }
    int fd() const { return fd_; }
    const char *front() const { return buffer_ + start_; }
    size_t available() const { return end_ - start_; }
    void skip(size_t size) { start_ += size; }

    bool send(const char *data, size_t size, Patience &patience) {
        for (bool is_first = true; size > 0; is_first = false) {
            size_t sent = pass(POLLOUT, const_cast<char *>(data), size, patience, true, is_first);
            if (sent == 0) return false;
            data += sent;
            size -= sent;
        }
        return true;
    }

    // Have `size` bytes (at most kBufferSizeMax) at `front`. What came is kept if it fails.
    bool need(size_t size, Patience &patience, bool is_owed) {
        if (available() >= size) return true;
        if (start_ + size > capacity_ || start_ == end_) {
            memmove(buffer_, buffer_ + start_, available());
            end_ -= start_;
            start_ = 0;
        }
        if (size > capacity_) {
            capacity_ = size > 2 * capacity_ ? size : 2 * capacity_;
            buffer_ = static_cast<char *>(resize_memory(buffer_, capacity_));
        }
        double left_s = 0;
        if (!is_owed && !patience.left(false, &left_s)) return false;
        // An owed answer has the grace period at least, so nobody need look at the clock before the first looks.
        for (bool looks = is_owed ? patience.may_look() : left_s > kWaitSliceS; available() < size; looks = false) {
            size_t received = receive(buffer_ + end_, capacity_ - end_, patience, is_owed, looks);
            if (received == 0) return false;
            end_ += received;
        }
        return true;
    }

    // Receive some bytes, at least one, and give their number; 0 with a Python error set. `looks`: see `first_look`.
    size_t receive(char *target, size_t room, Patience &patience, bool is_owed, bool looks = false) {
        return pass(POLLIN, target, room, patience, is_owed, looks);
    }

  private:
    static constexpr int kEnd = -1;

    // Send or receive some bytes; 0 with a Python error set. `is_first`: try it before any wait.
    size_t pass(short event, char *data, size_t size, Patience &patience, bool is_owed, bool is_first) {
        const bool sends = event == POLLOUT;
        for (;; is_first = false) {
            double left_s = 0;
            if (!is_first && (PyErr_CheckSignals() < 0 || !patience.left(is_owed, &left_s))) return 0;
            if (!check_fork(generation_, helper_)) return 0;
            if (loss_ && !sends) return lost(loss_);
            PyThreadState *state = sends && is_first && size <= kSmallSize ? nullptr : PyEval_SaveThread();
            ssize_t count = -1;
            errno = EAGAIN;
            if (is_first && !sends) {
                count = first_look(fd_, spin_us_, data, size);
            } else if (is_first || is_ready(event, left_s)) {
                count = sends ? ::send(fd_, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
                              : recv(fd_, data, size, MSG_DONTWAIT);
            }
            int number = errno;
            if (state) PyEval_RestoreThread(state);
            if (count > 0) return size_t(count);
            if (count == 0) return lost(kEnd);
            if (number != EAGAIN && number != EINTR) return sends ? broken(number) : lost(number);
            if (is_first || left_s > 0) continue;
            if (!is_owed) return raise_error(helper_, "expired_error", "()");
            const char *what = sends ? "did not take a request" : "did not answer";
            return raise_error(helper_, "silent", "(sd)", what, patience.waited_s());
        }
    }
    bool is_ready(short event, double wait_s) const {
        if (!(wait_s < kWaitSliceS)) wait_s = kWaitSliceS;
        timespec time = {0, long(wait_s * 1e9)};
        pollfd entry = {fd_, event, 0};
        return ppoll(&entry, 1, &time, nullptr) > 0;
    }
    // A loss is remembered: whoever asks again is told the same.
    bool lost(int number) {
        loss_ = number;
        return number == kEnd ? raise_error(helper_, "lost", "()") : broken(number);
    }
    bool broken(int number) { return raise_error(helper_, "broken", "(i)", number); }

    int fd_ = -1;
    unsigned spin_us_ = 0;
    unsigned generation_ = 0;  // the process that it belongs to
    PyObject *helper_ = nullptr;
    int loss_ = 0;            // why nothing can be received any more: an errno, or kEnd; 0 while it can
    char *buffer_ = nullptr;  // bytes read ahead, from start_ to end_
    size_t capacity_ = 0;
    size_t start_ = 0;
    size_t end_ = 0;
};

}  // namespace rallypoint
