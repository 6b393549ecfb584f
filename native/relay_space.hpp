// A key space, twin of gateway/spaces.py: what local peers name `/k` is `<prefix>k` at the server, and back.
#pragma once

#include "relay_slots.hpp"

namespace rallypoint {

class KeySpace {
  public:
    // Without a prefix keys are as local peers name them.
    void set(Bytes prefix) {
        if (prefix.size > 0) prefix_.hold(make_value(prefix));
    }
    bool is_on() const { return static_cast<bool>(prefix_); }

    // Give a request's fields with the server's keys.
    Value *outward(Verb verb, Bytes fields) const {
        const Kind kind = kRequestLayouts[static_cast<unsigned>(verb)][0];
        if (!is_on() || (kind != Kind::KEY && kind != Kind::KEYS && kind != Kind::PAIRS)) return make_value(fields);
        Fields at = {fields.data};
        const int64_t count = kind == Kind::KEY ? 1 : at.number();
        Value *given = make_value(fields.size + static_cast<size_t>(count) * (prefix_->size + 1));
        if (kind != Kind::KEY) store(given->extend(8), count);
        for (int64_t left = count; left > 0; --left) {
            put(given, at.text());
            if (kind == Kind::PAIRS) copy(given, at.text());
        }
        const Bytes rest = {at.at, static_cast<size_t>(fields.data + fields.size - at.at)};
        rest.copy_to(given->extend(rest.size));
        return given;
    }

    // Tell whether keys of a request are too long with the prefix; the refusal names the first.
    bool is_too_long(Verb verb, Bytes fields, Refusal &refusal) const {
        const Kind kind = kRequestLayouts[static_cast<unsigned>(verb)][0];
        if (!is_on() || (kind != Kind::KEY && kind != Kind::KEYS && kind != Kind::PAIRS)) return false;
        Fields at = {fields.data};
        for (int64_t left = kind == Kind::KEY ? 1 : at.number(); left > 0; --left) {
            const Bytes key = at.text();
            if (key.size > kKeySizeMax) {
                return !refusal.say(REQUEST_TOO_LARGE,
                                    "the key %s is %zu bytes long on the wire, the limit is %" PRIu64 " bytes",
                                    Shown(key).text, key.size, kKeySizeMax);
            }
            if (kind == Kind::PAIRS) at.text();
        }
        return false;
    }

    // The field of a request for all keys of the key space.
    Value *all() const {
        Value *field = make_value(8 + prefix_->size);
        copy(field, prefix_->bytes());
        return field;
    }
    // Give a list of the server's keys as local peers name them; null if it is none.
    Value *inward(Bytes listed) const {
        Cursor at(listed);
        int64_t count;
        if (!at.number(&count) || count < 0) return nullptr;
        Value *given = make_value(listed.size);  // no key becomes longer
        store(given->extend(8), count);
        for (Bytes key; count > 0; --count) {
            if (!at.text(&key) || key.size < prefix_->size) {
                release(given);
                return nullptr;
            }
            const Bytes rest = {key.data + prefix_->size, key.size - prefix_->size};
            const bool is_foreign = rest.size > 0 && rest.data[0] == '\0';
            const Bytes name = is_foreign ? Bytes{rest.data + 1, rest.size - 1} : rest;
            store<uint64_t>(given->extend(8), name.size + !is_foreign);
            if (!is_foreign) *given->extend(1) = '/';
            name.copy_to(given->extend(name.size));
        }
        return given;
    }

  private:
    static void copy(Value *to, Bytes text) { store_text(to->extend(8 + text.size), text); }

    // Keys without a slash, and those that begin with a NUL behind it, get a NUL byte.
    void put(Value *to, Bytes key) const {
        const bool is_plain = key.size > 0 && key.data[0] == '/' && !(key.size > 1 && key.data[1] == '\0');
        const Bytes rest = is_plain ? Bytes{key.data + 1, key.size - 1} : key;
        const size_t size = prefix_->size + !is_plain + rest.size;
        char *at = prefix_->bytes().copy_to(store<uint64_t>(to->extend(8 + size), size));
        if (!is_plain) *at++ = '\0';
        rest.copy_to(at);
    }

    Held prefix_;
};

}  // namespace rallypoint
