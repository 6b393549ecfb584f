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

struct Member : Peer {
    Member *next_owing = nullptr;
    Member *next_closed = nullptr;
};

// Drives an engine for one Python object: collects what a step causes.
class Steps final : public rallypoint::Driver {
  public:
    Steps(const Limits &limits, const uint64_t *key) : engine(limits, *this, key[0], key[1]), peers_(PyDict_New()) {}
    ~Steps() {
        PyObject *id, *pointer;
        for (Py_ssize_t at = 0; PyDict_Next(peers_, &at, &id, &pointer);) {
            engine.disconnect(*static_cast<Member *>(PyLong_AsVoidPtr(pointer)));
        }
        for (Py_ssize_t at = 0; PyDict_Next(peers_, &at, &id, &pointer);) {
            destroy(static_cast<Member *>(PyLong_AsVoidPtr(pointer)));
        }
        Py_DECREF(peers_);
        Py_XDECREF(others_);
    }

    void owes(Peer &peer) override {
        *last_owing_ = static_cast<Member *>(&peer);
        last_owing_ = &static_cast<Member *>(&peer)->next_owing;
    }
    void paused(Peer &peer) override { note(Py_BuildValue("(L)", static_cast<long long>(peer.id))); }
    void closed(Peer &peer, int reason, const char *detail) override {
        note(Py_BuildValue("(Lis)", static_cast<long long>(peer.id), reason, detail));
        Member *member = static_cast<Member *>(&peer);
        member->next_closed = closed_;
        closed_ = member;
    }

    // Give a new peer; null with an error set.
    Member *add(long long id) {
        PyObject *key = PyLong_FromLongLong(id);
        if (key != nullptr && PyDict_GetItemWithError(peers_, key) != nullptr) {
            PyErr_Format(PyExc_AssertionError, "peer %lld connected twice", id);
        }
        Member *member = nullptr;
        if (!PyErr_Occurred()) {
            member = new (rallypoint::take_memory(sizeof(Member))) Member;
            member->id = id;
            PyObject *pointer = PyLong_FromVoidPtr(member);
            if (pointer == nullptr || PyDict_SetItem(peers_, key, pointer) < 0) {
                destroy(member);
                member = nullptr;
            }
            Py_XDECREF(pointer);
        }
        Py_XDECREF(key);
        return member;
    }

    // Null, perhaps with an error set, if there is none.
    Member *find(long long id) const {
        PyObject *key = PyLong_FromLongLong(id);
        PyObject *pointer = key == nullptr ? nullptr : PyDict_GetItemWithError(peers_, key);
        Py_XDECREF(key);
        return pointer == nullptr ? nullptr : static_cast<Member *>(PyLong_AsVoidPtr(pointer));
    }

    void remove(Member *member) {
        PyObject *key = PyLong_FromLongLong(member->id);
        if (key == nullptr || PyDict_DelItem(peers_, key) < 0) PyErr_Clear();
        Py_XDECREF(key);
        destroy(member);
    }

    // Give what the step caused: replies, then the rest.
    PyObject *take() {
        *last_owing_ = nullptr;
        PyObject *effects = PyList_New(0);
        for (Member *each = owing_; each != nullptr; each = each->next_owing) {
            PyObject *data = take_output(*each);
            PyObject *reply = data == nullptr ? nullptr : Py_BuildValue("(LN)", static_cast<long long>(each->id), data);
            if (reply != nullptr && effects != nullptr) PyList_Append(effects, reply);
            Py_XDECREF(reply);
        }
        owing_ = nullptr;
        last_owing_ = &owing_;
        if (others_ != nullptr && effects != nullptr) {
            const Py_ssize_t end = PyList_Size(effects);
            PyList_SetSlice(effects, end, end, others_);
        }
        Py_XDECREF(others_);
        others_ = nullptr;
        while (closed_ != nullptr) {
            Member *next = closed_->next_closed;
            remove(closed_);
            closed_ = next;
        }
        if (PyErr_Occurred()) Py_XDECREF(effects), effects = nullptr;
        return effects;
    }

    Engine engine;

  private:
    static void destroy(Member *member) {
        member->~Member();
        free(member);
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

    void note(PyObject *effect) {
        if (others_ == nullptr) others_ = PyList_New(0);
        if (others_ != nullptr && effect != nullptr) PyList_Append(others_, effect);
        Py_XDECREF(effect);
    }

    PyObject *peers_;             // number -> Member
    PyObject *others_ = nullptr;  // pauses and closes of this step
    Member *owing_ = nullptr;
    Member **last_owing_ = &owing_;
    Member *closed_ = nullptr;
};

struct Object {
    PyObject_HEAD
    Steps *steps;
};

Steps &steps_of(PyObject *self) { return *reinterpret_cast<Object *>(self)->steps; }

PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *) {
    Limits limits;
    unsigned long long numbers[7];
    uint64_t key[2];
    if (!PyArg_ParseTuple(arguments, "(dKKKKKKK)", &limits.handshake_timeout_s, &numbers[0], &numbers[1], &numbers[2],
                          &numbers[3], &numbers[4], &numbers[5], &numbers[6])) {
        return nullptr;
    }
    limits.connections_max = numbers[0];
    limits.input_size_max = numbers[1];
    limits.input_total_max = numbers[2];
    limits.output_size_max = numbers[3];
    limits.waited_names_max = numbers[4];
    limits.value_stored_size_max = numbers[5];
    limits.stored_size_max = numbers[6];
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

PyObject *connected(PyObject *self, PyObject *arguments) {
    long long id;
    double now;
    if (!PyArg_ParseTuple(arguments, "Ld", &id, &now)) return nullptr;
    Member *member = steps_of(self).add(id);
    if (member == nullptr) return nullptr;
    steps_of(self).engine.connect(*member, now);
    return steps_of(self).take();
}

PyObject *received(PyObject *self, PyObject *arguments) {
    long long id;
    const char *data;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "Ly#", &id, &data, &size)) return nullptr;
    Member *member = steps_of(self).find(id);
    if (member != nullptr) {
        // In memory of its own, so that a checked build sees who reads behind it, or later.
        char *copy = static_cast<char *>(rallypoint::take_memory(static_cast<size_t>(size)));
        memcpy(copy, data, static_cast<size_t>(size));
        steps_of(self).engine.receive(*member, copy, static_cast<size_t>(size));
        free(copy);
    }
    return steps_of(self).take();
}

PyObject *resumed(PyObject *self, PyObject *id) {
    Member *member = steps_of(self).find(PyLong_AsLongLong(id));
    if (member != nullptr) steps_of(self).engine.resume(*member);
    return steps_of(self).take();
}

PyObject *disconnected(PyObject *self, PyObject *id) {
    Member *member = steps_of(self).find(PyLong_AsLongLong(id));
    if (member != nullptr) {
        steps_of(self).engine.disconnect(*member);
        steps_of(self).remove(member);
    }
    return steps_of(self).take();
}

PyObject *ticked(PyObject *self, PyObject *now) {
    const double seconds = PyFloat_AsDouble(now);
    if (PyErr_Occurred()) return nullptr;
    steps_of(self).engine.tick(seconds);
    return steps_of(self).take();
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
    {"connected", connected, METH_VARARGS, nullptr},
    {"received", received, METH_VARARGS, nullptr},
    {"resumed", resumed, METH_O, nullptr},
    {"disconnected", disconnected, METH_O, nullptr},
    {"ticked", ticked, METH_O, nullptr},
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
