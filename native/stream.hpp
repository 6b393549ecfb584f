// One blocking connection of a client, twin of class Stream in net/stream.py: one system call for a request, one for
// its reply in the common case, a deadline on every wait, and no wait that a signal does not end within a slice.
//
// All of this runs with the interpreter's lock held. It is given back around every call of the system that may block;
// only a small `send`, which never blocks, keeps it.
#pragma once

#include <time.h>

#include "module.hpp"
#include "spec.inc"

namespace rallypoint {

enum class Outcome { OK, LATE, FAILED };  // FAILED: a Python error is set

constexpr size_t kBufferSize = 65536;       // what is read ahead
constexpr size_t kBufferSizeMax = 1 << 20;  // ... and what a buffer may grow to for one reply

inline double monotonic() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

// Raise the error that a method of the client's helper (store/native.py) makes of arguments as for Py_BuildValue.
Outcome raise_error(PyObject *helper, const char *method, const char *format, ...);

// How long a caller waits, twin of Deadline in clock.py. What the store's timeout is, is asked only when it matters.
class Patience {
  public:
    // `source` is a float, or an object with a `_timeout_s`.
    Patience(PyObject *helper, PyObject *source) : started_(monotonic()), source_(source), helper_(helper) {}

    // The caller's timeout; below 0 with a Python error set.
    double timeout_s();
    double waited_s() const { return monotonic() - started_; }
    // The seconds left, of the caller's timeout or until an owed answer is overdue; false with a Python error set.
    bool left(bool is_owed, double *seconds);

  private:
    double started_;
    double timeout_s_ = -1;
    PyObject *source_;  // both borrowed from the call
    PyObject *helper_;
};

class Stream {
  public:
    Stream() = default;  // its user closes it: nothing happens at the end of its life
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    // Take over a connected, blocking descriptor with SO_RCVTIMEO set to the first look. `helper` is borrowed.
    void open(int fd, unsigned spin_us, PyObject *helper);
    // End the connection for whoever waits on it; `close` is the business of its user.
    void shut_down();
    // In a forked child the parent's connection lives on: it is closed there without a word.
    void close(bool shuts_down);
    int fd() const { return fd_; }

    // Send all; never LATE.
    Outcome send(const char *data, size_t size, Patience &patience);
    // Have `size` bytes (at most kBufferSizeMax) at `front`; LATE only if they are not owed. What came is kept then.
    Outcome need(size_t size, Patience &patience, bool is_owed);
    const char *front() const { return buffer_ + start_; }
    size_t available() const { return end_ - start_; }
    void skip(size_t size) { start_ += size; }
    // Receive some bytes, at least one; they are owed.
    Outcome receive_some(char *target, size_t room, size_t *received, Patience &patience) {
        return receive(target, room, received, patience, true, false);
    }

  private:
    static constexpr int kEnd = -1;

    Outcome lost(int number);
    Outcome receive(char *target, size_t room, size_t *received, Patience &patience, bool is_owed, bool looks);
    ssize_t look(char *target, size_t room) const;
    bool is_ready(short event, double wait_s) const;

    int fd_ = -1;
    unsigned spin_us_ = 0;
    PyObject *helper_ = nullptr;
    int loss_ = 0;            // why nothing can be received any more: an errno, or kEnd; 0 while it can
    char *buffer_ = nullptr;  // bytes read ahead, from start_ to end_
    size_t capacity_ = 0;
    size_t start_ = 0;
    size_t end_ = 0;
};

}  // namespace rallypoint
