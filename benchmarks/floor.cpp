// The floor: a server that makes the system calls of a good server and does no work. It counts bytes and answers bytes.
//
// It is told how many bytes make a request and how long a reply is; it reads nothing of what it is sent. One epoll loop,
// one receive and one send a wake-up and peer: no server on sockets can need less. After a greeting of 10 bytes (its
// last four come back, as PING's do) each connection walks through the --steps again and again:
//
//   each:IN:OUT    every IN bytes are answered by OUT bytes
//   count:IN:8     the same, and the reply is a running number
//   all:TOTAL:OUT  when all connections together have sent TOTAL bytes, each gets OUT bytes
//
//   floor --steps each:17:40                            a GET
//   floor --steps count:24:8,all:90143:1 --members 4096  a barrier of ADD and WAIT
//   floor --steps each:17:40 --blocking 1                one connection, no epoll

#include <sys/epoll.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "common.hpp"

namespace {

using namespace bench;

constexpr size_t HELLO_SIZE = 10;
constexpr size_t HELLO_REPLY_SIZE = 4;

char received[256 * 1024];
char answer[1024 * 1024];

enum class Kind { each, count, all };

struct Step {
    Kind kind;
    size_t in;
    size_t out;
};

struct Peer {
    int fd = -1;
    size_t step = 0;
    size_t have = 0;  // bytes of an unfinished request
    size_t owed = 0;  // bytes of replies that the socket did not take
    bool is_greeted = false;
    bool is_writing = false;
};

std::vector<Step> parse_steps(const std::string &text) {
    std::vector<Step> steps;
    for (size_t at = 0; at < text.size();) {
        size_t end = std::min(text.find(',', at), text.size());
        std::string word = text.substr(at, end - at);
        char kind[8] = "";
        unsigned long in = 0, out = 0;
        if (sscanf(word.c_str(), "%7[a-z]:%lu:%lu", kind, &in, &out) != 3 || in == 0) die("no step: %s", word.c_str());
        Kind which = strcmp(kind, "all") == 0 ? Kind::all : strcmp(kind, "count") == 0 ? Kind::count : Kind::each;
        steps.push_back({which, in, out});
        at = end + 1;
    }
    return steps;
}

class Floor {
  public:
    Floor(const Arguments &arguments, int listener)
        : steps_(parse_steps(arguments.text("steps", "each:1:1"))),
          members_(arguments.number("members", 1)),
          spin_ns_(arguments.number("spin-us", 0) * 1000),
          listener_(listener),
          poller_(epoll_create1(0)) {
        watch(STDIN_FILENO, nullptr);
        watch(listener_, &listener_peer_);
    }

    // Serves until the standard input ends.
    void run() {
        epoll_event events[512];
        int64_t sleepless_until = 0;
        for (;;) {
            int n = epoll_wait(poller_, events, 512, spin_ns_ > 0 && now_ns() < sleepless_until ? 0 : -1);
            if (n > 0 && spin_ns_ > 0) sleepless_until = now_ns() + spin_ns_;
            for (int i = 0; i < n; i++) {
                auto *peer = static_cast<Peer *>(events[i].data.ptr);
                if (peer == nullptr) return;
                if (peer == &listener_peer_) {
                    accept_all();
                } else {
                    serve(*peer, events[i].events);
                }
            }
        }
    }

  private:
    std::vector<Step> steps_;
    int64_t members_;
    int64_t spin_ns_;
    int listener_;
    int poller_;
    Peer listener_peer_;
    std::vector<Peer *> peers_;
    uint64_t counter_ = 0;
    size_t together_ = 0;  // bytes of all connections in a step of kind `all`

    void watch(int fd, Peer *peer) {
        epoll_event event{EPOLLIN, {peer}};
        epoll_ctl(poller_, EPOLL_CTL_ADD, fd, &event);
    }

    void accept_all() {
        for (;;) {
            int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0) return;
            no_delay(fd, AF_INET);
            auto *peer = new Peer;
            peer->fd = fd;
            peers_.push_back(peer);
            watch(fd, peer);
        }
    }

    void serve(Peer &peer, uint32_t what) {
        if (what & EPOLLOUT) flush(peer);
        if (!(what & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
        ssize_t got = recv(peer.fd, received, sizeof received, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            close(peer.fd);
            peers_.erase(std::find(peers_.begin(), peers_.end(), &peer));
            delete &peer;  // epoll reports a descriptor once a round: no later event names this peer
            if (peers_.empty()) counter_ = together_ = 0;
            return;
        }
        take(peer, static_cast<size_t>(got));
    }

    void take(Peer &peer, size_t got) {
        const Step &step = steps_[peer.step];
        if (!peer.is_greeted) {
            peer.is_greeted = true;
            if (got < HELLO_SIZE) die("a greeting came in pieces");
            if (send(peer.fd, received + HELLO_SIZE - HELLO_REPLY_SIZE, HELLO_REPLY_SIZE, MSG_NOSIGNAL) < 0) return;
            got -= HELLO_SIZE;
            if (got == 0) return;
        }
        if (step.kind == Kind::all) {
            together_ += got;
            if (together_ >= step.in) release(step.out);
            return;
        }
        peer.have += got;
        size_t requests = peer.have / step.in;
        if (requests == 0) return;
        peer.have -= requests * step.in;
        if (step.kind == Kind::count) {
            uint64_t number = ++counter_;
            memcpy(answer, &number, sizeof number);
        }
        next_step(peer);
        give(peer, requests * step.out);
    }

    void release(size_t size) {
        together_ = 0;
        counter_ = 0;
        memset(answer, 0, sizeof counter_);
        for (Peer *peer : peers_) {
            next_step(*peer);
            give(*peer, size);
        }
    }

    void next_step(Peer &peer) { peer.step = (peer.step + 1) % steps_.size(); }

    void give(Peer &peer, size_t size) {
        peer.owed += size;
        if (!peer.is_writing) flush(peer);
    }

    void flush(Peer &peer) {
        while (peer.owed > 0) {
            ssize_t sent = send(peer.fd, answer, std::min(peer.owed, sizeof answer), MSG_NOSIGNAL);
            if (sent <= 0) break;
            peer.owed -= static_cast<size_t>(sent);
        }
        if (peer.is_writing == (peer.owed > 0)) return;
        peer.is_writing = peer.owed > 0;
        epoll_event event{EPOLLIN | (peer.is_writing ? uint32_t{EPOLLOUT} : 0), {&peer}};
        epoll_ctl(poller_, EPOLL_CTL_MOD, peer.fd, &event);
    }
};

void read_fully(int fd, size_t size) {
    for (size_t have = 0; have < size;) {
        ssize_t got = recv(fd, received, std::min(size - have, sizeof received), 0);
        if (got <= 0) exit(0);
        have += static_cast<size_t>(got);
    }
}

// One connection, one blocking receive and send a request: what a ping-pong costs without any loop.
void serve_blocking(int listener, const Step &step, int64_t spin_ns) {
    fcntl(listener, F_SETFL, 0);
    int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    no_delay(fd, AF_INET);
    read_fully(fd, HELLO_SIZE);
    if (send(fd, received + HELLO_SIZE - HELLO_REPLY_SIZE, HELLO_REPLY_SIZE, MSG_NOSIGNAL) < 0) return;
    for (;;) {
        size_t have = 0;
        for (int64_t until = spin_ns > 0 ? now_ns() + spin_ns : 0; spin_ns > 0 && have == 0 && now_ns() < until;) {
            ssize_t got = recv(fd, received, sizeof received, MSG_DONTWAIT);
            if (got > 0) have = static_cast<size_t>(got);
        }
        if (have < step.in) read_fully(fd, step.in - have);
        if (send(fd, answer, step.out, MSG_NOSIGNAL) < 0) return;
    }
}

int listen_on(const std::string &path, uint16_t &port) {
    Address address = path.empty() ? tcp_address(INADDR_LOOPBACK, 0) : unix_address(path);
    int fd = socket(address.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (bind(fd, address.get(), address.size) != 0 || listen(fd, BACKLOG) != 0) die("cannot listen: %s", strerror(errno));
    if (path.empty()) {
        sockaddr_in own{};
        socklen_t size = sizeof own;
        getsockname(fd, reinterpret_cast<sockaddr *>(&own), &size);
        port = ntohs(own.sin_port);
    }
    return fd;
}

}  // namespace

int main(int argc, char **argv) {
    Arguments arguments(argc, argv);
    settle_in(arguments);
    uint16_t port = 0;
    int listener = listen_on(arguments.text("unix"), port);
    printf("{\"port\": %u, \"pid\": %d}\n", port, getpid());
    fflush(stdout);
    if (arguments.number("blocking", 0) != 0) {
        Step step = parse_steps(arguments.text("steps"))[0];
        serve_blocking(listener, step, arguments.number("spin-us", 0) * 1000);
        return 0;
    }
    Floor(arguments, listener).run();
    return 0;
}
