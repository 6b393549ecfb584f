// What the load generator says to etcd: gRPC over HTTP/2 by hand, as much of it as a Put needs.
//
// Sources: RFC 9113 (frames), RFC 7541 (header fields, here literal or from the static table), gRPC over HTTP/2.

#pragma once

#include <cstdint>
#include <string>

namespace bench {

constexpr char H2_DATA = 0, H2_HEADERS = 1, H2_SETTINGS = 4, H2_WINDOW_UPDATE = 8;
constexpr char H2_END_STREAM = 1, H2_END_HEADERS = 4, H2_ACK = 1;
constexpr size_t H2_HEAD = 9;  // u24 size · u8 kind · u8 flags · u32 stream, big-endian

inline std::string big_endian(uint32_t number) {
    return {static_cast<char>(number >> 24), static_cast<char>(number >> 16), static_cast<char>(number >> 8),
            static_cast<char>(number)};
}

inline std::string h2_frame(char kind, char flags, const std::string &payload) {
    return big_endian(static_cast<uint32_t>(payload.size())).substr(1) + kind + flags + big_endian(0) + payload;
}

inline std::string short_text(const std::string &text) { return static_cast<char>(text.size()) + text; }

// The protocol's opening; the server's settings are taken as they come, and its window for us is made wide at once.
inline std::string h2_opening() {
    return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2_frame(H2_SETTINGS, 0, "") + h2_frame(H2_SETTINGS, H2_ACK, "") +
           h2_frame(H2_WINDOW_UPDATE, 0, big_endian(1 << 30));
}

// One Put, on stream 0 until it is stamped.
inline std::string etcd_put(const std::string &key, const std::string &value) {
    std::string head = "\x83\x86";                                    // :method POST, :scheme http
    head += '\x04' + short_text("/etcdserverpb.KV/Put");              // :path
    head += '\x01' + short_text("127.0.0.1");                         // :authority
    head += std::string("\x0f\x10") + short_text("application/grpc");  // content-type
    head += '\0' + short_text("te") + short_text("trailers");
    std::string put = '\x0a' + short_text(key) + '\x12' + short_text(value);
    std::string message = '\0' + big_endian(static_cast<uint32_t>(put.size())) + put;
    return h2_frame(H2_HEADERS, H2_END_HEADERS, head) + h2_frame(H2_DATA, H2_END_STREAM, message);
}

}  // namespace bench
