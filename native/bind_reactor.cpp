// The type `_native.Reactor`: a reactor as Python holds it. What may wait gives the interpreter lock away.
#include "module.hpp"

#include "reactor.hpp"

namespace {

using rallypoint::Connection;
using rallypoint::Reactor;

struct Object {
    PyObject_HEAD
    Reactor *reactor;
};

Reactor &reactor_of(PyObject *self) { return *reinterpret_cast<Object *>(self)->reactor; }

PyObject *fail_with_errno() { return PyErr_SetFromErrno(PyExc_OSError); }

// Give the descriptors in a tuple; null with an error set. The caller frees them.
int *read_descriptors(PyObject *tuple, Py_ssize_t count) {
    int *fds = static_cast<int *>(rallypoint::take_memory(sizeof(int) * static_cast<size_t>(count)));
    for (Py_ssize_t i = 0; i < count; ++i) fds[i] = static_cast<int>(PyLong_AsLong(PyTuple_GetItem(tuple, i)));
    if (!PyErr_Occurred()) return fds;
    free(fds);
    return nullptr;
}

PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *) {
    rallypoint::Options options = {};
    rallypoint::Limits &limits = options.limits;
    unsigned long long numbers[7];
    PyObject *listeners;
    if (!PyArg_ParseTuple(arguments, "(dKKKKKKK)O!dd", &limits.handshake_timeout_s, &numbers[0], &numbers[1],
                          &numbers[2], &numbers[3], &numbers[4], &numbers[5], &numbers[6], &PyTuple_Type, &listeners,
                          &options.linger_s, &options.spin_s)) {
        return nullptr;
    }
    limits.connections_max = numbers[0];
    limits.input_size_max = numbers[1];
    limits.input_total_max = numbers[2];
    limits.output_size_max = numbers[3];
    limits.waited_names_max = numbers[4];
    limits.value_stored_size_max = numbers[5];
    limits.stored_size_max = numbers[6];
    const Py_ssize_t count = PyTuple_Size(listeners);
    int *fds = read_descriptors(listeners, count);
    if (fds == nullptr) return nullptr;
    auto *allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    PyObject *self = allocate(type, 0);
    if (self != nullptr) {
        Reactor *reactor = Reactor::make(options, fds, static_cast<int>(count));
        reinterpret_cast<Object *>(self)->reactor = reactor;
        if (reactor == nullptr) {
            fail_with_errno();
            Py_DECREF(self);
            self = nullptr;
        }
    }
    free(fds);
    return self;
}

void dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Reactor *reactor = reinterpret_cast<Object *>(self)->reactor;
    if (reactor != nullptr) {
        reactor->stop(0);
        Py_BEGIN_ALLOW_THREADS
        reactor->wait();
        Py_END_ALLOW_THREADS
        Reactor::destroy(reactor);
    }
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

PyObject *start(PyObject *self, PyObject *) {
    if (!reactor_of(self).start()) return fail_with_errno();
    Py_RETURN_NONE;
}

PyObject *stop(PyObject *self, PyObject *drain_s) {
    const double seconds = PyFloat_AsDouble(drain_s);
    if (seconds == -1.0 && PyErr_Occurred()) return nullptr;
    reactor_of(self).stop(seconds);
    Py_RETURN_NONE;
}

PyObject *join(PyObject *self, PyObject *) {
    Reactor &reactor = reactor_of(self);
    Py_BEGIN_ALLOW_THREADS
    reactor.wait();
    Py_END_ALLOW_THREADS
    reactor.close();
    Py_RETURN_NONE;
}

PyObject *take_notices(PyObject *self, PyObject *) {
    size_t size;
    uint64_t left_out;
    char *lines = reactor_of(self).notices().take(&size, &left_out);
    PyObject *taken = Py_BuildValue("(Ky#)", static_cast<unsigned long long>(left_out), size ? lines : "",
                                    static_cast<Py_ssize_t>(size));
    free(lines);
    return taken;
}

PyObject *fileno(PyObject *self, PyObject *) { return PyLong_FromLong(reactor_of(self).notices().fd()); }

PyObject *has_ended(PyObject *self, PyObject *) { return PyBool_FromLong(reactor_of(self).has_ended()); }

PyObject *is_listening(PyObject *self, PyObject *) { return PyBool_FromLong(reactor_of(self).is_listening()); }

// Give the numbers as a list, and free them.
PyObject *as_list(uint64_t *numbers, size_t count) {
    PyObject *list = PyList_New(static_cast<Py_ssize_t>(count));
    for (size_t i = 0; i < count && list != nullptr; ++i) {
        PyObject *number = PyLong_FromUnsignedLongLong(numbers[i]);
        if (number == nullptr || PyList_SetItem(list, static_cast<Py_ssize_t>(i), number) != 0) Py_CLEAR(list);
    }
    free(numbers);
    return list;
}

// Copy the engine's numbers; the caller frees them.
uint64_t *count_all(Reactor &reactor, size_t *count) {
    const rallypoint::Statistics seen = Reactor::Visit(reactor).engine().statistics();
    *count = sizeof seen / sizeof(uint64_t);
    return static_cast<uint64_t *>(memcpy(rallypoint::take_memory(sizeof seen), &seen, sizeof seen));
}

// Copy three numbers of each connection; the caller frees them.
uint64_t *list_all(Reactor &reactor, size_t *count) {
    Reactor::Visit visit(reactor);
    *count = 0;
    for (const Connection *each = visit.first(); each != nullptr; each = each->all.next) *count += 3;
    uint64_t *numbers = static_cast<uint64_t *>(rallypoint::take_memory(sizeof(uint64_t) * *count));
    uint64_t *next = numbers;
    for (const Connection *each = visit.first(); each != nullptr; each = each->all.next) {
        *next++ = static_cast<uint64_t>(each->fd);
        *next++ = each->output.size();
        *next++ = each->is_blocked;
    }
    return numbers;
}

template <uint64_t *look(Reactor &, size_t *)>
PyObject *visit(PyObject *self, PyObject *) {
    uint64_t *numbers;
    size_t count;
    Py_BEGIN_ALLOW_THREADS
    numbers = look(reactor_of(self), &count);
    Py_END_ALLOW_THREADS
    return as_list(numbers, count);
}

PyMethodDef methods[] = {
    {"start", start, METH_NOARGS, nullptr},
    {"stop", stop, METH_O, nullptr},
    {"join", join, METH_NOARGS, nullptr},
    {"fileno", fileno, METH_NOARGS, nullptr},
    {"take_notices", take_notices, METH_NOARGS, nullptr},
    {"has_ended", has_ended, METH_NOARGS, nullptr},
    {"is_listening", is_listening, METH_NOARGS, nullptr},
    {"connections", visit<list_all>, METH_NOARGS, nullptr},
    {"statistics", visit<count_all>, METH_NOARGS, nullptr},
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
    PyObject *type = PyType_FromSpec(&spec);
    if (type == nullptr) return false;
    const int added = PyModule_AddObjectRef(module, "Reactor", type);
    Py_DECREF(type);
    if (added != 0) return false;
    pthread_atfork(Reactor::before_fork, Reactor::after_fork_in_parent, Reactor::after_fork_in_child);
    return true;
}
