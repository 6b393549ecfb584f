#include "module.hpp"

bool add_reactor(PyObject *) { return true; }
