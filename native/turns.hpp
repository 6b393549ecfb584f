// Whose turn it is, twin of server/turns.py: connections that cost much wait in a line, and each wake-up serves a slice
// of it, so that what a light connection waits for does not grow with the number of heavy ones.
#pragma once

#include "connection.hpp"

namespace rallypoint {

constexpr double HEAVY_S = 0.0005;  // above it a step is slow
constexpr double SLICE_S = 0.005;   // what one wake-up spends on those in line, and on light ones that need not

// Two lines, of light and of heavy connections; each connection is in one of them at most, once.
class Turns {
  public:
    bool empty() const { return light_.first() == nullptr && heavy_.first() == nullptr; }

    // Put a connection at the end of its line, unless it is in one; a paused one has caused much output.
    void add(Connection &connection) {
        if (connection.turn != Turn::NONE) return;
        const bool is_heavy = connection.slow_steps > 1 || connection.is_paused;
        connection.turn = is_heavy ? Turn::HEAVY : Turn::LIGHT;
        (is_heavy ? heavy_ : light_).add(connection);
    }

    void discard(Connection &connection) {
        if (connection.turn == Turn::NONE) return;
        (connection.turn == Turn::HEAVY ? heavy_ : light_).remove(connection);
        connection.turn = Turn::NONE;
    }

    // Give the next one, which has left its line; null if nobody waits there.
    Connection *take_light() { return take(light_); }
    Connection *take_heavy() { return take(heavy_); }

  private:
    using TurnLine = Line<&Connection::line>;

    static Connection *take(TurnLine &line) {
        Connection *connection = line.take_first();
        if (connection != nullptr) connection->turn = Turn::NONE;
        return connection;
    }

    TurnLine light_, heavy_;
};

}  // namespace rallypoint
