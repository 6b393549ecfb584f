// Twin of net/stream.py: see stream.hpp.
#include "stream.hpp"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include "python.hpp"
#include "value.hpp"

namespace rallypoint {

namespace {

constexpr size_t kSmallSize = 16384;  // a request up to this size is sent without giving the interpreter's lock back

}  // namespace

Outcome raise_error(PyObject *helper, const char *method, const char *format, ...) {
    va_list list;
    va_start(list, format);
    Ref arguments(Py_VaBuildValue(format, list));
    va_end(list);
    Ref make(arguments ? PyObject_GetAttrString(helper, method) : nullptr);
    Ref error(make ? PyObject_CallObject(make, arguments) : nullptr);
    if (error) PyErr_SetObject(reinterpret_cast<PyObject *>(Py_TYPE(error)), error);
    return Outcome::FAILED;
}

double Patience::timeout_s() {
    if (timeout_s_ >= 0) return timeout_s_;
    Ref seconds(PyFloat_Check(source_) ? Py_NewRef(source_) : PyObject_GetAttrString(source_, "_timeout_s"));
    if (!seconds) return -1;
    double timeout_s = PyFloat_AsDouble(seconds);
    if (PyErr_Occurred()) return -1;
    return timeout_s_ = timeout_s > 0 ? timeout_s : 0;
}

bool Patience::left(bool is_owed, double *seconds) {
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

void Stream::open(int fd, unsigned spin_us, PyObject *helper) {
    fd_ = fd;
    spin_us_ = spin_us;
    helper_ = helper;
    loss_ = 0;
    start_ = end_ = 0;
    if (buffer_ == nullptr) buffer_ = static_cast<char *>(take_memory(capacity_ = kBufferSize));
}

void Stream::shut_down() {
    if (fd_ >= 0) shutdown(fd_, SHUT_RDWR);
}

void Stream::close(bool shuts_down) {
    if (shuts_down) shut_down();
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
    free(buffer_);
    buffer_ = nullptr;
    start_ = end_ = 0;
}

bool Stream::is_ready(short event, double wait_s) const {
    if (!(wait_s < kWaitSliceS)) wait_s = kWaitSliceS;
    timespec time = {0, long(wait_s * 1e9)};
    pollfd entry = {fd_, event, 0};
    return ppoll(&entry, 1, &time, nullptr) > 0;
}

Outcome Stream::send(const char *data, size_t size, Patience &patience) {
    for (bool is_first = true; size > 0; is_first = false) {
        double left_s = 0;
        if (!is_first && !patience.left(true, &left_s)) return Outcome::FAILED;
        PyThreadState *state = is_first && size <= kSmallSize ? nullptr : PyEval_SaveThread();
        ssize_t sent = -1;
        errno = EAGAIN;
        if (is_first || is_ready(POLLOUT, left_s)) sent = ::send(fd_, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        int number = errno;
        if (state) PyEval_RestoreThread(state);
        if (sent >= 0) {
            data += sent;
            size -= size_t(sent);
            continue;
        }
        if (number != EAGAIN && number != EINTR) return raise_error(helper_, "broken", "(i)", number);
        if (PyErr_CheckSignals() < 0) return Outcome::FAILED;
        if (!is_first && left_s <= 0) {
            return raise_error(helper_, "silent", "(sd)", "did not take a request", patience.waited_s());
        }
    }
    return Outcome::OK;
}

Outcome Stream::need(size_t size, Patience &patience, bool is_owed) {
    if (available() >= size) return Outcome::OK;
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
    if (!is_owed && !patience.left(false, &left_s)) return Outcome::FAILED;
    // An owed answer has the grace period at least, so nobody need look at the clock before the first look.
    for (bool looks = is_owed || left_s > kWaitSliceS; available() < size; looks = false) {
        size_t received = 0;
        Outcome outcome = receive(buffer_ + end_, capacity_ - end_, &received, patience, is_owed, looks);
        if (outcome != Outcome::OK) return outcome;
        end_ += received;
    }
    return Outcome::OK;
}

// The first look: nearly every reply comes within it, and it costs one call of the system. Runs without the lock.
ssize_t Stream::look(char *target, size_t room) const {
    if (spin_us_) {
        double until = monotonic() + spin_us_ * 1e-6;
        do {
            ssize_t count = recv(fd_, target, room, MSG_DONTWAIT);
            if (count >= 0 || errno != EAGAIN) return count;
        } while (monotonic() < until);
    }
    return recv(fd_, target, room, 0);
}

// A loss is remembered: whoever asks again is told the same.
Outcome Stream::lost(int number) {
    loss_ = number;
    return number == kEnd ? raise_error(helper_, "lost", "()") : raise_error(helper_, "broken", "(i)", number);
}

Outcome Stream::receive(char *target, size_t room, size_t *received, Patience &patience, bool is_owed, bool looks) {
    for (;; looks = false) {
        if (loss_) return lost(loss_);
        double left_s = 0;
        if (!looks && !patience.left(is_owed, &left_s)) return Outcome::FAILED;
        PyThreadState *state = PyEval_SaveThread();
        ssize_t count = -1;
        errno = EAGAIN;
        if (looks) {
            count = look(target, room);
        } else if (is_ready(POLLIN, left_s)) {
            count = recv(fd_, target, room, MSG_DONTWAIT);
        }
        int number = errno;
        PyEval_RestoreThread(state);
        if (count > 0) {
            *received = size_t(count);
            return Outcome::OK;
        }
        if (count == 0) return lost(kEnd);
        if (number != EAGAIN && number != EINTR) return lost(number);
        if (PyErr_CheckSignals() < 0) return Outcome::FAILED;
        if (looks || left_s > 0) continue;
        return is_owed ? raise_error(helper_, "silent", "(sd)", "did not answer", patience.waited_s()) : Outcome::LATE;
    }
}

}  // namespace rallypoint
