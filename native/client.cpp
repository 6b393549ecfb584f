// Twin of store/connections.py: see client.hpp.
#include "client.hpp"

#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include <new>

namespace rallypoint {

namespace {

constexpr size_t kDirectSize = 16384;               // larger values are received into their own memory
constexpr size_t kChunkSizeMax = 8 * 1024 * 1024;  // memory taken for an announced size before its bytes are there

unsigned forks = 0;  // how many forks lie between this process and the one that loaded the module

}  // namespace

void count_forks() {
    pthread_atfork(nullptr, nullptr, [] { ++forks; });
}

// --- the client ------------------------------------------------------------------------------------------

void Client::begin(PyObject *new_helper, long pid, unsigned new_spin_us, bool careful) {
    helper = new_helper;
    owner_pid = pid;
    generation = forks;
    spin_us = new_spin_us;
    is_careful = careful;
    pthread_mutex_init(&queue_lock, nullptr);
    new (&main) Connection;
}

bool Client::find_errors() {
    return (lost_error = PyObject_GetAttrString(helper, "lost_error")) &&
           (expired_error = PyObject_GetAttrString(helper, "expired_error")) &&
           (legacy_error = PyObject_GetAttrString(helper, "legacy_error")) &&
           (in_step_errors = PyObject_GetAttrString(helper, "in_step_errors"));
}

bool Client::is_forked() const { return generation != forks; }

bool Client::check() {
    if (end == nullptr) return true;
    raise_error(helper, "ended", "(OO)", end, Py_None);
    return false;
}

bool Client::connect(Connection &connection, Patience &patience) {
    connection.stream.close(true);
    double left_s;
    if (!patience.left(true, &left_s)) return false;
    PyObject *number = PyObject_CallMethod(helper, "connect", "(d)", left_s);
    if (number == nullptr) return false;
    connection.stream.open(int(PyLong_AsLong(number)), spin_us, helper);
    Py_DECREF(number);
    connection.is_in_step = connection.is_acknowledged = true;
    return check();  // it may have been closed meanwhile by another thread
}

bool Client::take_turn() {
    if (!is_held) {
        is_held = true;
        holder = pthread_self();
        return true;
    }
    Ticket ticket = {};
    ticket.thread = pthread_self();
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&ticket.is_called_now, &attributes);
    pthread_condattr_destroy(&attributes);
    bool is_ours = false;
    for (bool goes_on = true; goes_on && !is_ours;) {
        Ticket **last = &queue;
        while (*last) last = &(*last)->next;
        *last = &ticket;
        timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += long(kWaitSliceS * 1e9);
        if (until.tv_nsec >= 1000000000) ++until.tv_sec, until.tv_nsec -= 1000000000;
        PyThreadState *state = PyEval_SaveThread();
        pthread_mutex_lock(&queue_lock);
        int error = 0;
        while (!ticket.is_called && !error) error = pthread_cond_timedwait(&ticket.is_called_now, &queue_lock, &until);
        pthread_mutex_unlock(&queue_lock);
        PyEval_RestoreThread(state);
        if ((is_ours = ticket.is_called)) break;
        // A handler may use the store: it must not queue behind a ticket that its own thread holds.
        for (last = &queue; *last != &ticket;) last = &(*last)->next;
        *last = ticket.next;
        ticket.next = nullptr;
        goes_on = PyErr_CheckSignals() == 0;
        if (goes_on && !is_held) {
            is_held = is_ours = true;
            holder = ticket.thread;
        }
    }
    pthread_cond_destroy(&ticket.is_called_now);
    return is_ours;
}

void Client::give_turn() {
    Ticket *ticket = queue;
    if (ticket == nullptr) {
        is_held = false;
        return;
    }
    queue = ticket->next;
    holder = ticket->thread;
    pthread_mutex_lock(&queue_lock);
    ticket->is_called = true;
    pthread_cond_signal(&ticket->is_called_now);
    pthread_mutex_unlock(&queue_lock);
}

void Client::note_loss() {
    if (!PyErr_ExceptionMatches(lost_error)) return;
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (end) {
        raise_error(helper, "ended", "(OO)", end, error);
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(trace);
    } else {
        end = PyObject_Str(error);
        PyErr_Restore(type, error, trace);
    }
}

void Client::close(PyObject *reason) {
    if (end == nullptr) end = Py_NewRef(reason);
    Connection *connection = &main;
    for (Connection *next = sides; connection; connection = next, next = next ? next->next : nullptr) {
        connection->is_in_step = false;
        if (connection->is_busy && !is_forked()) {
            connection->stream.shut_down();  // its user closes it
        } else {
            connection->stream.close(!is_forked());
        }
    }
}

void Client::free_all() {
    main.stream.close(!is_forked());
    main.~Connection();
    while (Connection *side = sides) {
        sides = side->next;
        side->stream.close(!is_forked());
        side->~Connection();
        free(side);
    }
    pthread_mutex_destroy(&queue_lock);
    PyObject *objects[] = {helper, lost_error, expired_error, legacy_error, in_step_errors, end};
    for (PyObject *object : objects) Py_XDECREF(object);
}

// --- a call ----------------------------------------------------------------------------------------------

bool Call::begin(bool settles) {
    if (client.is_forked()) {
        raise_error(client.helper, "forked", "(l)", client.owner_pid);
        return false;
    }
    // If the turn is our own thread's, we are in a signal handler, amid a short call.
    if (client.is_held && pthread_equal(client.holder, pthread_self())) return begin_beside();
    if (!client.take_turn()) return false;
    has_turn_ = true;
    if (client.waiter) {
        client.give_turn();
        has_turn_ = false;
        return begin_beside();
    }
    if (!client.check()) return false;
    connection_ = &client.main;
    connection_->is_busy = true;
    if (!connection_->is_in_step && !client.connect(*connection_, patience)) {
        connection_->is_in_step = false;
        return false;
    }
    return !settles || connection_->is_acknowledged || acknowledge();
}

bool Call::begin_beside() {
    if (!client.check()) return false;
    Connection *found = client.sides;
    while (found && found->is_busy) found = found->next;
    if (found) {
        found->is_busy = true;
        connection_ = found;
        return true;
    }
    found = new (take_memory(sizeof(Connection))) Connection;
    found->is_busy = true;
    found->next = client.sides;
    client.sides = connection_ = found;
    if (client.connect(*found, patience)) return true;
    found->is_in_step = false;
    return false;
}

void Call::end_beside() {
    int idle = 0;
    for (Connection *side = client.sides; side; side = side->next) idle += !side->is_busy;
    Connection **link = &client.sides;
    while (*link != connection_) link = &(*link)->next;
    *link = connection_->next;
    if (connection_->is_in_step && client.end == nullptr && idle < int(kIdleSidesMax)) {
        connection_->is_busy = false;
        connection_->next = client.sides;
        client.sides = connection_;
    } else {
        connection_->stream.close(true);
        connection_->~Connection();
        free(connection_);
    }
}

Call::~Call() {
    if (client.waiter == this) client.waiter = nullptr;
    if (connection_ == &client.main) {
        if (!connection_->is_in_step || client.end) {
            connection_->is_in_step = false;
            connection_->stream.close(true);
        }
        connection_->is_busy = false;
    } else if (connection_) {
        end_beside();
    }
    if (has_turn_) client.give_turn();
}

void Call::settle() {
    if (was_sent_) connection_->is_acknowledged = false;
    was_sent_ = false;
    connection_->is_in_step = client.end == nullptr;
}

bool Call::finish() {
    bool is_beside = connection_ != &client.main;
    if (is_beside && (was_sent_ || !connection_->is_acknowledged) && !acknowledge()) return false;
    settle();
    return true;
}

bool Call::fails() {
    if (connection_ && PyErr_ExceptionMatches(client.in_step_errors)) settle();
    if (!PyErr_ExceptionMatches(client.legacy_error)) return false;
    PyErr_Clear();
    return client.is_careful = true;
}

bool Call::acknowledge() {
    PyObject *steps = PyObject_CallMethod(client.helper, "ping", nullptr);
    PyObject *result = steps ? drive(steps, false) : nullptr;
    Py_XDECREF(steps);
    Py_XDECREF(result);
    return result != nullptr;
}

bool Call::send(const char *data, size_t size) {
    connection_->is_in_step = false;
    was_sent_ = true;
    return connection_->stream.send(data, size, patience) == Outcome::OK;
}

const char *Call::peek(size_t size) {
    Stream &stream = connection_->stream;
    return stream.need(size, patience, true) == Outcome::OK ? stream.front() : nullptr;
}

void Call::take(size_t size) {
    connection_->stream.skip(size);
    connection_->is_acknowledged = true;
    was_sent_ = false;
}

// --- Python's calls --------------------------------------------------------------------------------------

namespace {

// Throw the error that is set into a call; otherwise as PyIter_Send.
PySendResult throw_into(PyObject *steps, PyObject **step) {
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    *step = PyObject_CallMethod(steps, "throw", "(O)", error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    if (*step) return PYGEN_NEXT;
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) return PYGEN_ERROR;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    *step = PyObject_GetAttrString(error, "value");
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return PYGEN_RETURN;
}

}  // namespace

PyObject *Call::drive(PyObject *steps, bool was_begun) {
    bool is_sent = was_begun;
    PyObject *answer = Py_NewRef(Py_None), *step;
    while (true) {
        PySendResult state = answer ? PyIter_Send(steps, answer, &step) : throw_into(steps, &step);
        Py_XDECREF(answer);
        if (state == PYGEN_RETURN) return step;
        if (state == PYGEN_ERROR) return nullptr;
        answer = obey(step, &is_sent);
        Py_DECREF(step);
        if (answer) continue;
        // What is lost or late is for the call to judge; anything else ends it.
        if (!PyErr_ExceptionMatches(client.lost_error) && !PyErr_ExceptionMatches(client.expired_error)) return nullptr;
    }
}

PyObject *Call::obey(PyObject *step, bool *is_sent) {
    if (PyBytes_Check(step)) {
        bool skips = *is_sent;
        *is_sent = false;
        if (!skips && !send(PyBytes_AsString(step), size_t(PyBytes_Size(step)))) return nullptr;
        return Py_NewRef(Py_None);
    }
    if (PyLong_Check(step)) return read_bytes(PyLong_AsSize_t(step));
    return read_wait(PyLong_AsSize_t(PyTuple_GetItem(step, 0)));
}

PyObject *Call::read_wait(size_t size) {
    if (has_turn_) {
        client.waiter = this;  // from now on the others go beside
        has_turn_ = false;
        client.give_turn();
    }
    Stream &stream = connection_->stream;
    Outcome outcome = stream.need(size, patience, false);
    if (outcome == Outcome::LATE) PyErr_SetNone(client.expired_error);
    if (outcome != Outcome::OK) return nullptr;
    PyObject *bytes = PyBytes_FromStringAndSize(stream.front(), Py_ssize_t(size));
    stream.skip(size);
    was_sent_ = false;
    return bytes;
}

PyObject *Call::read_chunk(size_t size) {
    Stream &stream = connection_->stream;
    PyObject *bytes = PyBytes_FromStringAndSize(nullptr, Py_ssize_t(size));
    if (bytes == nullptr) return nullptr;
    char *target = PyBytes_AsString(bytes);
    size_t filled = stream.available() < size ? stream.available() : size;
    memcpy(target, stream.front(), filled);
    take(filled);
    while (filled < size) {
        size_t received = 0;
        if (stream.receive_some(target + filled, size - filled, &received, patience) != Outcome::OK) {
            Py_DECREF(bytes);
            return nullptr;
        }
        filled += received;
    }
    return bytes;
}

PyObject *Call::read_bytes(size_t size) {
    Stream &stream = connection_->stream;
    if (size <= kDirectSize || size <= stream.available()) {
        const char *data = peek(size);
        PyObject *bytes = data ? PyBytes_FromStringAndSize(data, Py_ssize_t(size)) : nullptr;
        if (bytes) take(size);
        return bytes;
    }
    PyObject *bytes = nullptr;
    for (size_t missing = size; missing > 0;) {
        size_t room = missing < kChunkSizeMax ? missing : kChunkSizeMax;
        PyObject *chunk = read_chunk(room);
        missing -= room;
        if (bytes && chunk) {
            PyBytes_ConcatAndDel(&bytes, chunk);  // grows in place
        } else {
            Py_XDECREF(bytes);
            bytes = chunk;
        }
        if (bytes == nullptr) return nullptr;
    }
    return bytes;
}

}  // namespace rallypoint
