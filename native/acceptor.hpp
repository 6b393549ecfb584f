// Taking connections from listening sockets, also when descriptors run out, twin of server/acceptor.py: one descriptor
// is kept in reserve, to take a connection and close it, so that its client learns at once that it is refused.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "notices.hpp"
#include "spec.inc"

namespace rallypoint {

struct TcpOption {
    int level, option, value;
};

// As net/tune.py. Linux hands a listener's options on to what it accepts, so they are set once; Unix domain sockets
// refuse them, which is as well.
constexpr TcpOption kTcpOptions[] = {
    {IPPROTO_TCP, TCP_NODELAY, 1},    {SOL_SOCKET, SO_KEEPALIVE, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 120},
    {IPPROTO_TCP, TCP_KEEPINTVL, 30}, {IPPROTO_TCP, TCP_KEEPCNT, 10},
};

// Between sockets of one machine nothing is congested, and what the system chose against it has its work with each
// packet: with BBR, 3 % of what 64 busy peers cost. Reno has the least, and is always there.
inline void spare_congestion_control(int fd) { setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4); }

inline bool is_loopback(const sockaddr_storage &address) {
    if (address.ss_family == AF_INET) {
        return reinterpret_cast<const uint8_t *>(&reinterpret_cast<const sockaddr_in &>(address).sin_addr)[0] == 127;
    }
    if (address.ss_family != AF_INET6) return false;
    const in6_addr &host = reinterpret_cast<const sockaddr_in6 &>(address).sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(&host) || (IN6_IS_ADDR_V4MAPPED(&host) && host.s6_addr[12] == 127);
}

class Acceptor {
  public:
    explicit Acceptor(Notices &notices) : notices_(notices) {}
    ~Acceptor() { close(); }
    Acceptor(const Acceptor &) = delete;
    Acceptor &operator=(const Acceptor &) = delete;

    // Own the listeners from now on.
    void adopt(const int *fds, int count) {
        listeners_ = static_cast<Listener *>(take_memory(sizeof(Listener) * static_cast<size_t>(count)));
        for (; count_ < count; ++count_) {
            const int fd = fds[count_];
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
            for (const TcpOption &each : kTcpOptions) {
                setsockopt(fd, each.level, each.option, &each.value, sizeof each.value);
            }
            sockaddr_storage address = {};
            socklen_t length = sizeof address;
            getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
            const bool is_spared = is_loopback(address);
            if (is_spared) spare_congestion_control(fd);
            listeners_[count_] = {fd, is_spared};
        }
        refill();
    }

    // Close this process's copies of the descriptors; socket files are the owner's to remove.
    void close() {
        while (count_ > 0) ::close(listeners_[--count_].fd);
        free(listeners_);
        listeners_ = nullptr;
        if (reserve_ >= 0) ::close(reserve_);
        reserve_ = -1;
    }

    int count() const { return count_; }
    int fd(int index) const { return listeners_[index].fd; }
    // Nothing should be accepted before this time; 0 for no pause.
    double paused_until() const { return paused_until_; }

    // Take the connections that wait at one listener, kAcceptsMax at most; gives their number.
    int accept(int fd, double now, int *accepted) {
        const Listener &listener = with(fd);
        int count = 0, refused = 0;
        for (int attempt = 0; attempt < static_cast<int>(kAcceptsMax); ++attempt) {
            const int taken = take(listener);
            if (taken >= 0) {
                accepted[count++] = taken;
            } else if (errno == EAGAIN) {
                break;
            } else if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) {
                continue;  // that one connection failed before it was taken
            } else if (refuse_one(listener)) {
                ++refused;
            } else {
                // EAGAIN: nobody waits, the system only looked for a descriptor before it looked for a connection.
                if (errno != EAGAIN) paused_until_ = now + kPauseS;
                break;
            }
        }
        if (refused || paused_until_ > now) log(refused);
        return count;
    }

  private:
    struct Listener {
        int fd;
        bool is_spared;  // of congestion control, and so is all that it accepts
    };

    const Listener &with(int fd) const {
        int at = 0;
        while (listeners_[at].fd != fd) ++at;
        return listeners_[at];
    }

    static int take(const Listener &listener) {
        sockaddr_storage address = {};
        socklen_t length = sizeof address;
        sockaddr *const peer = listener.is_spared ? nullptr : reinterpret_cast<sockaddr *>(&address);
        const int fd = accept4(listener.fd, peer, peer ? &length : nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0 && is_loopback(address)) spare_congestion_control(fd);
        return fd;
    }

    void refill() { reserve_ = open("/dev/null", O_RDONLY | O_CLOEXEC); }

    // Take one connection on the reserve descriptor and close it; tell whether there was one, else `errno` says why.
    bool refuse_one(const Listener &listener) {
        if (reserve_ < 0) refill();
        if (reserve_ < 0) return false;
        ::close(reserve_);
        const int fd = take(listener), error = errno;
        if (fd >= 0) ::close(fd);
        refill();
        errno = error;
        return fd >= 0;
    }

    void log(int refused) {
        rlimit limit = {};
        getrlimit(RLIMIT_NOFILE, &limit);
        char what[64];
        if (refused) {
            snprintf(what, sizeof what, "refused %d connection%s", refused, refused == 1 ? "" : "s");
        } else {
            snprintf(what, sizeof what, "accepts nothing for %g s", kPauseS);
        }
        notices_.put(-1, "%s: no file descriptor is left (limit %llu)", what,
                     static_cast<unsigned long long>(limit.rlim_cur));
    }

    Notices &notices_;
    Listener *listeners_ = nullptr;
    int count_ = 0;
    int reserve_ = -1;
    double paused_until_ = 0;
};

}  // namespace rallypoint
