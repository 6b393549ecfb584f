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

// As net/stream.py. Linux hands a listener's options on to what it accepts, so they are set once; Unix domain sockets
// refuse them, which is as well.
constexpr TcpOption kTcpOptions[] = {
    {IPPROTO_TCP, TCP_NODELAY, 1},    {SOL_SOCKET, SO_KEEPALIVE, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 120},
    {IPPROTO_TCP, TCP_KEEPINTVL, 30}, {IPPROTO_TCP, TCP_KEEPCNT, 10},
};

class Acceptor {
  public:
    explicit Acceptor(Notices &notices) : notices_(notices) {}
    ~Acceptor() { close(); }
    Acceptor(const Acceptor &) = delete;
    Acceptor &operator=(const Acceptor &) = delete;

    // Own the listeners from now on.
    void adopt(const int *fds, int count) {
        fds_ = static_cast<int *>(take_memory(sizeof(int) * static_cast<size_t>(count)));
        for (; count_ < count; ++count_) {
            const int fd = fds_[count_] = fds[count_];
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
            for (const TcpOption &each : kTcpOptions) {
                setsockopt(fd, each.level, each.option, &each.value, sizeof each.value);
            }
        }
        refill();
    }

    // Close this process's copies of the descriptors; socket files are the owner's to remove.
    void close() {
        while (count_ > 0) ::close(fds_[--count_]);
        free(fds_);
        fds_ = nullptr;
        if (reserve_ >= 0) ::close(reserve_);
        reserve_ = -1;
    }

    int count() const { return count_; }
    int fd(int index) const { return fds_[index]; }
    // Nothing should be accepted before this time; 0 for no pause.
    double paused_until() const { return paused_until_; }

    // Take the connections that wait at one listener, kAcceptsMax at most; gives their number.
    int accept(int listener, double now, int *accepted) {
        int count = 0, refused = 0;
        for (int attempt = 0; attempt < static_cast<int>(kAcceptsMax); ++attempt) {
            const int fd = take(listener);
            if (fd >= 0) {
                accepted[count++] = fd;
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
    static int take(int listener) { return accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC); }

    void refill() { reserve_ = open("/dev/null", O_RDONLY | O_CLOEXEC); }

    // Take one connection on the reserve descriptor and close it; tell whether there was one, else `errno` says why.
    bool refuse_one(int listener) {
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
    int *fds_ = nullptr;
    int count_ = 0;
    int reserve_ = -1;
    double paused_until_ = 0;
};

}  // namespace rallypoint
