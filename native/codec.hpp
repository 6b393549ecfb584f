// Requests as bytes, twin of protocol/codec.py and protocol/server.py: bytes of one connection in, whole requests out.
//
// Rules: a length over its limit is refused as soon as it is complete, and so is a field that would make the request
// too long; nothing depends on how the stream is cut. Memory is taken for bytes that came, never for a claim. Every
// byte is looked at a bounded number of times. What lies whole in a segment is read where it is, without a copy.
#pragma once

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "spec.inc"
#include "value.hpp"

namespace rallypoint {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian, and read as it is");

template <typename Number>
inline Number load(const char *from) {
    Number number;
    memcpy(&number, from, sizeof(number));
    return number;
}

template <typename Number>
inline char *store(char *to, Number number) {
    memcpy(to, &number, sizeof(number));
    return to + sizeof(number);
}

// Why a peer must be closed: twin of RequestError and KeyspaceError.
struct Refusal {
    int reason;
    char detail[1280];

    // Gives false, for the caller to return.
    bool say(int why, const char *format, ...) __attribute__((format(printf, 3, 4))) {
        reason = why;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(detail, sizeof(detail), format, arguments);
        va_end(arguments);
        return false;
    }
};

// The beginning of a text, written as Python's `repr` writes bytes, or a string of them.
struct Shown {
    char text[4 * kLabelSizeMax + 8];

    explicit Shown(Bytes shown, size_t size_max = kShownMax, bool is_bytes = true) {
        const size_t size = shown.size < size_max ? shown.size : size_max;
        const bool has_single = size > 0 && memchr(shown.data, '\'', size) != nullptr;
        const bool has_double = size > 0 && memchr(shown.data, '"', size) != nullptr;
        const char quote = has_single && !has_double ? '"' : '\'';
        const char *rest = shown.size > size_max ? "..." : "";
        char *to = text + sprintf(text, is_bytes ? "b%c" : "%c", quote);
        for (size_t at = 0; at < size; ++at) {
            const unsigned char byte = static_cast<unsigned char>(shown.data[at]);
            const char *letter = byte == '\t' ? "t" : byte == '\n' ? "n" : byte == '\r' ? "r" : nullptr;
            const bool is_plain = byte >= ' ' && byte <= '~';
            if (letter == nullptr && !is_plain) {
                to += byte > '~' + 1 && !is_bytes ? sprintf(to, "\xef\xbf\xbd") : sprintf(to, "\\x%02x", byte);
            } else {
                if (!is_plain || byte == quote || byte == '\\') *to++ = '\\';
                *to++ = letter != nullptr ? *letter : static_cast<char>(byte);
            }
        }
        is_bytes ? sprintf(to, "%c%s", quote, rest) : sprintf(to, "%s%c", rest, quote);
    }
};

// The fields of a whole request or list, one after the other.
struct Fields {
    const char *at;

    Bytes text() {
        const size_t size = load<uint64_t>(at);
        at += 8 + size;
        return {at - size, size};
    }
    int64_t number() {
        at += 8;
        return load<int64_t>(at - 8);
    }
};

class Reader {
  public:
    enum Step { REQUEST, MORE, REFUSED };

    bool is_validated = false;

    Reader() = default;
    ~Reader() { free(own_); }
    Reader(const Reader &) = delete;
    Reader &operator=(const Reader &) = delete;

    // Bytes of begun or unread requests.
    size_t held() const { return end_ - start_; }

    // Take one segment, which is only borrowed until `keep`.
    void feed(const char *data, size_t size) {
        const size_t there = held();
        if (there == 0) {
            data_ = data;
            start_ = 0;
            end_ = size;
            return;
        }
        if (end_ + size > capacity_) {
            move(start_ >= there && there + size <= capacity_ ? capacity_ : (there + size) * 2);
        }
        memcpy(own_ + end_, data, size);
        end_ += size;
    }

    // Give the next whole request, verb byte included; valid until `feed`, `keep` or `close`.
    Step next(uint64_t limit, Bytes *request, Refusal &refusal) {
        const char *data = data_ + start_;
        const size_t size = held();
        if (size == 0) return MORE;
        const uint8_t verb = static_cast<uint8_t>(data[0]);
        Walk walk = walk_;
        if (walk.passed == 0) {
            if (!may_begin(verb, refusal)) return REFUSED;
            walk.passed = 1;
        }
        for (Kind kind; (kind = kRequestLayouts[verb][walk.field]) != Kind::NOTHING;) {
            const bool is_listed = walk.left > 0;
            if (is_listed) kind = kind == Kind::PAIRS && walk.left % 2 == 1 ? Kind::VALUE : Kind::KEY;
            const uint64_t there = size - walk.passed;
            uint64_t width = kind == Kind::U32 ? 4 : 8;
            if (there < width) return pause(walk);
            const uint64_t number =
                width == 4 ? load<uint32_t>(data + walk.passed) : load<uint64_t>(data + walk.passed);
            if (number > most(kind) || verb == 0) {
                if (!allows(verb, kind, number, refusal)) return REFUSED;
            }
            if (kind == Kind::KEY || kind == Kind::VALUE) width += number;
            if (walk.passed + width > limit) {
                refusal.say(REQUEST_TOO_LARGE, "%s is %" PRIu64 " bytes long or longer, the limit is %" PRIu64,
                            kVerbNames[verb], walk.passed + width, limit);
                return REFUSED;
            }
            if (there < width) return pause(walk);
            walk.passed += width;
            if (is_listed) {
                --walk.left;
            } else if (kind == Kind::KEYS || kind == Kind::PAIRS) {
                walk.left = static_cast<uint32_t>(kind == Kind::PAIRS ? number * 2 : number);
            }
            walk.field += walk.left == 0;
        }
        *request = {data, walk.passed};
        start_ += walk.passed;
        walk_ = {};
        return REQUEST;
    }

    // Give the next whole frame of the session dialect, its size included; as `next`.
    Step next_frame(uint64_t limit, size_t size_min, Bytes *frame, Refusal &refusal) {
        constexpr size_t width = sizeof(uint32_t);
        if (held() < width) return MORE;
        const uint32_t size = load<uint32_t>(data_ + start_);
        if (size > limit) {
            refusal.say(REQUEST_TOO_LARGE, "a frame claims %u bytes, the limit is %" PRIu64, size, limit);
            return REFUSED;
        }
        if (size < size_min) {
            refusal.say(BAD_FRAME, "a frame claims %u bytes, it must have %zu", size, size_min);
            return REFUSED;
        }
        if (held() < width + size) return MORE;
        *frame = {data_ + start_, width + size};
        start_ += width + size;
        return REQUEST;
    }

    // What was fed and not given, if no request of it has begun.
    Bytes rest() const { return {data_ + start_, walk_.passed > 0 ? 0 : held()}; }
    // The same of frames, which do not begin.
    Bytes begun_frame() const { return {data_ + start_, held()}; }
    // Go past so much of it.
    void pass(size_t size) { start_ += size; }

    // Copy what was not used up of a borrowed segment; give memory back that is not needed any more.
    HOT void keep() {
        if (held() == 0 ? own_ != nullptr : data_ != own_ || held() < capacity_ / 4) move(held());
    }
    void close() {
        start_ = end_ = 0;
        walk_ = {};
        keep();
    }

  private:
    // How far the request that has begun was looked at.
    struct Walk {
        uint64_t passed = 0;  // bytes; 0: none has begun
        uint32_t left = 0;    // texts of the list that is being passed
        uint32_t field = 0;
    };

    Step pause(const Walk &walk) {
        walk_ = walk;
        return MORE;
    }

    // Move what is held to the beginning of memory of our own.
    void move(size_t capacity) {
        const size_t there = held();
        char *old = own_;
        if (capacity != capacity_) own_ = capacity == 0 ? nullptr : static_cast<char *>(take_memory(capacity));
        if (there > 0) memmove(own_, data_ + start_, there);
        if (old != own_) free(old);
        data_ = own_;
        start_ = 0;
        end_ = there;
        capacity_ = capacity;
    }

    bool may_begin(uint8_t verb, Refusal &refusal) const {
        if (!is_validated) {
            return verb == 0 || refusal.say(BAD_HANDSHAKE, "the connection opened with the byte 0x%02x instead of"
                                                           " VALIDATE (0x00)", verb);
        }
        if (verb == 0) {
            return refusal.say(UNKNOWN_VERB, "VALIDATE came again on a connection that is validated already");
        }
        return verb < kVerbCount || refusal.say(UNKNOWN_VERB, "the verb byte is %u, the last known one is %u", verb,
                                                kVerbCount - 1);
    }

    // The largest number that may open a field of this kind.
    static constexpr uint64_t most(Kind kind) {
        return kind == Kind::KEY                            ? kKeySizeMax
               : kind == Kind::VALUE                        ? kValueSizeMax
               : kind == Kind::KEYS || kind == Kind::PAIRS ? kKeyCountMax
                                                            : UINT64_MAX;
    }

    static bool allows(uint8_t verb, Kind kind, uint64_t number, Refusal &refusal) {
        if (verb == 0 && number != kMagic) {
            return refusal.say(BAD_HANDSHAKE, "VALIDATE carries 0x%08" PRIx64 " instead of 0x%08" PRIx64, number,
                               kMagic);
        }
        if (number <= most(kind)) return true;
        const bool is_key = kind == Kind::KEY, is_text = is_key || kind == Kind::VALUE;
        const char *what = is_key ? "key" : is_text ? "value" : "list", *unit = is_text ? "bytes" : "items";
        return refusal.say(FIELD_TOO_LARGE, "%s claims a %s of %" PRIu64 " %s, the limit is %" PRIu64, kVerbNames[verb],
                           what, number, unit, most(kind));
    }

    const char *data_ = nullptr;  // the segment, or `own_`
    char *own_ = nullptr;
    size_t start_ = 0;  // of the request that comes next or has begun
    size_t end_ = 0;
    size_t capacity_ = 0;
    Walk walk_;
};

}  // namespace rallypoint
