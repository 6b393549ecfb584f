// The type `_native.Engine`: an engine without sockets, for tests that drive both twins.
#include "module.hpp"

#include <math.h>
#include <new>
#include <sys/random.h>

#include "engine.hpp"

namespace {

using rallypoint::Engine;
using rallypoint::Limits;
using rallypoint::Peer;

// As the caller numbers them.
enum Event { CONNECTED, RECEIVED, RESUMED, DISCONNECTED, TICKED };

struct Member : Peer {
    Member *next = nullptr;
    Member *next_owing = nullptr;
    bool is_gone = false;
};

// Drives an engine for one Python object: collects what a step causes. Its peers are few, so they are in a list.
class Steps final : public rallypoint::Driver {
  public:
    Steps(const Limits &limits, const uint64_t *key) : engine(limits, *this, key[0], key[1]) {}
    ~Steps() {
        for (Member *each = members_; each != nullptr; each = each->next) {
            each->is_gone = true;
            engine.disconnect(*each);
        }
        drop_gone();
        Py_XDECREF(others_);
    }

    void owes(Peer &peer) override {
        *last_owing_ = static_cast<Member *>(&peer);
        last_owing_ = &static_cast<Member *>(&peer)->next_owing;
    }
    void paused(Peer &peer) override { add(others_, Py_BuildValue("(L)", static_cast<long long>(peer.id))); }
    void closed(Peer &peer, int reason, const char *detail) override {
        static_cast<Member &>(peer).is_gone = true;
        add(others_, Py_BuildValue("(Lis)", static_cast<long long>(peer.id), reason, detail));
    }

    void step(Event event, Member *member, const char *data, size_t size, double now) {
        if (event == TICKED) {
            engine.tick(now);
        } else if (member == nullptr) {
            return;
        } else if (event == RECEIVED) {
            // In memory of its own, so that a checked build sees who reads behind it, or later.
            char *copy = static_cast<char *>(rallypoint::take_memory(size));
            memcpy(copy, data, size);
            engine.receive(*member, copy, size);
            free(copy);
        } else if (event == RESUMED) {
            engine.resume(*member);
        } else if (event == CONNECTED) {
            engine.connect(*member, now);
        } else {
            member->is_gone = true;
            engine.disconnect(*member);
        }
    }

    Member *find(int64_t id) const {
        Member *member = members_;
        while (member != nullptr && member->id != id) member = member->next;
        return member;
    }
    Member *make(int64_t id) {
        Member *member = new (rallypoint::take_memory(sizeof(Member))) Member;
        member->id = id;
        member->next = members_;
        return members_ = member;
    }

    // Give what the step caused: replies, then the rest; null with an error set.
    PyObject *take() {
        *last_owing_ = nullptr;
        PyObject *effects = PyList_New(0);
        for (Member *each = owing_; each != nullptr; each = each->next_owing) {
            add(effects, Py_BuildValue("(LN)", static_cast<long long>(each->id), take_output(*each)));
        }
        last_owing_ = &owing_;
        if (others_ != nullptr && effects != nullptr) {
            const Py_ssize_t end = PyList_Size(effects);
            PyList_SetSlice(effects, end, end, others_);
        }
        Py_XDECREF(others_);
        others_ = nullptr;
        drop_gone();
        if (PyErr_Occurred()) Py_XDECREF(effects), effects = nullptr;
        return effects;
    }

    Engine engine;

  private:
    void drop_gone() {
        for (Member **at = &members_; *at != nullptr;) {
            Member *member = *at;
            if (!member->is_gone) {
                at = &member->next;
                continue;
            }
            *at = member->next;
            member->~Member();
            free(member);
        }
    }

    static PyObject *take_output(Member &member) {
        PyObject *data = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(member.output.size()));
        char *to = data == nullptr ? nullptr : PyBytes_AsString(data);
        iovec part;
        // In as many turns as a socket might need.
        while (member.output.front(&part, 1) > 0) {
            const size_t size = part.iov_len > 7 ? part.iov_len - 7 : part.iov_len;
            if (to != nullptr) memcpy(to, part.iov_base, size), to += size;
            member.output.consume(size);
        }
        return data;
    }

    // Append to a list, which is made if there is none; what failed leaves an error set.
    static void add(PyObject *&list, PyObject *item) {
        if (list == nullptr) list = PyList_New(0);
        if (list != nullptr && item != nullptr) PyList_Append(list, item);
        Py_XDECREF(item);
    }

    Member *members_ = nullptr;
    PyObject *others_ = nullptr;  // pauses and closes of this step
    Member *owing_ = nullptr;
    Member **last_owing_ = &owing_;
};

struct Object {
    PyObject_HEAD
    Steps *steps;
};

Steps &steps_of(PyObject *self) { return *reinterpret_cast<Object *>(self)->steps; }

PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *) {
    unsigned long long numbers[7];
    uint64_t key[2];
    double seconds;
    if (!PyArg_ParseTuple(arguments, "(dKKKKKKK)", &seconds, &numbers[0], &numbers[1], &numbers[2], &numbers[3],
                          &numbers[4], &numbers[5], &numbers[6])) {
        return nullptr;
    }
    const Limits limits = {seconds, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]};
    if (getrandom(key, sizeof(key), 0) != sizeof(key)) return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *self = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self != nullptr) {
        void *memory = rallypoint::take_memory(sizeof(Steps));
        reinterpret_cast<Object *>(self)->steps = new (memory) Steps(limits, key);
    }
    return self;
}

void destroy(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (Steps *steps = reinterpret_cast<Object *>(self)->steps) {
        steps->~Steps();
        free(steps);
    }
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

PyObject *step(PyObject *self, PyObject *arguments) {
    int event;
    long long id;
    const char *data;
    Py_ssize_t size;
    double now;
    if (!PyArg_ParseTuple(arguments, "iLy#d", &event, &id, &data, &size, &now)) return nullptr;
    Steps &steps = steps_of(self);
    Member *member = event == TICKED ? nullptr : steps.find(id);
    if (event == CONNECTED) {
        if (member != nullptr) return PyErr_Format(PyExc_AssertionError, "peer %lld connected twice", id);
        member = steps.make(id);
    }
    steps.step(static_cast<Event>(event), member, data, static_cast<size_t>(size), now);
    return steps.take();
}

PyObject *next_deadline(PyObject *self, PyObject *) {
    const double deadline = steps_of(self).engine.next_deadline();
    if (isinf(deadline)) Py_RETURN_NONE;
    return PyFloat_FromDouble(deadline);
}

PyObject *statistics(PyObject *self, PyObject *) {
    const rallypoint::Statistics statistics = steps_of(self).engine.statistics();
    uint64_t numbers[sizeof(statistics) / sizeof(uint64_t)];
    memcpy(numbers, &statistics, sizeof(numbers));
    PyObject *list = PyList_New(0);
    for (uint64_t number : numbers) {
        PyObject *item = PyLong_FromUnsignedLongLong(number);
        if (item != nullptr && list != nullptr) PyList_Append(list, item);
        Py_XDECREF(item);
    }
    return list;
}

PyMethodDef methods[] = {
    {"step", step, METH_VARARGS, nullptr},
    {"next_deadline", next_deadline, METH_NOARGS, nullptr},
    {"statistics", statistics, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void *>(make)},
    {Py_tp_dealloc, reinterpret_cast<void *>(destroy)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

PyType_Spec spec = {"rallypoint._native.Engine", sizeof(Object), 0, Py_TPFLAGS_DEFAULT, slots};

}  // namespace

bool add_engine(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    const bool is_added = type != nullptr && PyModule_AddObjectRef(module, "Engine", type) == 0;
    Py_XDECREF(type);
    return is_added;
}
