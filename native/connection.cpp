// Twin of server/connection.py.
#include "connection.hpp"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace rallypoint {

namespace {

constexpr int SEGMENTS_MAX = 128;  // pieces that one system call takes
constexpr int CALLS_MAX = 8;       // in one flush, so that one peer's many replies do not keep the others waiting

}  // namespace

bool Connection::flush() {
    for (int calls = 0; calls < CALLS_MAX && !output.empty(); ++calls) {
        iovec segments[SEGMENTS_MAX];
        const int count = output.front(segments, SEGMENTS_MAX);
        ssize_t sent;
        if (count == 1) {
            sent = send(fd, segments[0].iov_base, segments[0].iov_len, MSG_NOSIGNAL);
        } else {
            msghdr message = {};
            message.msg_iov = segments;
            message.msg_iovlen = static_cast<size_t>(count);
            sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        }
        if (sent < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK) return false;
            break;
        }
        size_t given = 0;
        for (int i = 0; i < count; ++i) given += segments[i].iov_len;
        output.consume(static_cast<size_t>(sent));
        if (static_cast<size_t>(sent) < given) break;
    }
    is_blocked = !output.empty();
    settle();
    return true;
}

void Connection::settle() {
    if (!is_blocked) {
        is_choked = false;
    } else if (output.size() > kOutputHighSize) {
        is_choked = true;
    } else if (output.size() < kOutputLowSize) {
        is_choked = false;
    }
}

uint32_t Connection::wanted_mask() const {
    uint32_t wanted = 0;
    if (is_closing) {
        if (is_lingering) wanted = EPOLLIN;
    } else if (!is_paused && !is_choked) {
        wanted = EPOLLIN;
    }
    return is_blocked ? wanted | EPOLLOUT : wanted;
}

void Connection::peer_name(char *text, size_t size) const {
    sockaddr_storage address;
    socklen_t length = sizeof address;
    sockaddr *generic = reinterpret_cast<sockaddr *>(&address);
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getpeername(fd, generic, &length) != 0) {
        snprintf(text, size, "a peer that is gone");
    } else if ((address.ss_family != AF_INET && address.ss_family != AF_INET6) ||
               getnameinfo(generic, length, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV)) {
        snprintf(text, size, "a local peer");
    } else {
        snprintf(text, size, address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    }
}

}  // namespace rallypoint
