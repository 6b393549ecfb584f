// Puts on etcd, one in flight on each connection.

#pragma once

#include "crowd.hpp"

namespace bench {

// How many streams end in these bytes; what is left of an incomplete frame stays in `rest`.
inline size_t ended_streams(std::string &rest, std::string_view data) {
    rest += data;
    size_t ended = 0, at = 0;
    while (rest.size() - at >= H2_HEAD) {
        const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<unsigned char>(rest[at + i])); };
        const size_t size = H2_HEAD + (byte(0) << 16 | byte(1) << 8 | byte(2));
        if (rest.size() - at < size) break;
        if ((rest[at + 3] == H2_HEADERS || rest[at + 3] == H2_DATA) && (rest[at + 4] & H2_END_STREAM)) ended++;
        at += size;
    }
    rest.erase(0, at);
    return ended;
}

// One put in flight on each connection, each of a key of its own.
inline void etcd_puts(const Options &options) {
    std::vector<std::string> puts, rests(options.connections);
    for (size_t i = 0; i < options.connections; i++) puts.push_back(etcd_put(key_name(i), options.value));
    uint64_t answered = 0, before = 0;
    Stretch stretch(options);
    {
        Crowd crowd(options);
        const auto post = [&](Peer &peer) {
            std::string &put = puts[peer.number];
            const std::string stream = big_endian(static_cast<uint32_t>(2 * peer.next_id++ - 1));
            const size_t data_at = put.find("te\x08trailers") + 11;
            put.replace(5, 4, stream);
            put.replace(data_at + 5, 4, stream);
            crowd.post(peer, put);
        };
        for (Peer &peer : crowd.peers()) post(peer);
        const auto on_data = [&](Peer &peer, std::string_view data) {
            for (size_t ended = ended_streams(rests[peer.number], data); ended > 0; ended--) {
                answered++;
                post(peer);
            }
        };
        int64_t end = now_ns() + options.ns / 5;
        crowd.run(on_data, [&] { return now_ns() >= end && answered >= options.connections; });
        before = answered;
        stretch.start();
        end = now_ns() + options.ns;
        crowd.run(on_data, [&] { return now_ns() >= end && answered - before >= options.connections; });
        stretch.end();
    }
    printf("{\"per_s\": %.1f, \"answered\": %lu, ", static_cast<double>(answered - before) / stretch.total_s, answered);
    stretch.print_shares();
}

}  // namespace bench
