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
// What a session asks for, those that wait and meet more than once.
constexpr char kVerbs[] = "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0d\x0e\x0f\x10\x11\x12\x22\x23\x23\x24\x25\x26\x27"
                          "\x28\x29\x2a\x2b\x2c\x2d\x2e\x2e\x2f\x2f\x30\x0f\x03";
constexpr const char *NAMES[] = {"", "/a", "/b", "/c", "/n", "/quoted'\"\\\n", "/longer than a short string is"};

struct Input {
    const uint8_t *at, *end;

    uint8_t byte() { return at < end ? *at++ : 0; }
};

struct Member : Peer {
    bool is_open = false;
    bool is_session = false;
    uint64_t last_id = 0;
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
    bool is_local(const Peer &peer, char (&host)[HOST_SIZE]) override {
        strcpy(host, "::1");
        return peer.id % 2 == 0;
    }
    void address(const Peer &, char (&address)[ADDRESS_SIZE]) override { strcpy(address, "somewhere"); }
};

struct Frames {
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
        fields(kRequestLayouts[verb % kVerbCount], input, false);
    }
    // A request of a session, whole mostly.
    void session_request(Input &input, Member &peer) {
        const uint8_t choice = input.byte();
        uint8_t verb = choice % 32 == 31 ? choice : kVerbs[choice % (sizeof(kVerbs) - 1)];
        if (peer.talk == nullptr || peer.talk->session == nullptr) {
            verb = static_cast<uint8_t>(peer.talk != nullptr && peer.talk->hello ? SessionVerb::PROVE
                                                                                 : SessionVerb::HELLO);
        }
        const uint64_t id = input.byte() % 16 ? ++peer.last_id : input.byte();
        const uint64_t done = input.byte() % 4 ? 0 : peer.last_id;
        const uint32_t none = 0;
        const size_t at = size;
        put(&none, 4);
        put(&verb, 1);
        put(&id, 8);
        put(&done, 8);
        if (verb == static_cast<uint8_t>(SessionVerb::HELLO)) {
            hello(input);
        } else if (verb < kSessionVerbCount) {
            fields(kSessionRows[verb].request, input, true);
        }
        const uint32_t whole = static_cast<uint32_t>(size - at - 4) + (input.byte() == 7);
        memcpy(bytes + at, &whole, 4);
    }
    void hello(Input &input) {
        const uint32_t version = 1;
        put(&version, 4);
        // The ids of the first sessions are known, because the seed is.
        char id[kSessionIdSize];
        Ids ids({});
        for (int left = input.byte() % 6; left >= 0; --left) ids.make({"session", 7}, id, sizeof(id));
        const uint64_t sizes[] = {input.byte() % 4 ? 0 : sizeof(id), 0, 0, kNonceSize};
        for (const uint64_t &each : sizes) {
            put(&each, 8);
            put(id, each);
        }
        number(input);
    }
    void fields(const Kind *kind, Input &input, bool is_session) {
        for (; *kind != Kind::NOTHING; ++kind) {
            if (*kind == Kind::U8) {
                const uint8_t flag = input.byte() % 3;
                put(&flag, 1);
            }
            if (*kind == Kind::U32 && is_session) {
                const uint32_t few = input.byte() % 4;
                put(&few, 4);
                continue;
            }
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
void receive(Engine &engine, Peer &peer, const char *data, size_t size, double now) {
    char *copy = static_cast<char *>(take_memory(size));
    memcpy(copy, data, size);
    engine.receive(peer, copy, size, now);
    free(copy);
}

void step(Engine &engine, Member &peer, Input &input, double &now) {
    const uint8_t what = input.byte();
    if (what < 16) {
        engine.disconnect(peer, now);
        peer.~Member();
        new (&peer) Member;
    } else if (what < 32) {
        engine.tick(now += what - 16);
    } else if (what < 64) {
        engine.resume(peer, now);
    } else if (what < 80) {
        const size_t left = static_cast<size_t>(input.end - input.at), size = what - 63u < left ? what - 63u : left;
        receive(engine, peer, reinterpret_cast<const char *>(input.at), size, now);
        input.at += size;
    } else {
        Frames frame;
        peer.is_session ? frame.session_request(input, peer) : frame.request(input);
        const size_t piece = what < 100 ? 1 : what < 120 ? 7 : frame.size;
        for (size_t at = 0; at < frame.size; at += piece) {
            receive(engine, peer, frame.bytes + at, piece < frame.size - at ? piece : frame.size - at, now);
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
    if (bounds & 32) limits.session_waits_max = limits.session_answers_max = limits.groups_max = 2;
    if (bounds & 64) limits.watch_events_max = limits.leases_max = limits.group_members_max = 3;
    Member peers[PEERS];
    Steps steps;
    Secrets secrets = {};
    secrets.hash_key = {1, 2};
    if (bounds & 128) secrets.token = {"a token of some length", 22};
    Engine engine(limits, steps, secrets);
    double now = 0;
    while (input.at < input.end) {
        Member &peer = peers[input.byte() % PEERS];
        if (!peer.is_open) {
            peer.~Member();
            new (&peer) Member;
            peer.is_open = true;
            engine.connect(peer, now);
            const uint8_t dialect = input.byte() % 8;
            peer.is_session = dialect > 3;
            if (peer.is_session && peer.is_open) engine.receive(peer, kOpening, OPENING_SIZE, now);
            if (!peer.is_session && dialect > 0) engine.receive(peer, "\x00\xce\xf7\x85\x3c", 5, now);
        }
        step(engine, peer, input, now);
        for (Member &each : peers) each.output.consume(each.output.size());
        const Statistics found = engine.statistics();
        if (found.input_held > limits.input_total_max || found.stored_size > limits.stored_size_max) abort();
        if (found.validated > found.connections || found.answers_size > limits.answers_size_max + 20000) abort();
    }
    return 0;
}
