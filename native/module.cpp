// The module rallypoint._native: five types, each bound in a file of its own.
//
// Built against the stable ABI of CPython 3.10, so that one build serves every later version.
#include "module.hpp"

#include <malloc.h>
#include <sys/random.h>

#include "session_dialect.hpp"

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
    constexpr size_t count = sizeof rallypoint::kLimitKinds - 1;
    static_assert(sizeof(rallypoint::Limits) == count * sizeof(uint64_t), "its fields are others");
    if (!PyTuple_Check(fields) || PyTuple_Size(fields) != static_cast<Py_ssize_t>(count)) {
        PyErr_SetString(PyExc_TypeError, "limits are a tuple of the fields of Limits");
        return 0;
    }
    for (size_t i = 0; i < count && !PyErr_Occurred(); ++i) {
        PyObject *field = PyTuple_GetItem(fields, static_cast<Py_ssize_t>(i));
        char *to = static_cast<char *>(limits) + i * sizeof(uint64_t);
        if (rallypoint::kLimitKinds[i] == 'd') {
            const double seconds = PyFloat_AsDouble(field);
            memcpy(to, &seconds, sizeof seconds);
        } else {
            const unsigned long long number = PyLong_AsUnsignedLongLong(field);
            memcpy(to, &number, sizeof number);
        }
    }
    return !PyErr_Occurred();
}

int read_secrets(PyObject *fields, void *secrets) {
    rallypoint::Secrets &read = *static_cast<rallypoint::Secrets *>(secrets);
    const char *seed, *token;
    Py_ssize_t seed_size, token_size;
    if (!PyArg_ParseTuple(fields, "y#y#", &seed, &seed_size, &token, &token_size)) return 0;
    if (seed_size != sizeof read.seed) {
        PyErr_Format(PyExc_ValueError, "the seed has %zd bytes, it must have %zu", seed_size, sizeof read.seed);
        return 0;
    }
    if (getrandom(&read.hash_key, sizeof read.hash_key, 0) != sizeof read.hash_key) {
        PyErr_SetFromErrno(PyExc_OSError);
        return 0;
    }
    memcpy(read.seed, seed, sizeof read.seed);
    read.token = {token, static_cast<size_t>(token_size)};
    return 1;
}

PyObject *hmac_sha256(PyObject *, PyObject *arguments) {
    const char *key, *text;
    Py_ssize_t key_size, text_size;
    if (!PyArg_ParseTuple(arguments, "y#y#", &key, &key_size, &text, &text_size)) return nullptr;
    rallypoint::Hmac hmac({key, static_cast<size_t>(key_size)});
    hmac.update({text, static_cast<size_t>(text_size)});
    char digest[rallypoint::Hmac::SIZE];
    hmac.finish(digest);
    return PyBytes_FromStringAndSize(digest, sizeof digest);
}

PyObject *keep_memory(PyObject *, PyObject *size) {
    const long kept = PyLong_AsLong(size);
    if (PyErr_Occurred()) return nullptr;
#ifdef M_TRIM_THRESHOLD
    mallopt(M_TRIM_THRESHOLD, static_cast<int>(kept));
    mallopt(M_MMAP_THRESHOLD, static_cast<int>(kept / 8));
#else
    (void)kept;
#endif
    return Py_NewRef(Py_None);
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
    static PyMethodDef functions[] = {
        {"hmac_sha256", hmac_sha256, METH_VARARGS, nullptr},
        {"keep_memory", keep_memory, METH_O, nullptr},
        {nullptr, nullptr, 0, nullptr},
    };
    static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "rallypoint._native", "See _native.pyi.", -1, functions};
    PyObject *module = PyModule_Create(&definition);
    const bool is_whole = module != nullptr && add_engine(module) && add_reactor(module) && add_client(module) &&
                          add_lane(module) && add_relay(module);
    if (!is_whole) Py_CLEAR(module);
    return module;
}
