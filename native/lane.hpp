// A session's connection while one thread at a time calls and nothing unusual happens: a request is one frame out, one
// frame in. Everything else is the business of store/trunk.py, whose fast lane this is.
//
// Rules:
//
// - Trunk and lane are never at work at once. The lane *takes over* only when the trunk is at rest: nobody leads, nobody
//   follows, no request is without its answer. Whoever enters the trunk makes the lane *land* first.
// - A request on its way, the *flight*, is in no list of Python's. If the lane has to land meanwhile, or the answer is
//   not there at the first look, or is not the usual one, the flight becomes a ticket of the trunk: it is written down
//   as if it had been begun there, by a thread that leads. That thread goes on in Python.
// - Taking over and landing run no Python code, so neither another thread nor a signal's handler can see them half
//   done. Whatever may run some (a new object may start the collector) comes before, and what was seen then is looked
//   at again.
//
// All of this runs with the interpreter's lock held; it is given back only for the look at the connection.
#pragma once

#include <initializer_list>

#include "python.hpp"
#include "request.hpp"
#include "stream.hpp"

namespace rallypoint {

inline PyObject *attribute(PyObject *object, const char *name) {
    return object ? PyObject_GetAttrString(object, name) : nullptr;
}

// `value` is a reference taken.
inline void set_attribute(PyObject *object, const char *name, PyObject *value) {
    Ref taken(value);
    if (object && value) PyObject_SetAttrString(object, name, value);
}

constexpr size_t kReplySizeSmall = 16384;             // what is received at the first look
constexpr size_t kReplySizeLarge = 16 * 1024 * 1024;  // a larger one is Python's

// One request, from its begin to its answer, on the stack of the thread that waits for it.
struct Flight {
    const SessionVerb verb;
    uint64_t id = 0;
    double started = 0;
    unsigned long thread = 0;
    Request request;             // and behind it its CANCEL, if it only looks
    size_t size = 0;             // of the request alone
    size_t sent = 0;             // of both
    PyObject *ticket = nullptr;  // what it became, a reference owned

    explicit Flight(SessionVerb verb) : verb(verb) {}
    ~Flight() { Py_XDECREF(ticket); }
    Flight(const Flight &) = delete;
    Flight &operator=(const Flight &) = delete;
};

// What was received for a flight: one frame, as a rule.
struct Received {
    char *data = inline_;
    size_t size = 0;

    Received() = default;
    ~Received() {
        if (data != inline_) free(data);
    }
    Received(const Received &) = delete;
    Received &operator=(const Received &) = delete;

    // How long the frame is, if that is known.
    size_t whole() const {
        uint32_t rest = 0;
        if (size >= sizeof(rest)) memcpy(&rest, data, sizeof(rest));
        return sizeof(rest) + rest;
    }
    size_t missing() const { return whole() > size ? whole() - size : 0; }
    // Have room for the whole frame; false if it is too large for here.
    bool make_room() {
        if (size < sizeof(uint32_t) || whole() > kReplySizeLarge) return false;
        if (whole() > kReplySizeSmall) data = static_cast<char *>(memcpy(take_memory(whole()), inline_, size));
        return true;
    }

  private:
    char inline_[kReplySizeSmall];
};

class Lane {
  public:
    // References taken: a client of store/session.py, its trunk, and store/lane.py's Lender.
    Lane(PyObject *client, PyObject *trunk, PyObject *lender) : client(client), trunk(trunk), lender(lender) {}
    ~Lane() { forget(); }
    Lane(const Lane &) = delete;
    Lane &operator=(const Lane &) = delete;

    int visit(visitproc visit, void *argument) const {
        for (PyObject *object : {client, trunk, lender, link, spare_}) {
            if (int stop = object ? visit(object, argument) : 0) return stop;
        }
        return 0;
    }
    void forget() {
        is_mine_ = false;
        for (PyObject **object : {&client, &trunk, &lender, &link, &spare_}) put(object, nullptr);
    }

    // Whether a flight may begin. Runs Python code only before the lane takes over. No error is set.
    bool is_free() {
        if (generation_ != forks || flight_) return false;
        return is_mine_ || (is_at_rest() && take_over());
    }

    // Make the request and send it; false if it cannot be made here, and nothing has changed then.
    bool begin(Flight &flight, Arguments given, bool only_looks) {
        Request &request = flight.request;
        const uint64_t id = last_id_ + 1;
        if (!request.encode_frame(flight.verb, id, given)) return false;
        flight.size = request.size();
        if (only_looks) request.add_cancel(id);
        flight.id = last_id_ = id;
        flight.started = monotonic();
        flight.thread = PyThread_get_thread_ident();
        flight_ = &flight;
        // What the system does not take, the trunk sends later; if the connection is lost, it will see that, too.
        ssize_t sent = ::send(fd_, request.data(), request.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        flight.sent = sent > 0 ? size_t(sent) : 0;
        if (flight.sent < request.size()) land();
        return true;
    }

    // Look for the answer. It may be there in part.
    void look(Received &received) const {
        PyThreadState *state = PyEval_SaveThread();
        ssize_t count = first_look(fd_, spin_us_, received.data, kReplySizeSmall);
        if (count > 0) received.size = size_t(count);
        for (int looks = received.make_room() ? kLooksMax : 0; looks > 0 && received.missing() > 0; --looks) {
            count = recv(fd_, received.data + received.size, received.missing(), MSG_WAITALL);
            if (count <= 0) break;
            received.size += size_t(count);
        }
        PyEval_RestoreThread(state);
    }

    // The flight has got the usual answer.
    void end() { flight_ = nullptr; }

    // Give everything back to the trunk.
    void land() {
        if (!is_mine_ || generation_ != forks) return;
        Ref rest(flight_ && flight_->sent < flight_->request.size() ? rest_of(*flight_) : nullptr);
        if (!is_mine_) return;
        Flight *flight = flight_;
        is_mine_ = false;
        flight_ = nullptr;
        Ref session(attribute(trunk, "_session"));
        set_attribute(session, "_last_id", PyLong_FromUnsignedLongLong(last_id_));
        set_attribute(session, "_done", PyLong_FromUnsignedLongLong(last_id_ + (flight == nullptr)));
        if (flight) write_down(*flight, session, rest);
        if (PyErr_Occurred()) abort();  // there is no memory, and half a change
    }

    PyObject *client, *trunk, *lender;
    PyObject *link = nullptr;  // the connection that was lent last

  private:
    static void put(PyObject **place, PyObject *object) {
        PyObject *former = *place;
        *place = object;
        Py_XDECREF(former);
    }

    // Whether nothing is under way in the trunk. The collector may run, but before the signs are looked at.
    bool is_at_rest() const {
        Ref look(attribute(lender, "signs"));
        Ref signs(look ? PyObject_CallFunctionObjArgs(look, trunk, nullptr) : nullptr);
        Ref leader(attribute(trunk, "_leader"));
        Ref leads(leader && leader != Py_None ? attribute(leader, "leads") : Py_NewRef(Py_False));
        bool rests = signs && leads == Py_False;
        for (Py_ssize_t index = 0; rests && index < PyTuple_Size(signs); ++index) {
            rests = PyObject_IsTrue(PyTuple_GetItem(signs, index)) == 0;
        }
        PyErr_Clear();
        return rests;
    }

    bool take_over() {
        Ref lent(PyObject_CallMethod(lender, "lend", "(O)", trunk));
        PyObject *connection, *spare;
        int fd;
        unsigned spin_us;
        bool is_lent = lent && PyArg_ParseTuple(lent, "OiIO", &connection, &fd, &spin_us, &spare) && fd >= 0 &&
                       is_at_rest();
        if (is_mine_ || !is_lent) {  // it is mine if a signal's handler was quicker
            PyErr_Clear();
            return is_mine_ && flight_ == nullptr;
        }
        Ref uplink(attribute(trunk, "_uplink"));
        Ref current(attribute(uplink, "link"));
        Ref session(attribute(trunk, "_session"));
        Ref last_id(attribute(session, "_last_id"));
        if (current != connection) return false;
        last_id_ = PyLong_AsUnsignedLongLong(last_id);
        fd_ = fd;
        spin_us_ = spin_us;
        is_mine_ = true;
        put(&link, Py_NewRef(connection));
        put(&spare_, Py_NewRef(spare));
        return is_mine_ && flight_ == nullptr;
    }

    static PyObject *rest_of(const Flight &flight) {
        Ref rest(PyBytes_FromStringAndSize(flight.request.data() + flight.sent,
                                           Py_ssize_t(flight.request.size() - flight.sent)));
        return rest ? PyMemoryView_FromObject(rest) : nullptr;
    }

    // Have the flight be a request that the trunk has begun, and its thread the one that leads.
    void write_down(Flight &flight, PyObject *session, PyObject *rest) {
        PyObject *ticket = flight.ticket = spare_;
        spare_ = nullptr;
        Ref id(PyLong_FromUnsignedLongLong(flight.id));
        Ref number(PyLong_FromLong(long(flight.verb)));
        Ref verbs(attribute(lender, "verbs"));
        set_attribute(ticket, "verb", PyObject_GetItem(verbs, number));
        set_attribute(ticket, "id", Py_NewRef(id));
        set_attribute(ticket, "_frame", PyBytes_FromStringAndSize(flight.request.data(), Py_ssize_t(flight.size)));
        set_attribute(ticket, "is_cancelled", PyBool_FromLong(flight.request.size() > flight.size));
        set_attribute(ticket, "started", PyFloat_FromDouble(flight.started));
        set_attribute(ticket, "thread", PyLong_FromUnsignedLong(flight.thread));
        set_attribute(ticket, "leads", Py_NewRef(Py_True));
        Ref unanswered(attribute(session, "_unanswered"));
        PyObject_SetItem(unanswered, id, ticket);
        if (kSessionRows[unsigned(flight.verb)].is_write) {
            Ref open_writes(attribute(session, "_open_writes"));
            PySet_Add(open_writes, id);
        }
        if (rest) {
            Ref uplink(attribute(trunk, "_uplink"));
            Ref outbox(attribute(uplink, "outbox"));
            Ref append(PyUnicode_FromString("append"));
            Ref(PyObject_CallMethodObjArgs(outbox, append, rest, nullptr));
        }
        set_attribute(trunk, "_leader", Py_NewRef(ticket));
    }

    PyObject *spare_ = nullptr;  // the ticket that a flight may become; there is one while the lane is in charge
    bool is_mine_ = false;       // the lane is in charge, not the trunk
    Flight *flight_ = nullptr;
    int fd_ = -1;
    unsigned spin_us_ = 0;
    uint64_t last_id_ = 0;  // of the session's requests, while the lane is in charge
    const unsigned generation_ = forks;
};

}  // namespace rallypoint
