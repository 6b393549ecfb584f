// The type rallypoint._native.Client: one method for each call of a TCP store, twin of PythonClient in store/calls.py.
//
// A call that goes its usual course is one request from the arguments, one reply into the result. Any other is run by
// Python's plan for it (store/plans.py, protocol/client.py), from where it stands: a reply is only looked at until it
// turns out to be the usual one, so that the plan finds it untouched.
#include <new>

#include "client.hpp"

namespace rallypoint {
namespace {

using Arguments = PyObject *const *;

struct Kind {
    const char *plan;  // its name in store/plans.py
    Py_ssize_t count;  // of arguments, patience included
    // Make the request; false if there is something unusual about the arguments, or nullptr if there always is.
    bool (*encode)(Request &request, Arguments given);
    // Read the usual reply; nullptr, with nothing taken, if it is another, or with an error set.
    PyObject *(*decode)(Call &call, const Request &request);
    bool is_look;  // asks for what may be missing, which torch's legacy server punishes
};

// --- usual requests --------------------------------------------------------------------------------------

template <Verb kVerb> bool encode_write(Request &request, Arguments given) {
    request.begin(kVerb);
    return request.key(given[0]) && request.value(given[1]);
}

template <Verb kVerb> bool encode_key(Request &request, Arguments given) {
    request.begin(kVerb);
    return request.key(given[0]);
}

bool encode_num_keys(Request &request, Arguments) {
    request.begin(Verb::GETNUMKEYS);
    return true;
}

bool encode_get(Request &request, Arguments given) {
    request.begin(Verb::CHECK);
    request.number(1);
    if (!request.key(given[0])) return false;
    request.begin(Verb::GET);
    return request.key(given[0]);
}

bool encode_multi_get(Request &request, Arguments given) {
    request.begin(Verb::CHECK);
    if (!request.list(given[0])) return false;
    request.repeat(Verb::MULTI_GET);
    return true;
}

bool encode_multi_set(Request &request, Arguments given) {
    request.begin(Verb::MULTI_SET);
    return request.list(given[0], given[1]);
}

bool encode_check(Request &request, Arguments given) {
    request.begin(Verb::CHECK);
    return request.list(given[0]);
}

bool encode_add(Request &request, Arguments given) {
    request.begin(Verb::ADD);
    return request.key(given[0]) && request.integer(given[1]);
}

bool encode_compare_set(Request &request, Arguments given) {
    request.begin(Verb::COMPARE_SET);
    return request.key(given[0]) && request.value(given[1]) && request.value(given[2]);
}

// --- usual replies ---------------------------------------------------------------------------------------

PyObject *decode_nothing(Call &, const Request &) { return Py_NewRef(Py_None); }

// A number, looked at; false if there is none, with a Python error set.
bool peek_number(Call &call, long long *number) {
    const char *data = call.peek(sizeof(*number));
    if (data) memcpy(number, data, sizeof(*number));
    return data;
}

PyObject *decode_number(Call &call, const Request &) {
    long long number;
    if (!peek_number(call, &number)) return nullptr;
    call.take(sizeof(number));
    return PyLong_FromLongLong(number);
}

PyObject *decode_count(Call &call, const Request &request) {
    long long number;
    return peek_number(call, &number) && number >= 0 ? decode_number(call, request) : nullptr;
}

PyObject *decode_deleted(Call &call, const Request &) {
    long long number;
    if (!peek_number(call, &number) || (number != 0 && number != 1)) return nullptr;
    call.take(sizeof(number));
    return PyBool_FromLong(long(number));
}

PyObject *decode_check(Call &call, const Request &) {
    const char *data = call.peek(1);
    if (data == nullptr || (*data != kReady && *data != kNotReady)) return nullptr;
    PyObject *is_ready = PyBool_FromLong(*data == kReady);
    call.take(1);
    return is_ready;
}

PyObject *decode_wait(Call &call, const Request &) {
    const char *data = call.peek(1);
    if (data == nullptr || *data != kReady) return nullptr;
    call.take(1);
    return Py_NewRef(Py_None);
}

// The value that begins `*at` bytes behind the front, and `*at` moved to its end; nullptr if it is too large for here.
PyObject *peek_value(Call &call, size_t *at) {
    uint64_t size;
    const char *data = call.peek(*at + sizeof(size));
    if (data == nullptr) return nullptr;
    memcpy(&size, data + *at, sizeof(size));
    size_t begin = *at + sizeof(size);
    if (size > kBufferSize || begin + size > kBufferSizeMax) return nullptr;
    data = call.peek(begin + size);
    if (data == nullptr) return nullptr;
    *at = begin + size;
    return PyBytes_FromStringAndSize(data + begin, Py_ssize_t(size));
}

PyObject *decode_stored(Call &call, const Request &) {
    size_t end = 0;
    PyObject *value = peek_value(call, &end);
    if (value) call.take(end);
    return value;
}

PyObject *decode_get(Call &call, const Request &) {
    size_t end = 1;
    const char *data = call.peek(1);
    if (data == nullptr || *data != kReady) return nullptr;
    PyObject *value = peek_value(call, &end);
    if (value) call.take(end);
    return value;
}

PyObject *decode_popped(Call &call, const Request &) {
    long long length;
    size_t end = sizeof(length);
    if (!peek_number(call, &length) || length <= 0) return nullptr;
    PyObject *value = peek_value(call, &end);
    if (value) call.take(end);
    return value;
}

PyObject *decode_multi_get(Call &call, const Request &request) {
    size_t end = 1;
    const char *data = call.peek(1);
    if (data == nullptr || *data != kReady) return nullptr;
    uint64_t count = request.count();
    Ref values(PyList_New(0));
    for (uint64_t index = 0; values && index < count; ++index) {
        Ref value(peek_value(call, &end));
        if (!value || PyList_Append(values, value) < 0) return nullptr;
    }
    if (values) call.take(end);
    return values.give_away();
}

#define RALLYPOINT_CALLS(CALL)                                                              \
    CALL(set, "set_value", 3, encode_write<Verb::SET>, decode_nothing, false)               \
    CALL(get, "get", 2, encode_get, decode_get, true)                                       \
    CALL(add, "add", 3, encode_add, decode_number, false)                                   \
    CALL(compare_set, "compare_set", 4, encode_compare_set, decode_stored, false)           \
    CALL(check, "check", 2, encode_check, decode_check, false)                              \
    CALL(wait, "wait", 2, encode_check, decode_wait, false)                                 \
    CALL(append, "append", 3, encode_write<Verb::APPEND>, decode_nothing, false)            \
    CALL(multi_get, "multi_get", 2, encode_multi_get, decode_multi_get, true)               \
    CALL(multi_set, "multi_set", 3, encode_multi_set, decode_nothing, false)                \
    CALL(queue_push, "queue_push", 3, encode_write<Verb::QUEUE_PUSH>, decode_nothing, false)\
    CALL(queue_pop, "queue_pop", 3, encode_key<Verb::QUEUE_POP>, decode_popped, false)      \
    CALL(queue_len, "queue_len", 2, encode_key<Verb::QUEUE_LEN>, decode_count, false)       \
    CALL(delete_key, "delete_key", 2, encode_key<Verb::DELETE_KEY>, decode_deleted, false)  \
    CALL(num_keys, "num_keys", 1, encode_num_keys, decode_count, false)                     \
    CALL(list_keys, "list_keys", 1, nullptr, nullptr, false)                                \
    CALL(count_workers, "count_workers", 2, nullptr, nullptr, false)                        \
    CALL(barrier, "barrier", 3, nullptr, nullptr, false)

#define KIND(name, ...) constexpr Kind kind_of_##name = {__VA_ARGS__};
RALLYPOINT_CALLS(KIND)

// --- a call from begin to end ----------------------------------------------------------------------------

// The plan of a call, from the user's arguments; nullptr with a Python error set.
PyObject *make_plan(Client &client, const Kind &kind, Arguments given) {
    Ref plans(PyObject_GetAttrString(client.helper, "plans"));
    Ref make(plans ? PyObject_GetAttrString(plans, kind.plan) : nullptr);
    Ref arguments(make ? PyTuple_New(kind.count - 1) : nullptr);
    for (Py_ssize_t index = 0; arguments && index < kind.count - 1; ++index) {
        PyTuple_SetItem(arguments, index, Py_NewRef(given[index]));
    }
    return arguments ? PyObject_CallObject(make, arguments) : nullptr;
}

PyObject *follow(Call &call, PyObject *plan, bool was_begun) {
    Ref steps(PyObject_CallMethod(plan, "begin", "(O)", call.client.is_careful ? Py_True : Py_False));
    return steps ? call.drive(steps, was_begun) : nullptr;
}

// The usual course; nullptr without an error if it is not.
PyObject *try_usual(Call &call, const Kind &kind, const Request &request) {
    if (!call.send(request.data(), request.size())) return nullptr;
    PyObject *result = kind.decode(call, request);
    // A loss is for the plan to judge; the stream will tell it the same.
    if (result == nullptr && PyErr_Occurred() && PyErr_ExceptionMatches(call.client.lost_error)) PyErr_Clear();
    return result;
}

// The time was up: put the error that the user sees in the place of the plan's.
void explain(Client &client, PyObject *plan, Patience &patience) {
    TakenError expired;
    Ref endpoint(PyObject_GetAttrString(client.helper, "endpoint"));
    if (!endpoint) return;
    raise_error(plan, "explain", "(OddO)", expired.error, patience.timeout_s(), patience.waited_s(),
                static_cast<PyObject *>(endpoint));
}

bool settles(PyObject *plan) {
    Ref answer(plan ? PyObject_GetAttrString(plan, "settles") : nullptr);
    return answer == Py_True;
}

PyObject *run(Client &client, const Kind &kind, Arguments given) {
    Patience patience(client.helper, given[kind.count - 1]);
    Request request;
    bool is_usual = kind.encode && !(kind.is_look && client.is_careful) && kind.encode(request, given);
    PyObject *plan = is_usual ? nullptr : make_plan(client, kind, given), *result = nullptr;
    for (bool goes_on = is_usual || plan; goes_on; is_usual = false) {
        Call call(client, patience);
        if (call.begin(settles(plan))) {
            result = is_usual ? try_usual(call, kind, request) : nullptr;
            if (result == nullptr && !PyErr_Occurred()) {
                if (plan == nullptr) plan = make_plan(client, kind, given);
                if (plan) result = follow(call, plan, is_usual);
            }
        }
        if (result && !call.finish()) Py_CLEAR(result);
        goes_on = result == nullptr && call.fails();
    }
    if (result == nullptr) {
        client.note_loss();
        if (PyErr_ExceptionMatches(client.expired_error)) explain(client, plan, patience);
    }
    Py_XDECREF(plan);
    return result;
}

// --- the type --------------------------------------------------------------------------------------------

Client &client_of(PyObject *self) { return *reinterpret_cast<Client *>(self); }

template <const Kind &kKind> PyObject *call(PyObject *self, Arguments given, Py_ssize_t count) {
    if (count == kKind.count) return run(client_of(self), kKind, given);
    return PyErr_Format(PyExc_TypeError, "%s: %zd arguments expected, %zd given", kKind.plan, kKind.count, count);
}

template <const Kind &kKind> PyCFunction method() {
    PyObject *(*function)(PyObject *, Arguments, Py_ssize_t) = call<kKind>;
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyObject *ends(PyObject *self, PyObject *) {
    int fd = client_of(self).main.stream.fd();
    return fd < 0 ? Py_NewRef(Py_None) : PyObject_CallMethod(client_of(self).helper, "ends", "(i)", fd);
}

PyObject *close(PyObject *self, PyObject *reason) {
    client_of(self).close(reason);
    return Py_NewRef(Py_None);
}

PyObject *is_waiting(PyObject *self, void *) { return PyBool_FromLong(client_of(self).waiter != nullptr); }

PyMethodDef methods[] = {
#define METHOD(name, ...) {#name, method<kind_of_##name>(), METH_FASTCALL, nullptr},
    RALLYPOINT_CALLS(METHOD)
    {"ends", ends, METH_NOARGS, nullptr},
    {"close", close, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef properties[] = {{"is_waiting", is_waiting, nullptr, nullptr, nullptr}, {}};

PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *) {
    PyObject *helper;
    int fd, is_careful;
    unsigned spin_us;
    long owner_pid;
    if (!PyArg_ParseTuple(arguments, "OipIl", &helper, &fd, &is_careful, &spin_us, &owner_pid)) return nullptr;
    PyObject *self = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == nullptr) return nullptr;
    Client &client = client_of(self);
    client.begin(Py_NewRef(helper), owner_pid, spin_us, is_careful);
    if (client.find_errors()) {
        client.main.stream.open(fd, spin_us, helper);
        return self;
    }
    Py_DECREF(self);
    return nullptr;
}

void drop(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    client_of(self).free_all();
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void *>(make)}, {Py_tp_dealloc, reinterpret_cast<void *>(drop)},
    {Py_tp_methods, methods},                    {Py_tp_getset, properties},
    {0, nullptr},
};

PyType_Spec specification = {"rallypoint._native.Client", sizeof(Client), 0, Py_TPFLAGS_DEFAULT, slots};

}  // namespace
}  // namespace rallypoint

bool add_client(PyObject *module) {
    rallypoint::count_forks();
    PyObject *type = PyType_FromSpec(&rallypoint::specification);
    bool is_added = type && PyModule_AddObjectRef(module, "Client", type) == 0;
    Py_XDECREF(type);
    return is_added;
}
