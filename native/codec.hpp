// Requests as bytes, twin of protocol/codec.py and protocol/server.py: bytes of one connection in, whole requests out.
//
// Rules: a length over its limit is refused as soon as it is complete, and so is a field that would make the request
// too long; nothing depends on how the stream is cut. Memory is taken for bytes that came, never for a claim. Every
// byte is looked at a bounded number of times. What lies whole in a segment is read where it is, without a copy.
#pragma once

#include "spec.inc"
#include "value.hpp"

namespace rallypoint {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian, and read as it is");

struct Bytes {
    const char *data;
    size_t size;
};

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
    char detail[640];

    // Gives false, for the caller to return.
    bool say(int why, const char *format, ...) __attribute__((format(printf, 3, 4)));
};

// The beginning of a text, written as Python's `repr` writes bytes.
struct Shown {
    explicit Shown(Bytes text);
    char text[4 * kShownMax + 8];
};

// The fields of a whole request or list, one after the other.
struct Fields {
    explicit Fields(const char *first) : at(first) {}

    Bytes text() {
        const size_t size = load<uint64_t>(at);
        const char *data = at + 8;
        at = data + size;
        return {data, size};
    }
    int64_t number() {
        at += 8;
        return load<int64_t>(at - 8);
    }

    const char *at;
};

class Reader {
  public:
    enum Step { REQUEST, MORE, REFUSED };

    bool is_validated = false;

    Reader() = default;
    ~Reader() { close(); }
    Reader(const Reader &) = delete;
    Reader &operator=(const Reader &) = delete;

    // Bytes of begun or unread requests.
    size_t held() const { return end_ - start_; }
    // Take one segment, which is only borrowed until `keep`.
    void feed(const char *data, size_t size);
    // Give the next whole request, verb byte included; valid until `feed`, `keep` or `close`.
    Step next(uint64_t limit, Bytes *request, Refusal &refusal);
    // Copy what was not used up of a borrowed segment; give memory back that is not needed any more.
    void keep();
    void close();

  private:
    Step begin(uint8_t verb, Refusal &refusal);
    Step pass_number(const char *data, size_t size, uint64_t limit, Refusal &refusal);
    Step pass_text(Kind kind, const char *data, size_t size, uint64_t limit, Refusal &refusal);
    Step pass_list(Kind kind, const char *data, size_t size, uint64_t limit, Refusal &refusal);
    Step check_size(uint8_t verb, uint64_t size, uint64_t limit, Refusal &refusal) const;

    static constexpr uint32_t NOT_COUNTED = UINT32_MAX;

    const char *data_ = nullptr;  // the segment, or `own_`
    char *own_ = nullptr;
    size_t start_ = 0;  // of the request that comes next or has begun
    size_t end_ = 0;
    size_t capacity_ = 0;
    uint64_t passed_ = 0;  // bytes of the begun request that were looked at; 0: none has begun
    uint32_t left_ = NOT_COUNTED;  // texts of the list that is being passed
    uint8_t field_ = 0;
};

}  // namespace rallypoint
