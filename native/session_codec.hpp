// Frames of the session dialect, twin of protocol/session/{frames,codec,server}.py: what a whole frame must be, and the
// heads of those that answer it. Bytes are held by the same Reader as in the c10d dialect.
#pragma once

#include "codec.hpp"

namespace rallypoint {

constexpr size_t OPENING_SIZE = sizeof(kOpening) - 1;
constexpr size_t REQUEST_HEAD_SIZE = 4 + 1 + 8 + 8;  // u32 size · u8 verb · u64 id · u64 done
constexpr size_t REPLY_HEAD_SIZE = 4 + 1 + 8;        // u32 size · u8 status · u64 id

// One whole request with its header.
struct Frame {
    SessionVerb verb;
    uint64_t id, done;
    Bytes body;  // its fields

    const char *name() const { return kSessionVerbNames[static_cast<unsigned>(verb)]; }
    const SessionRow &row() const { return kSessionRows[static_cast<unsigned>(verb)]; }
    bool is_counted() const {
        return verb != SessionVerb::HELLO && verb != SessionVerb::PROVE && verb != SessionVerb::CANCEL &&
               verb != SessionVerb::UNWATCH;
    }
};

// Looks at the fields of a frame, one after the other, to its very end.
class FrameCheck {
  public:
    FrameCheck(unsigned verb, Bytes body, Refusal &refusal)
        : verb_(verb), at_(body.data), end_(body.data + body.size), refusal_(refusal) {}

    bool is_whole() {
        if (verb_ >= kSessionVerbCount || kSessionVerbNames[verb_] == nullptr) {
            return refusal_.say(UNKNOWN_VERB, "the verb byte of a frame is %u, which means nothing", verb_);
        }
        for (const Kind *kind = kSessionRows[verb_].request; *kind != Kind::NOTHING; ++kind) {
            if (!field(*kind)) return false;
        }
        return at_ == end_ ||
               refusal_.say(BAD_FRAME, "a frame has %zu bytes behind its last field", static_cast<size_t>(end_ - at_));
    }

  private:
    size_t left() const { return static_cast<size_t>(end_ - at_); }

    bool field(Kind kind) {
        if (kind == Kind::KEY) return text("key", kKeySizeMax);
        if (kind == Kind::VALUE) return text("value", kValueSizeMax);
        if (kind == Kind::KEYS || kind == Kind::PAIRS) return list(kind == Kind::PAIRS);
        const size_t width = kind == Kind::U8 ? 1 : kind == Kind::U32 ? 4 : 8;
        if (left() < width) return refusal_.say(BAD_FRAME, "a frame ends amid a number");
        at_ += width;
        return true;
    }

    bool text(const char *what, uint64_t limit, bool is_listed = false) {
        if (left() < 8) return ends_amid(is_listed ? "" : "the size of ", is_listed ? "list" : what);
        const uint64_t size = load<uint64_t>(at_);
        if (size > limit) return too_large(what, size, "bytes", limit);
        if (left() - 8 < size) return ends_amid("", is_listed ? "list" : what);
        at_ += 8 + size;
        return true;
    }

    bool list(bool is_pairs) {
        if (left() < 8) return ends_amid("", "list");
        const uint64_t count = load<uint64_t>(at_);
        if (count > kKeyCountMax) return too_large("list", count, "items", kKeyCountMax);
        at_ += 8;
        for (uint64_t i = 0; i < count; ++i) {
            if (!text("key", kKeySizeMax, true) || (is_pairs && !text("value", kValueSizeMax, true))) return false;
        }
        return true;
    }

    bool ends_amid(const char *before, const char *what) {
        return refusal_.say(BAD_FRAME, "a frame ends amid %sa %s", before, what);
    }
    // The verbs of both dialects are refused in c10d's words.
    bool too_large(const char *what, uint64_t size, const char *unit, uint64_t limit) {
        return refusal_.say(FIELD_TOO_LARGE, "%s claims a %s of %" PRIu64 " %s, the limit is %" PRIu64,
                            verb_ < kVerbCount ? kVerbNames[verb_] : "a frame", what, size, unit, limit);
    }

    const unsigned verb_;
    const char *at_;
    const char *const end_;
    Refusal &refusal_;
};

// What a whole frame asks; false for one that means nothing.
inline bool read_frame(Bytes whole, uint64_t &last_id, Frame *frame, Refusal &refusal) {
    const unsigned verb = static_cast<uint8_t>(whole.data[4]);
    *frame = {static_cast<SessionVerb>(verb), load<uint64_t>(whole.data + 5), load<uint64_t>(whole.data + 13),
              {whole.data + REQUEST_HEAD_SIZE, whole.size - REQUEST_HEAD_SIZE}};
    if (!FrameCheck(verb, frame->body, refusal).is_whole()) return false;
    if (!frame->is_counted()) return true;
    if (frame->id <= last_id || frame->id > INT64_MAX) {
        return refusal.say(BAD_FRAME, "a frame has the request id %" PRIu64 ", the one before it had %" PRIu64,
                           frame->id, last_id);
    }
    last_id = frame->id;
    return true;
}

// Put a reply's head; its fields take `size` bytes.
inline char *store_head(char *to, Status status, uint64_t id, size_t size) {
    to = store(to, static_cast<uint32_t>(REPLY_HEAD_SIZE - 4 + size));
    return store(store(to, status), id);
}

inline char *store_text(char *to, Bytes text) { return text.copy_to(store<uint64_t>(to, text.size)); }

// The reply to a request: a head, a few bytes of fields, and a body that may be shared.
struct Answer {
    uint64_t id = 0;
    Value *body = nullptr;
    uint8_t size = 0;  // of the head with those fields; 0: the request has counted, its reply is to come
    char head[31];

    Answer() = default;
    Answer(Status status, uint64_t request) : id(request), size(REPLY_HEAD_SIZE) {
        store_head(head, status, request, 0);
    }
    template <typename Number>
    Answer &put(Number number) {
        store(head + size, number);
        size = static_cast<uint8_t>(size + sizeof(number));
        return seal();
    }
    // Become one of the value's owners instead of the caller.
    Answer &with(Value *value) {
        body = value;
        return seal();
    }
    Bytes bytes() const { return {head, size}; }
    size_t body_size() const { return body == nullptr ? 0 : body->size; }
    size_t whole_size() const { return size + body_size(); }

  private:
    Answer &seal() {
        store(head, static_cast<uint32_t>(whole_size() - 4));
        return *this;
    }
};

// A reason as it is on the wire.
struct Code {
    char text[32];

    explicit Code(int reason) {
        const char *name = kCloseReasonNames[reason];
        char *to = text;
        for (; *name != '\0'; ++name) *to++ = static_cast<char>(*name == '_' ? '_' : *name - 'A' + 'a');
        *to = '\0';
    }
};

// What REFUSED and CLOSING say: the reason's code and a sentence.
inline Value *refusal_body(const Refusal &refusal) {
    const Code code(refusal.reason);
    const size_t size = strlen(code.text), sentence_size = strlen(refusal.detail);
    Value *body = make_value(8 + size + 8 + sentence_size);
    store_text(body->extend(8 + size), {code.text, size});
    store_text(body->extend(8 + sentence_size), {refusal.detail, sentence_size});
    return body;
}

}  // namespace rallypoint
