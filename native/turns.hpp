// Whose turn it is, twin of server/turns.py: connections that cost much wait in a line, and each wake-up serves a slice
// of it, so that what a light connection waits for does not grow with the number of heavy ones.
#pragma once

#include "connection.hpp"

namespace rallypoint {

// Two lines, of light and of heavy connections; each connection is in one of them at most, once.
class Turns {
  public:
    bool empty() const { return light_.first() == nullptr && heavy_.first() == nullptr; }

    // Put a connection at the end of its line, unless it is in one; a paused one has caused much output.
    void add(Connection &connection) {
        if (connection.place != Place::NONE) return;
        const bool is_heavy = connection.slow_steps > 1 || connection.is_paused;
        connection.place = is_heavy ? Place::HEAVY : Place::LIGHT;
        (is_heavy ? heavy_ : light_).add(connection);
    }

    void discard(Connection &connection) {
        if (connection.place == Place::NONE) return;
        (connection.place == Place::HEAVY ? heavy_ : light_).remove(connection);
        connection.place = Place::NONE;
    }

    // Give the next one, which has left its line; null if nobody waits there.
    Connection *take_light() { return take(light_); }
    Connection *take_heavy() { return take(heavy_); }

  private:
    using TurnRow = Row<&Connection::in_turn>;

    static Connection *take(TurnRow &row) {
        Connection *connection = row.take_first();
        if (connection != nullptr) connection->place = Place::NONE;
        return connection;
    }

    TurnRow light_, heavy_;
};

}  // namespace rallypoint
