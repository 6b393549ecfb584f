#include "module.hpp"

bool add_client(PyObject *) { return true; }
