// JSON as it is written: objects and lists one into another, texts in ASCII.
#pragma once

#include <math.h>
#include <stdio.h>

#include "value.hpp"

namespace rallypoint {

class Json {
  public:
    ~Json() { release(text_); }

    Value *take() {
        Value *taken = text_;
        text_ = nullptr;
        return taken;
    }

    // Begin an object or a list; `end` with its other bracket.
    void begin(char bracket, const char *key = nullptr) {
        name(key);
        put({&bracket, 1});
        is_first_ = true;
    }
    void end(char bracket) {
        put({&bracket, 1});
        is_first_ = false;
    }
    void number(const char *key, uint64_t number) { format(key, "%llu", static_cast<unsigned long long>(number)); }
    void signed_number(const char *key, int64_t number) { format(key, "%lld", static_cast<long long>(number)); }
    // In as few digits as tell it apart, as Python does.
    void real(const char *key, double number) {
        char digits[40];
        for (int precision = 15; precision <= 17; ++precision) {
            snprintf(digits, sizeof digits, "%.*g", precision, number);
            if (strtod(digits, nullptr) == number) break;
        }
        format(key, strpbrk(digits, ".en") == nullptr ? "%s.0" : "%s", static_cast<const char *>(digits));
    }
    void truth(const char *key, bool is_true) { format(key, "%s", is_true ? "true" : "false"); }
    void nothing(const char *key) { format(key, "%s", "null"); }
    void text(const char *key, const char *words) { text(key, Bytes{words, strlen(words)}); }
    // Bytes that are no UTF-8 are shown as \x..
    void text(const char *key, Bytes bytes) {
        name(key);
        put({"\"", 1});
        for (size_t at = 0; at < bytes.size;) at += character(bytes.data + at, bytes.size - at);
        put({"\"", 1});
    }
    void base64(const char *key, Bytes bytes) {
        static constexpr char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        name(key);
        put({"\"", 1});
        for (size_t at = 0; at < bytes.size; at += 3) {
            uint32_t three = 0;
            for (size_t i = 0; i < 3; ++i) {
                three = three << 8 | (at + i < bytes.size ? static_cast<unsigned char>(bytes.data[at + i]) : 0U);
            }
            char four[4];
            for (size_t i = 0; i < 4; ++i) four[i] = i > bytes.size - at ? '=' : DIGITS[three >> (18 - 6 * i) & 63];
            put({four, 4});
        }
        put({"\"", 1});
    }

  private:
    void put(Bytes bytes) { text_ = grow(text_, bytes); }
    void name(const char *key) {
        if (!is_first_) put({", ", 2});
        is_first_ = false;
        if (key != nullptr) format_into("\"%s\": ", key);
    }
    template <typename Thing>
    void format(const char *key, const char *pattern, Thing thing) {
        name(key);
        format_into(pattern, thing);
    }
    template <typename Thing>
    void format_into(const char *pattern, Thing thing) {
        char some[128];
        const int size = snprintf(some, sizeof some, pattern, thing);
        put({some, static_cast<size_t>(size)});
    }

    // Write the first character; gives how many bytes it is.
    size_t character(const char *at, size_t left) {
        const auto byte = [at](size_t i) { return static_cast<unsigned char>(at[i]); };
        const unsigned char first = byte(0);
        if (first < 0x80) {
            if (first == '"' || first == '\\') put({"\\", 1});
            first < ' ' || first == 0x7f ? format_into(first == 0x7f ? "%c" : "\\u%04x", first) : put({at, 1});
            return 1;
        }
        const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
        uint32_t code = first & (0xffU >> (size + 1));
        bool is_good = first >= 0xc2 && first < 0xf5 && size <= left;
        for (size_t i = 1; i < size && is_good; ++i) {
            is_good = (byte(i) & 0xc0) == 0x80;
            code = code << 6 | (byte(i) & 0x3fU);
        }
        static constexpr uint32_t LEAST[] = {0, 0, 0x80, 0x800, 0x10000};
        if (!is_good || code < LEAST[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
            format_into("\\\\x%02x", first);
            return 1;
        }
        if (code < 0x10000) {
            format_into("\\u%04x", code);
        } else {
            format_into("\\u%04x", 0xd800 + ((code - 0x10000) >> 10));
            format_into("\\u%04x", 0xdc00 + ((code - 0x10000) & 0x3ff));
        }
        return size;
    }

    Value *text_ = make_value(size_t{256});
    bool is_first_ = true;
};

}  // namespace rallypoint
