// The thread that drives an engine, twin of server/loop.py: sockets, readiness, output, time. It owns no rule of the
// store, and touches the interpreter for nothing but commits of a durable server. A relay's machine takes the engine's
// place; the one connection that it has made itself is served with the others.
//
// Theory of operation. One wake-up is the Python loop's, step by step. All state belongs to the reactor's thread and is
// guarded by one mutex, which it holds except while it waits for events; others who hold it (`visit`) see a reactor
// between two wake-ups. A visitor is let in before the next wake-up, however busy the reactor is. `fork` is a visit to
// all living reactors at once: the child gets whole state, closes its copies of all descriptors, and has no reactor.
//
// Of a durable server nothing leaves before it is on the disk: with its steps done, the reactor's thread has the
// journal commit what they have changed, open for visitors meanwhile. A commit that fails ends the reactor.
//
// Connections are found by the pointer in the event. One that was closed may still be named by a later event of the
// same wake-up, so its memory is kept until the end of it.
#pragma once

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#include <atomic>

#include "acceptor.hpp"
#include "solo.hpp"
#include "turns.hpp"
#include "unread.hpp"

namespace rallypoint {

// The clock is not asked after each step: so many small ones in a row are not worth it.
constexpr int UNMEASURED_MAX = 8;
constexpr double kGapS = 20e-6;  // without an event, after which a commit begins
constexpr size_t SMALL_SIZE = 4096;  // a step with less input and output, ...
constexpr int FEW_OWED = 16;         // ... and that releases fewer, is small

struct Options {
    Limits limits;
    double linger_s;  // how long a refused peer may take to read the end of its stream
    double spin_s;    // how long to look for events before sleeping, after the last ones
    int solo_after;   // wake-ups for one peer alone before it has a thread of its own; 0: it never has
    Secrets secrets;
};

// Where a durable server's changes go; called in the reactor's thread. False if that is to end.
class Ledger {
  public:
    virtual ~Ledger() = default;
    // Have a commit on the disk; `sum_count` is how much all since the last sum add up to, about. Sets `wants_sum`.
    virtual bool commit(Bytes changes, size_t sum_count, bool *wants_sum) = 0;
    virtual bool fold(Bytes sum) = 0;

    static void operator delete(void *memory) { free(memory); }
};

template <class Machine>
class Reactor final : Driver, Host {
  public:
    // --- for the owner -----------------------------------------------------------------------------------------------

    // Make a reactor that owns the listeners; null with `errno` set, and they stay the caller's, if that cannot be.
    static Reactor *make(const Options &options, const int *listeners, int count) {
        Reactor *reactor = new Reactor(options);
        const bool has_all = reactor->notices_.fd >= 0 && reactor->epoll_ >= 0 && reactor->wake_ >= 0;
        if (has_all && reactor->control(EPOLL_CTL_ADD, reactor->wake_)) {
            reactor->acceptor_.adopt(listeners, count);
            pthread_mutex_lock(&registry_);
            living_.add(*reactor);
            pthread_mutex_unlock(&registry_);
            return reactor;
        }
        const int error = errno;
        delete reactor;
        errno = error;
        return nullptr;
    }

    // Give everything back; the thread has ended, or was never started.
    static void destroy(Reactor *reactor) {
        if (reactor->is_abandoned_) return;  // a forked child's copy: giving it back would only copy its pages first
        pthread_mutex_lock(&registry_);
        living_.remove(*reactor);
        pthread_mutex_unlock(&registry_);
        delete reactor;
    }

    // Start the thread; false with `errno` set. Before that the reactor only holds its listeners.
    bool start() {
        if (has_thread_ || has_ended_ || is_abandoned_) return true;
        // The program's signals are the program's: the thread is born with all of them blocked.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        errno = pthread_create(&thread_, nullptr, run, this);
        has_thread_ = errno == 0;
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return has_thread_;
    }

    // End the thread, after draining for `drain_s` seconds at most; a second call may shorten that. Threads: any.
    void stop(double drain_s) {
        drain_s_ = drain_s > 0 ? drain_s : 0;
        Notices::wake(wake_);
    }

    // Wait for the end of the thread, if it was started.
    void wait() {
        if (has_thread_) pthread_join(thread_, nullptr);
        has_thread_ = false;
    }

    // Give back all descriptors, after the end. Not while another thread calls `stop`.
    void close() {
        acceptor_.close();
        is_listening_ = false;
        has_ended_ = true;
        int *const fds[] = {&epoll_, &wake_, &notices_.fd};
        for (int *fd : fds) {
            if (*fd >= 0) ::close(*fd);
            *fd = -1;
        }
    }

    // Why a connection ended that the engine did not close; as vocabulary.EndReason.
    enum EndReason { PEER_CLOSED, CONNECTION_LOST, SERVER_STOPPED, END_REASONS };
    // How many did, by reason; for a visitor.
    const uint64_t (&ends() const)[END_REASONS] { return ends_; }
    // Whether to put a notice for each of these. Threads: any.
    void observe(bool is_observed) { is_observed_ = is_observed; }

    bool has_ended() const { return has_ended_; }
    bool is_listening() const { return is_listening_; }
    int fd() const { return notices_.fd; }

    // Be a durable server's, before the start; the ledger lasts as long as the thread.
    void commit_to(Ledger *ledger) { ledger_ = ledger; }

    // Have a look at the reactor between two wake-ups, or while it waits for a commit.
    template <class Look>
    void visit(Look look) {
        enter();
        look(engine_, open_, notices_);
        leave();
    }

    // Have the reactor do what follows from a look that changes something.
    template <class Act>
    void act(Act act) {
        enter();
        if (!has_ended_) {
            now_ = clock_now();
            act(engine_, now_);
            Notices::wake(wake_);
        }
        leave();
    }

    // Serve a connection that somebody has made for the machine; amid `act`. Null with `errno` set if it cannot be.
    Peer *adopt(int fd) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        Connection *connection = new Connection(fd);
        connection->is_upstream = true;
        open_.add(*connection);
        if (control(EPOLL_CTL_ADD, *connection)) return connection;
        const int error = errno;
        close(*connection);
        errno = error;
        return nullptr;
    }

    // For `fork`: all living reactors stand still from the first to one of the others.
    static void before_fork() {
        pthread_mutex_lock(&registry_);
        for (Reactor *each = living_.first; each != nullptr; each = each->of_living_.after) each->enter();
    }

    static void after_fork_in_parent() {
        for (Reactor *each = living_.first; each != nullptr; each = each->of_living_.after) each->leave();
        pthread_mutex_unlock(&registry_);
    }

    static void after_fork_in_child() {
        while (Reactor *reactor = living_.take_first()) {
            reactor->abandon();
            reactor->leave();
        }
        pthread_mutex_unlock(&registry_);
    }

  private:
    explicit Reactor(const Options &options)
        : options_(options), engine_(options.limits, *this, options.secrets) {
        options_.secrets = {};  // the engine has its own
    }
    ~Reactor() {
        close();
        release(notices_.lines);
        pthread_mutex_destroy(&mutex_);
        pthread_mutex_destroy(&door_);
    }
    static void *operator new(size_t size) { return take_memory(size); }
    static void operator delete(void *memory) { free(memory); }

    // Serve until `stop`; all connections and listeners are closed at the end.
    static void *run(void *argument) {
        prctl(PR_SET_NAME, "rallypoint");
        Reactor &reactor = *static_cast<Reactor *>(argument);
        pthread_mutex_lock(&reactor.mutex_);
        reactor.accept_newcomers(true);
        reactor.engine_.tick(reactor.now_ = clock_now());
        while (reactor.drain_s_ < 0 && !reactor.has_failed_) reactor.wake_up(reactor.timeout_ms());
        reactor.drain();
        if (!reactor.has_failed_) reactor.say_last_words();
        while (Connection *connection = reactor.open_.first) reactor.lose(*connection, SERVER_STOPPED);
        reactor.solo_.end();
        reactor.bury();
        reactor.has_ended_ = true;
        Notices::wake(reactor.notices_.fd);
        pthread_mutex_unlock(&reactor.mutex_);
        return nullptr;
    }

    // --- one wake-up -------------------------------------------------------------------------------------------------

    // Wait for events, visitors let in; gives their number.
    int poll(int timeout_ms) {
        const double spin_until = options_.spin_s > 0 && timeout_ms != 0 ? clock_now() + options_.spin_s : 0;
        int count = 0;
        pthread_mutex_unlock(&mutex_);
        while (spin_until > 0 && count == 0 && clock_now() < spin_until) {
            count = epoll_wait(epoll_, events_, kEventsMax, 0);
        }
        if (count == 0) count = epoll_wait(epoll_, events_, kEventsMax, timeout_ms);
        if (count > 0) solo_.want_back();  // before the mutex, which its thread might take again and again
        let_in();
        pthread_mutex_lock(&mutex_);
        return count > 0 ? count : 0;
    }

    void let_in() override {
        if (visitors_.load(std::memory_order_relaxed) == 0) return;
        pthread_mutex_lock(&door_);
        pthread_mutex_unlock(&door_);
    }

    // Serve what is ready, waiting for it; gives the number of events.
    int wake_up(int timeout_ms) {
        int count = poll(timeout_ms);
        now_ = measured_at_ = clock_now();
        unmeasured_ = 0;
        bool has_others = serve_all(count);
        // What comes in quick succession shares a commit, which takes longer than to wait for a little more.
        if (count > 1 && engine_.has_changed()) {
            double came_at = now_;
            for (double now = now_; !has_others && turns_.empty() && now - came_at < kGapS && now - now_ < kSliceS;) {
                const int more = epoll_wait(epoll_, events_, kEventsMax, 0);
                now = clock_now();
                if (more <= 0) continue;
                came_at = now;
                has_others = serve_all(count = more);
            }
        }
        if (!turns_.empty()) {
            flush_dirty();
            serve_turns();
        }
        // Behind the others: what they have closed makes room for newcomers.
        for (int i = 0; has_others && i < count; ++i) {
            const uint64_t tag = events_[i].data.u64;
            if (is_descriptor(tag)) serve_other(static_cast<int>(tag >> 1));
        }
        if (now_ >= due_at_) pass_time();
        flush_dirty();
        is_look_due_ = !unread_.empty();
        if (is_look_due_ && now_ >= look_at_) bound_output();
        if (count > 0) look_for_solo(count);
        bury();
        return count;
    }

    // See whether one peer has spoken alone for long.
    void look_for_solo(int count) {
        solo_.call_back();
        const uint64_t tag = events_[0].data.u64;
        if (count > 1 || tag != alone_) {
            alone_ = count > 1 || is_descriptor(tag) ? 0 : tag;
            alone_times_ = 0;
        } else if (may_have_solo() && ++alone_times_ >= options_.solo_after && turns_.empty()) {
            alone_times_ = 0;
            Connection &connection = *reinterpret_cast<Connection *>(static_cast<uintptr_t>(tag));
            if (!is_plain(connection)) return;
            solo_.begin(connection);
            watch(connection);
        }
    }

    bool may_have_solo() const { return options_.solo_after > 0 && ledger_ == nullptr && options_.spin_s == 0; }

    // Whether all that there is to do for a connection is to read it.
    static bool is_plain(const Connection &connection) {
        return connection.fd >= 0 && (connection.mask & EPOLLIN || connection.is_solo) && !connection.is_closing &&
               !connection.is_paused && !connection.is_blocked && !connection.is_ending && !connection.is_heavy();
    }

    bool serve_solo(Connection &connection, const char *data, ssize_t size) override {
        now_ = measured_at_ = clock_now();
        take(connection, data, kReadSize, size);
        const bool is_small = connection.output.size() < SMALL_SIZE && owed_ < FEW_OWED;
        if (!is_small) measure(connection);
        flush_dirty();
        const bool has_others = !turns_.empty() || closing_.first != nullptr || closed_.first != nullptr;
        if (has_others || engine_.next_deadline() < due_at_) Notices::wake(wake_);
        return is_small && size > 0 && static_cast<size_t>(size) < SMALL_SIZE && is_plain(connection);
    }

    void take_back(Connection &connection) override { watch(connection); }

    // Serve the connections that events name; tells whether there are other descriptors among them.
    bool serve_all(int count) {
        bool has_others = false;
        for (int i = 0; i < count; ++i) {
            const uint64_t tag = events_[i].data.u64;
            if (is_descriptor(tag)) {
                has_others = true;
            } else {
                serve(*reinterpret_cast<Connection *>(static_cast<uintptr_t>(tag)), events_[i].events);
            }
        }
        return has_others;
    }

    void serve(Connection &connection, uint32_t ready) {
        if (connection.fd < 0) return;  // closed in this very wake-up
        if (ready & EPOLLOUT) dirty_.put(connection);
        if (connection.is_solo) return;
        if (!(ready & ~static_cast<uint32_t>(EPOLLOUT))) return;
        if (ready & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) connection.is_ending = true;
        if ((connection.mask & EPOLLIN) && (connection.is_heavy() || measured_at_ - now_ > kSliceS)) {
            turns_.add(connection);
            return;
        }
        const size_t received = read(connection);
        const bool is_small = received < SMALL_SIZE && connection.output.size() < SMALL_SIZE && owed_ < FEW_OWED;
        if (is_small && ++unmeasured_ < UNMEASURED_MAX) {
            if (measured_at_ >= connection.slow_until) connection.slow_steps = 0;
        } else {
            measure(connection);
        }
    }

    // Serve a slice of those that wait for their turn.
    void serve_turns() {
        measured_at_ = clock_now();
        double until = measured_at_ + kSliceS;
        while (measured_at_ < until && turns_.light.first != nullptr) serve_turn(*turns_.light.take_first());
        until = fmin(until, measured_at_ + kHeavySliceS);
        while (Connection *connection = turns_.heavy.take_first()) {  // one in any case
            serve_turn(*connection);
            if (measured_at_ >= until) return;
        }
    }

    void serve_turn(Connection &connection) {
        if (connection.is_paused) {
            connection.is_paused = false;
            if (!connection.is_closing) engine_.resume(connection, now_);
            watch(connection);
        } else if (connection.mask & EPOLLIN) {
            read(connection);
        }
        measure(connection);
        flush_dirty();  // it belongs to the slice, much output is much work, but not to the next one's step
        measured_at_ = clock_now();
    }

    // Take note of how long a connection's step took.
    void measure(Connection &connection) {
        const double after = clock_now();
        const double took = after - measured_at_;
        if (took > kHeavyS) {
            connection.slow_steps = static_cast<uint8_t>(connection.slow_steps + !connection.is_heavy());
            connection.slow_until = fmax(connection.slow_until, after + kHeavyTimes * took);
        } else if (after >= connection.slow_until) {
            connection.slow_steps = 0;
        }
        measured_at_ = after;
        unmeasured_ = owed_ = 0;
    }

    // Read once and take one step; gives the bytes read.
    size_t read(Connection &connection) {
        // One that is not read on purpose reports the loss of the connection.
        size_t room_size = kReadSize;
        char *const room = engine_.room(connection, buffer_, room_size);
        if (connection.mask & EPOLLIN) return take(connection, room, room_size, recv(connection.fd, room, room_size, 0));
        connection.error = ECONNRESET;
        lose(connection);
        return 0;
    }

    // Take a step with what `recv` gave, for which there was so much room; gives the bytes.
    size_t take(Connection &connection, const char *data, size_t room_size, ssize_t size) {
        if (size < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                connection.error = errno;
                lose(connection);
            }
            return 0;
        }
        if (size == 0) {
            end_of_input(connection);
        } else if (!connection.is_closing) {
            engine_.receive(connection, data, static_cast<size_t>(size), now_);
            if (connection.is_blocked) {
                connection.settle();
                watch(connection);
            }
        }
        const bool may_have_more = static_cast<size_t>(size) == room_size || (connection.is_ending && size > 0);
        if (may_have_more && connection.is_told_once() && connection.fd >= 0) turns_.add(connection);
        return static_cast<size_t>(size);
    }

    // Have on the disk what the steps have changed; false if that failed, and nothing may leave.
    bool commit() {
        if (!engine_.has_changed() || has_failed_) return !has_failed_;
        Value *changes = engine_.take_changes(make_value(0)), *sum = nullptr;
        const size_t sum_count = engine_.sum_count();
        bool wants_sum = false;
        pthread_mutex_unlock(&mutex_);
        has_failed_ = !ledger_->commit(changes->bytes(), sum_count, &wants_sum);
        if (wants_sum) {  // visitors only look
            sum = engine_.sum_up(make_value(0));
            has_failed_ = !ledger_->fold(sum->bytes());
        }
        pthread_mutex_lock(&mutex_);
        release(changes);
        release(sum);
        return !has_failed_;
    }

    void flush_dirty() {
        engine_.end_turn();
        if (!commit()) return;  // also what nobody is told of
        while (Connection *connection = dirty_.take_first()) {
            const bool was_blocked = connection->is_blocked;
            if (!connection->flush()) {
                connection->error = errno;
                lose(*connection);
                if (!commit()) return;
                continue;
            }
            if (connection->is_blocked != was_blocked) unread_.note(*connection);
            if (!connection->is_blocked) {
                if (connection->is_paused) turns_.add(*connection);
                if (connection->is_closing) announce_end(*connection);
            }
            if (was_blocked || connection->is_blocked) watch(*connection);
        }
        owed_ = 0;
    }

    // Close those that leave the most unread, until it is not too much; look again at a tenth of the time.
    void bound_output() {
        const double begun = clock_now();
        uint64_t held, total;
        while (Connection *connection = unread_.excess(options_.limits.output_total_max, &held, &total)) {
            if (!connection->is_closing) engine_.leaves_unread(*connection, held, total, now_);
            connection->drop_output();
            unread_.note(*connection);
            dirty_.put(*connection);
            flush_dirty();
        }
        is_look_due_ = false;
        const double after = clock_now();
        look_at_ = after + fmax(kOutputLookS, 9 * (after - begun));
    }

    // --- what the engine says ----------------------------------------------------------------------------------------

    void owes(Peer &peer) override {
        ++owed_;
        dirty_.put(static_cast<Connection &>(peer));
    }

    void paused(Peer &peer) override {
        dirty_.put(static_cast<Connection &>(peer));
        watch(static_cast<Connection &>(peer));
    }

    void held(Peer &peer) override { watch(static_cast<Connection &>(peer)); }

    void dropped(Peer &peer) override {
        static_cast<Connection &>(peer).drop_output();
        close(static_cast<Connection &>(peer));
    }

    void awaits(Peer &peer, size_t size) override {
        const int least = static_cast<int>(size);
        setsockopt(static_cast<Connection &>(peer).fd, SOL_SOCKET, SO_RCVLOWAT, &least, sizeof least);
    }

    void note(const char *words) override { notices_.put(kOwnNote, "%s", words); }

    // Close a peer on the engine's word; the log says why.
    void closed(Peer &peer, int reason, const char *detail) override {
        Connection &connection = static_cast<Connection &>(peer);
        notices_.put(reason, "closed %s: %s", PeerName(connection).text, detail);
        begin_closing(connection);
    }

    bool is_local(const Peer &peer, char (&host)[HOST_SIZE]) override {
        return static_cast<const Connection &>(peer).is_local(host);
    }

    bool is_late(uint64_t requests) override {
        const double now = clock_now();
        if (requests == 1) late_at_ = now + kStepS;
        return now >= late_at_;
    }

    uint64_t unread_size() override { return unread_.size(); }

    void address(const Peer &peer, char (&address)[ADDRESS_SIZE]) override {
        memcpy(address, PeerName(static_cast<const Connection &>(peer)).text, sizeof address);
    }

    // --- what is watched ---------------------------------------------------------------------------------------------

    // An event tells a connection's address, which is even, or twice another descriptor and one.
    static bool is_descriptor(uint64_t tag) { return tag & 1; }

    bool control(int operation, int fd, uint32_t mask, uint64_t tag) {
        epoll_event event = {};
        event.events = mask;
        event.data.u64 = tag;
        return epoll_ctl(epoll_, operation, fd, &event) == 0;
    }
    bool control(int operation, int fd) { return control(operation, fd, EPOLLIN, static_cast<uint64_t>(fd) << 1 | 1); }
    bool control(int operation, Connection &connection) {
        return control(operation, connection.fd, connection.mask, reinterpret_cast<uintptr_t>(&connection));
    }

    // Watch a connection for what it is ready for by its state.
    void watch(Connection &connection) {
        const uint32_t mask = connection.wanted_mask();
        if (mask == connection.mask) return;
        connection.mask = mask;
        control(EPOLL_CTL_MOD, connection);
    }

    void serve_other(int fd) {
        if (fd == wake_) {
            eventfd_t times;
            eventfd_read(wake_, &times);
        } else if (is_accepting_) {
            int accepted[kAcceptsMax];
            const int count = acceptor_.accept(fd, now_, accepted);
            for (int i = 0; i < count; ++i) welcome(accepted[i]);
            if (acceptor_.paused_until() > now_) accept_newcomers(false);
        }
    }

    void welcome(int fd) {
        Connection *connection = new Connection(fd);
        open_.add(*connection);
        if (control(EPOLL_CTL_ADD, *connection)) {
            engine_.connect(*connection, now_);
            return;
        }
        const int error = errno;  // the system's bound on watched descriptors
        notices_.put(-1, "refused %s: it cannot be watched ([Errno %d] %s)", PeerName(*connection).text, error,
                     strerror(error));
        close(*connection);
    }

    void accept_newcomers(bool is_accepting) {
        if (is_accepting == is_accepting_) return;
        is_accepting_ = is_accepting;
        for (int i = 0; i < acceptor_.count(); ++i) {
            control(is_accepting ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, acceptor_.fd(i));
        }
    }

    // --- ends of connections -----------------------------------------------------------------------------------------

    // The peer sends no more; what it is owed still goes out.
    void end_of_input(Connection &connection) {
        if (connection.is_closing || connection.output.empty()) {
            lose(connection, PEER_CLOSED);
        } else {
            count_end(connection, PEER_CLOSED);
            engine_.disconnect(connection, now_);
            begin_closing(connection);
        }
    }

    void begin_closing(Connection &connection) {
        connection.linger_until = clock_now() + options_.linger_s;
        connection.is_closing = true;
        closing_.add(connection);
        dirty_.put(connection);
        watch(connection);
    }

    // Close our side only: closing both at once would take back replies that the peer has not read yet.
    void announce_end(Connection &connection) {
        if (connection.is_lingering) return;
        connection.is_lingering = true;
        shutdown(connection.fd, SHUT_WR);
        watch(connection);
    }

    void lose(Connection &connection, EndReason reason = CONNECTION_LOST) {
        if (!connection.is_closing) {
            count_end(connection, reason);
            engine_.disconnect(connection, now_);
        }
        close(connection);
    }

    void count_end(Connection &connection, EndReason reason) {
        static constexpr const char *WORDS[] = {"peer closed", "connection lost", "server stopped"};
        if (connection.is_upstream) return;
        ++ends_[reason];
        if (is_observed_.load(std::memory_order_relaxed)) {
            notices_.put(-2 - reason, "%s is gone: %s", PeerName(connection).text, WORDS[reason]);
        }
    }

    void close(Connection &connection) {
        open_.remove(connection);
        dirty_.drop(connection);
        closing_.drop(connection);
        turns_.drop(connection);
        unread_.drop(connection);
        // Closing alone would leave it watched while a process that is about to become another program holds a copy.
        control(EPOLL_CTL_DEL, connection);
        if (!solo_.lets_go(connection)) ::close(connection.fd);
        connection.fd = -1;
        closed_.add(connection);
    }

    // Give back the memory of closed connections, which no event can name any more.
    void bury() {
        while (Connection *connection = closed_.take_first()) delete connection;
    }

    // --- time --------------------------------------------------------------------------------------------------------

    static double clock_now() {
        timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
    }

    static int as_timeout_ms(double left_s) {
        if (!(left_s > 0)) return 0;
        return left_s * 1000 < INT_MAX - 1 ? static_cast<int>(left_s * 1000) + 1 : INT_MAX;  // not too early
    }

    // How long the next poll may wait, -1 for ever.
    int timeout_ms() {
        due_at_ = 0;
        if (!turns_.empty()) return 0;
        due_at_ = engine_.next_deadline();
        if (closing_.first != nullptr) due_at_ = fmin(due_at_, closing_.first->linger_until);
        if (is_look_due_) due_at_ = fmin(due_at_, look_at_);
        if (!is_accepting_) due_at_ = fmin(due_at_, acceptor_.paused_until());
        return due_at_ == INFINITY ? -1 : as_timeout_ms(due_at_ - now_);
    }

    void pass_time() {
        if (engine_.next_deadline() <= now_) engine_.tick(now_);
        while (closing_.first != nullptr && closing_.first->linger_until <= now_) close(*closing_.first);
        if (drain_s_ < 0 && acceptor_.paused_until() <= now_) accept_newcomers(true);
    }

    // Serve what is there and send what is owed, until nothing is left or the time is over.
    void drain() {
        accept_newcomers(false);
        acceptor_.close();
        is_listening_ = false;
        Notices::wake(notices_.fd);
        const double started = clock_now();
        while (true) {
            const double left_s = started + drain_s_ - clock_now();
            if (left_s <= 0 || has_failed_) return;
            const bool has_turns = !turns_.empty(), is_busy = !unread_.empty() || has_turns;
            due_at_ = 0;
            if (!wake_up(!unread_.empty() && !has_turns ? as_timeout_ms(left_s) : 0) && !is_busy) return;
        }
    }

    // Let peers know that this is the end, those that take it at once; nothing is served any more, so nothing follows it.
    void say_last_words() {
        engine_.say_last_words(now_);
        if (!commit()) return;
        while (Connection *connection = dirty_.take_first()) connection->flush();
    }

    // --- visitors and forks ------------------------------------------------------------------------------------------

    void enter() {
        ++visitors_;
        pthread_mutex_lock(&door_);
        pthread_mutex_lock(&mutex_);
    }

    void leave() {
        pthread_mutex_unlock(&mutex_);
        pthread_mutex_unlock(&door_);
        --visitors_;
    }

    // Close this process's copies of all descriptors; the thread did not come along.
    void abandon() {
        is_abandoned_ = true;
        for (const Connection *each = open_.first; each != nullptr; each = each->of_reactor.after) ::close(each->fd);
        close();
        has_thread_ = false;
    }

    static inline pthread_mutex_t registry_ = PTHREAD_MUTEX_INITIALIZER;
    Link<Reactor> of_living_;
    static inline List<Reactor, &Reactor::of_living_> living_;

    Options options_;
    Notices notices_;
    Acceptor acceptor_{notices_};
    Turns turns_;
    List<Connection, &Connection::of_reactor> open_, closed_;
    List<Connection, &Connection::of_dirty> dirty_;  // to be flushed
    List<Connection, &Connection::of_closing> closing_;
    Machine engine_;
    Unread unread_;             // connections with output that the system did not take
    double look_at_ = 0;        // when that is counted again
    bool is_look_due_ = false;  // much may have been left unread since the last time
    int owed_ = 0;              // connections that got output since the last look
    double now_ = clock_now();  // at the beginning of this wake-up
    double measured_at_ = 0;
    int unmeasured_ = 0;        // steps since then
    double late_at_ = 0;        // when a step is to leave the rest for later
    double due_at_ = 0;
    bool is_accepting_ = false;
    bool is_abandoned_ = false;
    Ledger *ledger_ = nullptr;
    bool has_failed_ = false;  // a commit
    bool has_thread_ = false;
    int epoll_ = epoll_create1(EPOLL_CLOEXEC);
    int wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    std::atomic<double> drain_s_{-1};  // below 0: nobody has asked for the end
    uint64_t ends_[END_REASONS] = {};
    std::atomic<bool> is_observed_{false};
    std::atomic<bool> has_ended_{false}, is_listening_{true};

    pthread_t thread_;
    pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
    Solo solo_{*this, mutex_};
    uint64_t alone_ = 0;   // the tag of the last wake-up's only event, ...
    int alone_times_ = 0;  // ... and of how many before
    pthread_mutex_t door_ = PTHREAD_MUTEX_INITIALIZER;  // held by a visitor; the reactor waits there for its end
    std::atomic<int> visitors_{0};

    epoll_event events_[kEventsMax];
    char buffer_[kReadSize];
};

}  // namespace rallypoint
