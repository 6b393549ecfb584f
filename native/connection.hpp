// One accepted connection as the reactor sees it, twin of server/connection.py: a descriptor, and what could not be
// sent yet.
//
// A connection is *blocked* while the system takes no more of its output. Blocked with more than kOutputHighSize it is
// not read (*choked*), below kOutputLowSize it is read again.
#pragma once

#include "engine.hpp"

namespace rallypoint {

struct Connection;

// A place in a row.
struct Links {
    Connection *previous = nullptr;
    Connection *next = nullptr;
};

enum class Place : uint8_t { NONE, LIGHT, HEAVY };

struct Connection : Peer {
    explicit Connection(int descriptor) : fd(descriptor) { id = descriptor; }

    int fd;                     // -1 once it is closed
    uint32_t mask = 0;          // the events that it is watched for
    bool is_blocked = false;    // the system took less than there was
    bool is_choked = false;     // not read, because too much output is waiting
    bool is_closing = false;    // no more requests are taken; it closes when its output is sent
    bool is_lingering = false;  // its output is sent and its end announced; what the peer still sends is thrown away
    bool is_dirty = false;      // in the row of those to be flushed
    uint8_t slow_steps = 2;     // in a row; two make it heavy, and so a newcomer is until its first short step
    Place place = Place::NONE;  // which row of `Turns` it stands in
    double linger_until = 0;
    Links all, dirty, in_turn, lingering;

    // Send as much as the system takes; gives false if the connection is lost. Sets `is_blocked` and `is_choked`.
    bool flush();
    // Bring `is_choked` in line with a blocked connection's output.
    void settle();
    // The events to watch for by its state.
    uint32_t wanted_mask() const;
    // The peer's address for a log line; never a name, none is looked up.
    void peer_name(char *text, size_t size) const;
};

// Connections in a row, through one of their links; each is in it once at most.
template <Links Connection::*LINKS>
class Row {
  public:
    Connection *first() const { return first_; }

    void add(Connection &connection) {
        connection.*LINKS = Links{last_, nullptr};
        (last_ != nullptr ? (last_->*LINKS).next : first_) = &connection;
        last_ = &connection;
    }

    void remove(Connection &connection) {
        Links &links = connection.*LINKS;
        (links.previous != nullptr ? (links.previous->*LINKS).next : first_) = links.next;
        (links.next != nullptr ? (links.next->*LINKS).previous : last_) = links.previous;
        links = Links{};
    }

    Connection *take_first() {
        Connection *connection = first_;
        if (connection != nullptr) remove(*connection);
        return connection;
    }

  private:
    Connection *first_ = nullptr;
    Connection *last_ = nullptr;
};

}  // namespace rallypoint
