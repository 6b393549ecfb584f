#include "module.hpp"

bool add_engine(PyObject *) { return true; }
