// Twin of store/connections.py: see client.hpp.
#include "client.hpp"

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
    turn = PyThread_allocate_lock();
    new (&main) Connection;
}

bool Client::find_errors() {
    return turn && (lost_error = PyObject_GetAttrString(helper, "lost_error")) &&
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
    connection.stream.close(!is_forked());
    double left_s;
    if (!patience.left(true, &left_s)) return false;
    Ref number(PyObject_CallMethod(helper, "connect", "(d)", left_s));
    if (!number) return false;
    connection.stream.open(int(PyLong_AsLong(number)), spin_us, helper);
    connection.is_in_step = connection.is_acknowledged = true;
    return check();  // it may have been closed meanwhile by another thread
}

bool Client::take_turn() {
    while (!PyThread_acquire_lock(turn, NOWAIT_LOCK)) {
        PyThreadState *state = PyEval_SaveThread();
        bool is_taken = PyThread_acquire_lock_timed(turn, (long long)(kWaitSliceS * 1e6), 1) == PY_LOCK_ACQUIRED;
        PyEval_RestoreThread(state);
        if (is_taken) break;
        if (PyErr_CheckSignals() < 0) return false;
    }
    holder = pthread_self();
    return is_held = true;
}

void Client::give_turn() {
    is_held = false;
    PyThread_release_lock(turn);
}

void Client::note_loss() {
    if (!PyErr_ExceptionMatches(lost_error)) return;
    TakenError taken;
    if (end) {
        raise_error(helper, "ended", "(OO)", end, taken.error);
    } else {
        end = PyObject_Str(taken.error);
        taken.put_back();
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
    while (Connection *side = sides) {
        sides = side->next;
        side->stream.close(!is_forked());
        free(side);
    }
    PyThread_free_lock(turn);
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
        connection_->stream.close(!client.is_forked());
        free(connection_);
    }
}

Call::~Call() {
    if (client.waiter == this) client.waiter = nullptr;
    if (connection_ == &client.main) {
        if (!connection_->is_in_step || client.end) {
            connection_->is_in_step = false;
            connection_->stream.close(!client.is_forked());
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
    Ref steps(PyObject_CallMethod(client.helper, "ping", nullptr));
    Ref result(steps ? drive(steps, false) : nullptr);
    return result;
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
    {
        TakenError taken;
        *step = PyObject_CallMethod(steps, "throw", "(O)", taken.error);
    }
    if (*step) return PYGEN_NEXT;
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) return PYGEN_ERROR;
    TakenError end;
    *step = PyObject_GetAttrString(end.error, "value");
    return PYGEN_RETURN;
}

}  // namespace

PyObject *Call::drive(PyObject *steps, bool was_begun) {
    bool is_sent = was_begun;
    PyObject *answer = Py_NewRef(Py_None), *next;
    while (true) {
        PySendResult state = answer ? PyIter_Send(steps, answer, &next) : throw_into(steps, &next);
        Py_XDECREF(answer);
        if (state == PYGEN_RETURN) return next;
        if (state == PYGEN_ERROR) return nullptr;
        Ref step(next);
        answer = obey(step, &is_sent);
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
    Ref bytes(PyBytes_FromStringAndSize(nullptr, Py_ssize_t(size)));
    if (!bytes) return nullptr;
    char *target = PyBytes_AsString(bytes);
    size_t filled = stream.available() < size ? stream.available() : size;
    memcpy(target, stream.front(), filled);
    take(filled);
    while (filled < size) {
        size_t received = 0;
        if (stream.receive_some(target + filled, size - filled, &received, patience) != Outcome::OK) return nullptr;
        filled += received;
    }
    return bytes.give_away();
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
