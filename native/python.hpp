// What the client needs of Python's objects: references that are given back by themselves, and errors put aside.
#pragma once

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

}  // namespace rallypoint
