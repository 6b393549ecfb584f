// A target for libFuzzer: any bytes as steps of several peers. Looks for what sanitizers see, leaks too, and for books
// that do not balance; that both twins do the same is for tools/fuzz.py to find.
//
//     clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -Inative native/fuzz/engine_fuzz.cpp
//         -o build/engine_fuzz
//     build/engine_fuzz -max_total_time=60 -max_len=2000 build/fuzz-found tests/fuzz/corpus
#include <new>

#include "engine.hpp"

using namespace rallypoint;

namespace {

constexpr int PEERS = 5;
constexpr const char *NAMES[] = {"", "/a", "/b", "/c", "/n", "/quoted'\"\\\n", "/longer than a short string is"};

struct Input {
    const uint8_t *at, *end;

    uint8_t byte() { return at < end ? *at++ : 0; }
};

struct Member : Peer {
    bool is_open = false;
};

struct Steps final : Driver {
    void owes(Peer &peer) override {
        if (!peer.output.empty()) abort();
    }
    void paused(Peer &peer) override {
        if (!peer.is_paused) abort();
    }
    void closed(Peer &peer, int reason, const char *detail) override {
        if (reason > ENDED || detail[0] == '\0') abort();
        static_cast<Member &>(peer).is_open = false;
    }
};

struct Frame {
    char bytes[9000];
    size_t size = 0;

    void put(const void *data, size_t length) {
        memcpy(bytes + size, data, length);
        size += length;
    }
    void text(Input &input) {
        const uint8_t choice = input.byte();
        const char *name = NAMES[choice % 7];
        uint64_t length = strlen(name);
        if (choice >= 250) length = 900;  // what a value may be, to fill outputs and stores
        if (choice == 249) length = uint64_t{1} << (input.byte() % 64);
        put(&length, 8);
        if (choice < 250) {
            put(name, strlen(name));
        } else {
            memset(bytes + size, '7', length);
            size += length;
        }
    }
    void number(Input &input) {
        const int64_t value = static_cast<int8_t>(input.byte());
        put(&value, 8);
    }
    void request(Input &input) {
        const uint8_t verb = input.byte() % (kVerbCount + 1);
        put(&verb, 1);
        for (const Kind *kind = kRequestLayouts[verb % kVerbCount]; *kind != Kind::NOTHING; ++kind) {
            if (*kind == Kind::KEY || *kind == Kind::VALUE) text(input);
            if (*kind == Kind::I64) number(input);
            if (*kind == Kind::U32) put(&kMagic, 4);
            if (*kind == Kind::KEYS || *kind == Kind::PAIRS) {
                const uint64_t count = input.byte() % 4;
                put(&count, 8);
                for (uint64_t i = 0; i < count * (*kind == Kind::PAIRS ? 2 : 1); ++i) text(input);
            }
        }
    }
};

// In memory of its own, so that whoever keeps a pointer to it is seen.
void receive(Engine &engine, Peer &peer, const char *data, size_t size) {
    char *copy = static_cast<char *>(take_memory(size));
    memcpy(copy, data, size);
    engine.receive(peer, copy, size);
    free(copy);
}

void step(Engine &engine, Member &peer, Input &input, double &now) {
    const uint8_t what = input.byte();
    if (what < 16) {
        engine.disconnect(peer);
        peer.~Member();
        new (&peer) Member;
    } else if (what < 32) {
        engine.tick(now += what - 16);
    } else if (what < 64) {
        engine.resume(peer);
    } else if (what < 80) {
        const size_t left = static_cast<size_t>(input.end - input.at), size = what - 63u < left ? what - 63u : left;
        receive(engine, peer, reinterpret_cast<const char *>(input.at), size);
        input.at += size;
    } else {
        Frame frame;
        frame.request(input);
        const size_t piece = what < 100 ? 1 : what < 120 ? 7 : frame.size;
        for (size_t at = 0; at < frame.size; at += piece) {
            receive(engine, peer, frame.bytes + at, piece < frame.size - at ? piece : frame.size - at);
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input = {data, data + size};
    Limits limits;
    const uint8_t bounds = input.byte();
    if (bounds & 1) limits.output_size_max = 20;
    if (bounds & 2) limits.stored_size_max = 2500;
    if (bounds & 4) limits.input_total_max = 100;
    if (bounds & 8) limits.waited_names_max = 3;
    if (bounds & 16) limits.input_size_max = 200;
    Member peers[PEERS];
    Steps steps;
    Engine engine(limits, steps, 1, 2);
    double now = 0;
    while (input.at < input.end) {
        Member &peer = peers[input.byte() % PEERS];
        if (!peer.is_open) {
            peer.~Member();
            new (&peer) Member;
            peer.is_open = true;
            engine.connect(peer, now);
            if (input.byte() % 8) engine.receive(peer, "\x00\xce\xf7\x85\x3c", 5);
        }
        step(engine, peer, input, now);
        for (Member &each : peers) each.output.consume(each.output.size());
        const Statistics found = engine.statistics();
        if (found.input_held > limits.input_total_max || found.stored_size > limits.stored_size_max) abort();
        if (found.validated > found.connections || found.waiting > found.connections) abort();
    }
    return 0;
}
