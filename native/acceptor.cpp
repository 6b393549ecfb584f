// Twin of server/acceptor.py.
#include "acceptor.hpp"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

namespace rallypoint {

namespace {

// As net/stream.py. Linux hands a listener's options on to what it accepts, so they are set once.
constexpr int KEEPALIVE_IDLE_S = 120, KEEPALIVE_INTERVAL_S = 30, KEEPALIVE_PROBES = 10;

void tune(int fd) {
    int family = AF_UNIX;
    socklen_t size = sizeof family;
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
    if (family == AF_UNIX) return;
    const struct {
        int level, option, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
    };
    for (const auto &each : options) setsockopt(fd, each.level, each.option, &each.value, sizeof each.value);
}

bool is_exhausted(int error) { return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM; }

unsigned long long descriptor_limit() {
    rlimit limit = {};
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
}

}  // namespace

Acceptor::Acceptor(const int *fds, int count, Notices &notices)
    : listeners_(static_cast<Listener *>(take_memory(sizeof(Listener) * static_cast<size_t>(count)))),
      count_(count),
      notices_(notices) {
    for (int i = 0; i < count; ++i) listeners_[i] = Listener{fds[i], false};
}

void Acceptor::adopt() {
    for (int i = 0; i < count_; ++i) {
        fcntl(listeners_[i].fd, F_SETFL, fcntl(listeners_[i].fd, F_GETFL) | O_NONBLOCK);
        tune(listeners_[i].fd);
    }
    refill();
}

int Acceptor::accept(const Listener &listener, double now, int *accepted) {
    int count = 0, refused = 0;
    for (int attempt = 0; attempt < static_cast<int>(kAcceptsMax); ++attempt) {
        const int fd = accept4(listener.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            accepted[count++] = fd;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            break;
        } else if (!is_exhausted(errno)) {
            continue;  // that one connection failed before it was taken
        } else if (refuse_one(listener)) {
            ++refused;
        } else {
            paused_until_ = now + kPauseS;
            break;
        }
    }
    if (refused) {
        notices_.put(-1, "refused %d connection%s: no file descriptor is left (limit %llu)", refused,
                     refused == 1 ? "" : "s", descriptor_limit());
    } else if (paused_until_ > now) {
        notices_.put(-1, "accepts nothing for %g s: no file descriptor is left (limit %llu)", kPauseS,
                     descriptor_limit());
    }
    return count;
}

// Take one connection on the reserve descriptor and close it; tell whether that was possible.
bool Acceptor::refuse_one(const Listener &listener) {
    if (reserve_ < 0) refill();
    if (reserve_ < 0) return false;
    ::close(reserve_);
    reserve_ = -1;
    const int fd = accept4(listener.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    const bool is_taken = fd >= 0 || errno == EAGAIN || errno == EWOULDBLOCK;
    if (fd >= 0) ::close(fd);
    refill();
    return is_taken;
}

void Acceptor::refill() { reserve_ = open("/dev/null", O_RDONLY | O_CLOEXEC); }

void Acceptor::close() {
    for (int i = 0; i < count_; ++i) ::close(listeners_[i].fd);
    count_ = 0;
    if (reserve_ >= 0) ::close(reserve_);
    reserve_ = -1;
}

}  // namespace rallypoint
