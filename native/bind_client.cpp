// The type rallypoint._native.Client: one method for each call of a TCP store, twin of PythonClient in store/calls.py.
//
// A call that goes its usual course is one request from the arguments, one reply into the result. Any other is run by
// Python's plan for it (store/plans.py, protocol/client.py), from where it stands: a reply is only looked at until it
// turns out to be the usual one, so that the plan finds it untouched.
#include <limits.h>

#include "client.hpp"

namespace rallypoint {
namespace {

struct Course {
    const char *plan;  // its name in store/plans.py
    Py_ssize_t count;  // of arguments, patience included
    Verb verb;
    // Read the usual reply; nullptr, with nothing taken, if it is another, or with an error set. No function if there
    // is nothing usual about the call.
    PyObject *(*decode)(Call &call, const Request &request);

    // Asks for what may be missing, which torch's legacy server punishes.
    bool is_look() const { return verb == Verb::GET || verb == Verb::MULTI_GET; }
};

// --- usual replies ---------------------------------------------------------------------------------------

PyObject *decode_nothing(Call &, const Request &) { return Py_NewRef(Py_None); }

// A number, looked at; false if there is none, with a Python error set.
bool peek_number(Call &call, long long *number) {
    const char *data = call.peek(sizeof(*number));
    if (data) memcpy(number, data, sizeof(*number));
    return data;
}

template <long long kLeast, long long kMost> PyObject *decode_number(Call &call, const Request &) {
    long long number;
    if (!peek_number(call, &number) || number < kLeast || number > kMost) return nullptr;
    call.take(sizeof(number));
    return PyLong_FromLongLong(number);
}

constexpr auto decode_sum = decode_number<LLONG_MIN, LLONG_MAX>;
constexpr auto decode_count = decode_number<0, LLONG_MAX>;

PyObject *decode_deleted(Call &call, const Request &request) {
    Ref number(decode_number<0, 1>(call, request));
    return number ? PyBool_FromLong(PyLong_AsLong(number)) : nullptr;
}

PyObject *decode_check(Call &call, const Request &) {
    const char *data = call.peek(1);
    if (data == nullptr || (*data != kReady && *data != kNotReady)) return nullptr;
    PyObject *is_ready = PyBool_FromLong(*data == kReady);
    call.take(1);
    return is_ready;
}

bool peek_ready(Call &call) {
    const char *data = call.peek(1);
    return data && *data == kReady;
}

PyObject *decode_wait(Call &call, const Request &) {
    if (!peek_ready(call)) return nullptr;
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

// Take a value and the `at` bytes before it.
PyObject *take_value(Call &call, size_t at) {
    PyObject *value = peek_value(call, &at);
    if (value) call.take(at);
    return value;
}

PyObject *decode_stored(Call &call, const Request &) { return take_value(call, 0); }

PyObject *decode_get(Call &call, const Request &) { return peek_ready(call) ? take_value(call, 1) : nullptr; }

PyObject *decode_popped(Call &call, const Request &) {
    long long length;
    return peek_number(call, &length) && length > 0 ? take_value(call, sizeof(length)) : nullptr;
}

PyObject *decode_multi_get(Call &call, const Request &request) {
    if (!peek_ready(call)) return nullptr;
    size_t end = 1;
    Ref values(PyList_New(0));
    for (uint64_t index = 0; values && index < request.count(); ++index) {
        Ref value(peek_value(call, &end));
        if (!value || PyList_Append(values, value) < 0) return nullptr;
    }
    if (values) call.take(end);
    return values.give_away();
}

#define RALLYPOINT_CALLS(CALL)                                            \
    CALL(set, "set_value", 3, Verb::SET, decode_nothing)                  \
    CALL(get, "get", 2, Verb::GET, decode_get)                            \
    CALL(add, "add", 3, Verb::ADD, decode_sum)                            \
    CALL(compare_set, "compare_set", 4, Verb::COMPARE_SET, decode_stored) \
    CALL(check, "check", 2, Verb::CHECK, decode_check)                    \
    CALL(wait, "wait", 2, Verb::CHECK, decode_wait)                       \
    CALL(append, "append", 3, Verb::APPEND, decode_nothing)               \
    CALL(multi_get, "multi_get", 2, Verb::MULTI_GET, decode_multi_get)    \
    CALL(multi_set, "multi_set", 3, Verb::MULTI_SET, decode_nothing)      \
    CALL(queue_push, "queue_push", 3, Verb::QUEUE_PUSH, decode_nothing)   \
    CALL(queue_pop, "queue_pop", 3, Verb::QUEUE_POP, decode_popped)       \
    CALL(queue_len, "queue_len", 2, Verb::QUEUE_LEN, decode_count)        \
    CALL(delete_key, "delete_key", 2, Verb::DELETE_KEY, decode_deleted)   \
    CALL(num_keys, "num_keys", 1, Verb::GETNUMKEYS, decode_count)         \
    CALL(list_keys, "list_keys", 1, Verb::LIST_KEYS, nullptr)             \
    CALL(count_workers, "count_workers", 2, Verb::ADD, nullptr)           \
    CALL(barrier, "barrier", 3, Verb::BARRIER, nullptr)

#define COURSE(name, ...) constexpr Course course_of_##name = {__VA_ARGS__};
RALLYPOINT_CALLS(COURSE)

// --- a call from begin to end ----------------------------------------------------------------------------

// The plan of a call, from the user's arguments; nullptr with a Python error set.
PyObject *make_plan(Client &client, const Course &course, Arguments given) {
    Ref plans(PyObject_GetAttrString(client.helper, "plans"));
    Ref make(plans ? PyObject_GetAttrString(plans, course.plan) : nullptr);
    Ref arguments(make ? PyTuple_New(course.count - 1) : nullptr);
    for (Py_ssize_t index = 0; arguments && index < course.count - 1; ++index) {
        PyTuple_SetItem(arguments, index, Py_NewRef(given[index]));
    }
    return arguments ? PyObject_CallObject(make, arguments) : nullptr;
}

PyObject *follow(Call &call, PyObject *plan, bool was_begun) {
    Ref steps(PyObject_CallMethod(plan, "begin", "(O)", call.client.is_careful ? Py_True : Py_False));
    return steps ? call.drive(steps, was_begun) : nullptr;
}

bool encode(Request &request, const Client &client, const Course &course, Arguments given) {
    if (course.decode == nullptr) return false;
    if (!course.is_look()) return request.encode(course.verb, given);
    return !client.is_careful && request.encode_look(course.verb, given);
}

// The usual course; nullptr without an error if it is not.
PyObject *try_usual(Call &call, const Course &course, const Request &request) {
    if (!call.send(request.data(), request.size())) return nullptr;
    PyObject *result = course.decode(call, request);
    // A loss is for the plan to judge; the stream will tell it the same.
    if (result == nullptr && is_error(call.client.helper, "lost_error")) PyErr_Clear();
    return result;
}

PyObject *run(Client &client, const Course &course, Arguments given) {
    Patience patience(client.helper, given[course.count - 1]);
    Request request;
    bool is_usual = encode(request, client, course, given);
    PyObject *plan = is_usual ? nullptr : make_plan(client, course, given), *result = nullptr;
    for (bool goes_on = is_usual || plan; goes_on; is_usual = false) {
        Call call(client, patience);
        if (call.begin(course.verb == Verb::BARRIER)) {
            result = is_usual ? try_usual(call, course, request) : nullptr;
            if (result == nullptr && !PyErr_Occurred()) {
                if (plan == nullptr) plan = make_plan(client, course, given);
                if (plan) result = follow(call, plan, is_usual);
            }
        }
        if (result && !call.finish()) Py_CLEAR(result);
        goes_on = result == nullptr && call.fails();
    }
    if (result == nullptr) {
        client.note_loss();
        if (is_error(client.helper, "expired_error")) {
            TakenError expired;
            raise_error(client.helper, "explained", "(OOdd)", plan, expired.error, patience.timeout_s(),
                        patience.waited_s());
        }
    }
    Py_XDECREF(plan);
    return result;
}

// --- the type --------------------------------------------------------------------------------------------

struct Object {
    PyObject_HEAD
    Client client;
};

Client &client_of(PyObject *self) { return reinterpret_cast<Object *>(self)->client; }

template <const Course &kCourse> PyObject *call(PyObject *self, Arguments given, Py_ssize_t count) {
    if (count == kCourse.count) return run(client_of(self), kCourse, given);
    return PyErr_Format(PyExc_TypeError, "%s: %zd arguments expected, %zd given", kCourse.plan, kCourse.count, count);
}

template <const Course &kCourse> PyCFunction method() {
    PyObject *(*function)(PyObject *, Arguments, Py_ssize_t) = call<kCourse>;
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
#define METHOD(name, ...) {#name, method<course_of_##name>(), METH_FASTCALL, nullptr},
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
    if (!PyArg_ParseTuple(arguments, "OipI", &helper, &fd, &is_careful, &spin_us)) return nullptr;
    PyObject *self = make_object(type);
    if (self == nullptr) return nullptr;
    Client *client = new (&client_of(self)) Client(Py_NewRef(helper), spin_us, is_careful);
    client->main.stream.open(fd, spin_us, helper);
    return self;
}

void drop(PyObject *self) {
    client_of(self).~Client();
    free_object(self);
}

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void *>(make)}, {Py_tp_dealloc, reinterpret_cast<void *>(drop)},
    {Py_tp_methods, methods},                    {Py_tp_getset, properties},
    {0, nullptr},
};

PyType_Spec specification = {"rallypoint._native.Client", sizeof(Object), 0, Py_TPFLAGS_DEFAULT, slots};

}  // namespace
}  // namespace rallypoint

bool add_client(PyObject *module) {
    pthread_atfork(nullptr, nullptr, [] { ++rallypoint::forks; });
    return add_type(module, &rallypoint::specification);
}
