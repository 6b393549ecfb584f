// What peers have been answered and leave unread, twin of server/unread.py: how much it is in all, and who has the most
// of it. A value that several are owed counts once, and each of them holds an equal share.
#pragma once

#include "connection.hpp"

namespace rallypoint {

class Unread {
  public:
    bool empty() const { return blocked_.first == nullptr; }

    // Take note of whether a connection is blocked.
    void note(Connection &connection) { connection.is_blocked ? blocked_.put(connection) : blocked_.drop(connection); }
    void drop(Connection &connection) { blocked_.drop(connection); }

    // The bytes that are unread. Cost: that of sorting the pieces of output of all blocked connections.
    uint64_t size() { return count(); }

    // Give the connection that holds the most, and how much, if all hold more than the limit; else null.
    Connection *excess(uint64_t limit, uint64_t *held, uint64_t *total) {
        uint64_t most = 0;
        for (Connection *each = blocked_.first; each != nullptr; each = each->of_blocked.after) most += each->output.size();
        if (most <= limit || (*total = count()) <= limit) return nullptr;
        Connection *largest = blocked_.first;
        for (Connection *each = largest; each != nullptr; each = each->of_blocked.after) {
            if (each->unread > largest->unread) largest = each;
        }
        *held = largest->unread;
        return largest;
    }

  private:
    struct Piece {
        Value *value;
        Connection *owner;
    };

    static int compare(const void *left, const void *right) {
        const uintptr_t one = reinterpret_cast<uintptr_t>(static_cast<const Piece *>(left)->value);
        const uintptr_t other = reinterpret_cast<uintptr_t>(static_cast<const Piece *>(right)->value);
        return one < other ? -1 : one > other;
    }

    // Count what each connection holds; gives the sum.
    uint64_t count() {
        uint64_t total = 0;
        Ring<Piece> pieces;
        for (Connection *each = blocked_.first; each != nullptr; each = each->of_blocked.after) {
            each->unread = each->output.each_piece([&](Value *value) { pieces.push({value, each}); });
            total += each->unread;
        }
        if (pieces.count() > 1) qsort(&pieces[0], pieces.count(), sizeof(Piece), compare);
        for (size_t first = 0, end = 0; first < pieces.count(); first = end) {
            Value *value = pieces[first].value;
            while (end < pieces.count() && pieces[end].value == value) ++end;
            for (size_t at = first; at < end; ++at) pieces[at].owner->unread += value->size / (end - first);
            total += value->size;
        }
        return total;
    }

    List<Connection, &Connection::of_blocked> blocked_;
};

}  // namespace rallypoint
