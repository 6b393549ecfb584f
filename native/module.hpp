// What the files that bind a type to Python share.
#pragma once

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <cstddef>

// Each adds one type to the module; false with a Python error set.
bool add_engine(PyObject *module);
bool add_reactor(PyObject *module);
bool add_client(PyObject *module);
bool add_lane(PyObject *module);
bool add_relay(PyObject *module);
bool add_type(PyObject *module, PyType_Spec *spec);

// A new object, its fields zero; null with an error set.
PyObject *make_object(PyTypeObject *type);
// Give back an object's memory, at the end of its Py_tp_dealloc.
void free_object(PyObject *self);

// Read a tuple of the fields of Limits, in their order: for the format "O&".
int read_limits(PyObject *fields, void *limits);
// Read the engine's seed and the job's token, which is empty for none, and draw a key for hashes: for "O&". The token
// stays the caller's.
int read_secrets(PyObject *fields, void *secrets);
// Give numbers of 64 bits as a list.
PyObject *as_list(const void *numbers, size_t count);
