// Twin of server/loop.py.
#include "reactor.hpp"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <new>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

namespace rallypoint {

namespace {

// The clock is not asked after each step: so many small ones in a row are not worth it.
constexpr int UNMEASURED_MAX = 16;
constexpr size_t SMALL_SIZE = 4096;  // a step with less input and output, ...
constexpr int FEW_OWED = 16;         // ... and that releases fewer, is small

// What an event says: a connection's address, or, odd, one of these.
constexpr uint64_t WAKE_TAG = 1;
constexpr uint64_t LISTENER_TAG = 3;  // plus twice the listener's index

pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
Reactor *living = nullptr;

double clock_now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

int as_timeout_ms(double left_s) {
    if (!(left_s > 0)) return 0;
    return left_s * 1000 < INT_MAX - 1 ? static_cast<int>(left_s * 1000) + 1 : INT_MAX;  // not too early
}

}  // namespace

// --- for the owner ---------------------------------------------------------------------------------------------------

Reactor *Reactor::make(const Options &options, const int *listeners, int count) {
    uint64_t hash_key[2];
    if (getrandom(hash_key, sizeof hash_key, 0) != sizeof hash_key) return nullptr;
    Reactor *reactor = new (take_memory(sizeof(Reactor))) Reactor(options, listeners, count, hash_key);
    reactor->epoll_ = epoll_create1(EPOLL_CLOEXEC);
    reactor->wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (reactor->notices_.fd() < 0 || reactor->epoll_ < 0 || reactor->wake_ < 0 ||
        !reactor->open(WAKE_TAG, reactor->wake_)) {
        const int error = errno;
        reactor->is_listening_ = false;  // the listeners are not ours
        reactor->close();
        reactor->~Reactor();
        free(reactor);
        errno = error;
        return nullptr;
    }
    reactor->acceptor_.adopt();
    pthread_mutex_lock(&registry);
    reactor->next_ = living;
    if (living != nullptr) living->previous_ = reactor;
    living = reactor;
    pthread_mutex_unlock(&registry);
    return reactor;
}

Reactor::Reactor(const Options &options, const int *listeners, int count, const uint64_t *hash_key)
    : engine_(options.limits, *this, hash_key[0], hash_key[1]),
      options_(options),
      acceptor_(listeners, count, notices_),
      events_(static_cast<epoll_event *>(take_memory(sizeof(epoll_event) * kEventsMax))),
      buffer_(static_cast<char *>(take_memory(kReadSize))) {}

Reactor::~Reactor() {
    free(events_);
    free(buffer_);
    pthread_mutex_destroy(&mutex_);
    pthread_mutex_destroy(&door_);
}

void Reactor::destroy(Reactor *reactor) {
    if (reactor->is_abandoned_) return;  // a forked child's copy: giving it back would only copy its pages first
    reactor->close();
    pthread_mutex_lock(&registry);
    (reactor->previous_ != nullptr ? reactor->previous_->next_ : living) = reactor->next_;
    if (reactor->next_ != nullptr) reactor->next_->previous_ = reactor->previous_;
    pthread_mutex_unlock(&registry);
    reactor->~Reactor();
    free(reactor);
}

bool Reactor::start() {
    if (has_thread_ || has_ended_ || is_abandoned_) return true;
    // The program's signals are the program's: the thread is born with all of them blocked.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&thread_, nullptr, main, this);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    errno = error;
    return has_thread_ = error == 0;
}

void Reactor::stop(double drain_s) {
    drain_s_ = drain_s > 0 ? drain_s : 0;
    const uint64_t one = 1;
    if (wake_ >= 0 && write(wake_, &one, sizeof one) < 0) return;  // full: it wakes up anyway
}

void Reactor::wait() {
    if (has_thread_) pthread_join(thread_, nullptr);
    has_thread_ = false;
}

void Reactor::close() {
    if (is_listening_) acceptor_.close();
    is_listening_ = false;
    has_ended_ = true;
    if (epoll_ >= 0) ::close(epoll_);
    if (wake_ >= 0) ::close(wake_);
    epoll_ = wake_ = -1;
    notices_.close();
}

void *Reactor::main(void *reactor) {
#ifdef __GLIBC__
    pthread_setname_np(pthread_self(), "rallypoint");
#endif
    static_cast<Reactor *>(reactor)->run();
    return nullptr;
}

// Serve until `stop`; all connections and listeners are closed at the end.
void Reactor::run() {
    pthread_mutex_lock(&mutex_);
    now_ = clock_now();
    resume_accepting();
    while (drain_s_ < 0) wake_up(timeout_ms());
    drain();
    while (Connection *connection = all_.first()) {
        if (!connection->is_closing) engine_.disconnect(*connection);
        close(*connection);
    }
    bury();
    pthread_mutex_unlock(&mutex_);
    has_ended_ = true;
    notices_.wake();
}

// --- one wake-up -----------------------------------------------------------------------------------------------------

// Wait for events, visitors let in; gives their number.
int Reactor::poll(int timeout_ms) {
    const double spin_until = options_.spin_s > 0 && timeout_ms != 0 ? clock_now() + options_.spin_s : 0;
    pthread_mutex_unlock(&mutex_);
    int count = 0;
    if (spin_until > 0) {
        do {
            count = epoll_wait(epoll_, events_, kEventsMax, 0);
        } while (count == 0 && clock_now() < spin_until);
    }
    if (count == 0) count = epoll_wait(epoll_, events_, kEventsMax, timeout_ms);
    if (visitors_.load(std::memory_order_relaxed) > 0) {
        pthread_mutex_lock(&door_);
        pthread_mutex_unlock(&door_);
    }
    pthread_mutex_lock(&mutex_);
    return count > 0 ? count : 0;
}

// Serve what is ready, waiting for it; gives the number of events.
int Reactor::wake_up(int timeout_ms) {
    const int count = poll(timeout_ms);
    now_ = measured_at_ = clock_now();
    unmeasured_ = 0;
    bool has_others = false;
    for (int i = 0; i < count; ++i) {
        const uint64_t tag = events_[i].data.u64;
        if (tag == WAKE_TAG) {
            uint64_t times;
            if (::read(wake_, &times, sizeof times) < 0) continue;
        } else if (tag & 1) {
            has_others = acceptor_.listener(static_cast<int>((tag - LISTENER_TAG) / 2)).is_ready = true;
        } else {
            serve(*reinterpret_cast<Connection *>(static_cast<uintptr_t>(tag)), events_[i].events);
        }
    }
    if (!turns_.empty()) {
        flush_dirty();
        serve_turns();
    }
    if (has_others) serve_others();
    if (now_ >= due_at_) pass_time();
    flush_dirty();
    bury();
    return count;
}

void Reactor::serve(Connection &connection, uint32_t ready) {
    if (connection.fd < 0) return;  // closed in this very wake-up
    if (ready & EPOLLOUT) make_dirty(connection);
    if (!(ready & ~static_cast<uint32_t>(EPOLLOUT))) return;
    if ((connection.mask & EPOLLIN) && (connection.slow_steps > 1 || measured_at_ - now_ > kSliceS)) {
        turns_.add(connection);
    } else {
        account(connection, read(connection));
    }
}

// Serve a slice of those that wait for their turn.
void Reactor::serve_turns() {
    measured_at_ = clock_now();
    const double until = measured_at_ + kSliceS;
    while (measured_at_ < until) {
        Connection *connection = turns_.take_light();
        if (connection == nullptr) break;
        serve_turn(*connection);
    }
    while (Connection *connection = turns_.take_heavy()) {
        serve_turn(*connection);
        if (measured_at_ >= until) return;
    }
}

void Reactor::serve_turn(Connection &connection) {
    if (connection.is_paused) {
        connection.is_paused = false;
        if (!connection.is_closing) engine_.resume(connection);
        watch(connection);
    } else if (connection.mask & EPOLLIN) {
        read(connection);
    }
    measure(connection);
    flush_dirty();  // it belongs to the slice, much output is much work, but not to the next one's step
    measured_at_ = clock_now();
}

// Read once and take one step; gives the bytes read.
size_t Reactor::read(Connection &connection) {
    if (!(connection.mask & EPOLLIN)) {
        lose(connection);  // not read on purpose, so what is reported is the loss of the connection
        return 0;
    }
    const ssize_t size = recv(connection.fd, buffer_, kReadSize, 0);
    if (size < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) lose(connection);
        return 0;
    }
    if (size == 0) {
        end_of_input(connection);
    } else if (!connection.is_closing) {
        engine_.receive(connection, buffer_, static_cast<size_t>(size));
        if (connection.is_blocked) {
            connection.settle();
            watch(connection);
        }
    }
    return static_cast<size_t>(size);
}

// Take note of how long a light connection's step took, where it may have taken long.
void Reactor::account(Connection &connection, size_t received) {
    const bool is_small = received < SMALL_SIZE && connection.output.size() < SMALL_SIZE && owed_ < FEW_OWED;
    if (is_small && ++unmeasured_ < UNMEASURED_MAX) {
        connection.slow_steps = 0;
    } else {
        measure(connection);
    }
}

void Reactor::measure(Connection &connection) {
    const double after = clock_now();
    const bool is_slow = after - measured_at_ > kHeavyS;
    connection.slow_steps = is_slow ? static_cast<uint8_t>(connection.slow_steps + (connection.slow_steps < 2)) : 0;
    measured_at_ = after;
    unmeasured_ = owed_ = 0;
}

void Reactor::flush_dirty() {
    while (Connection *connection = dirty_.take_first()) {
        connection->is_dirty = false;
        const bool was_blocked = connection->is_blocked;
        if (!connection->flush()) {
            lose(*connection);
            continue;
        }
        blocked_ += connection->is_blocked - was_blocked;
        if (!connection->is_blocked) {
            if (connection->is_paused) turns_.add(*connection);
            if (connection->is_closing) announce_end(*connection);
        }
        if (was_blocked || connection->is_blocked) watch(*connection);
    }
    owed_ = 0;
}

// Watch a connection for what it is ready for by its state.
void Reactor::watch(Connection &connection) {
    const uint32_t mask = connection.wanted_mask();
    if (mask == connection.mask || connection.fd < 0) return;
    connection.mask = mask;
    epoll_event event = {};
    event.events = mask;
    event.data.u64 = reinterpret_cast<uintptr_t>(&connection);
    epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.fd, &event);
}

void Reactor::make_dirty(Connection &connection) {
    if (connection.is_dirty || connection.fd < 0) return;
    connection.is_dirty = true;
    dirty_.add(connection);
}

// --- what the engine says --------------------------------------------------------------------------------------------

void Reactor::owes(Peer &peer) {
    ++owed_;
    make_dirty(static_cast<Connection &>(peer));
}

void Reactor::paused(Peer &peer) {
    Connection &connection = static_cast<Connection &>(peer);
    make_dirty(connection);
    watch(connection);
}

// Close a peer on the engine's word; the log says why.
void Reactor::closed(Peer &peer, int reason, const char *detail) {
    Connection &connection = static_cast<Connection &>(peer);
    char name[128];
    connection.peer_name(name, sizeof name);
    notices_.put(reason, "closed %s: %s", name, detail);
    begin_closing(connection);
}

// --- newcomers -------------------------------------------------------------------------------------------------------

void Reactor::serve_others() {
    int accepted[kAcceptsMax];
    for (int i = 0; i < acceptor_.count(); ++i) {
        Listener &listener = acceptor_.listener(i);
        if (!listener.is_ready) continue;
        listener.is_ready = false;
        if (!is_accepting_) continue;
        const int count = acceptor_.accept(listener, now_, accepted);
        for (int each = 0; each < count; ++each) welcome(accepted[each]);
        if (acceptor_.paused_until() > now_) stop_accepting();
    }
}

// Watch a descriptor for input; false with `errno` set.
bool Reactor::open(uint64_t tag, int fd) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.u64 = tag;
    return epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0;
}

void Reactor::welcome(int fd) {
    Connection *connection = new (take_memory(sizeof(Connection))) Connection(fd);
    all_.add(*connection);
    connection->mask = EPOLLIN;
    if (open(reinterpret_cast<uintptr_t>(connection), fd)) {
        engine_.connect(*connection, now_);
        return;
    }
    const int error = errno;  // the system's bound on watched descriptors
    char name[128];
    connection->peer_name(name, sizeof name);
    notices_.put(-1, "refused %s: it cannot be watched ([Errno %d] %s)", name, error, strerror(error));
    close(*connection);
}

void Reactor::resume_accepting() {
    is_accepting_ = true;
    for (int i = 0; i < acceptor_.count(); ++i) {
        open(LISTENER_TAG + 2 * static_cast<uint64_t>(i), acceptor_.listener(i).fd);
    }
}

void Reactor::stop_accepting() {
    if (!is_accepting_) return;
    is_accepting_ = false;
    for (int i = 0; i < acceptor_.count(); ++i) {
        epoll_ctl(epoll_, EPOLL_CTL_DEL, acceptor_.listener(i).fd, nullptr);
    }
}

// --- ends of connections ---------------------------------------------------------------------------------------------

// The peer sends no more; what it is owed still goes out.
void Reactor::end_of_input(Connection &connection) {
    if (connection.is_closing) {
        close(connection);
        return;
    }
    engine_.disconnect(connection);
    if (connection.output.empty()) {
        close(connection);
    } else {
        begin_closing(connection);
    }
}

void Reactor::begin_closing(Connection &connection) {
    connection.is_closing = true;
    connection.linger_until = clock_now() + options_.linger_s;
    lingering_.add(connection);
    make_dirty(connection);
    watch(connection);
}

// Close our side only: closing both at once would take back replies that the peer has not read yet.
void Reactor::announce_end(Connection &connection) {
    if (connection.is_lingering) return;
    connection.is_lingering = true;
    shutdown(connection.fd, SHUT_WR);
    watch(connection);
}

// The connection broke.
void Reactor::lose(Connection &connection) {
    if (!connection.is_closing) engine_.disconnect(connection);
    close(connection);
}

void Reactor::close(Connection &connection) {
    turns_.discard(connection);
    if (connection.is_dirty) dirty_.remove(connection);
    if (connection.is_closing) lingering_.remove(connection);
    connection.is_dirty = connection.is_closing = false;
    blocked_ -= connection.is_blocked;
    // Closing alone would leave it watched while a process that is about to become another program holds a copy.
    epoll_ctl(epoll_, EPOLL_CTL_DEL, connection.fd, nullptr);
    ::close(connection.fd);
    connection.fd = -1;
    all_.remove(connection);
    closed_.add(connection);
}

// Give back the memory of closed connections, which no event can name any more.
void Reactor::bury() {
    while (Connection *connection = closed_.take_first()) {
        connection->~Connection();
        free(connection);
    }
}

// --- time ------------------------------------------------------------------------------------------------------------

// How long the next poll may wait, -1 for ever.
int Reactor::timeout_ms() {
    due_at_ = 0;
    if (!turns_.empty()) return 0;
    due_at_ = engine_.next_deadline();
    const Connection *lingering = lingering_.first();
    if (lingering != nullptr && lingering->linger_until < due_at_) due_at_ = lingering->linger_until;
    if (!is_accepting_ && acceptor_.paused_until() < due_at_) due_at_ = acceptor_.paused_until();
    return due_at_ == INFINITY ? -1 : as_timeout_ms(due_at_ - now_);
}

void Reactor::pass_time() {
    if (engine_.next_deadline() <= now_) engine_.tick(now_);
    while (lingering_.first() != nullptr && lingering_.first()->linger_until <= now_) close(*lingering_.first());
    if (drain_s_ < 0 && !is_accepting_ && acceptor_.paused_until() <= now_) resume_accepting();
}

// --- the end ---------------------------------------------------------------------------------------------------------

// Serve what is there and send what is owed, until nothing is left or the time is over.
void Reactor::drain() {
    stop_accepting();
    acceptor_.close();
    is_listening_ = false;
    notices_.wake();
    const double started = clock_now();
    while (true) {
        const double left_s = started + drain_s_ - clock_now();
        if (left_s <= 0) return;
        const bool has_turns = !turns_.empty(), is_busy = blocked_ > 0 || has_turns;
        due_at_ = 0;
        if (!wake_up(blocked_ > 0 && !has_turns ? as_timeout_ms(left_s) : 0) && !is_busy) return;
    }
}

// --- visitors and forks ----------------------------------------------------------------------------------------------

void Reactor::enter() {
    ++visitors_;
    pthread_mutex_lock(&door_);
    pthread_mutex_lock(&mutex_);
}

void Reactor::leave() {
    pthread_mutex_unlock(&mutex_);
    pthread_mutex_unlock(&door_);
    --visitors_;
}

void Reactor::before_fork() {
    pthread_mutex_lock(&registry);
    for (Reactor *reactor = living; reactor != nullptr; reactor = reactor->next_) reactor->enter();
}

void Reactor::after_fork_in_parent() {
    for (Reactor *reactor = living; reactor != nullptr; reactor = reactor->next_) reactor->leave();
    pthread_mutex_unlock(&registry);
}

void Reactor::after_fork_in_child() {
    for (Reactor *reactor = living; reactor != nullptr; reactor = reactor->next_) {
        reactor->abandon();
        reactor->leave();
    }
    living = nullptr;
    pthread_mutex_unlock(&registry);
}

// Close this process's copies of all descriptors; the thread did not come along.
void Reactor::abandon() {
    is_abandoned_ = true;
    for (const Connection *each = all_.first(); each != nullptr; each = each->all.next) ::close(each->fd);
    close();
    has_thread_ = false;
}

}  // namespace rallypoint
