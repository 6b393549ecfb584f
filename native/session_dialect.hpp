// A connection that speaks the session dialect, twin of server/session_dialect.py and, as far as tokens go, of
// server/access.py: its handshake, and its requests as long as it has a session.
#pragma once

#include "session_verbs.hpp"

namespace rallypoint {

// What the engine is given and nobody else may know.
struct Secrets {
    HashKey hash_key;
    char seed[Hmac::SIZE];
    Bytes token = {nullptr, 0};  // the job's, copied; empty: whoever comes may talk
};

struct Talk {
    Session *session = nullptr;  // null until the handshake is done
    uint64_t last_id = 0;
    size_t opened = 0;        // bytes of the opening that came
    bool is_admitted = false;  // it has had a session: frames may have any size
    Held hello;               // HELLO's fields, while a proof is to come
    char nonce[kNonceSize];

    static void *operator new(size_t size) { return take_memory(size); }
    static void operator delete(void *memory) { free(memory); }
};

class SessionDialect : protected SessionVerbs {
  protected:
    SessionDialect(const Limits &limits, Driver &driver, const Secrets &secrets)
        : SessionVerbs(limits, driver, secrets.hash_key, secrets.seed) {
        if (secrets.token.size > 0) token_.hold(make_value(secrets.token));
        ids_.make({"life", 4}, life_id_, sizeof(life_id_));
        memcpy(data_id_, life_id_, sizeof(data_id_));
    }

    // What the dialect has the engine do with connections.
    virtual void admit(Peer &peer) = 0;
    virtual void dismiss(Peer &peer) = 0;
    virtual void evict(Peer &peer) = 0;  // for the reason in `refusal_`

    bool wants_proof() const { return static_cast<bool>(token_); }

    // Take the next bytes of the opening off a segment.
    bool opens(Talk &talk, Bytes &segment) {
        const char *awaited = kOpening + talk.opened;
        const size_t left = OPENING_SIZE - talk.opened, size = segment.size < left ? segment.size : left;
        const Bytes came = {segment.data, size};
        if (!(came == Bytes{awaited, size})) {
            // As far as the first wrong byte, however the stream is cut.
            char opened[OPENING_SIZE];
            size_t right = 0;
            while (segment.data[right] == awaited[right]) ++right;
            memcpy(opened, kOpening, OPENING_SIZE);
            opened[talk.opened + right] = segment.data[right];
            return refusal_.say(BAD_HANDSHAKE, "the connection opened with %s where %s was to come",
                                Shown({opened, talk.opened + right + 1}).text, Shown({kOpening, OPENING_SIZE}).text);
        }
        talk.opened += size;
        segment = {segment.data + size, segment.size - size};
        return true;
    }

    // Apply the next whole request, if there is one.
    Reader::Step next(Peer &peer) {
        Talk &talk = *peer.talk;
        Bytes whole;
        const uint64_t hello_size_max = kHelloSizeMax < limits_.input_size_max ? kHelloSizeMax : limits_.input_size_max;
        const uint64_t size_max = talk.is_admitted ? limits_.input_size_max : hello_size_max;
        const Reader::Step step = peer.reader.next_frame(size_max, REQUEST_HEAD_SIZE - 4, &whole, refusal_);
        if (step != Reader::REQUEST) return step;
        Frame frame;
        sent_ = 0;
        if (!read_frame(whole, talk.last_id, &frame, refusal_)) return Reader::REFUSED;
        if (talk.session == nullptr) {
            if (!greet(peer, talk, frame)) return Reader::REFUSED;
        } else if (frame.verb == SessionVerb::BYE) {
            Session &session = *talk.session;
            talk.session = nullptr;
            end(session);
            store_head(owed(peer).extend(REPLY_HEAD_SIZE), Status::OK, frame.id, 0);
            dismiss(peer);
        } else if (frame.verb == SessionVerb::HELLO || frame.verb == SessionVerb::PROVE) {
            refusal_.say(BAD_HANDSHAKE, "%s came on a connection that has a session already", frame.name());
            return Reader::REFUSED;
        } else {
            take(*talk.session, frame);
        }
        produced_ += sent_;
        return Reader::REQUEST;
    }

    // The connection is gone.
    void leave(Peer &peer) {
        Session *session = peer.talk->session;
        delete peer.talk;
        peer.talk = nullptr;
        if (session != nullptr) detach(*session);
    }

    void say_closing(Peer &peer) {
        Value *body = refusal_body(refusal_);
        Output &output = owed(peer);
        store_head(output.extend(REPLY_HEAD_SIZE), Status::CLOSING, kClosingId, body->size);
        output.append(body);
        release(body);
    }

    char life_id_[kSessionIdSize];
    char data_id_[kSessionIdSize];  // of what the server holds

  private:
    // HELLO's fields.
    struct Hello {
        Bytes session, identity, label, nonce;
        uint32_t version;
        int64_t timeout_ms;

        explicit Hello(Bytes body) {
            version = load<uint32_t>(body.data);
            Fields fields = {body.data + 4};
            session = fields.text(), identity = fields.text(), label = fields.text(), nonce = fields.text();
            timeout_ms = fields.number();
        }
    };

    bool greet(Peer &peer, Talk &talk, const Frame &frame) {
        if (frame.verb == SessionVerb::HELLO && !talk.hello) {
            if (!makes_sense(Hello(frame.body))) return false;
            if (!wants_proof()) return welcome(peer, talk, frame.body);
            talk.hello.hold(make_value(frame.body));
            ids_.make({"nonce", 5}, talk.nonce, sizeof(talk.nonce));
            constexpr size_t size = 8 + sizeof(talk.nonce);
            char *to = store_head(owed(peer).extend(REPLY_HEAD_SIZE + size), Status::CHALLENGE, kClosingId, size);
            store_text(to, {talk.nonce, sizeof(talk.nonce)});
            return true;
        }
        if (frame.verb != SessionVerb::PROVE || !talk.hello) {
            return refusal_.say(BAD_HANDSHAKE, "%s came where %s was to come", frame.name(),
                                talk.hello ? "PROVE" : "HELLO");
        }
        Held hello;
        hello.hold(talk.hello.take());
        const Bytes identity = Hello(hello->bytes()).identity;
        char proof[Hmac::SIZE];
        prove("rallypoint session client", hello->bytes(), talk, {nullptr, 0}, proof);
        const Bytes given = Fields{frame.body.data}.text();
        unsigned difference = given.size ^ sizeof(proof);
        for (size_t i = 0; i < sizeof(proof) && i < given.size; ++i) {
            difference |= static_cast<unsigned>(static_cast<unsigned char>(proof[i] ^ given.data[i]));
        }
        if (difference == 0 && identity.size == 0) return welcome(peer, talk, hello->bytes());
        if (identity.size == 0) return refusal_.say(AUTHENTICATION_FAILED, "the proof of the job's token is wrong");
        return refusal_.say(AUTHENTICATION_FAILED, "the proof of the identity %s is wrong",
                            Shown(identity, kShownMax, false).text);
    }

    bool makes_sense(const Hello &hello) {
        if (hello.version != kVersion) {
            return refusal_.say(UNKNOWN_VERSION, "HELLO is of version %u of the session dialect, this server knows"
                                " version %" PRIu64, hello.version, kVersion);
        }
        const Bytes &long_one = hello.identity.size > kLabelSizeMax ? hello.identity : hello.label;
        if (long_one.size > kLabelSizeMax) {
            return refusal_.say(BAD_ARGUMENT, "HELLO has %s of %zu bytes, the limit is %" PRIu64,
                                &long_one == &hello.identity ? "identity" : "label", long_one.size, kLabelSizeMax);
        }
        const bool has_session = hello.session.size == 0 || hello.session.size == kSessionIdSize;
        if (has_session && hello.nonce.size == kNonceSize && hello.timeout_ms >= 0) return true;
        return refusal_.say(BAD_ARGUMENT, "HELLO has a session of %zu bytes, a nonce of %zu and %" PRId64
                            " ms: a session has %" PRIu64 " or none, a nonce %" PRIu64 ", and the time is 0 or above",
                            hello.session.size, hello.nonce.size, hello.timeout_ms, kSessionIdSize, kNonceSize);
    }

    bool welcome(Peer &peer, Talk &talk, Bytes body) {
        const Hello hello(body);
        const Bytes identity = {nullptr, 0};  // what a token proves; without one nothing is
        Session *session = sessions_.find(hello.session, identity);
        const bool is_resumed = session != nullptr;
        if (!is_resumed) {
            session = sessions_.make(identity, hello.label, hello.timeout_ms, now_, refusal_);
            if (session == nullptr) return false;
        } else if (session->peer != nullptr) {
            refusal_.say(TAKEN_OVER, "another connection has resumed its session, %s",
                         Shown(hello.label, kLabelSizeMax).text);
            evict(*session->peer);
        }
        sessions_.attach(*session, peer, hello.label);
        const int64_t timeout_ms = session->timeout_ms();
        const Bytes id = session->id_bytes(), life = {life_id_, sizeof(life_id_)}, data = {data_id_, sizeof(data_id_)};
        // With an empty proof, as it is proven; the real one is put in between.
        char fields[3 * (8 + kSessionIdSize) + 1 + 8 + 16];
        char *to = store_text(store(store_text(fields, id), is_resumed), data);
        char *const proof_at = to = store_text(to, life);
        to = store(store(store_text(to, {nullptr, 0}), timeout_ms), keyspace_.revision());
        const size_t before = static_cast<size_t>(proof_at - fields), after = sizeof(fields) - before - 8;
        char proof[Hmac::SIZE];
        const size_t proof_size = wants_proof() ? sizeof(proof) : 0;
        if (proof_size > 0) prove("rallypoint session server", body, talk, {fields, sizeof(fields)}, proof);
        const size_t size = sizeof(fields) + proof_size;
        to = store_head(owed(peer).extend(REPLY_HEAD_SIZE + size), Status::OK, kClosingId, size);
        to = store_text(Bytes{fields, before}.copy_to(to), {proof, proof_size});
        Bytes{proof_at + 8, after}.copy_to(to);
        talk.session = session;
        talk.is_admitted = true;
        admit(peer);
        return true;
    }

    // HMAC under the token: a prefix with its zero byte, then each part behind its size.
    void prove(const char *prefix, Bytes hello, const Talk &talk, Bytes welcome, char (&proof)[Hmac::SIZE]) {
        Hmac hmac(token_->bytes());
        hmac.update({prefix, strlen(prefix) + 1});
        const Bytes parts[] = {hello, {talk.nonce, sizeof(talk.nonce)}, welcome};
        for (size_t i = 0; i < (welcome.size > 0 ? 3 : 2); ++i) {
            char size[8];
            store<uint64_t>(size, parts[i].size);
            hmac.update({size, sizeof(size)});
            hmac.update(parts[i]);
        }
        hmac.finish(proof);
    }

    Held token_;
};

}  // namespace rallypoint
