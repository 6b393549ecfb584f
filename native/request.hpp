// A request as bytes, twin of the encoders in protocol/codec.py: what a caller gives goes straight into the segment
// that is sent, each key with its `/` in front.
//
// Anything unusual (a wrong type, a `bytearray`, something over a limit, an iterator for a list) is left to the Python
// twin, which raises the error or gets along with it: an encoder here gives false then, and no error is set.
#pragma once

#include "module.hpp"
#include "spec.inc"
#include "value.hpp"

namespace rallypoint {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied to the wire as they are");

using Arguments = PyObject *const *;

constexpr size_t kFrameSizeMax = 16384;  // of a session's request that is made here; larger ones are Python's

class Request {
  public:
    Request() = default;
    ~Request() {
        if (data_ != inline_) free(data_);
    }
    Request(const Request &) = delete;
    Request &operator=(const Request &) = delete;

    const char *data() const { return data_; }
    size_t size() const { return size_; }
    // The count that opens the list of a request for several keys.
    uint64_t count() const {
        uint64_t count;
        memcpy(&count, data_ + 1, sizeof(count));
        return count;
    }

    // Make the request of a verb.
    bool encode(Verb verb, Arguments given) {
        put(&verb, 1);
        for (const Kind *kind = kRequestLayouts[int(verb)]; *kind != Kind::NOTHING; ++kind) {
            if (!field(*kind, given)) return false;
            given += *kind == Kind::PAIRS ? 2 : 1;
        }
        return size_ <= limit_;
    }

    // Make the request whether the keys are there, and behind it the one that reads them: GET or MULTI_GET.
    bool encode_look(Verb verb, Arguments given) {
        const Verb check = Verb::CHECK;
        put(&check, 1);
        if (verb == Verb::GET) number(1);
        const size_t begin = size_;
        if (!field(kRequestLayouts[int(verb)][0], given)) return false;
        const size_t size = size_ - begin;
        put(&verb, 1);
        reserve(size);
        put(data_ + begin, size);
        return true;
    }

    // Make the frame of a session's request, a small one. Nothing that was begun before it is open.
    bool encode_frame(SessionVerb verb, uint64_t id, Arguments given) {
        limit_ = kFrameSizeMax;
        head(verb, id);
        number(id);
        for (const Kind *kind = kSessionRows[int(verb)].request; *kind != Kind::NOTHING; ++kind) {
            if (!field(*kind, given)) return false;
            given += *kind == Kind::PAIRS ? 2 : 1;
        }
        seal(0);
        return size_ <= limit_;
    }

    // Put a frame behind it that ends its wait at once.
    void add_cancel(uint64_t id) {
        const size_t begin = size_;
        head(SessionVerb::CANCEL, kClosingId);
        number(id);
        number(id);
        seal(begin);
    }

  private:
    void head(SessionVerb verb, uint64_t id) {
        const uint32_t size = 0;
        put(&size, sizeof(size));
        put(&verb, 1);
        number(id);
    }
    void seal(size_t begin) {
        const uint32_t size = uint32_t(size_ - begin - sizeof(size));
        memcpy(data_ + begin, &size, sizeof(size));
    }
    bool field(Kind kind, Arguments given) {
        if (kind == Kind::KEY || kind == Kind::VALUE) return text(given[0], kind == Kind::KEY);
        if (kind == Kind::I64) return integer(given[0]);
        return list(given[0], kind == Kind::PAIRS ? given[1] : nullptr);
    }
    // A key with its `/`, or a value.
    bool text(PyObject *object, bool is_key) {
        const char *data = nullptr;
        Py_ssize_t size = 0;
        if (PyUnicode_Check(object)) {
            data = PyUnicode_AsUTF8AndSize(object, &size);
            if (data == nullptr) PyErr_Clear();
        } else if (PyBytes_Check(object)) {
            data = PyBytes_AsString(object);
            size = PyBytes_Size(object);
        }
        const size_t wire_size = size_t(size) + is_key;
        if (data == nullptr || wire_size > (is_key ? kKeySizeMax : kValueSizeMax)) return false;
        if (size_ + wire_size > limit_) return false;
        number(wire_size);
        if (is_key) put("/", 1);
        put(data, size_t(size));
        return true;
    }
    bool integer(PyObject *object) {
        if (!PyLong_Check(object)) return false;
        int overflow;
        long long result = PyLong_AsLongLongAndOverflow(object, &overflow);
        number(uint64_t(result));
        return !overflow;
    }
    // Keys, or with `values` pairs; an empty list asks nobody, and is unusual too.
    bool list(PyObject *keys, PyObject *values) {
        size_t count = count_of(keys);
        if (count == 0 || count > kKeyCountMax || (values && count_of(values) != count)) return false;
        number(count);
        for (size_t index = 0; index < count; ++index) {
            if (!text(item_of(keys, index), true) || (values && !text(item_of(values, index), false))) return false;
        }
        return true;
    }
    static size_t count_of(PyObject *list) {
        if (PyList_CheckExact(list)) return size_t(PyList_Size(list));
        return PyTuple_CheckExact(list) ? size_t(PyTuple_Size(list)) : 0;
    }
    static PyObject *item_of(PyObject *list, size_t index) {
        return PyList_CheckExact(list) ? PyList_GetItem(list, Py_ssize_t(index))
                                       : PyTuple_GetItem(list, Py_ssize_t(index));
    }

    void number(uint64_t number) { put(&number, sizeof(number)); }
    void put(const void *bytes, size_t count) {
        reserve(count);
        memcpy(data_ + size_, bytes, count);
        size_ += count;
    }
    void reserve(size_t count) {
        if (size_ + count <= capacity_) return;
        capacity_ = size_ + count > 2 * capacity_ ? size_ + count : 2 * capacity_;
        char *moved = static_cast<char *>(take_memory(capacity_));
        memcpy(moved, data_, size_);
        if (data_ != inline_) free(data_);
        data_ = moved;
    }

    char inline_[1000];
    char *data_ = inline_;
    size_t size_ = 0;
    size_t capacity_ = sizeof(inline_);
    size_t limit_ = kRequestSizeMax;
};

}  // namespace rallypoint
