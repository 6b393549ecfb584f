// What the load generator says: requests of the c10d wire and of RESP, and what their replies look like.

#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace bench {

enum class Wire { c10d, resp };

// One request or several, and the end of its reply: after so many bytes, or after so many lines where a reply's size
// is not known before.
struct Ask {
    std::string request;
    size_t reply_size = 0;
    size_t reply_lines = 0;
    std::string reply;  // what is expected, where that is known

    void operator+=(const Ask &other) {
        request += other.request;
        reply_size += other.reply_size;
        reply_lines += other.reply_lines;
        reply += other.reply;
    }
};

template <class Number>
std::string raw(Number number) {
    return {reinterpret_cast<const char *>(&number), sizeof number};
}

inline std::string counted(const std::string &bytes) { return raw<uint64_t>(bytes.size()) + bytes; }

// --- the c10d wire -----------------------------------------------------------------------------------------

constexpr uint32_t MAGIC = 0x3C85F7CE;
constexpr uint32_t NONCE = 0x42454E43;

inline Ask ping() { return {'\x0d' + raw(NONCE), 4, 0, raw(NONCE)}; }

inline std::string set(const std::string &key, const std::string &value) {
    return '\x01' + counted(key) + counted(value);
}

inline Ask get(const std::string &key, const std::string &value) {
    return {'\x03' + counted(key), 8 + value.size(), 0, counted(value)};
}

inline Ask add(const std::string &key, int64_t amount) { return {'\x04' + counted(key) + raw(amount), 8, 0, ""}; }

inline std::string remove(const std::string &key) { return '\x08' + counted(key); }

inline std::string barrier(const std::string &key, int64_t members) { return '\x12' + counted(key) + raw(members); }

inline std::string listed(char verb, const std::vector<std::string> &keys) {
    std::string request = verb + raw<uint64_t>(keys.size());
    for (const std::string &key : keys) request += counted(key);
    return request;
}

inline Ask check(const std::string &key) { return {listed('\x05', {key}), 1, 0, std::string(1, '\0')}; }

inline std::string wait(const std::vector<std::string> &keys) { return listed('\x06', keys); }

inline std::string multi_get(const std::vector<std::string> &keys) { return listed('\x0a', keys); }

// --- RESP ------------------------------------------------------------------------------------------------------

inline std::string command(const std::vector<std::string> &words) {
    std::string request = "*" + std::to_string(words.size()) + "\r\n";
    for (const std::string &word : words) request += "$" + std::to_string(word.size()) + "\r\n" + word + "\r\n";
    return request;
}

// --- both ------------------------------------------------------------------------------------------------------

inline Ask greeting(Wire wire) {
    if (wire == Wire::resp) return {command({"PING"}), 7, 0, "+PONG\r\n"};
    Ask ask = ping();
    ask.request = '\0' + raw(MAGIC) + ask.request;
    return ask;
}

// One operation on one key. SET has no reply on the c10d wire: `ask_many` puts a PING behind the last one.
inline Ask ask_one(Wire wire, const std::string &op, const std::string &key, const std::string &value) {
    bool is_resp = wire == Wire::resp;
    if (op == "get") {
        if (!is_resp) return get(key, value);
        std::string reply = "$" + std::to_string(value.size()) + "\r\n" + value + "\r\n";
        return {command({"GET", key}), reply.size(), 0, reply};
    }
    if (op == "set") {
        if (!is_resp) return {set(key, value), 0, 0, ""};
        return {command({"SET", key, value}), 5, 0, "+OK\r\n"};
    }
    if (op == "check") return is_resp ? Ask{command({"EXISTS", key}), 4, 0, ":1\r\n"} : check(key);
    return is_resp ? Ask{command({"INCR", key}), 0, 1, ""} : add(key, 1);
}

inline Ask ask_many(Wire wire, const std::string &op, const std::vector<std::string> &keys, const std::string &value) {
    Ask asked;
    for (const std::string &key : keys) asked += ask_one(wire, op, key, value);
    if (wire == Wire::c10d && op == "set") asked += ping();
    return asked;
}

}  // namespace bench
