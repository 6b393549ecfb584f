// What the files that bind a type to Python share.
#pragma once

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

// Each adds one type to the module; false with a Python error set.
bool add_engine(PyObject *module);
bool add_reactor(PyObject *module);
bool add_client(PyObject *module);
