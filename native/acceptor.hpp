// Taking connections from listening sockets, also when descriptors run out, twin of server/acceptor.py: one descriptor
// is kept in reserve, to take a connection and close it, so that its client learns at once that it is refused.
#pragma once

#include "notices.hpp"
#include "spec.inc"

namespace rallypoint {

struct Listener {
    int fd;
    bool is_ready;  // a connection may wait there
};

class Acceptor {
  public:
    // Does not own the listeners before `adopt`.
    Acceptor(const int *fds, int count, Notices &notices);
    ~Acceptor() { free(listeners_); }
    Acceptor(const Acceptor &) = delete;
    Acceptor &operator=(const Acceptor &) = delete;

    // Make the listeners non-blocking and tune what they accept, and close them in `close` from now on.
    void adopt();
    int count() const { return count_; }
    Listener &listener(int index) { return listeners_[index]; }

    // Take the connections that wait at one listener, kAcceptsMax at most; gives their number.
    int accept(const Listener &listener, double now, int *accepted);
    // Nothing should be accepted before this time; 0 for no pause.
    double paused_until() const { return paused_until_; }

    // Close this process's copies of the descriptors; socket files are the owner's to remove.
    void close();

  private:
    bool refuse_one(const Listener &listener);
    void refill();

    Listener *listeners_;
    int count_;
    Notices &notices_;
    int reserve_ = -1;
    double paused_until_ = 0;
};

}  // namespace rallypoint
