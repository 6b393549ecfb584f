// What the client needs of Python's objects: references that are given back by themselves, and errors.
#pragma once

#include <stdarg.h>

#include "module.hpp"

namespace rallypoint {

// One reference, owned; to nothing if what should have made it failed.
class Ref {
  public:
    explicit Ref(PyObject *object) : object_(object) {}
    ~Ref() { Py_XDECREF(object_); }
    Ref(const Ref &) = delete;
    Ref &operator=(const Ref &) = delete;

    operator PyObject *() const { return object_; }
    PyObject *give_away() {
        PyObject *object = object_;
        object_ = nullptr;
        return object;
    }

  private:
    PyObject *object_;
};

// The error that is set, taken from the interpreter; dropped if it is not put back.
class TakenError {
  public:
    TakenError() {
        PyErr_Fetch(&type_, &error, &trace_);
        PyErr_NormalizeException(&type_, &error, &trace_);
    }
    ~TakenError() {
        Py_XDECREF(type_);
        Py_XDECREF(error);
        Py_XDECREF(trace_);
    }
    TakenError(const TakenError &) = delete;
    TakenError &operator=(const TakenError &) = delete;

    void put_back() {
        PyErr_Restore(type_, error, trace_);
        type_ = error = trace_ = nullptr;
    }

    PyObject *error;

  private:
    PyObject *type_, *trace_;
};

// Raise the error that a method makes of arguments as for Py_BuildValue; always false.
inline bool raise_error(PyObject *maker, const char *method, const char *format, ...) {
    va_list list;
    va_start(list, format);
    Ref arguments(Py_VaBuildValue(format, list));
    va_end(list);
    Ref make(arguments ? PyObject_GetAttrString(maker, method) : nullptr);
    Ref error(make ? PyObject_CallObject(make, arguments) : nullptr);
    if (error) PyErr_SetObject(reinterpret_cast<PyObject *>(Py_TYPE(error)), error);
    return false;
}

// Tell whether the error that is set, if any, is of the class or classes that an attribute names.
inline bool is_error(PyObject *holder, const char *attribute) {
    if (!PyErr_Occurred()) return false;
    TakenError taken;
    Ref classes(PyObject_GetAttrString(holder, attribute));
    bool is_one = classes && PyErr_GivenExceptionMatches(taken.error, classes);
    taken.put_back();
    return is_one;
}

}  // namespace rallypoint
