// What the load generator and the floor server share: arguments, clock, cores, addresses, the end with a message.

#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace bench {

constexpr int BACKLOG = 65535;  // the kernel lowers it to its own maximum

[[noreturn]] [[gnu::format(printf, 1, 2)]] inline void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

inline int64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

// `--name value` pairs; a name that nobody asks for is not noticed, the Python side is the only caller.
class Arguments {
  public:
    Arguments(int argc, char **argv) {
        for (int i = 1; i < argc; i += 2) {
            if (strncmp(argv[i], "--", 2) != 0 || i + 1 == argc) die("expected --name value, got %s", argv[i]);
            values_[argv[i] + 2] = argv[i + 1];
        }
    }

    std::string text(const char *name, const char *otherwise = "") const {
        auto found = values_.find(name);
        return found == values_.end() ? otherwise : found->second;
    }

    int64_t number(const char *name, int64_t otherwise) const {
        auto found = values_.find(name);
        return found == values_.end() ? otherwise : strtoll(found->second.c_str(), nullptr, 10);
    }

    double real(const char *name, double otherwise) const {
        auto found = values_.find(name);
        return found == values_.end() ? otherwise : strtod(found->second.c_str(), nullptr);
    }

  private:
    std::map<std::string, std::string> values_;
};

// The life of either program: on one core, with all descriptors that it may have, ending with the one who started it.
inline void settle_in(const Arguments &arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int64_t core = arguments.number("core", -1);
    if (core >= 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(static_cast<size_t>(core), &cores);
        if (sched_setaffinity(0, sizeof cores, &cores) != 0) die("cannot run on core %ld", static_cast<long>(core));
    }
    alarm(static_cast<unsigned>(arguments.number("limit-s", 600)));  // nothing here runs for ever
}

struct Address {
    sockaddr_storage bytes{};
    socklen_t size = 0;
    int family = AF_INET;

    const sockaddr *get() const { return reinterpret_cast<const sockaddr *>(&bytes); }
};

inline Address tcp_address(uint32_t host, uint16_t port) {
    Address address;
    auto *in = reinterpret_cast<sockaddr_in *>(&address.bytes);
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    in->sin_addr.s_addr = htonl(host);
    address.size = sizeof *in;
    return address;
}

inline Address unix_address(const std::string &path) {
    Address address;
    auto *un = reinterpret_cast<sockaddr_un *>(&address.bytes);
    un->sun_family = AF_UNIX;
    if (path.size() >= sizeof un->sun_path) die("the path of the socket is too long");
    memcpy(un->sun_path, path.data(), path.size());
    if (path[0] == '@') un->sun_path[0] = '\0';  // an abstract name
    address.family = AF_UNIX;
    address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (path[0] == '@' ? 0 : 1));
    return address;
}

// "PORT" on 127.0.0.1, or "unix:PATH", or "unix:@abstract".
inline Address parse_target(const std::string &target) {
    if (target.rfind("unix:", 0) == 0) return unix_address(target.substr(5));
    return tcp_address(INADDR_LOOPBACK, static_cast<uint16_t>(strtoul(target.c_str(), nullptr, 10)));
}

inline void no_delay(int fd, int family) {
    int on = 1;
    if (family == AF_INET) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace bench
