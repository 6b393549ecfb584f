// The module rallypoint._native: three types, each bound in a file of its own.
//
// Built against the stable ABI of CPython 3.10, so that one build serves every later version.
#include "module.hpp"

#include <cstring>

#include "spec.inc"

bool add_type(PyObject *module, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    const bool is_added = type != nullptr && PyModule_AddType(module, reinterpret_cast<PyTypeObject *>(type)) == 0;
    Py_XDECREF(type);
    return is_added;
}

PyObject *make_object(PyTypeObject *type) {
    return reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

int read_limits(PyObject *fields, void *limits) {
    struct {
        double seconds;
        unsigned long long numbers[7];
    } read;
    static_assert(sizeof read == sizeof(rallypoint::Limits), "its fields are others");
    unsigned long long *n = read.numbers;
    if (!PyArg_ParseTuple(fields, "dKKKKKKK", &read.seconds, n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6)) return 0;
    memcpy(limits, &read, sizeof read);
    return 1;
}

PyObject *as_list(const void *numbers, size_t count) {
    PyObject *list = PyList_New(static_cast<Py_ssize_t>(count));
    for (size_t i = 0; i < count && list != nullptr; ++i) {
        unsigned long long number;
        memcpy(&number, static_cast<const char *>(numbers) + i * sizeof number, sizeof number);
        PyObject *item = PyLong_FromUnsignedLongLong(number);
        if (item == nullptr || PyList_SetItem(list, static_cast<Py_ssize_t>(i), item) != 0) Py_CLEAR(list);
    }
    return list;
}

PyMODINIT_FUNC PyInit__native() {
    static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "rallypoint._native", "See _native.pyi.", -1, nullptr};
    PyObject *module = PyModule_Create(&definition);
    if (module != nullptr && !(add_engine(module) && add_reactor(module) && add_client(module))) Py_CLEAR(module);
    return module;
}
