// What `_native.Reactor` and `_native.Relay` have in common: the thread of a reactor as Python holds it. What may wait
// gives the interpreter lock away. `Object` is the Python object, whose `reactor` it is.
#pragma once

#include "module.hpp"

#include "reactor.hpp"

namespace rallypoint {

template <class Object>
struct Thread {
    static auto &of(PyObject *self) { return *reinterpret_cast<Object *>(self)->reactor; }

    template <class Look>
    static void visit(PyObject *self, Look look) {
        Py_BEGIN_ALLOW_THREADS
        of(self).visit(look);
        Py_END_ALLOW_THREADS
    }

    static PyObject *start(PyObject *self, PyObject *) {
        return of(self).start() ? Py_NewRef(Py_None) : PyErr_SetFromErrno(PyExc_OSError);
    }

    static PyObject *stop(PyObject *self, PyObject *drain_s) {
        const double seconds = PyFloat_AsDouble(drain_s);
        if (seconds == -1.0 && PyErr_Occurred()) return nullptr;
        of(self).stop(seconds);
        return Py_NewRef(Py_None);
    }

    static PyObject *join(PyObject *self, PyObject *) {
        wait(self);
        of(self).close();
        return Py_NewRef(Py_None);
    }

    static PyObject *fileno(PyObject *self, PyObject *) { return PyLong_FromLong(of(self).fd()); }

    static PyObject *has_ended(PyObject *self, PyObject *) { return PyBool_FromLong(of(self).has_ended()); }

    static PyObject *is_listening(PyObject *self, PyObject *) { return PyBool_FromLong(of(self).is_listening()); }

    static PyObject *observe(PyObject *self, PyObject *is_observed) {
        of(self).observe(is_observed == Py_True);
        return Py_NewRef(Py_None);
    }

    // Give the reactor back, if there is one, with the last reference to its object.
    static void give_back(PyObject *self) {
        auto *reactor = reinterpret_cast<Object *>(self)->reactor;
        if (reactor == nullptr) return;
        reactor->stop(0);
        wait(self);
        reactor->destroy(reactor);
    }

  private:
    static void wait(PyObject *self) {
        Py_BEGIN_ALLOW_THREADS
        of(self).wait();
        Py_END_ALLOW_THREADS
    }
};

}  // namespace rallypoint

// The rows of a type's methods that are these; `join` may be another one.
#define RALLYPOINT_THREAD_METHODS(THREAD)                         \
    {"start", THREAD::start, METH_NOARGS, nullptr},               \
    {"stop", THREAD::stop, METH_O, nullptr},                      \
    {"fileno", THREAD::fileno, METH_NOARGS, nullptr},             \
    {"has_ended", THREAD::has_ended, METH_NOARGS, nullptr},       \
    {"is_listening", THREAD::is_listening, METH_NOARGS, nullptr}, \
    {"observe", THREAD::observe, METH_O, nullptr}
