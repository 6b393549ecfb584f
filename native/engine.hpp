// The server as a machine, twin of server/engine.py: the same rules, the same refusals, byte for byte.
//
// The driver owns the peers: it makes one for each connection (it may derive from Peer), and destroys it after
// `disconnect`, or after the engine's `closed`. The bytes owed to a peer are in its `output`; the driver takes them
// from there. An engine that is destroyed lets go of its peers first, so they outlive it or are disconnected before.
// Nothing here makes a system call, reads a clock or throws.
//
// Identical requests are answered together: a MULTI_GET like the one before is answered with the same bytes, in memory
// once, while no key has changed; a list of names that was found present is present until a name vanishes.
#pragma once

#include "keyspace.hpp"
#include "output.hpp"
#include "waiters.hpp"

namespace rallypoint {

// One connection as the engine sees it.
struct Peer : Waiter {
    int64_t id = 0;  // the driver's number for it
    Output output;
    bool is_paused = false;  // fed nothing until `resume`
    // The rest is the engine's own.
    bool is_known = false;
    Reader reader;
    uint64_t held = 0;  // of its input, as counted
    double deadline = 0;
    Peer *older = nullptr;  // in the order of connection
    Peer *newer = nullptr;
    Peer *older_stranger = nullptr;  // of those not validated yet
    Peer *newer_stranger = nullptr;
};

// What an event causes, told to the driver while the step runs. The driver only takes note; it must not call back.
class Driver {
  public:
    // The peer's output was empty and is not any more (any peer, not only the one that asked).
    virtual void owes(Peer &peer) = 0;
    // The peer caused too much output: send it, feed nothing, then call `resume`.
    virtual void paused(Peer &peer) = 0;
    // The engine has forgotten the peer: send what it is owed, then close. `detail` is one sentence, valid in the call.
    virtual void closed(Peer &peer, int reason, const char *detail) = 0;

  protected:
    ~Driver() = default;
};

// Twin of vocabulary.Statistics, in its order; `closed` by reason.
struct Statistics {
    uint64_t connections, validated, paused, keys, queues, stored_size, waiting, input_held, requests;
    uint64_t closed[STORE_FULL + 1];
};

// The bytes of a request that need not be answered by looking again.
class Memo {
  public:
    ~Memo() { forget(); }
    bool matches(Bytes request) const {
        return text_ != nullptr && text_->size == request.size &&
               memcmp(text_->data(), request.data, request.size) == 0;
    }
    void keep(Bytes request);
    void forget() {
        if (text_ == nullptr) return;
        release(text_);
        text_ = nullptr;
    }

  private:
    Value *text_ = nullptr;
};

// The pieces of a reply: small values copied together, large ones shared.
class Pieces {
  public:
    ~Pieces() {
        clear();
        free(pieces_);
    }
    void add(const Value *small_or_null);
    void clear();
    size_t count() const { return count_; }
    Value *operator[](size_t at) const { return pieces_[at]; }
    size_t copied() const { return copied_; }

  private:
    void put(Value *piece);

    Value **pieces_ = nullptr;
    size_t count_ = 0;
    size_t room_ = 0;
    size_t copied_ = 0;      // bytes that are not shared with the store
    bool is_open_ = false;  // the last piece may grow
};

class Engine {
  public:
    Engine(const Limits &limits, Driver &driver, uint64_t hash_key_0, uint64_t hash_key_1);
    ~Engine();

    // The steps of `Engine.step`. A peer that is unknown, closed by the engine or disconnected is ignored.
    void connect(Peer &peer, double now);
    void receive(Peer &peer, const char *data, size_t size);
    void resume(Peer &peer);
    void disconnect(Peer &peer);
    void tick(double now);
    // When `tick` is due, infinity if no time matters.
    double next_deadline() const;
    // The numbers. Cost: the number of peers.
    Statistics statistics() const;

  private:
    void serve(Peer &peer);
    void hold(Peer &peer);
    void close(Peer &peer, int reason, const char *detail);
    void forget(Peer &peer);
    void welcome(Peer &peer);
    void leave_strangers(Peer &peer);

    char *reply(Peer &peer, size_t size);
    bool answer(Peer &peer, int64_t number);
    bool answer_value(Peer &peer, Value *value);
    void answer_text(Peer &peer, Bytes text);
    void share_reply(Peer &peer, Value *value);
    void go_on(Waiter *waiter);
    bool created(const Name &name, Keyspace::Change change);
    void abandon(Peer &peer);
    void call(const Name &name, bool is_newly_present);
    void vanished(const Name &name);
    bool all_present(Bytes list);

    // Each takes the request whole and gives false if it is refused.
    bool apply(Peer &peer, Bytes request);
    bool write(Verb verb, Fields fields);
    void changing();
    bool compare_set(Peer &peer, Fields fields);
    bool wait(Peer &peer, Bytes list);
    bool delete_key(Peer &peer, const Name &name);
    bool multi_get(Peer &peer, Bytes list);
    bool multi_set(Bytes pairs);
    bool queue_push(Fields fields);
    bool queue_pop(Peer &peer, const Name &name);
    bool barrier(Peer &peer, Fields fields);

    const Limits limits_;
    Driver &driver_;
    Keyspace keyspace_;
    Waiters waiters_;
    Peer *oldest_ = nullptr;
    Peer *newest_ = nullptr;
    Peer *first_stranger_ = nullptr;
    Peer *last_stranger_ = nullptr;
    uint64_t connections_ = 0;
    uint64_t input_held_ = 0;
    uint64_t requests_ = 0;
    uint64_t produced_ = 0;  // bytes of replies that the requests of this step made for their peer
    uint64_t closed_[STORE_FULL + 1] = {};
    Refusal refusal_;
    Memo present_;  // a list of names that are all present
    Memo got_;      // a MULTI_GET ...
    Pieces reply_;  // ... and its reply
};

}  // namespace rallypoint
