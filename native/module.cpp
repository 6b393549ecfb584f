// The module rallypoint._native: three types, each bound in a file of its own.
//
// Built against the stable ABI of CPython 3.10, so that one build serves every later version.
#include "module.hpp"

namespace {

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "rallypoint._native", "The compiled twin; see _native.pyi.", -1, nullptr, nullptr, nullptr,
    nullptr, nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
    PyObject *module = PyModule_Create(&definition);
    if (module == nullptr) return nullptr;
    if (!add_engine(module) || !add_reactor(module) || !add_client(module)) {
        Py_DECREF(module);
        return nullptr;
    }
    return module;
}
