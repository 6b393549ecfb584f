// A thread for the one peer that speaks alone. While nobody else has anything to say, the next bytes can only be its:
// the thread sleeps in `recv` itself, without asking first who can be read. That spares one system call of three, a
// fifteenth of what a small request costs. Everybody else stays the reactor's, and so do all rules: what came is served
// by the reactor's own step, under its mutex.
//
//     reactor    a  a  a ··· a ─ begin ╮                                 ╭ b  a  b  a
//     solo                             ╰ recv a ─ recv a ··· recv a ─ back
//                                              (meanwhile b spoke) ╯
//
// Out of its sleep in `recv` the thread is called by a signal, SIGURG, which means nothing to anybody who did not ask for
// it. One that comes too early, or is not ours to handle, is lost: then the peer is given back behind its next bytes, or
// at the reactor's next wake-up. Meanwhile the reactor sends to the peer, and may close it: then it only shuts the
// connection down, which ends the sleep, and the descriptor is closed here, so that nobody else gets its number before.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include <atomic>

#include "connection.hpp"

namespace rallypoint {

// Who has the mutex, and the rules. All is called with the mutex held, but for `let_in`.
class Host {
  public:
    // Let those in who wait for a moment between two steps.
    virtual void let_in() = 0;
    // Take what `recv` gave, and say whether the peer may stay; it may be gone by then.
    virtual bool serve_solo(Connection &connection, const char *data, ssize_t size) = 0;
    // Have the connection again.
    virtual void take_back(Connection &connection) = 0;

  protected:
    ~Host() = default;
};

// All state is guarded by the host's mutex.
class Solo {
  public:
    Solo(Host &host, pthread_mutex_t &mutex) : host_(host), mutex_(mutex) {}
    ~Solo() {
        pthread_cond_destroy(&changed_);
        free(buffer_);
    }
    Solo(const Solo &) = delete;
    Solo &operator=(const Solo &) = delete;

    // Take a connection, if there is no other; it is marked then.
    void begin(Connection &connection) {
        if (connection_ != nullptr || is_reading_ || !has_thread()) return;
        connection_ = &connection;
        connection.is_solo = true;
        is_wanted_back_.store(false, std::memory_order_relaxed);
        set_blocking(connection, true);
        pthread_cond_signal(&changed_);
    }

    // Give the connection back behind its next bytes. Without the mutex.
    void want_back() { is_wanted_back_.store(true, std::memory_order_relaxed); }
    // Give it back now; with the mutex.
    void call_back() {
        if (is_reading_) pthread_kill(thread_, SIGURG);
    }

    // A connection is closed; true if its descriptor is for this thread to close.
    bool lets_go(Connection &connection) {
        if (connection_ != &connection) return false;
        connection_ = nullptr;
        if (is_reading_) shutdown(connection.fd, SHUT_RDWR);
        return is_reading_;
    }

    // End the thread; there is no connection left. The mutex is given back meanwhile.
    void end() {
        has_to_end_ = true;
        if (!is_started_) return;
        pthread_cond_signal(&changed_);
        pthread_mutex_unlock(&mutex_);
        pthread_join(thread_, nullptr);
        pthread_mutex_lock(&mutex_);
        is_started_ = false;
    }

  private:
    bool has_thread() {
        if (is_started_ || has_to_end_) return is_started_;
        if (buffer_ == nullptr) buffer_ = static_cast<char *>(take_memory(kReadSize));
        struct sigaction known = {};
        sigaction(SIGURG, nullptr, &known);
        if (known.sa_handler == SIG_DFL) {
            known.sa_handler = [](int) {};  // only so that it ends a sleep
            sigaction(SIGURG, &known, nullptr);
        }
        sigset_t all, before;
        sigfillset(&all);
        sigdelset(&all, SIGURG);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        is_started_ = pthread_create(&thread_, nullptr, run, this) == 0;
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        has_to_end_ = !is_started_;  // nobody tries again
        return is_started_;
    }

    static void *run(void *argument) {
        prctl(PR_SET_NAME, "rallypoint-solo");
        Solo &solo = *static_cast<Solo *>(argument);
        pthread_mutex_lock(&solo.mutex_);
        while (!solo.has_to_end_) {
            if (solo.connection_ != nullptr) {
                solo.read();
            } else {
                pthread_cond_wait(&solo.changed_, &solo.mutex_);
            }
        }
        pthread_mutex_unlock(&solo.mutex_);
        return nullptr;
    }

    void read() {
        Connection &connection = *connection_;
        const int fd = connection.fd;
        is_reading_ = true;
        pthread_mutex_unlock(&mutex_);
        const ssize_t size = recv(fd, buffer_, kReadSize, 0);
        const int error = errno;
        host_.let_in();
        pthread_mutex_lock(&mutex_);
        is_reading_ = false;
        if (connection_ == nullptr) {
            close(fd);
            return;
        }
        errno = error;
        const bool may_stay = host_.serve_solo(connection, buffer_, size);
        if (connection_ == nullptr || (may_stay && !is_wanted_back_.load(std::memory_order_relaxed))) return;
        connection_ = nullptr;
        connection.is_solo = false;
        set_blocking(connection, false);
        host_.take_back(connection);
    }

    static void set_blocking(const Connection &connection, bool blocks) {
        int is_unblocked = !blocks;
        ioctl(connection.fd, FIONBIO, &is_unblocked);
    }

    Host &host_;
    pthread_mutex_t &mutex_;
    pthread_cond_t changed_ = PTHREAD_COND_INITIALIZER;
    pthread_t thread_;
    Connection *connection_ = nullptr;
    char *buffer_ = nullptr;
    bool is_started_ = false;
    bool has_to_end_ = false;
    bool is_reading_ = false;
    std::atomic<bool> is_wanted_back_{false};
};

}  // namespace rallypoint
