// The connections behind one store and the call that runs on one of them, twin of store/connections.py. The rules are
// written there; here is how they are kept.
//
// All state is guarded by the interpreter's lock: it changes only while that is held, and a thread that gives it back
// to wait has said before what it is doing. Whatever gives false or nullptr has set a Python error.
#pragma once

#include <pthread.h>

#include <new>

#include "request.hpp"
#include "stream.hpp"

namespace rallypoint {
namespace {  // the server has its own Connection, the relay its own Call

constexpr size_t kDirectSize = 16384;              // larger values are received into their own memory
constexpr size_t kChunkSizeMax = 8 * 1024 * 1024;  // memory taken for an announced size before its bytes are there

class Call;

// One connection, past its handshake.
struct Connection {
    Stream stream;
    bool is_in_step = true;       // every answer was fetched; false while a call runs, for good if it was cut short
    bool is_acknowledged = true;  // the server has answered after the last thing that was sent
    bool is_busy = false;
    Connection *next = nullptr;
};

class Client {
  public:
    // `helper` is store/native.py's Helper, a reference taken.
    Client(PyObject *helper, unsigned spin_us, bool is_careful)
        : helper(helper), spin_us(spin_us), is_careful(is_careful) {
        if (turn == nullptr) abort();
    }
    ~Client() {
        main.stream.close(!is_forked());
        while (Connection *side = main.next) {
            main.next = side->next;
            side->stream.close(!is_forked());
            free(side);
        }
        PyThread_free_lock(turn);
        Py_XDECREF(end);
        Py_DECREF(helper);
    }
    Client(const Client &) = delete;
    Client &operator=(const Client &) = delete;

    bool is_forked() const { return generation != forks; }
    bool check_owner() const { return check_fork(generation, helper); }
    // True while calls are possible.
    bool check() {
        return end == nullptr || raise_error(helper, "ended", "(OO)", end, Py_None);
    }

    bool connect(Connection &connection, Patience &patience) {
        connection.stream.close(!is_forked());
        double left_s;
        if (!patience.left(true, &left_s)) return false;
        Ref number(PyObject_CallMethod(helper, "connect", "(d)", left_s));
        if (!number) return false;
        connection.stream.open(int(PyLong_AsLong(number)), spin_us, helper);
        connection.is_in_step = connection.is_acknowledged = true;
        return check();  // it may have been closed meanwhile by another thread
    }

    bool take_turn(Patience &patience) {
        while (!PyThread_acquire_lock(turn, NOWAIT_LOCK)) {
            patience.waited_s();
            PyThreadState *state = PyEval_SaveThread();
            bool is_taken = PyThread_acquire_lock_timed(turn, (long long)(kWaitSliceS * 1e6), 1) == PY_LOCK_ACQUIRED;
            PyEval_RestoreThread(state);
            if (is_taken) break;
            if (PyErr_CheckSignals() < 0 || !check_owner()) return false;
        }
        holder = pthread_self();
        return is_held = true;
    }
    void give_turn() {
        is_held = false;
        PyThread_release_lock(turn);
    }
    // Whether the calling thread has it: then it is in a signal handler, amid a short call of its own.
    bool has_turn() const { return is_held && pthread_equal(holder, pthread_self()); }

    // If a connection was lost, that ends the client the first time. An error is set, and still is afterwards.
    void note_loss() {
        if (!is_error(helper, "lost_error")) return;
        TakenError taken;
        if (end) {
            raise_error(helper, "ended", "(OO)", end, taken.error);
        } else {
            end = PyObject_Str(taken.error);
            taken.put_back();
        }
    }

    void close(PyObject *reason) {
        if (end == nullptr) end = Py_NewRef(reason);
        for (Connection *connection = &main; connection; connection = connection->next) {
            connection->is_in_step = false;
            if (connection->is_busy && !is_forked()) {
                connection->stream.shut_down();  // its user closes it
            } else {
                connection->stream.close(!is_forked());
            }
        }
    }

    PyObject *const helper;
    PyObject *end = nullptr;  // why no call is possible any more; nullptr while they are
    const unsigned spin_us;
    const unsigned generation = forks;  // of the process that made it
    bool is_careful;                    // the server is torch's legacy one, which must not be asked for missing keys
    Connection main;         // `next`: the side connections, idle ones in front, the last used first
    Call *waiter = nullptr;  // the call that waits on the main connection

  private:
    bool is_held = false;  // the turn at the main connection, by the thread `holder`
    pthread_t holder = {};
    PyThread_type_lock turn = PyThread_allocate_lock();
};

// Throw the error that is set into a generator; otherwise as PyIter_Send.
inline PySendResult throw_into(PyObject *steps, PyObject **step) {
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

// One call on a free connection, from its begin to its end; at the end of its life all is given back.
class Call {
  public:
    Call(Client &client, Patience &patience) : client(client), patience_(patience) {}
    ~Call() {
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
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;

    // Get a connection. `settles`: the call may wait without asking anything first.
    bool begin(bool settles) {
        if (!client.check_owner()) return false;
        if (client.has_turn()) return begin_beside();
        if (!client.take_turn(patience_)) return false;
        has_turn_ = true;
        if (client.waiter) {
            give_turn();
            return begin_beside();
        }
        if (!client.check()) return false;
        connection_ = &client.main;
        connection_->is_busy = true;
        if (!connection_->is_in_step && !client.connect(*connection_, patience_)) {
            connection_->is_in_step = false;
            return false;
        }
        return !settles || connection_->is_acknowledged || acknowledge();
    }

    // The call has ended with a result, and all answers are in hand.
    bool finish() {
        bool is_beside = connection_ != &client.main;
        if (is_beside && (was_sent_ || !connection_->is_acknowledged) && !acknowledge()) return false;
        settle();
        return true;
    }

    // The call has ended with an error; true if it must be begun again, carefully, and the error is gone.
    bool fails() {
        if (connection_ && is_error(client.helper, "in_step_errors")) settle();
        if (!is_error(client.helper, "legacy_error")) return false;
        PyErr_Clear();
        return client.is_careful = true;
    }

    bool send(const char *data, size_t size) {
        connection_->is_in_step = false;
        was_sent_ = true;
        return connection_->stream.send(data, size, patience_);
    }
    // Bytes that the server sent, or owes, looked at without being taken; at most kBufferSizeMax.
    const char *peek(size_t size, bool is_owed = true) {
        return connection_->stream.need(size, patience_, is_owed) ? connection_->stream.front() : nullptr;
    }
    // Take what was looked at.
    void take(size_t size) {
        connection_->stream.skip(size);
        connection_->is_acknowledged = true;
        was_sent_ = false;
    }

    // Run one of Python's calls (protocol/call.py says how) to its end, and give its result. `was_begun`: the message
    // that it sends first went out already.
    PyObject *drive(PyObject *steps, bool was_begun) {
        PyObject *answer = Py_NewRef(Py_None), *next;
        while (true) {
            PySendResult state = answer ? PyIter_Send(steps, answer, &next) : throw_into(steps, &next);
            Py_XDECREF(answer);
            if (state == PYGEN_RETURN) return next;
            if (state == PYGEN_ERROR) return nullptr;
            Ref step(next);
            answer = obey(step, &was_begun);
            if (answer == nullptr && !is_error(client.helper, "judged_errors")) return nullptr;
        }
    }

    Client &client;

  private:
    void give_turn() {
        has_turn_ = false;
        client.give_turn();
    }

    bool begin_beside() {
        if (!client.check()) return false;
        Connection *found = client.main.next;
        while (found && found->is_busy) found = found->next;
        bool is_new = found == nullptr;
        if (is_new) {
            found = new (take_memory(sizeof(Connection))) Connection;
            found->next = client.main.next;
            client.main.next = found;
        }
        found->is_busy = true;
        connection_ = found;
        if (!is_new || client.connect(*found, patience_)) return true;
        return found->is_in_step = false;
    }

    void end_beside() {
        uint64_t idle = 0;
        for (Connection *side = client.main.next; side; side = side->next) idle += !side->is_busy;
        Connection **link = &client.main.next;
        while (*link != connection_) link = &(*link)->next;
        *link = connection_->next;
        if (connection_->is_in_step && client.end == nullptr && idle < kIdleSidesMax) {
            connection_->is_busy = false;
            connection_->next = client.main.next;
            client.main.next = connection_;
        } else {
            connection_->stream.close(!client.is_forked());
            free(connection_);
        }
    }

    void settle() {
        if (was_sent_) connection_->is_acknowledged = false;
        was_sent_ = false;
        connection_->is_in_step = client.end == nullptr;
    }

    bool acknowledge() {
        Ref steps(PyObject_CallMethod(client.helper, "ping", nullptr));
        return Ref(steps ? drive(steps, false) : nullptr);
    }

    PyObject *obey(PyObject *step, bool *is_sent) {
        if (PyBytes_Check(step)) {
            bool skips = *is_sent;
            *is_sent = false;
            if (!skips && !send(PyBytes_AsString(step), size_t(PyBytes_Size(step)))) return nullptr;
            return Py_NewRef(Py_None);
        }
        if (PyLong_Check(step)) return read_bytes(PyLong_AsSize_t(step));
        return read_wait(PyLong_AsSize_t(PyTuple_GetItem(step, 0)));
    }

    PyObject *read_wait(size_t size) {
        if (has_turn_) {
            client.waiter = this;  // from now on the others go beside
            give_turn();
        }
        return read_small(size, false);
    }

    PyObject *read_small(size_t size, bool is_owed) {
        const char *data = peek(size, is_owed);
        PyObject *bytes = data ? PyBytes_FromStringAndSize(data, Py_ssize_t(size)) : nullptr;
        if (bytes) take(size);
        return bytes;
    }

    PyObject *read_bytes(size_t size) {
        if (size <= kDirectSize || size <= connection_->stream.available()) return read_small(size, true);
        PyObject *bytes = PyBytes_FromStringAndSize(nullptr, 0);
        while (bytes && size > 0) {
            size_t room = size < kChunkSizeMax ? size : kChunkSizeMax;
            PyBytes_ConcatAndDel(&bytes, read_chunk(room));  // grows in place; to nothing if there is no chunk
            size -= room;
        }
        return bytes;
    }

    PyObject *read_chunk(size_t size) {
        Stream &stream = connection_->stream;
        Ref bytes(PyBytes_FromStringAndSize(nullptr, Py_ssize_t(size)));
        if (!bytes) return nullptr;
        char *target = PyBytes_AsString(bytes);
        size_t filled = stream.available() < size ? stream.available() : size;
        memcpy(target, stream.front(), filled);
        take(filled);
        while (filled < size) {
            size_t received = stream.receive(target + filled, size - filled, patience_, true);
            if (received == 0) return nullptr;
            filled += received;
        }
        return bytes.give_away();
    }

    Patience &patience_;
    Connection *connection_ = nullptr;
    bool has_turn_ = false;
    bool was_sent_ = false;
};

}  // namespace
}  // namespace rallypoint
