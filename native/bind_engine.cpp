// The type `_native.Engine`: an engine without sockets, for tests that drive both twins.
#include "module.hpp"

#include <math.h>

#include "engine.hpp"

namespace {

using namespace rallypoint;

// As the caller numbers them.
enum Event { CONNECTED, RECEIVED, RESUMED, DISCONNECTED, TICKED, STOPPING };

struct Member : Peer {
    bool is_gone = false;
    Held origin;  // 1 or 0, whether it is local for certain, then its host, a zero byte, and its address
};

// Append to a list; what failed leaves an error set.
void add(PyObject *list, PyObject *item) {
    if (list != nullptr && item != nullptr) PyList_Append(list, item);
    Py_XDECREF(item);
}

PyObject *take_output(Output &output) {
    PyObject *data = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(output.size()));
    char *to = data == nullptr ? nullptr : PyBytes_AsString(data);
    iovec part;
    // In as many turns as a socket might need.
    while (output.front(&part, 1) > 0) {
        const size_t size = part.iov_len > 7 ? part.iov_len - 7 : part.iov_len;
        if (to != nullptr) to = Bytes{static_cast<char *>(part.iov_base), size}.copy_to(to);
        output.consume(size);
    }
    return data;
}

// Drives an engine for one Python object: collects what a step causes.
class Steps final : public Driver {
  public:
    Steps(const Limits &limits, const Secrets &secrets)
        : engine(limits, *this, secrets), key_(secrets.hash_key), members_(secrets.hash_key) {}
    ~Steps() {
        while (members_.first() != nullptr) {
            engine.disconnect(*members_.first()->item, 0);
            bury(members_.first());
        }
    }

    void owes(Peer &peer) override { owing_.push(&peer); }
    void paused(Peer &peer) override { add(others_, Py_BuildValue("(L)", static_cast<long long>(peer.id))); }
    void closed(Peer &peer, int reason, const char *detail) override {
        static_cast<Member &>(peer).is_gone = true;
        add(others_, Py_BuildValue("(Lis)", static_cast<long long>(peer.id), reason, detail));
    }

    bool is_local(const Peer &peer, char (&host)[HOST_SIZE]) override {
        const char *origin = static_cast<const Member &>(peer).origin->data();
        snprintf(host, sizeof(host), "%s", origin + 1);
        return origin[0] == 1;
    }
    void address(const Peer &peer, char (&address)[ADDRESS_SIZE]) override {
        const char *host = static_cast<const Member &>(peer).origin->data() + 1;
        snprintf(address, sizeof(address), "%s", host + strlen(host) + 1);
    }

    // Give what the step causes: replies, then the rest; null with an error set.
    PyObject *step(int event, long long id, Bytes data, double now) {
        const Name name(key_, {reinterpret_cast<const char *>(&id), sizeof(id)});
        auto *entry = members_.find(name);
        if (event == CONNECTED) {
            if (entry != nullptr) return PyErr_Format(PyExc_AssertionError, "peer %lld connected twice", id);
            entry = members_.insert(name);
            entry->item = new (take_memory(sizeof(Member))) Member;
            entry->item->id = id;
        }
        PyObject *effects = PyList_New(0);
        others_ = PyList_New(0);
        if (event == TICKED) {
            engine.tick(now);
        } else if (event == STOPPING) {
            engine.say_last_words(now);
        } else if (entry != nullptr) {
            take(event, *entry->item, data, now);
        }
        while (owing_.count() > 0) {
            Peer &peer = *owing_.pop();
            add(effects, Py_BuildValue("(LN)", static_cast<long long>(peer.id), take_output(peer.output)));
        }
        for (auto *each = members_.first(), *next = each; each != nullptr; each = next) {
            next = each->order.after;
            if (each->item->is_gone) bury(each);
        }
        if (!PyErr_Occurred()) PyList_SetSlice(effects, PyList_Size(effects), PY_SSIZE_T_MAX, others_);
        Py_CLEAR(others_);
        if (PyErr_Occurred()) Py_CLEAR(effects);
        return effects;
    }

    Engine engine;

  private:
    void bury(Table<Member *>::Entry *entry) {
        entry->item->~Member();
        free(entry->item);
        members_.erase(entry);
    }

    void take(int event, Member &member, Bytes data, double now) {
        if (event == CONNECTED) {
            member.origin.hold(make_value(data.size > 0 ? data : Bytes{"\0\0", 3}));
            engine.connect(member, now);
        } else if (event == RECEIVED) {
            // In memory of its own, so that a checked build sees who reads behind it, or later.
            char *copy = static_cast<char *>(take_memory(data.size));
            data.copy_to(copy);
            engine.receive(member, copy, data.size, now);
            free(copy);
        } else if (event == RESUMED) {
            engine.resume(member, now);
        } else {
            member.is_gone = true;
            engine.disconnect(member, now);
        }
    }

    const HashKey key_;
    Table<Member *> members_;
    Ring<Peer *> owing_;
    PyObject *others_ = nullptr;  // pauses and closes of this step
};

struct Object {
    PyObject_HEAD
    Steps steps;
};

Steps &steps_of(PyObject *self) { return reinterpret_cast<Object *>(self)->steps; }

PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *) {
    Limits limits;
    Secrets secrets = {};
    if (!PyArg_ParseTuple(arguments, "O&O&", read_limits, &limits, read_secrets, &secrets)) return nullptr;
    PyObject *self = make_object(type);
    if (self != nullptr) new (&steps_of(self)) Steps(limits, secrets);
    return self;
}

void destroy(PyObject *self) {
    steps_of(self).~Steps();
    free_object(self);
}

PyObject *step(PyObject *self, PyObject *arguments) {
    int event;
    long long id;
    const char *data;
    Py_ssize_t size;
    double now;
    if (!PyArg_ParseTuple(arguments, "iLy#d", &event, &id, &data, &size, &now)) return nullptr;
    return steps_of(self).step(event, id, {data, static_cast<size_t>(size)}, now);
}

// Give a value as bytes, and give it back.
PyObject *as_bytes(Value *value) {
    PyObject *bytes = PyBytes_FromStringAndSize(value->data(), static_cast<Py_ssize_t>(value->size));
    release(value);
    return bytes;
}

PyObject *take_changes(PyObject *self, PyObject *) {
    Engine &engine = steps_of(self).engine;
    if (!engine.has_changed()) return PyBytes_FromStringAndSize(nullptr, 0);
    return as_bytes(engine.take_changes(make_value(0)));
}

PyObject *take_sum(PyObject *self, PyObject *) { return as_bytes(steps_of(self).engine.sum_up(make_value(0))); }

PyObject *restore(PyObject *self, PyObject *arguments) {
    const char *changes;
    Py_ssize_t size;
    double now;
    if (!PyArg_ParseTuple(arguments, "y#d", &changes, &size, &now)) return nullptr;
    steps_of(self).engine.restore({changes, static_cast<size_t>(size)}, now);
    return Py_NewRef(Py_None);
}

PyObject *remember(PyObject *self, PyObject *arguments) {
    const char *data_id;
    Py_ssize_t size;
    long long revision, lease_last;
    if (!PyArg_ParseTuple(arguments, "y#LL", &data_id, &size, &revision, &lease_last)) return nullptr;
    steps_of(self).engine.remember({data_id, static_cast<size_t>(size)}, revision, lease_last);
    return Py_NewRef(Py_None);
}

PyObject *next_deadline(PyObject *self, PyObject *) {
    const double deadline = steps_of(self).engine.next_deadline();
    if (isinf(deadline)) Py_RETURN_NONE;
    return PyFloat_FromDouble(deadline);
}

PyObject *statistics(PyObject *self, PyObject *) {
    const Statistics statistics = steps_of(self).engine.statistics();
    return as_list(&statistics, sizeof(statistics) / sizeof(uint64_t));
}

PyMethodDef methods[] = {
    {"step", step, METH_VARARGS, nullptr},
    {"take_changes", take_changes, METH_NOARGS, nullptr},
    {"take_sum", take_sum, METH_NOARGS, nullptr},
    {"restore", restore, METH_VARARGS, nullptr},
    {"remember", remember, METH_VARARGS, nullptr},
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

bool add_engine(PyObject *module) { return add_type(module, &spec); }
