// The verbs as a session means them, twin of server/session_verbs.py: what is done, what waits, and what is answered.
//
// An answer's body is the stored value itself, shared; so is the one kept for a write. A request that waits keeps its
// fields; the lists that those who read the same keys wait for are shared as in the c10d dialect.
#pragma once

#include "ground.hpp"
#include "leases.hpp"
#include "watches.hpp"

namespace rallypoint {

class SessionVerbs : protected Ground, Groups::Listener {
  protected:
    SessionVerbs(const Limits &limits, Driver &driver, const HashKey &key, const char (&seed)[Hmac::SIZE])
        : Ground(limits, driver, key), ids_(seed), sessions_(limits_, key, ids_, changes_),
          groups_(limits_, key, *this), leases_(limits_, key), watches_(limits_, key) {}
    ~SessionVerbs() {
        // Nobody is left to be told anything.
        while (Session *session = sessions_.first()) {
            session->peer = nullptr;
            while (Pending *pending = session->pending.first) {
                pending->called.drop();
                unregister(*pending);
                sessions_.forget(*pending);
            }
            groups_.leave(*session);
            watches_.end_session(*session);
            sessions_.end(*session);
        }
        settle();
    }

    // Apply a request, or answer it again: anything but HELLO, PROVE and BYE.
    void take(Session &session, const Frame &frame) {
        const SessionRow &row = frame.row();
        if (frame.verb == SessionVerb::CANCEL) return cancel(session, load<uint64_t>(frame.body.data));
        switch (sessions_.take(session, frame.id, frame.done, row.is_write)) {
        case Meaning::PENDING:
        case Meaning::SETTLED: return;
        case Meaning::ANSWERED: return send(session, *sessions_.find_answer(session, frame.id));
        case Meaning::COUNTED:
            if (!await_count(session, frame)) refuse(session, frame.id, frame.verb);
            return;
        case Meaning::NEW: break;
        }
        if (!sessions_.allows(session, row, refusal_)) {  // not kept: that would be one more
            const Answer refused = Answer(Status::REFUSED, frame.id).with(refusal_body(refusal_));
            send(session, refused);
            return release(refused.body);
        }
        if (row.is_write) changing();
        if (!serve(session, frame)) refuse(session, frame.id, frame.verb);
    }

    // The session's connection is gone: drop what its client will ask for again.
    void detach(Session &session) {
        for (Pending *pending = session.pending.first, *next = pending; pending != nullptr; pending = next) {
            next = pending->of_session.after;
            if (!stays(pending->verb)) drop(*pending);
        }
        give_back_calls(session);
        end_watches(session);
        sessions_.detach(session, now_);
    }

    // End a session: what it waits for is dropped, and whoever must know is told.
    void end(Session &session) {
        while (Pending *pending = session.pending.first) drop(*pending);
        give_back_calls(session);
        groups_.leave(session);
        Ring<Leaving> left;
        leases_.end_session(session.number, left);
        remove_leased(left);
        end_watches(session);
        sessions_.end(session);
    }
    void end_leases() {
        Ring<Leaving> left;
        leases_.due(now_, left);
        remove_leased(left);
    }

    // The connection reads again: send what was kept for the session.
    void read_again(Session &session) {
        if (session.watcher == nullptr) return;
        session.watcher->sent = 0;
        const auto send = [this](KeyWatch &watch, const Event &event) { send_event(watch, event); };
        while (!session.peer->is_paused && watches_.take(session, limits_.output_size_max, send)) {
        }
    }

    // Wait for a peer's output to be sent before it is served again.
    void pause(Peer &peer) {
        if (peer.is_paused) return;
        peer.is_paused = true;
        driver_.paused(peer);
    }

    // Tell the groups which sessions have ended; whoever ends a step does this.
    void settle() {
        if (groups_.has_left()) groups_.settle(sessions_.newest(), now_);
    }

    // Put back what an earlier life has left: the bytes of changes that give it, none of which takes anything away.
    void restore(Bytes commit) {
        Unpacked from(commit);
        from.array();
        Ring<Value *> bodies;
        for (size_t left = from.array(); left > 0; --left) bodies.push(make_value(from.text()));
        for (size_t left = from.array(); left > 0; --left) {
            from.array();
            const ChangeKind kind = static_cast<ChangeKind>(from.number());
            restore(kind, from.array() > 2, from, bodies);
        }
        while (bodies.count() > 0) release(bodies.pop());
        settle_followed();
    }

    // Put what all commits since the last time add up to behind a value.
    Value *sum_up(Value *to) {
        Commit &sum = changes_.sum;
        for (auto *each = changes_.keys.first(); each != nullptr; each = changes_.keys.first()) {
            const Name key = keyspace_.name(each->name());
            const Changes::KeyMark mark = each->item;
            const int64_t revision = keyspace_.revision_of(key);
            if (mark.was_deleted) sum.key_deleted(key, keyspace_.revision());
            if (Value *value = keyspace_.get(key)) {
                if (mark.is_set) {
                    sum.key_set(key, value->bytes(), revision, leases_.lease_of(key));
                } else {
                    sum.appended(key, {value->data() + value->size - mark.appended, mark.appended}, revision);
                }
            }
            changes_.keys.erase(each);
        }
        for (auto *each = changes_.queues.first(); each != nullptr; each = changes_.queues.first()) {
            const Name name = keyspace_.name(each->name());
            for (uint64_t left = each->item.popped; left > 0; --left) sum.popped(name);
            const size_t length = keyspace_.queue_length(name);
            for (size_t at = length - each->item.pushed; at < length; ++at) {
                sum.pushed(name, keyspace_.item(name, at)->bytes());
            }
            changes_.queues.erase(each);
        }
        sessions_.sum_up(sum);
        return sum.take(to);
    }

    // Give a document about the server; null for none of that name.
    virtual Value *describe(Bytes what) = 0;

    Ids ids_;
    Sessions sessions_;
    Groups groups_;
    Leases leases_;
    Watches watches_;
    uint64_t sent_ = 0;  // bytes of answers since it was last set to 0

  private:
    static bool stays(SessionVerb verb) {
        return verb == SessionVerb::BARRIER || verb == SessionVerb::MEET || verb == SessionVerb::EXCHANGE;
    }
    Name first_name(const Pending &pending) const { return keyspace_.name(Fields{pending.request->data()}.text()); }

    // --- answers ----------------------------------------------------------------------------------------------

    void send(Session &session, const Answer &answer) {
        if (session.peer == nullptr) return;
        Output &output = owed(*session.peer);
        answer.bytes().copy_to(output.extend(answer.size));
        if (answer.body != nullptr) output.append(answer.body);
        sent_ += answer.whole_size();
    }

    // Answer a request, and keep the answer to a write; the body becomes ours. Gives true, for the caller to return.
    bool answer(Session &session, const Answer &answer, SessionVerb verb, size_t sharers = 1) {
        if (kSessionRows[static_cast<unsigned>(verb)].is_write) sessions_.keep(session, answer, sharers);
        send(session, answer);
        release(answer.body);
        return true;
    }
    bool answer_empty(Session &session, uint64_t id, SessionVerb verb) {
        return answer(session, Answer(Status::OK, id), verb);
    }
    template <typename Number>
    bool answer_number(Session &session, const Frame &frame, Number number) {
        return answer(session, Answer(Status::OK, frame.id).put(number), frame.verb);
    }
    // The value becomes ours.
    bool answer_stored(Session &session, uint64_t id, SessionVerb verb, Value *value) {
        return answer(session, Answer(Status::OK, id).put(uint64_t{value->size}).with(value), verb);
    }
    void refuse(Session &session, uint64_t id, SessionVerb verb) {
        answer(session, Answer(Status::REFUSED, id).with(refusal_body(refusal_)), verb);
    }
    bool expire(Session &session, uint64_t id, SessionVerb verb, Value *body) {
        return answer(session, Answer(Status::EXPIRED, id).with(body), verb);
    }

    // Begin an answer to a read, its fields in pieces of `size` bytes together; null for nobody, or if that is refused.
    Output *answer_pieces(Session &session, uint64_t id, uint64_t size, bool *is_allowed) {
        *is_allowed = size <= kReplyFrameSizeMax;
        if (!*is_allowed) {
            refusal_.say(REPLY_TOO_LARGE, "the reply would be %" PRIu64 " bytes long, the limit is %" PRIu64, size,
                         kReplyFrameSizeMax);
        }
        if (!*is_allowed || session.peer == nullptr) return nullptr;
        sent_ += size;
        Output &output = owed(*session.peer);
        store_head(output.extend(REPLY_HEAD_SIZE), Status::OK, id, size);
        return &output;
    }

    // --- verbs that are answered at once ------------------------------------------------------------------------

    // False for a request that is refused, for the reason in `refusal_`.
    bool serve(Session &session, const Frame &frame) {
        Fields fields = {frame.body.data};
        switch (frame.verb) {
        case SessionVerb::CHECK:
            return answer_number(session, frame, all_present(frame.body) ? kReady : kNotReady);
        case SessionVerb::GETNUMKEYS: return answer_number(session, frame, uint64_t{keyspace_.key_count()});
        case SessionVerb::PING: return answer_number(session, frame, load<uint32_t>(fields.at));
        case SessionVerb::LIST_KEYS: return list(session, frame, keyspace_.listing());
        case SessionVerb::MULTI_SET:
            return set_all(frame.body) && answer_number(session, frame, keyspace_.revision());
        case SessionVerb::READ_PREFIX:
        case SessionVerb::LIST_PREFIX:
        case SessionVerb::DELETE_PREFIX: return serve_prefix(session, frame, fields.text());
        case SessionVerb::MULTI_GET: return multi_get(session, frame.id, frame);
        case SessionVerb::WAIT: return wait(session, frame);
        case SessionVerb::MEET:
        case SessionVerb::EXCHANGE: return arrive_at(session, frame);
        case SessionVerb::LEASE_GRANT:
        case SessionVerb::LEASE_RENEW:
        case SessionVerb::LEASE_REVOKE: return serve_lease(session, frame, fields.number());
        case SessionVerb::WATCH: return watch(session, frame);
        case SessionVerb::STATUS: {
            Value *document = describe(fields.text());
            if (document == nullptr) return false;
            answer_stored(session, frame.id, frame.verb, document);
            pause(*session.peer);  // it may have cost much more than its request
            return true;
        }
        case SessionVerb::UNWATCH:
            watches_.unwatch(session, load<uint64_t>(fields.at));
            settle_followed();
            return true;
        default: return serve_one(session, frame, keyspace_.name(fields.text()), fields);
        }
    }

    // As `serve`, a request whose first field is a name; the other fields are left.
    bool serve_one(Session &session, const Frame &frame, const Name &name, Fields fields) {
        switch (frame.verb) {
        case SessionVerb::SET: return written(session, frame, name, keyspace_.set(name, fields.text(), refusal_));
        case SessionVerb::APPEND:
            return written(session, frame, name, keyspace_.append(name, fields.text(), refusal_), true);
        case SessionVerb::ADD: {
            int64_t total;
            return changed(name, keyspace_.add(name, fields.number(), &total, refusal_)) &&
                   answer_number(session, frame, total);
        }
        case SessionVerb::COMPARE_SET: {
            const Bytes expected = fields.text();
            return compare_set(session, frame, name, expected, fields.text());
        }
        case SessionVerb::DELETE_KEY: return answer_number(session, frame, uint64_t{remove(name)});
        case SessionVerb::QUEUE_PUSH: {
            const uint64_t length = push(name, fields.text());
            return length > 0 && answer_number(session, frame, length);
        }
        case SessionVerb::QUEUE_LEN: return answer_number(session, frame, uint64_t{keyspace_.queue_length(name)});
        case SessionVerb::READ: return read(session, frame, name);
        case SessionVerb::SWAP: return swap(session, frame, name, fields);
        case SessionVerb::GET: return get(session, frame, name);
        case SessionVerb::QUEUE_POP: return queue_pop(session, frame, name);
        case SessionVerb::BARRIER: return barrier(session, frame, name, fields.number());
        default:
            return refusal_.say(UNKNOWN_VERB, "this server does not know %s", frame.name());
        }
    }

    // Answer with the revision of a write.
    bool written(Session &session, const Frame &frame, const Name &name, Keyspace::Change change,
                 bool is_appended = false) {
        const int64_t revision = keyspace_.revision();
        return changed(name, change, is_appended) && answer_number(session, frame, revision);
    }

    bool compare_set(Session &session, const Frame &frame, const Name &name, Bytes expected, Bytes desired) {
        Value *current = keyspace_.get(name);
        if (current == nullptr && expected.size > 0) {
            return answer_stored(session, frame.id, frame.verb, make_value(expected));
        }
        if (current == nullptr || current->bytes() == expected) {
            if (!changed(name, keyspace_.set(name, desired, refusal_))) return false;
            return answer_stored(session, frame.id, frame.verb, make_value(desired));
        }
        return answer_stored(session, frame.id, frame.verb, share(current));
    }

    bool list(Session &session, const Frame &frame, Value *listing) {
        bool is_allowed;
        if (Output *output = answer_pieces(session, frame.id, listing->size, &is_allowed)) output->append(listing);
        return is_allowed;
    }

    bool read(Session &session, const Frame &frame, const Name &name) {
        Value *value = keyspace_.get(name);
        const size_t size = value == nullptr ? 0 : value->size;
        bool is_allowed;
        if (Output *output = answer_pieces(session, frame.id, 16 + size, &is_allowed)) {
            store<uint64_t>(store(output->extend(16), keyspace_.revision_of(name)), size);
            if (size > 0) output->append(value);
        }
        return is_allowed;
    }

    bool swap(Session &session, const Frame &frame, const Name &name, Fields fields) {
        const int64_t expected = fields.number();
        const Bytes value = fields.text();
        if (expected < -1) {
            return refusal_.say(BAD_ARGUMENT, "SWAP expects the revision %" PRId64 ": it is -1 or above", expected);
        }
        const int64_t lease = fields.number();
        Lease *const owner = lease == 0 ? nullptr : leases_.find(lease, refusal_);
        if (lease != 0 && owner == nullptr) return false;
        const bool is_swapped = expected == -1 || expected == keyspace_.revision_of(name);
        lease_ = owner;
        changes_.lease = lease;
        const bool is_done = !is_swapped || changed(name, keyspace_.set(name, value, refusal_));
        lease_ = nullptr;
        changes_.lease = 0;
        if (!is_done) return false;
        Answer reply(Status::OK, frame.id);
        return answer(session, reply.put(is_swapped).put(keyspace_.revision_of(name)), frame.verb);
    }

    // --- prefixes -----------------------------------------------------------------------------------------------

    bool serve_prefix(Session &session, const Frame &frame, Bytes prefix) {
        Ring<Keyspace::Values::Entry *> found;
        const bool is_deletion = frame.verb == SessionVerb::DELETE_PREFIX;
        keyspace_.find(prefix, is_deletion ? kDeletedKeysMax : limits_.prefix_keys_max + 1, found);
        if (is_deletion) {
            for (size_t at = 0; at < found.count(); ++at) {
                char copy[kKeySizeMax];  // the key ends with its entry
                remove(keyspace_.name({copy, static_cast<size_t>(found[at]->name().copy_to(copy) - copy)}));
            }
            return answer_number(session, frame, uint64_t{found.count()});
        }
        if (found.count() > limits_.prefix_keys_max) {
            return refusal_.say(REPLY_TOO_LARGE, "more than %" PRIu64 " keys begin so, which is the limit of one reply",
                                limits_.prefix_keys_max);
        }
        const bool has_values = frame.verb == SessionVerb::READ_PREFIX;
        uint64_t size = 8;
        for (size_t at = 0; at < found.count(); ++at) {
            size += 8 + found[at]->size;
            if (has_values) size += 16 + found[at]->item.value->size;
        }
        bool is_allowed;
        Output *output = answer_pieces(session, frame.id, size, &is_allowed);
        if (output == nullptr) return is_allowed;
        store(output->extend(8), uint64_t{found.count()});
        for (size_t at = 0; at < found.count(); ++at) {
            const Keyspace::Values::Entry &entry = *found[at];
            store_text(output->extend(8 + entry.size), found[at]->name());
            if (!has_values) continue;
            store(store(output->extend(16), entry.item.revision), uint64_t{entry.item.value->size});
            output->append(entry.item.value);
        }
        return true;
    }

    // --- verbs that wait ----------------------------------------------------------------------------------------

    bool get(Session &session, const Frame &frame, const Name &name) {
        if (Value *value = keyspace_.get(name)) {
            return answer_stored(session, frame.id, frame.verb, share(value));
        }
        char list[16 + kKeySizeMax];  // as KEYS, so that all who wait for it share one set
        const char *end = store_text(store<uint64_t>(list, 1), name);
        return wait_for_keys(session, frame, {list, static_cast<size_t>(end - list)});
    }

    bool multi_get(Session &session, uint64_t id, const Frame &frame) {
        uint64_t size = 0;
        Fields fields = {frame.body.data};
        for (int64_t left = fields.number(); left > 0; --left) {
            const Value *value = keyspace_.get(keyspace_.name(fields.text()));
            if (value == nullptr) return wait_for_keys(session, frame, frame.body);
            size += 8 + value->size;
        }
        bool is_allowed;
        Output *output = answer_pieces(session, id, size, &is_allowed);
        if (output == nullptr) return is_allowed;
        fields = {frame.body.data};
        for (int64_t left = fields.number(); left > 0; --left) {
            Value *value = keyspace_.get(keyspace_.name(fields.text()));
            store<uint64_t>(output->extend(8), value->size);
            output->append(value);
        }
        return true;
    }

    bool wait_for_keys(Session &session, const Frame &frame, Bytes list) {
        Pending &pending = sessions_.wait(session, frame, now_);
        const auto is_present = [this](const Name &name) { return keyspace_.has_key(name); };
        if (wait_for(readers_, readers_.find(list), list, &pending, is_present)) return true;
        sessions_.forget(pending);
        return false;
    }

    bool wait(Session &session, const Frame &frame) {
        WaitSet *set = waiters_.find(frame.body);
        if (all_present(frame.body)) return answer_empty(session, frame.id, frame.verb);
        Pending &pending = sessions_.wait(session, frame, now_);
        const auto is_present = [this](const Name &name) { return keyspace_.has(name); };
        if (wait_for(waiters_, set, frame.body, &pending, is_present)) return true;
        sessions_.forget(pending);
        return false;
    }

    bool queue_pop(Session &session, const Frame &frame, const Name &name) {
        for (size_t at = 0; at < session.calls.count(); ++at) {
            if (!(session.calls[at]->bytes() == name)) continue;
            release(session.calls[at]);
            for (; at > 0; --at) session.calls[at] = session.calls[at - 1];
            session.calls.pop();
            break;
        }
        Value *item = nullptr;
        pop(name, &item);
        if (item != nullptr) return answer_stored(session, frame.id, frame.verb, item);
        if (waiting() >= limits_.waited_names_max) {
            return refusal_.say(TOO_MANY_WAITED, "%zu requests wait, the limit is %" PRIu64, waiting(),
                                limits_.waited_names_max);
        }
        wait_for_item(sessions_.wait(session, frame, now_), name);
        return true;
    }

    bool barrier(Session &session, const Frame &frame, const Name &name, int64_t world_size) {
        int64_t count;
        if (!arrive(name, &count)) return false;
        if (count >= world_size) return answer_empty(session, frame.id, frame.verb);
        Answer begun;
        begun.id = frame.id;
        sessions_.keep(session, begun);
        waiters_.wait_barrier(sessions_.wait(session, frame, now_), name, world_size);
        return true;
    }
    // Wait at a barrier at which the request has counted already.
    bool await_count(Session &session, const Frame &frame) {
        Fields fields = {frame.body.data};
        const Name name = keyspace_.name(fields.text());
        const int64_t world_size = fields.number();
        int64_t count = 0;
        if (!keyspace_.count(name, &count, refusal_)) return false;
        if (count >= world_size) return answer_empty(session, frame.id, frame.verb);
        waiters_.wait_barrier(sessions_.wait(session, frame, now_), name, world_size);
        return true;
    }

    bool arrive_at(Session &session, const Frame &frame) {
        settle();
        sessions_.wait(session, frame, now_);
        groups_.arrive(Arrival(frame, session), now_, refusal_);
        return true;
    }

    // What a request waited for is there; it is registered nowhere any more.
    void woken(Waiter &waiter) override {
        Pending &pending = static_cast<Pending &>(waiter);
        Session &session = *pending.session;
        if (pending.called) session.calls.push(pending.called.take());
        Value *request = share(pending.request);
        const Frame frame = pending.frame();
        sessions_.forget(pending);
        Fields fields = {frame.body.data};
        bool is_answered = true;
        if (frame.verb == SessionVerb::GET) {
            is_answered = get(session, frame, keyspace_.name(fields.text()));
        } else if (frame.verb == SessionVerb::MULTI_GET) {
            is_answered = multi_get(session, frame.id, frame);
        } else if (frame.verb == SessionVerb::QUEUE_POP) {
            Value *item = nullptr;
            keyspace_.pop(keyspace_.name(fields.text()), &item);
            answer_stored(session, frame.id, frame.verb, item);
        } else {
            answer_empty(session, frame.id, frame.verb);
        }
        if (!is_answered) refuse(session, frame.id, frame.verb);
        release(request);
    }

    // --- waits that end without what they waited for --------------------------------------------------------------

    void cancel(Session &session, uint64_t id) {
        Pending *pending = sessions_.find(session, id);
        if (pending == nullptr) return;
        const SessionVerb verb = pending->verb;
        unregister(*pending);
        Value *missing = verb == SessionVerb::MEET || verb == SessionVerb::EXCHANGE
                             ? groups_.cancel(Arrival(pending->frame(), session), now_)
                             : missing_of(*pending);
        sessions_.forget(*pending);
        expire(session, id, verb, missing);
    }

    void drop(Pending &pending) {
        unregister(pending);
        sessions_.forget(pending);
    }
    void unregister(Pending &pending) {
        switch (pending.verb) {
        case SessionVerb::GET:
        case SessionVerb::MULTI_GET: return readers_.drop(pending);
        case SessionVerb::QUEUE_POP: return leave_queue(pending, poppers_.find(first_name(pending)));
        case SessionVerb::WAIT:
        case SessionVerb::BARRIER: return abandon(pending);
        default: return;
        }
    }
    void give_back_calls(Session &session) {
        for (size_t left = session.calls.count(); left > 0; --left) {
            Held call;
            call.hold(session.calls.pop());
            pass_on(call);
        }
    }

    // LISTED: which of the names that a request waits for are missing.
    Value *missing_of(const Pending &pending) {
        Table<bool> seen(key_);
        Value *body = make_value(0);
        int64_t count = 0;
        body = grow(body, {reinterpret_cast<const char *>(&count), sizeof(count)});
        const bool is_listed = pending.verb == SessionVerb::MULTI_GET || pending.verb == SessionVerb::WAIT;
        const bool is_counted = pending.verb == SessionVerb::QUEUE_POP || pending.verb == SessionVerb::BARRIER;
        Fields fields = {pending.request->data()};
        for (int64_t left = is_listed ? fields.number() : 1; left > 0; --left) {
            const Name name = keyspace_.name(fields.text());
            const bool is_there = pending.verb == SessionVerb::WAIT ? keyspace_.has(name) : keyspace_.has_key(name);
            if ((is_there && !is_counted) || seen.find(name) != nullptr) continue;
            seen.insert(name);
            const uint64_t size = name.size;
            body = grow(grow(body, {reinterpret_cast<const char *>(&size), sizeof(size)}), name);
            ++count;
        }
        store(body->data(), count);
        return body;
    }

    // --- leases and watches ---------------------------------------------------------------------------------------

    bool serve_lease(Session &session, const Frame &frame, int64_t number) {
        if (frame.verb == SessionVerb::LEASE_GRANT) {
            const Lease *lease = leases_.grant(session.number, number, now_, refusal_);
            if (lease == nullptr) return false;
            is_followed_ = true;
            changes_.lease_granted(lease->id, number, session.id_bytes());
            return answer_number(session, frame, lease->id);
        }
        Lease *lease = leases_.find(number, refusal_);
        if (lease == nullptr) return false;
        if (frame.verb == SessionVerb::LEASE_RENEW) {
            leases_.renew(*lease, now_);
            return answer_number(session, frame, lease->ttl_ms);
        }
        const uint64_t count = lease->key_count;
        Ring<Leaving> left;
        leases_.end(*lease, left);
        remove_leased(left);
        return answer_number(session, frame, count);
    }
    void remove_leased(Ring<Leaving> &left) {
        while (left.count() > 0) {
            const Leaving leaving = left.pop();
            if (leaving.key == nullptr) {
                changes_.lease_ended(leaving.lease);
                continue;
            }
            remove(keyspace_.name(leaving.key->bytes()));
            release(leaving.key);
        }
        settle_followed();
    }
    void settle_followed() { is_followed_ = leases_.count() > 0 || watches_.count() > 0; }

    bool watch(Session &session, const Frame &frame) {
        Fields fields = {frame.body.data};
        const Name key = keyspace_.name(fields.text());
        const uint8_t kind = static_cast<uint8_t>(*fields.at++);
        const int64_t known = fields.number();
        if (kind > 1 || known < -1) {
            return refusal_.say(BAD_ARGUMENT, "WATCH has %u for a prefix and knows revision %" PRId64
                                ": it is 0 or 1, and -1 or above", kind, known);
        }
        KeyWatch *watch = watches_.watch(session, frame.id, key, kind == 1, refusal_);
        if (watch == nullptr) return false;
        is_followed_ = true;
        const int64_t revision = keyspace_.revision();
        answer_number(session, frame, revision);
        const int64_t last = watch->is_prefix ? 0 : keyspace_.revision_of(key);
        if (known >= 0 && (known > revision || (last != 0 ? last : revision) > known)) {
            const Event event = Event::make(EventKind::MISSED, {nullptr, 0}, nullptr, revision);
            tell(*watch, event);
            event.drop();
        }
        return true;
    }
    void end_watches(Session &session) {
        if (session.watcher == nullptr) return;
        watches_.end_session(session);
        settle_followed();
    }

    void tell(KeyWatch &watch, const Event &event) {
        if (watch.session->peer->is_paused) {
            watches_.keep(watch, event);
        } else {
            send_event(watch, event);
        }
    }
    void send_event(KeyWatch &watch, const Event &event) {
        Peer &peer = *watch.session->peer;
        const size_t size = event.fields_size();
        Output &output = owed(peer);
        store_head(output.extend(REPLY_HEAD_SIZE), Status::EVENT, watch.request, size);
        event.before->bytes().copy_to(output.extend(event.before->size));
        if (event.value != nullptr) output.append(event.value);
        store(output.extend(sizeof(event.revision)), event.revision);
        uint64_t &sent = watch.session->watcher->sent;
        sent += size;
        if (sent > limits_.output_size_max) pause(peer);
    }

    void followed(const Name &name, EventKind kind, bool is_appended) override {
        if (!is_appended) leases_.follow(name, kind == EventKind::SET ? lease_ : nullptr);
        Event event = {nullptr, nullptr, 0};
        watches_.each_concerned(name, [&](KeyWatch &watch) {
            if (event.before == nullptr) {
                event = Event::make(kind, name, kind == EventKind::SET ? keyspace_.get(name) : nullptr,
                                    kind == EventKind::SET ? keyspace_.revision_of(name) : keyspace_.revision());
            }
            tell(watch, event);
        });
        if (event.before != nullptr) event.drop();
    }

    void settled(Attendee &attendee, const Answer &settled, size_t sharers) override {
        Session &session = static_cast<Session &>(attendee);
        Pending *pending = sessions_.find(session, settled.id);
        const SessionVerb verb = pending->verb;
        sessions_.forget(*pending);
        answer(session, settled, verb, sharers);
    }
    void met(const Group &group, Bytes name, Seat *const *seats) override {
        changes_.group_met(group.kind, name, group.generation, group.count, [&](Packed &to) {
            for (uint32_t rank = 0; rank < group.count; ++rank) {
                const Session &session = *static_cast<Session *>(seats[rank]->session);
                to.array(3).number(rank).text(session.id_bytes()).text(seats[rank]->label->bytes());
            }
        });
    }
    void forgotten(const Group &group, Bytes name) override { changes_.group_forgotten(group.kind, name); }

    // --- an earlier life ----------------------------------------------------------------------------------------

    void restore(ChangeKind kind, bool is_whole, Unpacked &from, const Ring<Value *> &bodies) {
        if (kind == ChangeKind::KEY_SET) {
            const Name key = keyspace_.name(from.text());
            const Bytes value = from.text();
            keyspace_.restore(key, value, from.number());
            if (Lease *lease = leases_.with_id(from.number())) leases_.follow(key, lease);
        } else if (kind == ChangeKind::PUSHED) {
            const Name name = keyspace_.name(from.text());
            keyspace_.put_behind(name, from.text());
        } else if (kind == ChangeKind::SESSION_MADE) {
            const Bytes id = from.text(), label = from.text(), identity = from.text();
            const double timeout_s = static_cast<double>(from.number()) / 1000;
            sessions_.await(sessions_.add(id, identity, label, timeout_s, now_), now_);
        } else if (kind == ChangeKind::LEASE_GRANTED) {
            const int64_t id = from.number(), ttl_ms = from.number();
            const Session *session = sessions_.with_id(from.text());
            leases_.add(id, session == nullptr ? 0 : session->number, ttl_ms, now_).is_foreign = from.text().size > 0;
        } else if (kind == ChangeKind::ANSWERS_FORGOTTEN) {
            Session &session = *sessions_.with_id(from.text());
            session.done = static_cast<uint64_t>(from.number());
        } else if (kind == ChangeKind::ANSWER_KEPT) {
            Session &session = *sessions_.with_id(from.text());
            restore_answer(session, static_cast<uint64_t>(from.number()), is_whole, from, bodies);
        } else {
            const uint8_t group_kind = static_cast<uint8_t>(from.number());
            const Bytes name = from.text();
            Group &group = groups_.restore(group_kind, name, static_cast<uint64_t>(from.number()));
            for (size_t left = from.array(); left > 0; --left) {
                from.array();
                const uint32_t rank = static_cast<uint32_t>(from.number());
                Session *session = sessions_.with_id(from.text());
                const Bytes label = from.text();
                if (session != nullptr) groups_.restore_member(group, rank, *session, label, now_);
            }
        }
    }
    void restore_answer(Session &session, uint64_t id, bool is_whole, Unpacked &from, const Ring<Value *> &bodies) {
        Answer answer;
        answer.id = id;
        if (!is_whole) return sessions_.keep(session, answer);
        const Bytes head = from.text();
        const int64_t place = from.number();
        Value *body = place == kNoBody ? nullptr : share(bodies[static_cast<size_t>(place)]);
        answer.size = static_cast<uint8_t>(head.size <= sizeof(answer.head) ? head.size : REPLY_HEAD_SIZE);
        memcpy(answer.head, head.data, answer.size);
        answer.body = head.size <= sizeof(answer.head)
                          ? body
                          : make_value(Bytes{head.data + REPLY_HEAD_SIZE, head.size - REPLY_HEAD_SIZE});
        sessions_.keep(session, answer);
        release(answer.body);
    }

    Lease *lease_ = nullptr;  // that the key which is being written is to belong to
};

}  // namespace rallypoint
