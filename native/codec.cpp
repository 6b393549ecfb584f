#include "codec.hpp"

#include <stdarg.h>
#include <stdio.h>

namespace rallypoint {

bool Refusal::say(int why, const char *format, ...) {
    reason = why;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof(detail), format, arguments);
    va_end(arguments);
    return false;
}

Shown::Shown(Bytes shown) {
    const size_t size = shown.size < kShownMax ? shown.size : kShownMax;
    const bool has_single = size > 0 && memchr(shown.data, '\'', size) != nullptr;
    const bool has_double = size > 0 && memchr(shown.data, '"', size) != nullptr;
    const char quote = has_single && !has_double ? '"' : '\'';
    char *to = text;
    *to++ = 'b';
    *to++ = quote;
    for (size_t at = 0; at < size; ++at) {
        const unsigned char byte = static_cast<unsigned char>(shown.data[at]);
        const char *letter = byte == '\t' ? "t" : byte == '\n' ? "n" : byte == '\r' ? "r" : nullptr;
        if (letter != nullptr) {
            to += sprintf(to, "\\%s", letter);
        } else if (byte < ' ' || byte > '~') {
            to += sprintf(to, "\\x%02x", byte);
        } else {
            if (byte == quote || byte == '\\') *to++ = '\\';
            *to++ = static_cast<char>(byte);
        }
    }
    *to++ = quote;
    strcpy(to, shown.size > kShownMax ? "..." : "");
}

void Reader::feed(const char *data, size_t size) {
    if (start_ == end_) {
        data_ = data;
        start_ = 0;
        end_ = size;
        return;
    }
    const size_t there = end_ - start_;
    if (end_ + size > capacity_) {
        if (start_ >= there && there + size <= capacity_) {
            memcpy(own_, own_ + start_, there);
        } else {
            char *old = own_;
            capacity_ = (there + size) * 2;
            own_ = static_cast<char *>(take_memory(capacity_));
            memcpy(own_, old + start_, there);
            free(old);
        }
        start_ = 0;
        end_ = there;
    }
    memcpy(own_ + end_, data, size);
    end_ += size;
    data_ = own_;
}

void Reader::keep() {
    const size_t size = end_ - start_;
    if (size > 0 && data_ == own_ && size >= capacity_ / 4) return;
    char *old = own_;
    own_ = size == 0 ? nullptr : static_cast<char *>(take_memory(size));
    if (size > 0) memcpy(own_, data_ + start_, size);
    free(old);
    data_ = own_;
    start_ = 0;
    end_ = capacity_ = size;
}

void Reader::close() {
    start_ = end_ = 0;
    passed_ = 0;
    keep();
}

Reader::Step Reader::next(uint64_t limit, Bytes *request, Refusal &refusal) {
    const char *data = data_ + start_;
    const size_t size = end_ - start_;
    if (size == 0) return MORE;
    const uint8_t verb = static_cast<uint8_t>(data[0]);
    Step step = passed_ == 0 ? begin(verb, refusal) : REQUEST;
    if (step != REQUEST) return step;
    for (const Kind *layout = kRequestLayouts[verb]; layout[field_] != Kind::NOTHING; ++field_) {
        const Kind kind = layout[field_];
        if (kind == Kind::KEY || kind == Kind::VALUE) {
            step = pass_text(kind, data, size, limit, refusal);
        } else if (kind == Kind::KEYS || kind == Kind::PAIRS) {
            step = pass_list(kind, data, size, limit, refusal);
        } else {
            step = pass_number(data, size, limit, refusal);
        }
        if (step != REQUEST) return step;
    }
    *request = {data, passed_};
    start_ += passed_;
    passed_ = 0;
    return REQUEST;
}

Reader::Step Reader::begin(uint8_t verb, Refusal &refusal) {
    if (!is_validated) {
        if (verb != 0) {
            refusal.say(BAD_HANDSHAKE, "the connection opened with the byte 0x%02x instead of VALIDATE (0x00)", verb);
            return REFUSED;
        }
    } else if (verb == 0) {
        refusal.say(UNKNOWN_VERB, "VALIDATE came again on a connection that is validated already");
        return REFUSED;
    } else if (verb >= kVerbCount) {
        refusal.say(UNKNOWN_VERB, "the verb byte is %u, the last known one is %u", verb, kVerbCount - 1);
        return REFUSED;
    }
    passed_ = 1;
    field_ = 0;
    left_ = NOT_COUNTED;
    return REQUEST;
}

Reader::Step Reader::pass_number(const char *data, size_t size, uint64_t limit, Refusal &refusal) {
    const uint8_t verb = static_cast<uint8_t>(data[0]);
    const size_t width = kRequestLayouts[verb][field_] == Kind::U32 ? 4 : 8;
    if (size - passed_ < width) return MORE;
    if (verb == 0 && load<uint32_t>(data + passed_) != kMagic) {
        refusal.say(BAD_HANDSHAKE, "VALIDATE carries 0x%08x instead of 0x%08x", load<uint32_t>(data + passed_),
                    static_cast<unsigned>(kMagic));
        return REFUSED;
    }
    passed_ += width;
    return check_size(verb, passed_, limit, refusal);
}

Reader::Step Reader::pass_text(Kind kind, const char *data, size_t size, uint64_t limit, Refusal &refusal) {
    const uint64_t at = passed_ + 8;
    if (size < at) return MORE;
    const uint64_t length = load<uint64_t>(data + passed_);
    const uint64_t most = kind == Kind::KEY ? kKeySizeMax : kValueSizeMax;
    if (length > most) {
        refusal.say(FIELD_TOO_LARGE, "%s claims a %s of %llu bytes, the limit is %llu",
                    kVerbNames[static_cast<uint8_t>(data[0])], kind == Kind::KEY ? "key" : "value",
                    static_cast<unsigned long long>(length), static_cast<unsigned long long>(most));
        return REFUSED;
    }
    if (at + length > limit) return check_size(static_cast<uint8_t>(data[0]), at + length, limit, refusal);
    if (size < at + length) return MORE;
    passed_ = at + length;
    return REQUEST;
}

Reader::Step Reader::pass_list(Kind kind, const char *data, size_t size, uint64_t limit, Refusal &refusal) {
    if (left_ == NOT_COUNTED) {
        if (size - passed_ < 8) return MORE;
        const uint64_t count = load<uint64_t>(data + passed_);
        const uint8_t verb = static_cast<uint8_t>(data[0]);
        if (count > kKeyCountMax) {
            refusal.say(FIELD_TOO_LARGE, "%s claims a list of %llu items, the limit is %llu", kVerbNames[verb],
                        static_cast<unsigned long long>(count), static_cast<unsigned long long>(kKeyCountMax));
            return REFUSED;
        }
        passed_ += 8;
        if (passed_ > limit) return check_size(verb, passed_, limit, refusal);
        left_ = static_cast<uint32_t>(count) * (kind == Kind::PAIRS ? 2 : 1);
    }
    for (; left_ > 0; --left_) {
        const bool is_value = kind == Kind::PAIRS && left_ % 2 == 1;
        const Step step = pass_text(is_value ? Kind::VALUE : Kind::KEY, data, size, limit, refusal);
        if (step != REQUEST) return step;
    }
    return REQUEST;
}

Reader::Step Reader::check_size(uint8_t verb, uint64_t size, uint64_t limit, Refusal &refusal) const {
    if (size <= limit) return REQUEST;
    refusal.say(REQUEST_TOO_LARGE, "%s is %llu bytes long or longer, the limit is %llu", kVerbNames[verb],
                static_cast<unsigned long long>(size), static_cast<unsigned long long>(limit));
    return REFUSED;
}

}  // namespace rallypoint
