// The type `_native.Relay`: a relay and its reactor as Python holds them. What may wait gives the interpreter lock away.
#include "bind_thread.hpp"
#include "relay.hpp"

namespace {

using rallypoint::Bytes;
using rallypoint::Value;
using Reactor = rallypoint::Reactor<rallypoint::Relay>;

struct Object {
    PyObject_HEAD
    Reactor *reactor;
};

using Thread = rallypoint::Thread<Object>;

Reactor &reactor_of(PyObject *self) { return Thread::of(self); }

PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *) {
    rallypoint::Options options = {};
    rallypoint::RelayLimits limits;
    unsigned long long unanswered_max, unanswered_size_max, unanswered_total_max;
    const char *fds, *prefix;
    Py_ssize_t size, prefix_size;
    if (!PyArg_ParseTuple(arguments, "O&(dKKK)y#y#ddO&", read_limits, &options.limits, &limits.patience_s, &unanswered_max,
                          &unanswered_size_max, &unanswered_total_max, &prefix, &prefix_size, &fds, &size, &options.linger_s, &options.spin_s,
                          read_secrets, &options.secrets)) {
        return nullptr;
    }
    limits.unanswered_max = unanswered_max;
    limits.unanswered_size_max = unanswered_size_max;
    limits.unanswered_total_max = unanswered_total_max;
    PyObject *self = make_object(type);
    if (self == nullptr) return nullptr;
    Reactor *reactor = Reactor::make(options, reinterpret_cast<const int *>(fds),
                                     static_cast<int>(static_cast<size_t>(size) / sizeof(int)));
    if (reactor == nullptr) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return nullptr;
    }
    reactor->act([&](auto &relay, double) { relay.set(limits, {prefix, static_cast<size_t>(prefix_size)}); });
    reinterpret_cast<Object *>(self)->reactor = reactor;
    return self;
}

void dealloc(PyObject *self) {
    Thread::give_back(self);
    free_object(self);
}

PyObject *as_bytes(Value *value) {
    PyObject *bytes = PyBytes_FromStringAndSize(value->data(), static_cast<Py_ssize_t>(value->size));
    release(value);
    return bytes;
}

// The lines, how many were left out, and the session of which a connection is wanted, or None.
PyObject *take_notices(PyObject *self, PyObject *) {
    Value *lines = rallypoint::make_value(0), *wish = nullptr;
    unsigned long long left_out = 0;
    Thread::visit(self, [&](auto &relay, auto &, auto &notices) {
        left_out = notices.take(lines);
        // A copy: counts are the reactor's.
        if (Value *session = relay.take_wish()) {
            wish = make_value(session->bytes());
            release(session);
        }
    });
    return Py_BuildValue("(KNN)", left_out, as_bytes(lines), wish == nullptr ? Py_NewRef(Py_None) : as_bytes(wish));
}

// Take a descriptor over and go on with it as the connection upstream; what was read ahead on it comes first.
PyObject *adopt(PyObject *self, PyObject *arguments) {
    int fd, is_resumed;
    const char *ahead, *endpoint, *session, *data;
    Py_ssize_t ahead_size, endpoint_size, session_size, data_size;
    if (!PyArg_ParseTuple(arguments, "iy#y#y#y#p", &fd, &ahead, &ahead_size, &endpoint, &endpoint_size, &session,
                          &session_size, &data, &data_size, &is_resumed)) {
        return nullptr;
    }
    int error = 0, family = AF_UNSPEC;
    socklen_t family_size = sizeof family;
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &family_size);
    bool is_taken = false;
    Py_BEGIN_ALLOW_THREADS
    reactor_of(self).act([&](auto &relay, double now) {
        is_taken = true;
        rallypoint::Peer *peer = reactor_of(self).adopt(fd);
        if (peer == nullptr) {
            error = errno;
            return;
        }
        relay.begin_on(*peer, family != AF_UNIX, {endpoint, static_cast<size_t>(endpoint_size)}, {session, static_cast<size_t>(session_size)},
                       {data, static_cast<size_t>(data_size)}, is_resumed, now);
        if (ahead_size > 0) relay.receive(*peer, ahead, static_cast<size_t>(ahead_size), now);
    });
    Py_END_ALLOW_THREADS
    if (!is_taken) ::close(fd);  // the reactor has ended
    errno = error;
    return error == 0 ? Py_NewRef(Py_None) : PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *miss(PyObject *self, PyObject *arguments) {
    const char *why;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "y#", &why, &size)) return nullptr;
    Py_BEGIN_ALLOW_THREADS
    reactor_of(self).act([&](auto &relay, double now) { relay.miss({why, static_cast<size_t>(size)}, now); });
    Py_END_ALLOW_THREADS
    return Py_NewRef(Py_None);
}

PyObject *statistics(PyObject *self, PyObject *) {
    rallypoint::RelayStatistics seen;
    Thread::visit(self, [&](auto &relay, auto &, auto &) { seen = relay.statistics(); });
    return as_list(&seen, sizeof seen / sizeof(uint64_t));
}

PyMethodDef methods[] = {
    RALLYPOINT_THREAD_METHODS(Thread),
    {"join", Thread::join, METH_NOARGS, nullptr},
    {"take_notices", take_notices, METH_NOARGS, nullptr},
    {"adopt", adopt, METH_VARARGS, nullptr},
    {"miss", miss, METH_VARARGS, nullptr},
    {"statistics", statistics, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void *>(make)},
    {Py_tp_dealloc, reinterpret_cast<void *>(dealloc)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

PyType_Spec spec = {"rallypoint._native.Relay", sizeof(Object), 0, Py_TPFLAGS_DEFAULT, slots};

}  // namespace

bool add_relay(PyObject *module) {
    pthread_atfork(Reactor::before_fork, Reactor::after_fork_in_parent, Reactor::after_fork_in_child);
    return add_type(module, &spec);
}
