// The type rallypoint._native.Lane: the calls of store/session.py's client, as long as they go their usual course.
//
// The usual course is one small request out of the arguments, one small OK into the result. Whatever else there is to a
// call is done by the client's own method of the same name; if the request is on its way already, the method is given
// a patience that says so, and begins none.
#include <new>

#include "lane.hpp"

namespace rallypoint {
namespace {

constexpr size_t kReplyHeadSize = 4 + 1 + 8;

// --- usual replies ---------------------------------------------------------------------------------------
// Each makes a result of an OK's fields; nullptr, without an error, if they are others.

PyObject *decode_nothing(Bytes fields, Arguments) { return fields.size == 0 ? Py_NewRef(Py_None) : nullptr; }

// An acknowledgement with a number in it.
PyObject *decode_done(Bytes fields, Arguments) { return fields.size == 8 ? Py_NewRef(Py_None) : nullptr; }

PyObject *decode_number(Bytes fields, Arguments) {
    long long number;
    if (fields.size != sizeof(number)) return nullptr;
    memcpy(&number, fields.data, sizeof(number));
    return PyLong_FromLongLong(number);
}

PyObject *decode_any(Bytes fields, Arguments) {
    static const char nothing[8] = {};
    return fields.size == 8 ? PyBool_FromLong(memcmp(fields.data, nothing, 8) != 0) : nullptr;
}

PyObject *decode_check(Bytes fields, Arguments) {
    if (fields.size != 1 || (*fields.data != kReady && *fields.data != kNotReady)) return nullptr;
    return PyBool_FromLong(*fields.data == kReady);
}

// The value at the front, which is taken off.
PyObject *take_value(Bytes *fields) {
    uint64_t size;
    if (fields->size < sizeof(size)) return nullptr;
    memcpy(&size, fields->data, sizeof(size));
    if (size > fields->size - sizeof(size)) return nullptr;
    PyObject *value = PyBytes_FromStringAndSize(fields->data + sizeof(size), Py_ssize_t(size));
    *fields = {fields->data + sizeof(size) + size, size_t(fields->size - sizeof(size) - size)};
    return value;
}

PyObject *decode_stored(Bytes fields, Arguments) {
    Ref value(take_value(&fields));
    return fields.size == 0 ? value.give_away() : nullptr;
}

PyObject *decode_each(Bytes fields, Arguments given) {
    const Py_ssize_t count = PyObject_Size(given[0]);  // it is a list or tuple
    Ref values(PyList_New(count));
    for (Py_ssize_t index = 0; index < count; ++index) {
        PyObject *value = take_value(&fields);
        if (value == nullptr || PyList_SetItem(values, index, value) < 0) return nullptr;
    }
    return fields.size == 0 ? values.give_away() : nullptr;
}

PyObject *decode_swapped(Bytes fields, Arguments) {
    long long revision;
    if (fields.size != 1 + sizeof(revision)) return nullptr;
    memcpy(&revision, fields.data + 1, sizeof(revision));
    return Py_BuildValue("(NL)", PyBool_FromLong(*fields.data != 0), revision);
}

// --- a call from begin to end ----------------------------------------------------------------------------

struct Course {
    const char *name;  // of the client's method
    Py_ssize_t count;  // of arguments, patience included
    SessionVerb verb;
    PyObject *(*decode)(Bytes fields, Arguments given);
};

#define RALLYPOINT_CALLS(CALL)                                        \
    CALL(set, 3, SessionVerb::SET, decode_done)                       \
    CALL(get, 2, SessionVerb::GET, decode_stored)                     \
    CALL(add, 3, SessionVerb::ADD, decode_number)                     \
    CALL(compare_set, 4, SessionVerb::COMPARE_SET, decode_stored)     \
    CALL(check, 2, SessionVerb::CHECK, decode_check)                  \
    CALL(wait, 2, SessionVerb::WAIT, decode_nothing)                  \
    CALL(append, 3, SessionVerb::APPEND, decode_done)                 \
    CALL(multi_get, 2, SessionVerb::MULTI_GET, decode_each)           \
    CALL(multi_set, 3, SessionVerb::MULTI_SET, decode_done)           \
    CALL(queue_push, 3, SessionVerb::QUEUE_PUSH, decode_done)         \
    CALL(queue_pop, 3, SessionVerb::QUEUE_POP, decode_stored)         \
    CALL(queue_len, 2, SessionVerb::QUEUE_LEN, decode_number)         \
    CALL(delete_key, 2, SessionVerb::DELETE_KEY, decode_any)          \
    CALL(num_keys, 1, SessionVerb::GETNUMKEYS, decode_number)         \
    CALL(barrier, 3, SessionVerb::BARRIER, decode_nothing)            \
    CALL(swap, 5, SessionVerb::SWAP, decode_swapped)

#define COURSE(name, ...) constexpr Course course_of_##name = {#name, __VA_ARGS__};
RALLYPOINT_CALLS(COURSE)

// The seconds that a patience stands for; below 0 if it stands for none.
double seconds_of(PyObject *patience) {
    Ref seconds(PyFloat_Check(patience) ? Py_NewRef(patience) : attribute(patience, "_timeout_s"));
    return seconds ? PyFloat_AsDouble(seconds) : -1;
}

// Have the client's own method do it, or the rest of it: `begun` is its patience then.
PyObject *leave_to_python(const Lane &lane, const Course &course, Arguments given, PyObject *begun) {
    Ref type(Py_NewRef(reinterpret_cast<PyObject *>(Py_TYPE(lane.client))));
    Ref method(attribute(type, course.name));
    Ref arguments(method ? PyTuple_New(course.count + 1) : nullptr);
    if (!arguments) return nullptr;
    PyTuple_SetItem(arguments, 0, Py_NewRef(lane.client));
    for (Py_ssize_t index = 0; index < course.count; ++index) {
        const bool is_last = index == course.count - 1;
        PyTuple_SetItem(arguments, index + 1, Py_NewRef(begun && is_last ? begun : given[index]));
    }
    return PyObject_CallObject(method, arguments);
}

// Go on in Python with a flight that has landed, and what was received for it.
PyObject *go_on(Lane &lane, const Course &course, Arguments given, Flight &flight, PyObject *link, const Received &received) {
    PyObject *result = nullptr;
    // From here on an interruption costs the connection, for these bytes are nowhere else.
    if (received.size) set_attribute(lane.trunk, "_busy", PyLong_FromUnsignedLong(flight.thread));
    const bool only_looks = flight.request.size() > flight.size;
    const double timeout_s = only_looks ? 0 : seconds_of(given[course.count - 1]);
    if (!PyErr_Occurred()) {
        Ref begun(PyObject_CallMethod(lane.lender, "begun", "(dOOy#)", timeout_s, flight.ticket, link, received.data,
                                      Py_ssize_t(received.size)));
        if (begun) result = leave_to_python(lane, course, given, begun);
    }
    if (result == nullptr) {
        TakenError taken;
        Ref(PyObject_CallMethod(lane.trunk, "abandon", "(O)", flight.ticket));
        taken.put_back();
    }
    return result;
}

// The result of the usual answer, if that is what was received.
PyObject *decode(const Course &course, Arguments given, const Flight &flight, const Received &received) {
    uint64_t id;
    if (received.size < kReplyHeadSize || received.size != received.whole()) return nullptr;
    memcpy(&id, received.data + 5, sizeof(id));
    if (Status(received.data[4]) != Status::OK || id != flight.id) return nullptr;
    return course.decode({received.data + kReplyHeadSize, received.size - kReplyHeadSize}, given);
}

// Whether a call may begin here, and whether it shall only look.
bool begin(Lane &lane, const Course &course, Arguments given, Flight &flight) {
    bool only_looks = false;
    if (kSessionRows[unsigned(course.verb)].is_deferred) {
        // The server may take its time, and a look takes some milliseconds: a shorter timeout is not for here.
        const int is_blocking = course.verb == SessionVerb::QUEUE_POP ? PyObject_IsTrue(given[1]) : 1;
        const double timeout_s = is_blocking == 1 ? seconds_of(given[course.count - 1]) : is_blocking;
        PyErr_Clear();
        if (timeout_s < 0 || (timeout_s > 0 && timeout_s <= kWaitSliceS)) return false;
        only_looks = timeout_s == 0;
    }
    return lane.is_free() && lane.begin(flight, given, only_looks);
}

PyObject *run(Lane &lane, const Course &course, Arguments given) {
    if (lane.client == nullptr) return PyErr_Format(PyExc_RuntimeError, "%s: the lane is being dropped", course.name);
    Flight flight(course.verb);
    if (!begin(lane, course, given, flight)) return leave_to_python(lane, course, given, nullptr);
    Received received;
    Ref link(Py_NewRef(lane.link));  // the lane may have another one in the end
    if (flight.ticket == nullptr) {
        lane.look(received);
        Ref result(flight.ticket ? nullptr : decode(course, given, flight, received));
        if (flight.ticket == nullptr && result) {
            lane.end();
            return result.give_away();
        }
        PyErr_Clear();
        lane.land();
    }
    return go_on(lane, course, given, flight, link, received);
}

// --- the type --------------------------------------------------------------------------------------------

struct Object {
    PyObject_HEAD
    Lane lane;
};

Lane &lane_of(PyObject *self) { return reinterpret_cast<Object *>(self)->lane; }

template <const Course &kCourse> PyObject *call(PyObject *self, Arguments given, Py_ssize_t count) {
    if (count == kCourse.count) return run(lane_of(self), kCourse, given);
    return PyErr_Format(PyExc_TypeError, "%s: %zd arguments expected, %zd given", kCourse.name, kCourse.count, count);
}

template <const Course &kCourse> PyCFunction method() {
    PyObject *(*function)(PyObject *, Arguments, Py_ssize_t) = call<kCourse>;
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyObject *land(PyObject *self, PyObject *) {
    lane_of(self).land();
    return Py_NewRef(Py_None);
}

PyMethodDef methods[] = {
#define METHOD(name, ...) {#name, method<course_of_##name>(), METH_FASTCALL, nullptr},
    RALLYPOINT_CALLS(METHOD)
    {"land", land, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *) {
    PyObject *client, *trunk, *lender;
    if (!PyArg_ParseTuple(arguments, "OOO", &client, &trunk, &lender)) return nullptr;
    PyObject *self = make_object(type);
    if (self) new (&lane_of(self)) Lane(Py_NewRef(client), Py_NewRef(trunk), Py_NewRef(lender));
    return self;
}

int traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    return lane_of(self).visit(visit, arg);
}

int clear(PyObject *self) {
    lane_of(self).forget();
    return 0;
}

void drop(PyObject *self) {
    PyObject_GC_UnTrack(self);
    lane_of(self).~Lane();
    free_object(self);
}

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void *>(make)},
    {Py_tp_dealloc, reinterpret_cast<void *>(drop)},
    {Py_tp_traverse, reinterpret_cast<void *>(traverse)},
    {Py_tp_clear, reinterpret_cast<void *>(clear)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

PyType_Spec specification = {"rallypoint._native.Lane", sizeof(Object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                             slots};

}  // namespace
}  // namespace rallypoint

bool add_lane(PyObject *module) { return add_type(module, &rallypoint::specification); }
