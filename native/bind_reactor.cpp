// The type `_native.Reactor`: a reactor as Python holds it. What may wait gives the interpreter lock away.
#include "bind_thread.hpp"

namespace {

using rallypoint::Connection;
using Reactor = rallypoint::Reactor<rallypoint::Engine>;
using rallypoint::Value;

// A `server.journal.Journal`, which is asked under the interpreter lock; what it raises is kept.
class JournalLedger final : public rallypoint::Ledger {
  public:
    explicit JournalLedger(PyObject *journal) : journal_(Py_NewRef(journal)) {}
    ~JournalLedger() override {
        Py_DECREF(journal_);
        Py_XDECREF(type_);
        Py_XDECREF(error_);
        Py_XDECREF(trace_);
    }

    bool commit(rallypoint::Bytes changes, size_t sum_count, bool *wants_sum) override {
        const PyGILState_STATE state = PyGILState_Ensure();
        PyObject *given = PyObject_CallMethod(journal_, "write_encoded", "y#n", changes.data,
                                              static_cast<Py_ssize_t>(changes.size), static_cast<Py_ssize_t>(sum_count));
        *wants_sum = given == Py_True;
        return settle(given, state);
    }
    bool fold(rallypoint::Bytes sum) override {
        const PyGILState_STATE state = PyGILState_Ensure();
        return settle(PyObject_CallMethod(journal_, "fold", "y#", sum.data, static_cast<Py_ssize_t>(sum.size)), state);
    }
    // Raise what was kept, once; tells whether there was something.
    bool raise() {
        if (type_ == nullptr) return false;
        PyErr_Restore(type_, error_, trace_);
        type_ = error_ = trace_ = nullptr;
        return true;
    }

  private:
    bool settle(PyObject *given, PyGILState_STATE state) {
        const bool is_done = given != nullptr;
        if (!is_done) PyErr_Fetch(&type_, &error_, &trace_);
        Py_XDECREF(given);
        PyGILState_Release(state);
        return is_done;
    }

    PyObject *const journal_;
    PyObject *type_ = nullptr, *error_ = nullptr, *trace_ = nullptr;
};

struct Object {
    PyObject_HEAD
    Reactor *reactor;
    JournalLedger *ledger;  // null for a server in memory
};

using Thread = rallypoint::Thread<Object>;

Reactor *&reactor_of(PyObject *self) { return reinterpret_cast<Object *>(self)->reactor; }

PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *) {
    rallypoint::Options options = {};
    const char *fds;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "O&y#ddiO&", read_limits, &options.limits, &fds, &size, &options.linger_s,
                          &options.spin_s, &options.solo_after, read_secrets, &options.secrets)) {
        return nullptr;
    }
    PyObject *self = make_object(type);
    if (self == nullptr) return nullptr;
    reactor_of(self) = Reactor::make(options, reinterpret_cast<const int *>(fds),
                                     static_cast<int>(static_cast<size_t>(size) / sizeof(int)));
    if (reactor_of(self) != nullptr) return self;
    PyErr_SetFromErrno(PyExc_OSError);
    Py_DECREF(self);
    return nullptr;
}

void dealloc(PyObject *self) {
    Thread::give_back(self);
    delete reinterpret_cast<Object *>(self)->ledger;
    free_object(self);
}

PyObject *join(PyObject *self, PyObject *) {
    Py_DECREF(Thread::join(self, nullptr));
    JournalLedger *ledger = reinterpret_cast<Object *>(self)->ledger;
    return ledger != nullptr && ledger->raise() ? nullptr : Py_NewRef(Py_None);
}

PyObject *take_notices(PyObject *self, PyObject *) {
    Value *lines = rallypoint::make_value(0);
    unsigned long long left_out;
    Thread::visit(self, [&](auto &, auto &, auto &notices) { left_out = notices.take(lines); });
    PyObject *taken = Py_BuildValue("(Ky#)", left_out, lines->data(), static_cast<Py_ssize_t>(lines->size));
    release(lines);
    return taken;
}

PyObject *commit_to(PyObject *self, PyObject *journal) {
    Object &object = *reinterpret_cast<Object *>(self);
    object.ledger = new (rallypoint::take_memory(sizeof(JournalLedger))) JournalLedger(journal);
    object.reactor->commit_to(object.ledger);
    return Py_NewRef(Py_None);
}

PyObject *restore(PyObject *self, PyObject *arguments) {
    const char *changes;
    Py_ssize_t size;
    double now;
    if (!PyArg_ParseTuple(arguments, "y#d", &changes, &size, &now)) return nullptr;
    Thread::visit(self, [&](auto &engine, auto &, auto &) { engine.restore({changes, static_cast<size_t>(size)}, now); });
    return Py_NewRef(Py_None);
}

PyObject *remember(PyObject *self, PyObject *arguments) {
    const char *data_id;
    Py_ssize_t size;
    long long revision, lease_last;
    if (!PyArg_ParseTuple(arguments, "y#LL", &data_id, &size, &revision, &lease_last)) return nullptr;
    Thread::visit(self, [&](auto &engine, auto &, auto &) {
        engine.remember({data_id, static_cast<size_t>(size)}, revision, lease_last);
    });
    return Py_NewRef(Py_None);
}

PyObject *statistics(PyObject *self, PyObject *) {
    rallypoint::Statistics seen;
    Thread::visit(self, [&](auto &engine, auto &, auto &) { seen = engine.statistics(); });
    return as_list(&seen, sizeof seen / sizeof(uint64_t));
}

// Engine::Figures, then how many connections ended, by reason.
PyObject *figures(PyObject *self, PyObject *) {
    struct {
        rallypoint::Engine::Figures engine;
        uint64_t ends[Reactor::END_REASONS];
    } seen;
    Thread::visit(self, [&](auto &engine, auto &, auto &) {
        seen.engine = engine.figures();
        memcpy(seen.ends, reactor_of(self)->ends(), sizeof seen.ends);
    });
    return as_list(&seen, sizeof seen / sizeof(uint64_t));
}

PyObject *connections(PyObject *self, PyObject *) {
    Value *seen = rallypoint::make_value(0);
    Thread::visit(self, [&](auto &, auto &connections, auto &) {
        for (const Connection *each = connections.first; each != nullptr; each = each->of_reactor.after) {
            const uint64_t facts[] = {static_cast<uint64_t>(each->fd), each->output.size(), each->is_blocked};
            seen = grow(seen, {reinterpret_cast<const char *>(facts), sizeof facts});
        }
    });
    PyObject *list = as_list(seen->data(), seen->size / sizeof(uint64_t));
    release(seen);
    return list;
}

PyMethodDef methods[] = {
    RALLYPOINT_THREAD_METHODS(Thread),
    {"join", join, METH_NOARGS, nullptr},
    {"take_notices", take_notices, METH_NOARGS, nullptr},
    {"commit_to", commit_to, METH_O, nullptr},
    {"restore", restore, METH_VARARGS, nullptr},
    {"remember", remember, METH_VARARGS, nullptr},
    {"statistics", statistics, METH_NOARGS, nullptr},
    {"figures", figures, METH_NOARGS, nullptr},
    {"connections", connections, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void *>(make)},
    {Py_tp_dealloc, reinterpret_cast<void *>(dealloc)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

PyType_Spec spec = {"rallypoint._native.Reactor", sizeof(Object), 0, Py_TPFLAGS_DEFAULT, slots};

}  // namespace

bool add_reactor(PyObject *module) {
    pthread_atfork(Reactor::before_fork, Reactor::after_fork_in_parent, Reactor::after_fork_in_child);
    return add_type(module, &spec);
}
