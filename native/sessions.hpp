// Who has a session, what it was answered, what of its requests waits, and when it ends; twin of server/sessions.py and
// server/ids.py, by the same rules.
#pragma once

#include <math.h>

#include "changes.hpp"
#include "groups.hpp"
#include "sha256.hpp"
#include "waiters.hpp"

namespace rallypoint {

struct Peer;
struct Session;
struct Watcher;

// Ids and nonces that nobody can guess: all come from one seed.
class Ids {
  public:
    explicit Ids(const char (&seed)[Hmac::SIZE]) { memcpy(seed_, seed, sizeof(seed_)); }

    // Put the next id of so many bytes.
    void make(Bytes purpose, char *to, size_t size) {
        ++count_;
        Hmac hmac({seed_, sizeof(seed_)});
        hmac.update(purpose);
        hmac.update({"", 1});
        hmac.update({reinterpret_cast<const char *>(&count_), sizeof(count_)});
        char digest[Hmac::SIZE];
        hmac.finish(digest);
        memcpy(to, digest, size);
    }

  private:
    char seed_[Hmac::SIZE];
    uint64_t count_ = 0;
};

// A request that waits: for names, keys, an item, a barrier's count, or members of a group.
struct Pending : Waiter {
    uint64_t id = 0;
    Session *session = nullptr;
    Value *request = nullptr;  // its fields, as on the wire
    SessionVerb verb;
    Link<Pending> of_session;

    Frame frame() const { return {verb, id, 0, request->bytes()}; }
};

// An answer that is kept, and the bytes that it is taken to need.
struct Kept {
    Answer answer;
    uint64_t size;
    bool is_summed = false;
};

struct Session : Due, Attendee {
    explicit Session(const HashKey &key) : answers(key) {}
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    char id[kSessionIdSize];
    Held identity, label;
    Bytes id_bytes() const { return {id, sizeof(id)}; }
    int64_t timeout_ms() const { return llrint(timeout_s * 1000); }

    Peer *peer = nullptr;
    Watcher *watcher = nullptr;  // while it has a connection and has watched something
    double timeout_s = 0, since = 0;
    uint64_t done = 0;
    uint64_t answers_size = 0;
    size_t pending_count = 0;
    Table<Kept> answers;  // by request id
    Ring<Value *> calls;  // queues whose items ended waits for names, until it pops them
    List<Pending, &Pending::of_session> pending;
    Link<Session> of_changed;
    uint64_t forgotten = 0;  // answers below this, since commits were last added up
};

// What a request is to its session.
enum class Meaning { NEW, SETTLED, ANSWERED, PENDING, COUNTED };

class Sessions {
  public:
    Sessions(const Limits &limits, const HashKey &key, Ids &ids, Changes &changes)
        : limits_(limits), key_(key), ids_(ids), changes_(changes), sessions_(key), pending_(key) {}
    ~Sessions() {
        while (Session *session = first()) end(*session);
    }

    size_t count() const { return sessions_.count(); }
    uint64_t answers_size() const { return answers_size_; }
    uint64_t newest() const { return newest_; }
    Session *first() const { return sessions_.first() == nullptr ? nullptr : sessions_.first()->item; }

    // --- beginning and end ------------------------------------------------------------------------------------

    // Give the session with this id, if it belongs to this identity.
    Session *find(Bytes id, Bytes identity) {
        Session *session = with_id(id);
        return session != nullptr && session->identity->bytes() == identity ? session : nullptr;
    }

    // Give a new session, without a connection yet; null if there are too many.
    Session *make(Bytes identity, Bytes label, int64_t timeout_ms, double now, Refusal &refusal) {
        if (sessions_.count() >= limits_.sessions_max) {
            refusal.say(TOO_MANY_SESSIONS, "there are %zu sessions, the limit is %" PRIu64, sessions_.count(),
                        limits_.sessions_max);
            return nullptr;
        }
        char id[kSessionIdSize];
        ids_.make({"session", 7}, id, sizeof(id));
        const double timeout_s = fmin(static_cast<double>(timeout_ms) / 1000, limits_.session_timeout_s_max);
        Session &session = add({id, sizeof(id)}, identity, label, timeout_s, now);
        changes_.session_made(session.id_bytes(), label, identity, session.timeout_ms());
        return &session;
    }
    // Give a session with an id of its own, also one that an earlier life has left.
    Session &add(Bytes id, Bytes identity, Bytes label, double timeout_s, double now) {
        Session &session = *new (take_memory(sizeof(Session))) Session(key_);
        sessions_.insert(Name(key_, id))->item = &session;
        id.copy_to(session.id);
        session.number = ++newest_;
        session.identity.hold(make_value(identity));
        session.label.hold(make_value(label));
        session.timeout_s = timeout_s;
        session.since = now;
        return session;
    }
    // Null if there is none of this id, whoever it belongs to.
    Session *with_id(Bytes id) const {
        auto *entry = sessions_.find(Name(key_, id));
        return entry == nullptr ? nullptr : entry->item;
    }

    void attach(Session &session, Peer &peer, Bytes label) {
        session.peer = &peer;
        session.label.hold(make_value(label));
        ends_.drop(session);
    }
    // The session's connection is gone: its time runs.
    void detach(Session &session, double now) { detach_until(session, now + session.timeout_s); }
    // It was put back after a restart: there was nowhere to come back to.
    void await(Session &session, double now) {
        detach_until(session, now + fmax(session.timeout_s, kSessionRestartGraceS));
    }
    // Forget a session, and its answers; what waits for it was dropped before.
    void end(Session &session) {
        ends_.drop(session);
        while (Pending *pending = session.pending.first) forget(*pending);
        for (auto *each = session.answers.first(); each != nullptr; each = each->order.after) {
            release(each->item.answer.body);
        }
        while (session.calls.count() > 0) release(session.calls.pop());
        answers_size_ -= session.answers_size;
        changed_.drop(session);
        changes_.session_ended(session.id_bytes());
        sessions_.erase(sessions_.find(Name(key_, session.id_bytes())));
        session.~Session();
        free(&session);
    }

    double next_end() const { return ends_.first() == nullptr ? static_cast<double>(INFINITY) : ends_.first()->due_at; }
    // Give a session whose time is over, for the caller to end.
    Session *ended(double now) {
        return next_end() > now ? nullptr : static_cast<Session *>(ends_.first());
    }

    // Look at each, oldest first.
    template <typename Look>
    void each(Look look) {
        for (auto *entry = sessions_.first(); entry != nullptr; entry = entry->order.after) look(*entry->item);
    }

    // --- requests ---------------------------------------------------------------------------------------------

    // Say what a request means, and forget the answers below `done`.
    Meaning take(Session &session, uint64_t id, uint64_t done, bool is_write) {
        if (done > session.done) forget(session, done);
        if (session.pending_count > 0 && find(session, id) != nullptr) return Meaning::PENDING;
        if (!is_write) return Meaning::NEW;
        if (id < session.done) return Meaning::SETTLED;
        if (session.answers.count() == 0) return Meaning::NEW;
        const Answer *kept = find_answer(session, id);
        return kept == nullptr ? Meaning::NEW : kept->size == 0 ? Meaning::COUNTED : Meaning::ANSWERED;
    }

    // Whether a new request can be taken.
    bool allows(const Session &session, const SessionRow &row, Refusal &refusal) const {
        if (row.is_deferred && session.pending_count >= limits_.session_waits_max) {
            return refusal.say(TOO_MANY_PENDING, "%zu requests of the session wait, the limit is %" PRIu64,
                               session.pending_count, limits_.session_waits_max);
        }
        if (!row.is_write) return true;
        if (session.answers.count() >= limits_.session_answers_max) {
            return keeps_much(session.answers.count(), "answers of the session are", limits_.session_answers_max,
                              refusal);
        }
        if (session.answers_size >= limits_.session_answers_size_max) {
            return keeps_much(session.answers_size, "bytes of the session's answers are",
                              limits_.session_answers_size_max, refusal);
        }
        // Who keeps less than an equal share is not refused for what others leave to be kept.
        if (answers_size_ >= limits_.answers_size_max &&
            session.answers_size >= limits_.answers_size_max / sessions_.count()) {
            return keeps_much(answers_size_, "bytes of all sessions' answers are", limits_.answers_size_max, refusal);
        }
        return true;
    }

    // Keep an answer, one of size 0 for a request that has counted; becomes one of its body's owners, of whom so many
    // keep it.
    void keep(Session &session, const Answer &answer, size_t sharers = 1) {
        const Name name = id_name(answer.id);
        auto *entry = session.answers.find(name);
        if (entry == nullptr) entry = session.answers.insert(name);
        const uint64_t size = kAnswerSize + answer.size + answer.body_size() / sharers;
        session.answers_size += size - entry->item.size;
        answers_size_ += size - entry->item.size;
        entry->item = {answer, size, false};
        if (answer.body != nullptr) share(answer.body);
        if (!changes_.is_on) return;
        changes_.commit.answer_kept(session.id_bytes(), answer);
        changed_.put(session);
    }
    // Add up what commits since the last time have of answers.
    void sum_up(Commit &sum) {
        while (Session *session = changed_.take_first()) {
            for (auto *each = session->answers.first(); each != nullptr; each = each->order.after) {
                if (!each->item.is_summed) sum.answer_kept(session->id_bytes(), each->item.answer);
                each->item.is_summed = true;
            }
            if (session->forgotten > 0) sum.answers_forgotten(session->id_bytes(), session->forgotten);
            session->forgotten = 0;
        }
    }

    // Null if there is none.
    Answer *find_answer(const Session &session, uint64_t id) const {
        auto *entry = session.answers.find(id_name(id));
        return entry == nullptr ? nullptr : &entry->item.answer;
    }

    // --- what waits -------------------------------------------------------------------------------------------

    Pending *find(const Session &session, uint64_t id) const {
        auto *entry = entry_of(session, id);
        return entry == nullptr ? nullptr : entry->item;
    }
    Pending &wait(Session &session, const Frame &frame, double now) {
        Pending &pending = *new (take_memory(sizeof(Pending))) Pending;
        const uint64_t numbers[] = {session.number, frame.id};
        pending_.insert(Name(key_, {reinterpret_cast<const char *>(numbers), sizeof(numbers)}))->item = &pending;
        pending.is_of_session = true;
        pending.id = frame.id;
        pending.session = &session;
        pending.request = make_value(frame.body);
        pending.verb = frame.verb;
        pending.since = now;
        session.pending.add(pending);
        ++session.pending_count;
        return pending;
    }
    // What waits no more, and is registered nowhere else.
    void forget(Pending &pending) {
        pending.session->pending.remove(pending);
        --pending.session->pending_count;
        release(pending.request);
        pending_.erase(entry_of(*pending.session, pending.id));
        pending.~Pending();
        free(&pending);
    }

  private:
    void detach_until(Session &session, double at) {
        session.peer = nullptr;
        session.order = ++detached_;
        ends_.put(session, at);
    }

    static bool keeps_much(uint64_t held, const char *what, uint64_t limit, Refusal &refusal) {
        return refusal.say(TOO_MANY_PENDING, "%" PRIu64 " %s kept because its client has not said that it holds them,"
                           " the limit is %" PRIu64, held, what, limit);
    }

    Table<Pending *>::Entry *entry_of(const Session &session, uint64_t id) const {
        const uint64_t numbers[] = {session.number, id};
        return pending_.find(Name(key_, {reinterpret_cast<const char *>(numbers), sizeof(numbers)}));
    }

    Name id_name(const uint64_t &id) const {
        return Name(key_, {reinterpret_cast<const char *>(&id), sizeof(id)});
    }

    void forget(Session &session, uint64_t done) {
        session.done = done;
        const size_t before = session.answers.count();
        while (auto *oldest = session.answers.first()) {
            if (oldest->item.answer.id >= done) break;
            session.answers_size -= oldest->item.size;
            answers_size_ -= oldest->item.size;
            release(oldest->item.answer.body);
            session.answers.erase(oldest);
        }
        if (session.answers.count() == before || !changes_.is_on) return;
        changes_.commit.answers_forgotten(session.id_bytes(), done);
        changed_.put(session);
        session.forgotten = done;
    }

    const Limits &limits_;
    const HashKey key_;
    Ids &ids_;
    Changes &changes_;
    Table<Session *> sessions_;
    Table<Pending *> pending_;
    Deadlines ends_;
    List<Session, &Session::of_changed> changed_;  // since commits were last added up
    uint64_t newest_ = 0, detached_ = 0;
    uint64_t answers_size_ = 0;
};

}  // namespace rallypoint
