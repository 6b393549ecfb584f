// What every workload has: its options, figures and their print, and connections, many under one epoll or one that waits.

#pragma once

#include <dirent.h>
#include <sys/epoll.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "common.hpp"
#include "dialect.hpp"

namespace bench {

constexpr size_t BUFFER_SIZE = 256 * 1024;
constexpr size_t GREETED_AT_ONCE = 1024;    // connections that are opened before their greetings are read
constexpr size_t PER_SOURCE = 8000;         // connections from one loopback address: ports are scarcer than descriptors

inline char buffer[BUFFER_SIZE];

// --- options and figures -----------------------------------------------------------------------------------

inline Wire parse_wire(const std::string &name) {
    if (name == "session") return Wire::session;
    if (name == "etcd") return Wire::etcd;
    return name == "resp" ? Wire::resp : Wire::c10d;
}

// Several ports, with commas between them, are as many servers, and each has its share of the connections.
inline std::vector<Address> parse_targets(const std::string &text) {
    std::vector<Address> targets;
    for (size_t begin = 0, end; begin <= text.size(); begin = end + 1) {
        end = std::min(text.find(',', begin), text.size());
        targets.push_back(parse_target(text.substr(begin, end - begin)));
    }
    return targets;
}

struct Options {
    explicit Options(const Arguments &arguments)
        : targets(parse_targets(arguments.text("target"))),
          wire(parse_wire(arguments.text("wire", "c10d"))),
          op(arguments.text("op", "get")),
          connections(static_cast<size_t>(arguments.number("connections", 1))),
          depth(static_cast<size_t>(arguments.number("depth", 1))),
          per(static_cast<size_t>(arguments.number("per", 1))),
          keys(static_cast<size_t>(arguments.number("keys", 1))),
          value(static_cast<size_t>(arguments.number("value", 32)), 'v'),
          repeat(static_cast<int>(arguments.number("repeat", 3))),
          ns(static_cast<int64_t>(arguments.real("seconds", 0.4) * 1e9)),
          spin_ns(arguments.number("spin-us", 0) * 1000),
          pid(arguments.number("pid", 0)),
          is_floor(arguments.number("floor", 0) != 0),
          is_rotated(arguments.number("rotate", 0) != 0),
          by_verb(arguments.number("verb", 0) != 0) {}

    std::vector<Address> targets;
    Wire wire;
    std::string op;
    size_t connections, depth, per, keys;
    std::string value;
    int repeat;
    int64_t ns, spin_ns, pid;
    bool is_floor, is_rotated, by_verb;
};

inline std::string key_name(size_t i) {
    char name[32];
    snprintf(name, sizeof name, "/bench/%09zu", i);
    return name;
}

// Seconds of processor time that all threads of a process have had; the kernel counts nanoseconds here.
inline double cpu_s(int64_t pid) {
    if (pid == 0) return 0;
    std::string folder = "/proc/" + std::to_string(pid) + "/task";
    double total = 0;
    DIR *tasks = opendir(folder.c_str());
    if (tasks == nullptr) die("the server is gone");
    while (dirent *entry = readdir(tasks)) {
        if (entry->d_name[0] == '.') continue;
        FILE *file = fopen((folder + "/" + entry->d_name + "/schedstat").c_str(), "r");
        unsigned long long ran = 0;
        if (file == nullptr) continue;
        if (fscanf(file, "%llu", &ran) == 1) total += static_cast<double>(ran) / 1e9;
        fclose(file);
    }
    closedir(tasks);
    return total;
}

// What a measured stretch took: time, and how busy either side was.
class Stretch {
  public:
    explicit Stretch(const Options &options) : pid_(options.pid) { start(); }

    void start() {
        server_s_ = cpu_s(pid_);
        own_s_ = cpu_s(getpid());
        start_ns_ = now_ns();
    }

    double end() {
        double took_s = static_cast<double>(now_ns() - start_ns_) / 1e9;
        own_busy += cpu_s(getpid()) - own_s_;
        server_busy += cpu_s(pid_) - server_s_;
        total_s += took_s;
        return took_s;
    }

    // The last members of the line that every workload prints.
    void print_shares() const {
        printf("\"generator_busy\": %.3f, \"server_busy\": %.3f, \"server_cpu_s\": %.6f}\n", own_busy / total_s,
               server_busy / total_s, server_busy);
    }

    double own_busy = 0, server_busy = 0, total_s = 0;

  private:
    int64_t pid_;
    double server_s_ = 0, own_s_ = 0;
    int64_t start_ns_ = 0;
};

inline double quantile(std::vector<float> &sorted, double share) {
    return sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * static_cast<double>(sorted.size())))];
}

// Prints `"NAME_p50": ...` and so on; sorts the figures.
inline void print_quantiles(const char *name, std::vector<float> &figures) {
    if (figures.empty()) die("nothing was measured");
    std::sort(figures.begin(), figures.end());
    double sum = 0;
    for (float figure : figures) sum += static_cast<double>(figure);
    printf("\"%s_mean\": %.3f, \"%s_p50\": %.3f, \"%s_p99\": %.3f, \"%s_p999\": %.3f, \"%s_max\": %.3f, \"%s_count\": %zu, ",
           name, sum / static_cast<double>(figures.size()), name, quantile(figures, 0.5), name, quantile(figures, 0.99),
           name, quantile(figures, 0.999), name, static_cast<double>(figures.back()), name, figures.size());
}

inline void print_list(const char *name, const std::vector<double> &figures) {
    printf("\"%s\": [", name);
    for (size_t i = 0; i < figures.size(); i++) printf("%s%.4f", i > 0 ? ", " : "", figures[i]);
    printf("], ");
}

// --- connections ---------------------------------------------------------------------------------------------

inline int open_socket(const Options &options, size_t number) {
    const Address &target = options.targets[number * options.targets.size() / options.connections];
    int fd = socket(target.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket: %s", strerror(errno));
    if (target.family == AF_INET && options.connections > PER_SOURCE) {
        int on = 1;
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        Address source = tcp_address(INADDR_LOOPBACK + 1 + static_cast<uint32_t>(number / PER_SOURCE), 0);
        if (bind(fd, source.get(), source.size) != 0) die("bind: %s", strerror(errno));
    }
    while (connect(fd, target.get(), target.size) != 0) {
        if (errno != EAGAIN && errno != EINTR) die("connect: %s", strerror(errno));
    }
    no_delay(fd, target.family);
    return fd;
}

inline void send_fully(int fd, std::string_view data) {
    while (!data.empty()) {
        ssize_t sent = send(fd, data.data(), data.size(), MSG_NOSIGNAL);
        if (sent < 0) die("send: %s", strerror(errno));
        data.remove_prefix(static_cast<size_t>(sent));
    }
}

inline void read_fully(int fd, char *into, size_t size) {
    for (size_t have = 0; have < size;) {
        ssize_t got = recv(fd, into + have, size - have, 0);
        if (got <= 0) die("the server ended the connection after %zu of %zu bytes", have, size);
        have += static_cast<size_t>(got);
    }
}

// Reads the reply of one request where its size may be unknown.
inline void read_reply(int fd, const Ask &ask) {
    if (ask.reply_lines == 0) {
        if (ask.reply_size > BUFFER_SIZE) die("the reply is too long to be read at once");
        return read_fully(fd, buffer, ask.reply_size);
    }
    for (size_t lines = 0; lines < ask.reply_lines;) {
        ssize_t got = recv(fd, buffer, sizeof buffer, 0);
        if (got <= 0) die("the server ended the connection");
        lines += static_cast<size_t>(std::count(buffer, buffer + got, '\n'));
    }
}

inline void greet(int fd, const Ask &hello) {
    read_fully(fd, buffer, hello.reply_size);
    if (memcmp(buffer, hello.reply.data(), hello.reply.size()) != 0) die("the server does not speak the protocol");
}

// Closed by a reset: thousands of ports in TIME_WAIT would slow down the next measurement's connects.
inline void close_at_once(int fd) {
    linger now{1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

struct Peer {
    int fd = -1;
    uint32_t number = 0;
    int stage = 0;
    uint64_t next_id = 1;  // of a session's requests
    std::string batch;     // a session's requests under way, with their ids
    size_t have = 0;       // bytes or lines of the reply so far
    std::string_view out;  // what the socket did not take
    std::string first;     // the first reply, while it is being compared
};

// All connections of one measurement, and one epoll around them.
class Crowd {
  public:
    explicit Crowd(const Options &options) : peers_(options.connections), poller_(epoll_create1(EPOLL_CLOEXEC)) {
        Ask hello = greeting(options.wire);
        for (size_t begin = 0; begin < peers_.size(); begin += GREETED_AT_ONCE) {
            size_t end = std::min(begin + GREETED_AT_ONCE, peers_.size());
            for (size_t i = begin; i < end; i++) {
                peers_[i].fd = open_socket(options, i);
                peers_[i].number = static_cast<uint32_t>(i);
                send_fully(peers_[i].fd, hello.request);
            }
            for (size_t i = begin; i < end; i++) greet(peers_[i].fd, hello);
        }
        is_session_ = options.wire == Wire::session;
        for (Peer &peer : peers_) {
            epoll_event event{EPOLLIN, {&peer}};
            epoll_ctl(poller_, EPOLL_CTL_ADD, peer.fd, &event);
        }
    }

    ~Crowd() {
        for (Peer &peer : peers_) close_at_once(peer.fd);
        close(poller_);
    }

    Crowd(const Crowd &) = delete;
    Crowd &operator=(const Crowd &) = delete;

    std::vector<Peer> &peers() { return peers_; }

    // Posts requests that are used again and again; a session's copy has ids of its own.
    void post_again(Peer &peer, const std::string &request) {
        if (!is_session_) return post(peer, request);
        peer.batch = request;
        stamp(peer.batch, peer.next_id);
        post(peer, peer.batch);
    }

    // Sends without blocking; what does not fit goes out later. `data` must live until then.
    void post(Peer &peer, std::string_view data) {
        if (!peer.out.empty()) die("a connection has two requests to send at once");
        ssize_t sent = send(peer.fd, data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN) die("send: %s", strerror(errno));
        if (sent == static_cast<ssize_t>(data.size())) return;
        peer.out = data.substr(sent < 0 ? 0 : static_cast<size_t>(sent));
        want(peer, EPOLLIN | EPOLLOUT);
    }

    // Hands every piece of data that arrives to `on_data(peer, bytes)` until `is_over()`, asked once a wake-up.
    template <class OnData, class IsOver>
    void run(OnData on_data, IsOver is_over) {
        epoll_event events[512];
        while (!is_over()) {
            int n = epoll_wait(poller_, events, 512, -1);
            for (int i = 0; i < n; i++) {
                auto &peer = *static_cast<Peer *>(events[i].data.ptr);
                if (events[i].events & EPOLLOUT) flush(peer);
                if (!(events[i].events & ~uint32_t{EPOLLOUT})) continue;
                ssize_t got = recv(peer.fd, buffer, sizeof buffer, MSG_DONTWAIT);
                if (got < 0 && errno == EAGAIN) continue;
                if (got <= 0) die("the server ended connection %u: %s", peer.number, got < 0 ? strerror(errno) : "EOF");
                on_data(peer, std::string_view(buffer, static_cast<size_t>(got)));
            }
        }
    }

  private:
    std::vector<Peer> peers_;
    int poller_;
    bool is_session_ = false;

    void want(Peer &peer, uint32_t what) {
        epoll_event event{what, {&peer}};
        epoll_ctl(poller_, EPOLL_CTL_MOD, peer.fd, &event);
    }

    void flush(Peer &peer) {
        std::string_view rest = peer.out;
        if (rest.empty()) return;
        peer.out = {};
        ssize_t sent = send(peer.fd, rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN) die("send: %s", strerror(errno));
        if (sent == static_cast<ssize_t>(rest.size())) return want(peer, EPOLLIN);
        peer.out = rest.substr(sent < 0 ? 0 : static_cast<size_t>(sent));
    }
};

// One blocking connection for what happens before and after a measurement.
class Single {
  public:
    explicit Single(const Options &options) : fd_(open_socket(options, 0)), wire_(options.wire) {
        Ask hello = greeting(options.wire);
        send_fully(fd_, hello.request);
        greet(fd_, hello);
    }

    ~Single() { close_at_once(fd_); }

    Single(const Single &) = delete;
    Single &operator=(const Single &) = delete;

    int fd() const { return fd_; }

    // What goes out for a batch: a session's has ids of its own.
    std::string_view prepared(const std::string &request) {
        if (wire_ != Wire::session) return request;
        batch_ = request;
        stamp(batch_, next_id_);
        return batch_;
    }

    void ask(const Ask &ask) {
        send_fully(fd_, prepared(ask.request));
        read_reply(fd_, ask);
        if (!ask.reply.empty() && memcmp(buffer, ask.reply.data(), ask.reply_size) != 0) die("a reply is wrong");
    }

  private:
    int fd_;
    Wire wire_;
    uint64_t next_id_ = 1;
    std::string batch_;
};

}  // namespace bench
