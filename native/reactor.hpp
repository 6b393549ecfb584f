// The thread that drives an engine, twin of server/loop.py: sockets, readiness, output, time. It owns no rule of the
// store, and never touches the interpreter.
//
// Theory of operation. One wake-up is the Python loop's, step by step. All state belongs to the reactor's thread and is
// guarded by one mutex, which it holds except while it waits for events; others who hold it (`Visit`) see a reactor
// between two wake-ups. A visitor is let in before the next wake-up, however busy the reactor is. `fork` is a visit to
// all living reactors at once: the child gets whole state, closes its copies of all descriptors, and has no reactor.
//
// Connections are found by the pointer in the event. One that was closed may still be named by a later event of the
// same wake-up, so its memory is kept until the end of it.
#pragma once

#include <pthread.h>
#include <sys/epoll.h>

#include <atomic>

#include "acceptor.hpp"
#include "turns.hpp"

namespace rallypoint {

struct Options {
    Limits limits;
    double linger_s;  // how long a refused peer may take to read the end of its stream
    double spin_s;    // how long to look for events before sleeping, after the last ones
};

class Reactor final : Driver {
  public:
    // Make a reactor that owns the listeners; null with `errno` set, and they stay the caller's, if that cannot be.
    static Reactor *make(const Options &options, const int *listeners, int count);
    // Give everything back; the thread has ended, or was never started. Does nothing in a forked child.
    static void destroy(Reactor *reactor);

    // Start the thread; false with `errno` set. Before that the reactor only holds its listeners.
    bool start();
    // End the thread, after draining for `drain_s` seconds at most; a second call may shorten that. Threads: any.
    void stop(double drain_s);
    // Wait for the end of the thread, if it was started.
    void wait();
    // Give back all descriptors, after the end. Not while another thread calls `stop`.
    void close();

    bool has_ended() const { return has_ended_; }
    bool is_listening() const { return is_listening_; }
    Notices &notices() { return notices_; }

    // A look at the reactor between two wake-ups.
    class Visit {
      public:
        explicit Visit(Reactor &reactor) : reactor_(reactor) { reactor_.enter(); }
        ~Visit() { reactor_.leave(); }
        Visit(const Visit &) = delete;
        Visit &operator=(const Visit &) = delete;
        const Engine &engine() const { return reactor_.engine_; }
        const Connection *first() const { return reactor_.all_.first(); }

      private:
        Reactor &reactor_;
    };

    // For `fork`: all living reactors stand still from the first to one of the others.
    static void before_fork();
    static void after_fork_in_parent();
    static void after_fork_in_child();

  private:
    Reactor(const Options &options, const int *listeners, int count, const uint64_t *hash_key);
    ~Reactor();
    bool open(uint64_t tag, int fd);

    void owes(Peer &peer) override;
    void paused(Peer &peer) override;
    void closed(Peer &peer, int reason, const char *detail) override;

    static void *main(void *reactor);
    void run();
    int poll(int timeout_ms);
    int wake_up(int timeout_ms);
    void serve(Connection &connection, uint32_t ready);
    void serve_turns();
    void serve_turn(Connection &connection);
    size_t read(Connection &connection);
    void account(Connection &connection, size_t received);
    void measure(Connection &connection);
    void flush_dirty();
    void watch(Connection &connection);

    void serve_others();
    void welcome(int fd);
    void resume_accepting();
    void stop_accepting();

    void make_dirty(Connection &connection);
    void end_of_input(Connection &connection);
    void begin_closing(Connection &connection);
    void announce_end(Connection &connection);
    void lose(Connection &connection);
    void close(Connection &connection);
    void bury();

    int timeout_ms();
    void pass_time();
    void drain();

    void enter();
    void leave();
    void abandon();

    Engine engine_;
    const Options options_;
    Notices notices_;
    Acceptor acceptor_;
    Turns turns_;
    Row<&Connection::all> all_, closed_;
    Row<&Connection::dirty> dirty_;
    Row<&Connection::lingering> lingering_;
    int64_t blocked_ = 0;  // connections with output that the system did not take
    int owed_ = 0;         // connections that got output since the last look
    double now_ = 0;       // at the beginning of this wake-up
    double measured_at_ = 0;
    int unmeasured_ = 0;  // steps since then
    double due_at_ = 0;
    bool is_accepting_ = false;
    bool is_abandoned_ = false;
    bool has_thread_ = false;
    int epoll_ = -1, wake_ = -1;
    std::atomic<double> drain_s_{-1};  // below 0: nobody has asked for the end
    std::atomic<bool> has_ended_{false}, is_listening_{true};

    pthread_t thread_;
    pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_t door_ = PTHREAD_MUTEX_INITIALIZER;  // held by a visitor; the reactor waits there for its end
    std::atomic<int> visitors_{0};
    Reactor *previous_ = nullptr, *next_ = nullptr;  // in the list of the living

    epoll_event *events_;
    char *buffer_;
};

}  // namespace rallypoint
