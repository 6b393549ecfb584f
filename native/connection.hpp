// One accepted connection as the reactor sees it, twin of server/connection.py: a descriptor, and what could not be
// sent yet.
//
// A connection is *blocked* while the system takes no more of its output. Blocked with more than kOutputHighSize it is
// not read (*choked*), below kOutputLowSize it is read again.
#pragma once

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.hpp"

namespace rallypoint {

constexpr int PARTS_MAX = 128;  // pieces that one system call takes
constexpr int CALLS_MAX = 8;    // in one flush, so that one peer's many replies do not keep the others waiting

struct Connection : Peer {
    explicit Connection(int descriptor) : fd(descriptor) { id = descriptor; }
    static void *operator new(size_t size) { return take_memory(size); }
    static void operator delete(void *memory) { free(memory); }

    int fd;                      // -1 once it is closed
    bool is_blocked = false;     // the system took less than there was
    bool is_choked = false;      // not read, because too much output is waiting
    bool is_closing = false;     // no more requests are taken; it closes when its output is sent
    bool is_lingering = false;   // its output is sent and its end announced; what the peer still sends is thrown away
    bool is_ending = false;      // the peer's end was reported; it is behind what can be read
    bool is_upstream = false;    // a relay's, to its server: what all others wait for, so it is read in any case
    bool is_solo = false;        // read by a thread of its own, for which it blocks: the others say that they do not
    uint32_t mask = wanted_mask();  // the events that it is watched for
    uint8_t slow_steps = 2;      // two make it heavy, and so a newcomer is until its first short step, ...
    double slow_until = 0;       // ... which does not make up for slow ones before this time
    double linger_until = 0;
    uint64_t unread = 0;         // its share of what all leave unread, when that was counted last

    Link<Connection> of_reactor, of_blocked, of_dirty, of_closing, of_light, of_heavy;

    bool is_heavy() const { return slow_steps > 1 && !is_upstream; }

    // The events to watch for by its state. What can only be read is told once (edge-triggered), so that the system need
    // not look at it again before it sleeps: whoever leaves something unread has to come back by itself.
    uint32_t wanted_mask() const {
        const bool is_read = !is_solo && (is_closing ? is_lingering : !is_paused && !is_choked && !is_held);
        if (is_blocked) return (is_read ? EPOLLIN : 0U) | EPOLLOUT;
        return is_read ? EPOLLIN | EPOLLRDHUP | EPOLLET : is_solo ? EPOLLET : 0U;
    }
    bool is_told_once() const { return mask & EPOLLET; }

    // Bring `is_choked` in line with the output.
    void settle() {
        if (!is_blocked || output.size() < kOutputLowSize) {
            is_choked = false;
        } else if (output.size() > kOutputHighSize) {
            is_choked = !is_upstream;
        }
    }

    void drop_output() {
        output.clear();
        is_blocked = false;
        settle();
    }

    // Tell whether only this user, root, and whomever the file system lets can have made it; else give its address.
    bool is_local(char (&host)[HOST_SIZE]) const {
        sockaddr_storage address = {};
        socklen_t length = sizeof address;
        sockaddr *generic = reinterpret_cast<sockaddr *>(&address);
        if (getsockname(fd, generic, &length) != 0) return false;
        if (address.ss_family == AF_UNIX) {
            // A file has permissions, a local name has none: there the system is asked who it is.
            if (length <= sizeof address.ss_family || reinterpret_cast<char *>(&address)[2] != '\0') return true;
            ucred who;
            length = sizeof who;
            return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) == 0 && (who.uid == geteuid() || who.uid == 0);
        }
        length = sizeof address;
        if (getpeername(fd, generic, &length) == 0) {
            getnameinfo(generic, length, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
        }
        return false;
    }

    // Send as much as the system takes, kFlushSizeMax at most; gives false if the connection is lost. Sets `is_blocked`
    // and `is_choked`.
    bool flush() {
        bool is_short = false;
        size_t room = kFlushSizeMax;
        for (int calls = 0; calls < CALLS_MAX && room > 0 && !output.empty() && !is_short; ++calls) {
            iovec parts[PARTS_MAX];
            msghdr message = {};
            message.msg_iov = parts;
            const size_t count = static_cast<size_t>(output.front(parts, PARTS_MAX));
            size_t given = 0;
            while (message.msg_iovlen < count && given < room) {
                size_t &size = parts[message.msg_iovlen++].iov_len;
                if (size > room - given) size = room - given;
                given += size;
            }
            const ssize_t sent = message.msg_iovlen == 1 ? send(fd, parts->iov_base, parts->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
                                                         : sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent < 0 && errno != EAGAIN) return false;
            is_short = sent < 0 || static_cast<size_t>(sent) < given;
            if (sent > 0) {
                output.consume(static_cast<size_t>(sent));
                room -= static_cast<size_t>(sent);
            }
        }
        is_blocked = !output.empty();
        settle();
        return true;
    }
};

// A peer's address for a log line; never a name, none is looked up.
struct PeerName {
    explicit PeerName(const Connection &connection) {
        sockaddr_storage address;
        socklen_t length = sizeof address;
        sockaddr *generic = reinterpret_cast<sockaddr *>(&address);
        char host[NI_MAXHOST], port[NI_MAXSERV];
        if (getpeername(connection.fd, generic, &length) != 0) {
            snprintf(text, sizeof text, "a peer that is gone");
        } else if ((address.ss_family != AF_INET && address.ss_family != AF_INET6) ||
                   getnameinfo(generic, length, host, sizeof host, port, sizeof port,
                               NI_NUMERICHOST | NI_NUMERICSERV)) {
            snprintf(text, sizeof text, "a local peer");
        } else {
            snprintf(text, sizeof text, address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
        }
    }

    char text[ADDRESS_SIZE];
};

}  // namespace rallypoint
