#include "engine.hpp"

#include <math.h>
#include <stdio.h>

namespace rallypoint {

namespace {

// A value up to this size is copied into the peer's output; a larger one is shared.
constexpr size_t COPIED_SIZE_MAX = 4096;
// A shorter list is looked up as fast as it is compared and kept.
constexpr size_t MEMO_SIZE_MIN = 128;
// What memos keep beyond the store's own bytes, at most.
constexpr size_t MEMO_SIZE_MAX = 16 << 20;

using Number = unsigned long long;

}  // namespace

void Memo::keep(Bytes request) {
    forget();
    if (request.size <= MEMO_SIZE_MAX) text_ = make_value(request.data, request.size);
}

void Pieces::put(Value *piece) {
    if (count_ == room_) {
        room_ = room_ == 0 ? 4 : room_ * 2;
        pieces_ = static_cast<Value **>(resize_memory(pieces_, room_ * sizeof(Value *)));
    }
    pieces_[count_++] = piece;
}

// Add a value as GET answers: its length, then its bytes.
void Pieces::add(const Value *value) {
    const uint64_t size = value == nullptr ? 0 : value->size;
    if (!is_open_) put(make_value(0));
    Value *&last = pieces_[count_ - 1];
    last = grow(last, reinterpret_cast<const char *>(&size), sizeof(size));
    is_open_ = size <= COPIED_SIZE_MAX;
    copied_ += is_open_ ? 8 + size : 8;
    if (!is_open_) {
        put(share(const_cast<Value *>(value)));
    } else if (size > 0) {
        last = grow(last, value->data(), size);
    }
}

void Pieces::clear() {
    for (size_t at = 0; at < count_; ++at) release(pieces_[at]);
    count_ = copied_ = 0;
    is_open_ = false;
}

Engine::Engine(const Limits &limits, Driver &driver, uint64_t hash_key_0, uint64_t hash_key_1)
    : limits_(limits), driver_(driver), keyspace_(limits, {hash_key_0, hash_key_1}),
      waiters_({hash_key_0, hash_key_1}) {}

Engine::~Engine() {
    // Nobody is left to be called to a queue, so the newest goes first and nobody is told anything.
    while (newest_ != nullptr) {
        release(waiters_.forget(*newest_));
        forget(*newest_);
    }
}

// --- connections ------------------------------------------------------------------------------------------

void Engine::connect(Peer &peer, double now) {
    if (connections_ >= limits_.connections_max) {
        char detail[96];
        snprintf(detail, sizeof(detail), "%llu peers are connected, the limit is %llu",
                 static_cast<Number>(connections_), static_cast<Number>(limits_.connections_max));
        close(peer, TOO_MANY_CONNECTIONS, detail);
        return;
    }
    ++connections_;
    peer.is_known = true;
    peer.deadline = now + limits_.handshake_timeout_s;
    peer.older = newest_;
    peer.newer = nullptr;
    (newest_ == nullptr ? oldest_ : newest_->newer) = &peer;
    newest_ = &peer;
    peer.older_stranger = last_stranger_;
    peer.newer_stranger = nullptr;
    (last_stranger_ == nullptr ? first_stranger_ : last_stranger_->newer_stranger) = &peer;
    last_stranger_ = &peer;
}

void Engine::receive(Peer &peer, const char *data, size_t size) {
    if (!peer.is_known) return;
    peer.reader.feed(data, size);
    serve(peer);
}

void Engine::resume(Peer &peer) {
    if (!peer.is_known) return;
    peer.is_paused = false;
    serve(peer);
}

void Engine::disconnect(Peer &peer) { forget(peer); }

void Engine::tick(double now) {
    while (first_stranger_ != nullptr && first_stranger_->deadline <= now) {
        char detail[80];
        snprintf(detail, sizeof(detail), "VALIDATE did not come within %g s", limits_.handshake_timeout_s);
        close(*first_stranger_, HANDSHAKE_TIMEOUT, detail);
    }
}

double Engine::next_deadline() const {
    return first_stranger_ == nullptr ? static_cast<double>(INFINITY) : first_stranger_->deadline;
}

Statistics Engine::statistics() const {
    Statistics statistics = {connections_, 0, 0, keyspace_.key_count(), keyspace_.queue_count(),
                             keyspace_.stored_size(), waiters_.count(), input_held_, requests_, {}};
    for (const Peer *peer = oldest_; peer != nullptr; peer = peer->newer) {
        statistics.validated += peer->reader.is_validated;
        statistics.paused += peer->is_paused;
    }
    memcpy(statistics.closed, closed_, sizeof(closed_));
    return statistics;
}

// Apply the peer's whole requests, until there are no more or they have caused too much output.
void Engine::serve(Peer &peer) {
    produced_ = 0;
    while (!peer.is_paused) {
        Bytes request;
        const Reader::Step step = peer.reader.next(limits_.input_size_max, &request, refusal_);
        if (step == Reader::MORE) break;
        if (step == Reader::REFUSED || (++requests_, !apply(peer, request))) {
            close(peer, refusal_.reason, refusal_.detail);
            return;
        }
        if (produced_ > limits_.output_size_max) {
            peer.is_paused = true;
            driver_.paused(peer);
        }
    }
    peer.reader.keep();
    if (peer.held > 0 || peer.reader.held() > 0) hold(peer);
}

// Account for what the peer's reader keeps; over the total, close those that keep the most.
void Engine::hold(Peer &peer) {
    input_held_ += peer.reader.held() - peer.held;
    peer.held = peer.reader.held();
    while (input_held_ > limits_.input_total_max) {
        Peer *largest = oldest_;
        for (Peer *each = oldest_; each != nullptr; each = each->newer) {
            if (each->held > largest->held) largest = each;
        }
        char detail[160];
        snprintf(detail, sizeof(detail), "begun requests of all peers hold %llu bytes, this one's %llu, the limit is %llu",
                 static_cast<Number>(input_held_), static_cast<Number>(largest->held),
                 static_cast<Number>(limits_.input_total_max));
        close(*largest, INPUT_TOTAL, detail);
    }
}

void Engine::close(Peer &peer, int reason, const char *detail) {
    ++closed_[reason];
    forget(peer);
    driver_.closed(peer, reason, detail);
}

void Engine::forget(Peer &peer) {
    if (!peer.is_known) return;
    peer.is_known = false;
    --connections_;
    input_held_ -= peer.held;
    peer.held = 0;
    (peer.older == nullptr ? oldest_ : peer.older->newer) = peer.newer;
    (peer.newer == nullptr ? newest_ : peer.newer->older) = peer.older;
    if (!peer.reader.is_validated) leave_strangers(peer);
    peer.reader.close();
    abandon(peer);
}

void Engine::leave_strangers(Peer &peer) {
    (peer.older_stranger == nullptr ? first_stranger_ : peer.older_stranger->newer_stranger) = peer.newer_stranger;
    (peer.newer_stranger == nullptr ? last_stranger_ : peer.newer_stranger->older_stranger) = peer.older_stranger;
}

// --- replies and releases ---------------------------------------------------------------------------------

// Owe the peer that many bytes more; gives where they have to be put.
inline char *Engine::reply(Peer &peer, size_t size) {
    if (peer.output.empty()) driver_.owes(peer);
    return peer.output.extend(size);
}

bool Engine::answer(Peer &peer, int64_t number) {
    store(reply(peer, 8), number);
    produced_ += 8;
    return true;
}

void Engine::answer_text(Peer &peer, Bytes text) {
    char *to = store<uint64_t>(reply(peer, 8 + text.size), text.size);
    if (text.size > 0) memcpy(to, text.data, text.size);
    produced_ += 8 + text.size;
}

// Answer with bytes that others have too.
void Engine::share_reply(Peer &peer, Value *value) {
    if (value->size <= COPIED_SIZE_MAX) {
        memcpy(reply(peer, value->size), value->data(), value->size);
    } else {
        if (peer.output.empty()) driver_.owes(peer);
        peer.output.append_shared(value);
    }
    produced_ += value->size;
}

bool Engine::answer_value(Peer &peer, Value *value) {
    if (value == nullptr) {
        answer_text(peer, {nullptr, 0});
    } else if (value->size <= COPIED_SIZE_MAX) {
        answer_text(peer, {value->data(), value->size});
    } else {
        answer(peer, static_cast<int64_t>(value->size));
        share_reply(peer, value);
    }
    return true;
}

void Engine::go_on(Waiter *waiter) { *reply(static_cast<Peer &>(*waiter), 1) = kGoOn; }

// Release those whom a new key completes. Gives false for a change that was refused.
bool Engine::created(const Name &name, Keyspace::Change change) {
    if (change == Keyspace::CREATED && waiters_.count() > 0) {
        const size_t count = waiters_.appeared(name, !keyspace_.has_queue(name));
        for (size_t at = 0; at < count; ++at) go_on(waiters_.released(at));
    }
    return change != Keyspace::REFUSED;
}

// Drop what the peer waits for; pass on its call to a queue that it did not pop.
void Engine::abandon(Peer &peer) {
    Value *called = waiters_.forget(peer);
    if (called == nullptr) return;
    const Name name = keyspace_.name({called->data(), called->size});
    if (keyspace_.has_queue(name)) call(name, false);
    release(called);
}

void Engine::call(const Name &name, bool is_newly_present) {
    Waiter *waiter = waiters_.count() == 0 ? nullptr : waiters_.pushed(name, is_newly_present);
    if (waiter != nullptr) go_on(waiter);
}

void Engine::vanished(const Name &name) {
    present_.forget();
    waiters_.vanished(name);
}

// --- verbs ------------------------------------------------------------------------------------------------

bool Engine::apply(Peer &peer, Bytes request) {
    const Verb verb = static_cast<Verb>(request.data[0]);
    const Bytes list = {request.data + 1, request.size - 1};
    Fields fields(list.data);
    switch (verb) {
    case Verb::VALIDATE:
        leave_strangers(peer);
        return peer.reader.is_validated = true;
    case Verb::GET:
        return answer_value(peer, keyspace_.get(keyspace_.name(fields.text())));
    case Verb::SET:
    case Verb::APPEND:
        return write(verb, fields);
    case Verb::ADD: {
        changing();
        const Name name = keyspace_.name(fields.text());
        int64_t total;
        const Keyspace::Change change = keyspace_.add(name, fields.number(), &total, refusal_);
        return created(name, change) && answer(peer, total);
    }
    case Verb::CHECK:
        *reply(peer, 1) = all_present(list) ? kReady : kNotReady;
        ++produced_;
        return true;
    case Verb::COMPARE_SET:
        return compare_set(peer, fields);
    case Verb::WAIT:
        return wait(peer, list);
    case Verb::GETNUMKEYS:
        return answer(peer, static_cast<int64_t>(keyspace_.key_count()));
    case Verb::DELETE_KEY:
        return delete_key(peer, keyspace_.name(fields.text()));
    case Verb::MULTI_GET:
        return multi_get(peer, list);
    case Verb::MULTI_SET:
        return multi_set(list);
    case Verb::CANCEL_WAIT:
        abandon(peer);
        *reply(peer, 1) = kCancelled;
        ++produced_;
        return true;
    case Verb::PING:
        memcpy(reply(peer, 4), fields.at, 4);
        produced_ += 4;
        return true;
    case Verb::QUEUE_PUSH:
        return queue_push(fields);
    case Verb::QUEUE_POP:
        return queue_pop(peer, keyspace_.name(fields.text()));
    case Verb::QUEUE_LEN:
        return answer(peer, static_cast<int64_t>(keyspace_.queue_length(keyspace_.name(fields.text()))));
    case Verb::LIST_KEYS:
        share_reply(peer, keyspace_.listing());
        return true;
    case Verb::BARRIER:
        return barrier(peer, fields);
    }
    return true;
}

// The last MULTI_GET's reply holds no longer.
void Engine::changing() {
    if (reply_.count() == 0) return;
    got_.forget();
    reply_.clear();
}

bool Engine::write(Verb verb, Fields fields) {
    changing();
    const Name name = keyspace_.name(fields.text());
    const Bytes value = fields.text();
    return created(name, verb == Verb::SET ? keyspace_.set(name, value, refusal_)
                                           : keyspace_.append(name, value, refusal_));
}

bool Engine::compare_set(Peer &peer, Fields fields) {
    const Name name = keyspace_.name(fields.text());
    const Bytes expected = fields.text(), desired = fields.text();
    Value *current = keyspace_.get(name);
    if (current == nullptr && expected.size > 0) {
        answer_text(peer, expected);
        return true;
    }
    if (current != nullptr && (current->size != expected.size ||
                               memcmp(current->data(), expected.data, expected.size) != 0)) {
        return answer_value(peer, current);
    }
    changing();
    return created(name, keyspace_.set(name, desired, refusal_)) && answer_value(peer, keyspace_.get(name));
}

bool Engine::all_present(Bytes list) {
    if (present_.matches(list)) return true;
    Fields fields(list.data);
    for (int64_t left = fields.number(); left > 0; --left) {
        if (!keyspace_.has(keyspace_.name(fields.text()))) return false;
    }
    if (list.size >= MEMO_SIZE_MIN) present_.keep(list);
    return true;
}

bool Engine::wait(Peer &peer, Bytes list) {
    abandon(peer);
    // A set that is shared knows how many are absent; it may be complete and wait still, see QUEUE_PUSH.
    WaitSet *set = waiters_.find(list);
    if (set != nullptr ? set->missing == 0 : all_present(list)) {
        *reply(peer, 1) = kGoOn;
        ++produced_;
        return true;
    }
    const bool is_new = set == nullptr;
    if (is_new) {
        set = waiters_.make(list);
        for (Watch *watch = set->watches; watch != nullptr; watch = watch->next) {
            set->missing += !keyspace_.has(watch->name());
        }
    }
    const uint64_t total = waiters_.names_held() + set->count;
    if (total <= limits_.waited_names_max) {
        waiters_.wait(peer, set);
        return true;
    }
    if (is_new) waiters_.discard(set);
    return refusal_.say(TOO_MANY_WAITED, "all peers would wait for %llu names, the limit is %llu",
                        static_cast<Number>(total), static_cast<Number>(limits_.waited_names_max));
}

bool Engine::delete_key(Peer &peer, const Name &name) {
    changing();
    const bool is_removed = keyspace_.remove(name);
    if (is_removed && !keyspace_.has_queue(name)) vanished(name);
    return answer(peer, is_removed);
}

bool Engine::multi_get(Peer &peer, Bytes list) {
    if (!got_.matches(list)) {
        reply_.clear();
        Fields fields(list.data);
        for (int64_t left = fields.number(); left > 0; --left) {
            reply_.add(keyspace_.get(keyspace_.name(fields.text())));
        }
        got_.keep(list);
    }
    for (size_t at = 0; at < reply_.count(); ++at) share_reply(peer, reply_[at]);
    if (reply_.copied() > MEMO_SIZE_MAX) changing();
    return true;
}

bool Engine::multi_set(Bytes pairs) {
    if (!keyspace_.allows(pairs, refusal_)) return false;
    changing();
    Fields fields(pairs.data);
    for (int64_t left = fields.number(); left > 0; --left) {
        const Name name = keyspace_.name(fields.text());
        created(name, keyspace_.put(name, fields.text()));
    }
    return true;
}

bool Engine::queue_push(Fields fields) {
    const Name name = keyspace_.name(fields.text());
    const bool was_present = keyspace_.has(name);
    if (!keyspace_.push(name, fields.text(), refusal_)) return false;
    call(name, !was_present);
    return true;
}

bool Engine::queue_pop(Peer &peer, const Name &name) {
    waiters_.popped(peer, name);
    Value *item = nullptr;
    const size_t length = keyspace_.pop(name, &item);
    answer(peer, static_cast<int64_t>(length));
    if (item == nullptr) return true;
    if (length == 1 && !keyspace_.has_key(name)) vanished(name);
    answer_value(peer, item);
    release(item);
    return true;
}

bool Engine::barrier(Peer &peer, Fields fields) {
    const Name name = keyspace_.name(fields.text());
    const int64_t world_size = fields.number();
    abandon(peer);
    changing();
    int64_t count;
    if (!created(name, keyspace_.add(name, 1, &count, refusal_))) return false;
    const size_t released = waiters_.arrived(name, count);
    for (size_t at = 0; at < released; ++at) go_on(waiters_.released(at));
    if (count < world_size) {
        waiters_.wait_barrier(peer, name, world_size);
        return true;
    }
    *reply(peer, 1) = kGoOn;
    ++produced_;
    return true;
}

}  // namespace rallypoint
