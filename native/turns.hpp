// Whose turn it is, twin of server/turns.py: connections that cost much wait in a line, and each wake-up serves a slice
// of it, so that what a light connection waits for does not grow with the number of heavy ones.
#pragma once

#include "connection.hpp"

namespace rallypoint {

struct Turns {
    List<Connection, &Connection::of_light> light;
    List<Connection, &Connection::of_heavy> heavy;

    bool empty() const { return light.first == nullptr && heavy.first == nullptr; }
    // Put a connection at the end of its line, unless it is in one; a paused one has caused much output.
    void add(Connection &connection) {
        if (light.has(connection) || heavy.has(connection)) return;
        if (connection.is_heavy() || connection.is_paused) {
            heavy.add(connection);
        } else {
            light.add(connection);
        }
    }
    void drop(Connection &connection) {
        light.drop(connection);
        heavy.drop(connection);
    }
};

}  // namespace rallypoint
