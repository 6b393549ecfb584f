// The server as a machine, twin of server/engine.py: the same rules, the same refusals, byte for byte.
//
// The driver owns the peers: it makes one for each connection (it may derive from Peer), and destroys it after
// `disconnect`, or after the engine's `closed`. The bytes owed to a peer are in its `output`; the driver takes them
// from there. Nothing here makes a system call, reads a clock or throws.
#pragma once

#include "output.hpp"
#include "spec.inc"

namespace rallypoint {

// One connection as the engine sees it.
struct Peer {
    int64_t id = 0;  // the driver's number for it
    Output output;
    bool is_paused = false;  // fed nothing until `resume`
    // ... what the engine keeps: reader, wait, handshake deadline (owner of this file adds it)
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
};

}  // namespace rallypoint
