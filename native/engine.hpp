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
    Link<Peer> of_all;  // in the order of connection
    Link<Peer> of_strangers;
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
    void close(Peer &peer);
    void forget(Peer &peer);

    Output &owed(Peer &peer);
    bool answer_sign(Peer &peer, char sign);
    bool answer_number(Peer &peer, uint64_t number);
    bool answer_text(Peer &peer, Bytes text);
    bool answer_value(Peer &peer, Value *value);
    bool created(const Name &name, Keyspace::Change change);
    void go_on(const Ring<Waiter *> &released);
    void abandon(Peer &peer);
    void call(const Name &name, bool is_newly_present);
    void vanished(const Name &name);
    void changing();
    bool all_present(Bytes list);

    // Each gives false if the request is refused.
    bool apply(Peer &peer, Bytes request);
    bool apply_to(const Name &name, Verb verb, Peer &peer, Fields fields);
    bool compare_set(Peer &peer, const Name &name, Bytes expected, Bytes desired);
    bool wait(Peer &peer, Bytes list);
    bool multi_get(Peer &peer, Bytes list);
    bool multi_set(Bytes pairs);
    bool queue_push(const Name &name, Bytes item);
    bool queue_pop(Peer &peer, const Name &name);
    bool barrier(Peer &peer, const Name &name, int64_t world_size);

    const Limits limits_;
    Driver &driver_;
    Keyspace keyspace_;
    Waiters waiters_;
    List<Peer, &Peer::of_all> peers_;
    List<Peer, &Peer::of_strangers> strangers_;  // not validated yet
    uint64_t connections_ = 0;
    uint64_t input_held_ = 0;
    uint64_t requests_ = 0;
    uint64_t produced_ = 0;  // bytes of replies that the requests of this step made for their peer
    uint64_t closed_[STORE_FULL + 1] = {};
    Refusal refusal_;
    Held present_;  // a list of names that are all present
    Held got_;      // a MULTI_GET ...
    Output reply_;  // ... and its reply
};

}  // namespace rallypoint
