// A request as bytes, twin of the encoders in protocol/codec.py: what a caller gives goes straight into the segment
// that is sent, each key with its `/` in front.
//
// Anything unusual (a wrong type, something over a limit, an iterator for a list) is left to the Python twin, which
// raises the error or gets along with it: an encoder here gives false then, and no error is set.
#pragma once

#include "module.hpp"
#include "spec.inc"
#include "value.hpp"

namespace rallypoint {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied to the wire as they are");

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
    // The count that opens the list of the first request.
    uint64_t count() const {
        uint64_t count;
        memcpy(&count, data_ + 1, sizeof(count));
        return count;
    }

    // Begin a request behind those that are there; its fields follow.
    void begin(Verb verb) {
        begins_at_ = size_;
        put(&verb, 1);
    }
    void number(uint64_t number) { put(&number, sizeof(number)); }

    bool key(PyObject *object) {
        Text key;
        if (!text(object, &key) || key.size >= kKeySizeMax) return false;
        number(key.size + 1);
        put("/", 1);
        put(key.data, key.size);
        return true;
    }
    bool value(PyObject *object) {
        Text value;
        if (!text(object, &value) || value.size > kValueSizeMax) return false;
        number(value.size);
        put(value.data, value.size);
        return size_ - begins_at_ <= kRequestSizeMax;
    }
    bool integer(PyObject *object) {
        if (!PyLong_Check(object)) return false;
        int overflow;
        long long result = PyLong_AsLongLongAndOverflow(object, &overflow);
        number(uint64_t(result));
        return !overflow;
    }
    // Keys, or with `values` pairs; an empty list asks nobody, and is unusual too.
    bool list(PyObject *keys, PyObject *values = nullptr) {
        size_t count = count_of(keys);
        if (count == 0 || count > kKeyCountMax || (values && count_of(values) != count)) return false;
        number(count);
        for (size_t index = 0; index < count; ++index) {
            if (!key(item_of(keys, index)) || (values && !value(item_of(values, index)))) return false;
            if (size_ - begins_at_ > kRequestSizeMax) return false;
        }
        return true;
    }
    // The same request once more behind it, with another verb.
    void repeat(Verb verb) {
        size_t size = size_ - begins_at_, from = begins_at_;
        reserve(size);
        begin(verb);
        put(data_ + from + 1, size - 1);
    }

  private:
    struct Text {
        const char *data;
        size_t size;
    };

    static bool text(PyObject *object, Text *text) {
        Py_ssize_t size = 0;
        if (PyUnicode_Check(object)) {
            text->data = PyUnicode_AsUTF8AndSize(object, &size);
            if (text->data == nullptr) PyErr_Clear();
        } else if (PyBytes_Check(object)) {
            text->data = PyBytes_AsString(object);
            size = PyBytes_Size(object);
        } else if (PyByteArray_Check(object)) {
            text->data = PyByteArray_AsString(object);
            size = PyByteArray_Size(object);
        } else {
            return false;
        }
        text->size = size_t(size);
        return text->data != nullptr;
    }
    static size_t count_of(PyObject *list) {
        if (PyList_CheckExact(list)) return size_t(PyList_Size(list));
        return PyTuple_CheckExact(list) ? size_t(PyTuple_Size(list)) : 0;
    }
    static PyObject *item_of(PyObject *list, size_t index) {
        return PyList_CheckExact(list) ? PyList_GetItem(list, Py_ssize_t(index))
                                       : PyTuple_GetItem(list, Py_ssize_t(index));
    }
    void put(const void *bytes, size_t count) {
        if (size_ + count > capacity_) reserve(count);
        memcpy(data_ + size_, bytes, count);
        size_ += count;
    }
    void reserve(size_t count) {
        if (size_ + count <= capacity_) return;
        capacity_ = size_ + count > 2 * capacity_ ? size_ + count : 2 * capacity_;
        if (data_ != inline_) {
            data_ = static_cast<char *>(resize_memory(data_, capacity_));
            return;
        }
        data_ = static_cast<char *>(take_memory(capacity_));
        memcpy(data_, inline_, size_);
    }

    char inline_[1000];
    char *data_ = inline_;
    size_t size_ = 0;
    size_t capacity_ = sizeof(inline_);
    size_t begins_at_ = 0;
};

}  // namespace rallypoint
