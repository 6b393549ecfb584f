// SHA-256 and HMAC-SHA256 (FIPS 180-4, RFC 2104): what ids, nonces and proofs are made with.
#pragma once

#include "value.hpp"

namespace rallypoint {

class Sha256 {
  public:
    static constexpr size_t SIZE = 32;

    void update(Bytes text) {
        const char *at = text.data;
        for (size_t left = text.size; left > 0;) {
            const size_t there = passed_ % sizeof(block_), room = sizeof(block_) - there;
            const size_t taken = left < room ? left : room;
            memcpy(block_ + there, at, taken);
            at += taken;
            left -= taken;
            passed_ += taken;
            if (taken == room) mix();
        }
    }

    // Give the digest; afterwards it takes no more.
    void finish(char (&digest)[SIZE]) {
        const uint64_t bits = passed_ * 8;
        update({"\x80", 1});
        while (passed_ % sizeof(block_) != sizeof(block_) - 8) update({"", 1});
        char length[8];
        for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(bits >> (56 - 8 * i));
        update({length, sizeof(length)});
        for (size_t i = 0; i < SIZE; ++i) digest[i] = static_cast<char>(state_[i / 4] >> (24 - 8 * (i % 4)));
    }

  private:
    static uint32_t rotated(uint32_t word, int bits) { return word >> bits | word << (32 - bits); }

    void mix() {
        static constexpr uint32_t ROUNDS[64] = {
            0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
            0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
            0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
            0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
            0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
            0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
            0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
            0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
        };
        uint32_t words[64];
        for (int i = 0; i < 16; ++i) {
            words[i] = uint32_t{block_[4 * i]} << 24 | uint32_t{block_[4 * i + 1]} << 16 |
                       uint32_t{block_[4 * i + 2]} << 8 | block_[4 * i + 3];
        }
        for (int i = 16; i < 64; ++i) {
            const uint32_t early = words[i - 15], late = words[i - 2];
            words[i] = words[i - 16] + words[i - 7] + (rotated(early, 7) ^ rotated(early, 18) ^ early >> 3) +
                       (rotated(late, 17) ^ rotated(late, 19) ^ late >> 10);
        }
        uint32_t now[8];
        memcpy(now, state_, sizeof(now));
        auto &[a, b, c, d, e, f, g, h] = now;
        for (int i = 0; i < 64; ++i) {
            const uint32_t first = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) +
                                   ROUNDS[i] + words[i];
            const uint32_t second =
                (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            h = g, g = f, f = e, e = d + first;
            d = c, c = b, b = a, a = first + second;
        }
        for (int i = 0; i < 8; ++i) state_[i] += now[i];
    }

    uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint64_t passed_ = 0;
    uint8_t block_[64];
};

class Hmac {
  public:
    static constexpr size_t SIZE = Sha256::SIZE;

    explicit Hmac(Bytes key) {
        char digest[SIZE];
        if (key.size > sizeof(key_)) {
            Sha256 hash;
            hash.update(key);
            hash.finish(digest);
            key = {digest, SIZE};
        }
        key.copy_to(key_);
        pad(0x36);
        inner_.update({key_, sizeof(key_)});
    }
    void update(Bytes text) { inner_.update(text); }
    void finish(char (&digest)[SIZE]) {
        inner_.finish(digest);
        pad(0x36 ^ 0x5c);
        Sha256 outer;
        outer.update({key_, sizeof(key_)});
        outer.update({digest, SIZE});
        outer.finish(digest);
    }

  private:
    void pad(char byte) {
        for (char &each : key_) each = static_cast<char>(each ^ byte);
    }

    char key_[64] = {};
    Sha256 inner_;
};

}  // namespace rallypoint
