// The connections behind one store and the call that runs on one of them, twin of store/connections.py. The rules are
// written there; here is how they are kept.
//
// All state is guarded by the interpreter's lock: it changes only while that is held, and a thread that gives it back
// to wait has said before what it is doing.
#pragma once

#include <pthread.h>

#include "python.hpp"
#include "request.hpp"
#include "stream.hpp"

namespace rallypoint {

class Call;

// One connection, past its handshake.
struct Connection {
    Stream stream;
    bool is_in_step = true;       // every answer was fetched; false while a call runs, for good if it was cut short
    bool is_acknowledged = true;  // the server has answered after the last thing that was sent
    bool is_busy = false;
    Connection *next = nullptr;
};

struct Client {
    PyObject_HEAD
    PyObject *helper;  // store/native.py's Helper
    PyObject *lost_error, *expired_error, *legacy_error, *in_step_errors;  // Python's classes
    PyObject *end;  // why no call is possible any more; nullptr while they are
    long owner_pid;
    unsigned generation;  // of the process that made it
    unsigned spin_us;
    bool is_careful;  // the server is torch's legacy one, which must not be asked for missing keys
    bool is_held;     // the turn at the main connection, by the thread `holder`
    pthread_t holder;
    PyThread_type_lock turn;
    Connection main;
    Connection *sides;  // idle ones in front, the last used first
    Call *waiter;       // the call that waits on the main connection

    // The memory is all zeros before; `helper` is a reference taken.
    void begin(PyObject *helper, long owner_pid, unsigned spin_us, bool is_careful);
    bool find_errors();
    void free_all();
    bool is_forked() const;
    // Raise if no call is possible any more; true if one is.
    bool check();
    bool connect(Connection &connection, Patience &patience);
    bool take_turn();
    void give_turn();
    // A connection was lost: the first time is the end of the client. An error is set, and still is afterwards.
    void note_loss();
    void close(PyObject *reason);
};

void count_forks();

// One call on a free connection, from its begin to its end; at the end of its life all is given back.
class Call {
  public:
    Call(Client &client, Patience &patience) : client(client), patience(patience) {}
    ~Call();
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;

    // Get a connection. `settles`: the call may wait without asking anything first.
    bool begin(bool settles);
    // The call has ended with a result, and all answers are in hand.
    bool finish();
    // The call has ended with an error; true if it must be begun again, carefully.
    bool fails();

    // Each gives false or nullptr with a Python error set.
    bool send(const char *data, size_t size);
    // Bytes that the server owes at once, looked at without being taken; at most kBufferSizeMax.
    const char *peek(size_t size);
    // Take what was looked at.
    void take(size_t size);
    // Run one of Python's calls (protocol/call.py says how) to its end, and give its result. `was_begun`: the message
    // that it sends first went out already.
    PyObject *drive(PyObject *steps, bool was_begun);

    Client &client;
    Patience &patience;

  private:
    bool begin_beside();
    void end_beside();
    void settle();
    bool acknowledge();
    PyObject *obey(PyObject *step, bool *is_sent);
    PyObject *read_bytes(size_t size);
    PyObject *read_chunk(size_t size);
    PyObject *read_wait(size_t size);

    Connection *connection_ = nullptr;
    bool has_turn_ = false;
    bool was_sent_ = false;
};

}  // namespace rallypoint
