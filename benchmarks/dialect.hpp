// What the load generator says: requests of the c10d wire, of sessions and of RESP, and what their replies look like.

#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "http2.hpp"

namespace bench {

enum class Wire { c10d, session, resp, etcd };

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

// --- sessions ----------------------------------------------------------------------------------------------

constexpr uint32_t VERSION = 1;
constexpr size_t REQUEST_HEAD = 4 + 1 + 8 + 8;  // size · verb · id · done
constexpr size_t REPLY_HEAD = 4 + 1 + 8;        // size · status · id
constexpr char HELLO = 32, MEET = 46, EXCHANGE = 47;
constexpr int64_t OUTLIVES_MS = 10'000;
// Session · resumed · data · life · proof · milliseconds · revision.
constexpr size_t WELCOME_SIZE = REPLY_HEAD + 24 + 1 + 24 + 24 + 8 + 8 + 8;

// One request, whose id is stamped on before it goes out.
inline std::string frame(char verb, const std::string &fields) {
    return raw(static_cast<uint32_t>(REQUEST_HEAD - 4 + fields.size())) + verb + std::string(16, '\0') + fields;
}

// Gives the requests of a batch their ids; all before them were answered.
inline void stamp(std::string &batch, uint64_t &next_id) {
    const uint64_t done = next_id;
    for (size_t at = 0; at < batch.size();) {
        uint32_t size = 0;
        memcpy(&size, &batch[at], sizeof size);
        memcpy(&batch[at + 5], &next_id, sizeof next_id);
        memcpy(&batch[at + 13], &done, sizeof done);
        next_id++;
        at += 4 + size;
    }
}

// A request of the c10d wire as a session's, answered with so many bytes of fields.
inline Ask framed(const std::string &request, size_t size) {
    return {frame(request[0], request.substr(1)), REPLY_HEAD + size, 0, ""};
}

// --- RESP ------------------------------------------------------------------------------------------------------

inline std::string command(const std::vector<std::string> &words) {
    std::string request = "*" + std::to_string(words.size()) + "\r\n";
    for (const std::string &word : words) request += "$" + std::to_string(word.size()) + "\r\n" + word + "\r\n";
    return request;
}

// --- both ------------------------------------------------------------------------------------------------------

inline Ask greeting(Wire wire) {
    if (wire == Wire::resp) return {command({"PING"}), 7, 0, "+PONG\r\n"};
    if (wire == Wire::session) {
        std::string fields = raw(VERSION) + counted("") + counted("") + counted("bench") + counted(std::string(16, 'n'));
        std::string reply = raw(static_cast<uint32_t>(WELCOME_SIZE - 4)) + '\0';  // OK; the rest is the server's choice
        return {"RPS1" + frame(HELLO, fields + raw(OUTLIVES_MS)), WELCOME_SIZE, 0, reply};
    }
    if (wire == Wire::etcd) return {h2_opening(), 0, 0, ""};
    Ask ask = ping();
    ask.request = '\0' + raw(MAGIC) + ask.request;
    return ask;
}

// One operation on one key. SET has no reply on the c10d wire: `ask_many` puts a PING behind the last one.
inline Ask ask_one(Wire wire, const std::string &op, const std::string &key, const std::string &value) {
    bool is_resp = wire == Wire::resp;
    if (wire == Wire::session) {
        if (op == "get") return framed(get(key, value).request, 8 + value.size());
        if (op == "set") return framed(set(key, value), 8);
        return op == "check" ? framed(check(key).request, 1) : framed(add(key, 1).request, 8);
    }
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
