// The relay as a machine, twin of gateway/translator.py: c10d requests of many local peers in, requests of
// one session upstream out, and back. The same rules, the same refusals, byte for byte; see there.
//
// The reactor drives it as it drives an engine. A call upstream is made where the Python twin gives an effect, and what a
// peer is owed goes into its output at once. Nothing here makes a system call, reads a clock or throws.
#pragma once

#include "relay_answers.hpp"
#include "relay_readings.hpp"

namespace rallypoint {

struct RelayLimits {
    double patience_s = 0;
    uint64_t unanswered_max = 0, unanswered_size_max = 0, unanswered_total_max = 0;
};

// Twin of vocabulary.RelayStatistics, in its order.
struct RelayStatistics {
    uint64_t connections, waiting, held, unanswered, unanswered_size, requests;
    uint64_t closed[ENDED + 1];
};

class Relay final : public Answers {
  public:
    Relay(const Limits &limits, Driver &driver, const Secrets &secrets)
        : Answers(driver, secrets.hash_key), limits_(limits) {}
    ~Relay() {
        give_back(lines_);
        give_back(gone_);
    }
    // Before the first step.
    void set(const RelayLimits &limits, Bytes prefix) {
        relay_limits_ = limits;
        space_.set(prefix);
    }

    // --- for the owner -----------------------------------------------------------------------------------------------

    void begin_on(Peer &peer, bool is_far, Bytes endpoint, Bytes session, Bytes data, bool is_resumed, double now) {
        now_ = now;
        Upstream::begin_on(peer, is_far, endpoint, session, data, is_resumed);
    }
    void miss(Bytes why, double now) {
        now_ = now;
        Upstream::miss(why);
    }

    // --- the steps of `Translator.step` ------------------------------------------------------------------------------

    void connect(Peer &peer, double now) {
        now_ = now;
        if (is_given_up_) {
            say_unreachable();
            return refuse_peer(peer);
        }
        if (connections_ >= limits_.connections_max) {
            refusal_.say(TOO_MANY_CONNECTIONS, "%" PRIu64 " peers are connected, the limit is %" PRIu64, connections_,
                         limits_.connections_max);
            return refuse_peer(peer);
        }
        ++connections_;
        Line *line = new Line(peer);
        peer.line = line;
        lines_.add(*line);
        line->deadline = now + limits_.handshake_timeout_s;
        strangers_.add(*line);
    }

    void receive(Peer &peer, const char *data, size_t size, double now) {
        now_ = now;
        if (is_upstream(peer)) return hear(data, size);
        Line *line = peer.line;
        if (line == nullptr || line->is_refused) return;
        if (!line->reader.is_validated) line->is_session = data[0] == kOpening[0];
        line->reader.feed(data, size);
        line->is_unread = true;
        serve(*line);
        settle();
    }

    void resume(Peer &peer, double now) {
        now_ = now;
        Line *line = peer.line;
        if (line == nullptr) return;
        line->is_paused = false;
        line->caused = 0;
        if (!line->is_refused) serve(*line);
        settle();
    }

    void disconnect(Peer &peer, double now) {
        now_ = now;
        if (is_upstream(peer)) return lost();
        if (peer.line != nullptr) leave(*peer.line);
        settle();
    }

    void tick(double now) {
        now_ = now;
        while (strangers_.first != nullptr && strangers_.first->deadline <= now) {
            refusal_.say(HANDSHAKE_TIMEOUT, "VALIDATE did not come within %g s", limits_.handshake_timeout_s);
            close(*strangers_.first);
        }
        if (isfinite(gone_since_) && now >= gone_since_ + relay_limits_.patience_s) {
            is_given_up_ = true;
            say_unreachable();
            close_all();
        }
        settle();
        probe(now);
    }

    double next_deadline() const {
        const double handshake = strangers_.first == nullptr ? static_cast<double>(INFINITY) : strangers_.first->deadline;
        const double patience = is_given_up_ ? static_cast<double>(INFINITY) : gone_since_ + relay_limits_.patience_s;
        return fmin(fmin(handshake, patience), fmin(probe_at(), readings_.until()));
    }

    // Ask for what peers have wanted to read in this turn, before anything leaves.
    void end_turn() {
        while (Reading *reading = readings_.take_due(list_, now_)) {
            const Slot &first = reading->one();
            if (is_too_large(first)) {
                over(*reading, [this](Slot &slot) { refuse(slot); });
                settle();
                continue;
            }
            Call &call = ask(verb_upstream(first.verb), share(first.fields.get()));
            ++calls_count_;
            call.reading = reading;
            if (first.verb == Verb::MULTI_GET) cancel(call);
        }
    }

    void say_last_words(double) { Upstream::leave(); }
    void leaves_unread(Peer &, uint64_t, uint64_t, double) {}

    // The driver's questions on what an engine keeps: nothing is kept here.
    bool has_changed() const { return false; }
    Value *take_changes(Value *to) { return to; }
    size_t sum_count() const { return 0; }
    Value *sum_up(Value *to) { return to; }

    // The numbers. Cost: the number of peers.
    RelayStatistics statistics() const {
        RelayStatistics seen = {connections_, 0, 0, calls_count_, total_, requests_, {}};
        for (const Line *line = lines_.first; line != nullptr; line = line->of_relay.after) {
            seen.waiting += line->wait != nullptr;
            seen.held += line->peer->is_held;
        }
        memcpy(seen.closed, closed_, sizeof closed_);
        return seen;
    }

  private:
    // --- local peers -------------------------------------------------------------------------------------------------

    // Forget a peer; requests of it that are blocked are still served, so that none it has sent is lost.
    void leave(Line &line) {
        line.peer->line = nullptr;
        line.peer = nullptr;
        --connections_;
        lines_.remove(line);
        gone_.add(line);
        strangers_.drop(line);
        list_.expect_no_more(line);
        input_held_ -= line.held;
        line.is_paused = false;
        withdraw(line);
        if (!blocked_.has(line)) line.reader.close();
        rouse(line);
        idle_.put(line);
    }

    // Close a peer for the last refusal, of which nothing was taken.
    void refuse_peer(Peer &peer) {
        ++closed_[refusal_.reason];
        driver_.closed(peer, refusal_.reason, refusal_.detail);
    }
    void close(Line &line) {
        refuse_peer(*line.peer);
        stop_serving(line);
        leave(line);
    }
    void close_all() {
        while (lines_.first != nullptr) close(*lines_.first);
    }
    void stop_serving(Line &line) {
        line.is_refused = true;
        blocked_.drop(line);
        ready_.drop(line);
    }

    bool is_blocked(const Line &line) const {
        return line.is_stalled || line.is_paused || line.slot_count >= relay_limits_.unanswered_max ||
               line.size >= relay_limits_.unanswered_size_max || total_ >= relay_limits_.unanswered_total_max;
    }

    // Send the peer's whole requests upstream, until there are no more or too many are on their way.
    void serve(Line &line) {
        bool is_blocked_now = false;
        while (!line.is_refused && !(is_blocked_now = is_blocked(line))) {
            Bytes request;
            const Reader::Step step = next(line, &request);
            if (step == Reader::REFUSED) return refuse_request(line);
            line.is_unread = step == Reader::REQUEST && line.reader.held() > 0;
            if (step == Reader::MORE) break;
            ++requests_;
            if (static_cast<Verb>(request.data[0]) == Verb::VALIDATE) {
                strangers_.drop(line);
                line.reader.is_validated = true;
            } else {
                forward(line, static_cast<Verb>(request.data[0]), {request.data + 1, request.size - 1});
            }
            if (line.reader.held() == 0) break;
        }
        if (line.is_refused) return;
        is_blocked_now ? block(line) : unblock(line);
        line.reader.keep();
        if (line.peer != nullptr && (line.held > 0 || line.reader.held() > 0)) account(line);
    }

    // Give the next request.
    Reader::Step next(Line &line, Bytes *request) {
        const Bytes rest = line.reader.rest();
        is_last_list_ = line.reader.is_validated && rest.size > 1 && takes_list(static_cast<uint8_t>(rest.data[0])) &&
                        list_.begins({rest.data + 1, rest.size - 1});
        if (!is_last_list_) return line.reader.next(limits_.input_size_max, request, refusal_);
        *request = {rest.data, 1 + list_.size()};
        line.reader.pass(request->size);
        return Reader::REQUEST;
    }
    static bool takes_list(uint8_t verb) { return verb < kVerbCount && kRequestLayouts[verb][0] == Kind::KEYS; }

    // Take nothing more of a peer for now; what it goes on to send stays in the system.
    void block(Line &line) {
        blocked_.put(line);
        if (line.is_unread && line.peer != nullptr && !line.peer->is_held) hold(line, true);
    }
    void unblock(Line &line) {
        blocked_.drop(line);
        if (line.peer == nullptr) {
            line.reader.close();
            idle_.put(line);
        } else if (line.peer->is_held) {
            hold(line, false);
        }
    }
    void hold(Line &line, bool is_held) {
        line.peer->is_held = is_held;
        driver_.held(*line.peer);
    }
    void rouse(Line &line) {
        if (blocked_.has(line) && !is_blocked(line)) ready_.put(line);
    }

    // Account for what the peer's reader keeps; over the total, close those that keep the most.
    void account(Line &line) {
        input_held_ += line.reader.held() - line.held;
        line.held = line.reader.held();
        while (input_held_ > limits_.input_total_max) {
            Line *largest = lines_.first;
            for (Line *each = largest; each != nullptr; each = each->of_relay.after) {
                if (each->held > largest->held) largest = each;
            }
            refusal_.say(INPUT_TOTAL,
                         "begun requests of all peers hold %" PRIu64 " bytes, this one's %" PRIu64
                         ", the limit is %" PRIu64, input_held_, largest->held, limits_.input_total_max);
            close(*largest);
        }
    }

    // At the end of a step: go on with those that are not blocked any more, give back what nobody needs.
    void settle() {
        while (has_room_again_ || ready_.first != nullptr) {
            for (Line *line = has_room_again_ ? blocked_.first : nullptr; line != nullptr; line = line->of_blocked.after) {
                rouse(*line);
            }
            has_room_again_ = false;
            if (Line *line = ready_.take_first()) serve(*line);
        }
        while (Line *line = idle_.take_first()) {
            if (line->peer != nullptr || line->alive > 0 || blocked_.has(*line)) continue;
            gone_.remove(*line);
            delete line;
        }
    }

    // --- to the server -----------------------------------------------------------------------------------------------

    void forward(Line &line, Verb verb, Bytes bytes) {
        Value *fields = is_last_list_ ? list_.get() : space_.outward(verb, bytes);
        if (!is_last_list_ && takes_list(static_cast<uint8_t>(verb))) list_.keep(bytes, fields, !space_.is_on());
        list_.expect_no_more(line);
        Slot &slot = add_slot(line, verb, fields);
        if (line.wait != nullptr && slot.replaces_wait()) {
            line.withdrawn = line.wait;
            line.postponed = &slot;
            line.is_stalled = true;
            withdraw(line);
        } else {
            begin(slot);
        }
    }
    Slot &add_slot(Line &line, Verb verb, Value *fields) {
        Slot *slot = new Slot(line, verb, fields, counted_size(verb, fields->bytes()));
        line.slots.add(*slot);
        ++line.slot_count;
        ++line.alive;
        line.size += slot->size;
        total_ += slot->size;
        return *slot;
    }

    void begin(Slot &slot) {
        Line &line = slot.line;
        line.is_stalled = slot.is_stalling();
        if (slot.is_shared()) {  // at the end of the turn, together with others who want to read the same
            ++slot.calls;
            return readings_.add(slot, list_.hash(slot.fields.get()));
        }
        if (is_too_large(slot)) return refuse(slot);
        if (slot.verb == Verb::QUEUE_POP) {
            call(slot, 0, SessionVerb::QUEUE_LEN, share(slot.fields.get()));
            return cancel(call(slot, 1, SessionVerb::QUEUE_POP, share(slot.fields.get())));
        }
        if (space_.is_on() && (slot.verb == Verb::LIST_KEYS || slot.verb == Verb::GETNUMKEYS)) {
            call(slot, 0, SessionVerb::LIST_PREFIX, space_.all());
            return;
        }
        Value *fields = share(slot.fields.get());
        if (slot.verb == Verb::CANCEL_WAIT) {
            release(fields);
            fields = make_value(sizeof(uint32_t));
            store<uint32_t>(fields->extend(sizeof(uint32_t)), 0);
        }
        Call &asked = call(slot, 0, verb_upstream(slot.verb), fields);
        if (slot.is_deferred()) line.wait = &asked;
    }

    // A few bytes more than c10d's largest request are too many; then the refusal says so.
    bool is_too_large(const Slot &slot) {
        const size_t size = slot.fields->size + REQUEST_HEAD_SIZE - 4;
        if (space_.is_too_long(slot.verb, slot.fields->bytes(), refusal_)) return true;
        if (size <= kRequestSizeMax) return false;
        refusal_.say(REQUEST_TOO_LARGE, "%s would be %zu bytes long, the limit for one request is %" PRIu64,
                     kVerbNames[static_cast<unsigned>(slot.verb)], size, kRequestSizeMax);
        return true;
    }

    void withdraw(Line &line) {
        if (line.wait != nullptr) cancel(*line.wait);
        line.wait = nullptr;
    }

    // --- from the server ---------------------------------------------------------------------------------------------

    void answered(Call &call, Status status, Bytes body, Value *value) override {
        --calls_count_;
        if (call.reading != nullptr) {
            Held one;  // a large reply is in memory once
            if (value == nullptr && body.size > Output::COPIED_SIZE_MAX) {
                one.hold(value = make_value(body));
                body = value->bytes();
            }
            over(*call.reading, [&](Slot &slot) { take(call, slot, status, body, value); });
        } else {
            take(call, *call.slot, status, body, value);
            let_go(*call.slot);
        }
        settle();
    }

    void failed(Call &call, Bytes why) override {
        --calls_count_;
        if (call.reading != nullptr) {
            over(*call.reading, [&](Slot &slot) { fail(call, slot, why); });
        } else {
            fail(call, *call.slot, why);
            let_go(*call.slot);
        }
        settle();
    }

    // A reading's call is over: do something with each that it was for, and ask for those who came meanwhile.
    template <typename Do>
    void over(Reading &reading, Do what) {
        List<Slot, &Slot::of_reading> readers = readings_.over(reading, list_);
        while (Slot *slot = readers.take_first()) {
            what(*slot);
            let_go(*slot);
        }
    }

    static void give_back(List<Line, &Line::of_relay> &lines) {
        while (Line *line = lines.take_first()) {
            while (Slot *slot = line->slots.take_first()) delete slot;
            delete line;
        }
    }

    // One call of a slot's is over.
    void let_go(Slot &slot) {
        if (--slot.calls > 0 || slot.is_in_line) return;
        give_back(slot);
    }
    void give_back(Slot &slot) {
        Line &line = slot.line;
        if (--line.alive == 0 && line.peer == nullptr) idle_.put(line);
        delete &slot;
    }

    void take(Call &call, Slot &slot, Status status, Bytes body, Value *value) {
        Line &line = slot.line;
        if (line.wait == &call) line.wait = nullptr;
        if (status == Status::REFUSED) {
            Cursor fields(body);
            Bytes code, sentence;
            if (!fields.text(&code) || !fields.text(&sentence)) return refuse_answer(slot);
            refuse(slot, reason_of(code), sentence);
        } else if (slot.refusal < 0) {
            if (!fill(slot, call.index, status, body, value)) return refuse_answer(slot);
            if (slot.verb == Verb::WAIT && status == Status::OK && line.peer != nullptr && list_.is(slot.fields.get())) {
                list_.expect(line);
            }
            if (slot.is_filled) advance(line);
            if (line.postponed != nullptr && line.withdrawn == &call) {
                Slot &following = *line.postponed;
                line.postponed = nullptr;
                begin(following);
            }
        }
        rouse(line);
    }

    void fail(Call &call, Slot &slot, Bytes why) {
        if (slot.line.wait == &call) slot.line.wait = nullptr;
        refuse(slot, ENDED, why);
    }

    // --- refusals ----------------------------------------------------------------------------------------------------

    // Take nothing more of a peer, and close it when it has been sent what it is owed before this request.
    void refuse(Slot &slot, int reason, Bytes sentence) {
        Line &line = slot.line;
        slot.refuse(reason, sentence);
        stop_serving(line);
        line.reader.close();
        if (Slot *never = line.postponed) {
            line.postponed = nullptr;
            take_out(*never);
            give_back(*never);
        }
        advance(line);
        idle_.put(line);
    }
    void refuse(Slot &slot) { refuse(slot, refusal_.reason, {refusal_.detail, strlen(refusal_.detail)}); }
    void refuse_answer(Slot &slot) {
        refusal_.say(ENDED, "the server upstream has answered %s with what means nothing",
                     kVerbNames[static_cast<unsigned>(slot.verb)]);
        refuse(slot);
    }
    // What a peer has sent is no request.
    void refuse_request(Line &line) {
        if (line.is_session) {
            refusal_.say(refusal_.reason, "it speaks the session dialect; here c10d is spoken, in which it may come again");
        }
        refuse(add_slot(line, Verb::GETNUMKEYS, make_value(0)));
    }

    // --- replies -----------------------------------------------------------------------------------------------------

    void take_out(Slot &slot) {
        Line &line = slot.line;
        line.slots.remove(slot);
        slot.is_in_line = false;
        --line.slot_count;
        line.size -= slot.size;
        const bool was_full = total_ >= relay_limits_.unanswered_total_max;
        total_ -= slot.size;
        if (was_full && total_ < relay_limits_.unanswered_total_max) has_room_again_ = true;
        if (slot.is_stalling()) line.is_stalled = false;
    }

    // Send the replies that are known and whose turn it is.
    void advance(Line &line) {
        for (Slot *slot = line.slots.first, *after; slot != nullptr; slot = after) {
            after = slot->of_line.after;
            if (!slot->is_filled) {
                if (!slot->is_deferred()) break;
                continue;
            }
            take_out(*slot);
            if (line.peer != nullptr) reply(line, *slot);
            if (slot->calls == 0) give_back(*slot);
        }
        if (line.caused > limits_.output_size_max && !line.is_paused && line.peer != nullptr) {
            line.is_paused = line.peer->is_paused = true;
            driver_.paused(*line.peer);
        }
        rouse(line);
    }
    void reply(Line &line, Slot &slot) {
        if (slot.refusal >= 0) {
            refusal_.say(slot.refusal, "%.*s", static_cast<int>(slot.reply->size), slot.reply->data());
            return close(line);
        }
        const size_t reply_size = slot.reply ? slot.reply->size : slot.gathered != nullptr ? slot.gathered->reply.size() : 0;
        if (slot.few_size + reply_size == 0) return;
        line.caused += slot.few_size + reply_size;
        Peer &peer = *line.peer;
        if (peer.output.empty()) driver_.owes(peer);
        if (slot.few_size > 0) Bytes{slot.few, slot.few_size}.copy_to(peer.output.extend(slot.few_size));
        if (slot.reply) {
            peer.output.append(slot.reply.get());
        } else if (reply_size > 0) {
            peer.output.append(slot.gathered->reply);
        }
    }

    // --- upstream and time -------------------------------------------------------------------------------------------

    void there(bool is_same) override {
        gone_since_ = INFINITY;
        is_given_up_ = false;
        if (!is_same) {
            refusal_.say(ENDED, "the server upstream has other data than before: what this peer relies on is gone");
            close_all();
        }
        settle();
    }
    void gone(Bytes why) override {
        if (!isfinite(gone_since_)) gone_since_ = now_;
        gone_why_.hold(make_value(why));
        settle();
    }
    void say_unreachable() {
        refusal_.say(ENDED, "the server upstream has been unreachable for %.1f s: %.*s",
                     isfinite(gone_since_) ? now_ - gone_since_ : 0.0,
                     gone_why_ ? static_cast<int>(gone_why_->size) : 0, gone_why_ ? gone_why_->data() : "");
    }

    const Limits limits_;
    RelayLimits relay_limits_;
    List<Line, &Line::of_relay> lines_, gone_;
    List<Line, &Line::of_strangers> strangers_;
    List<Line, &Line::of_blocked> blocked_;  // that have sent more than is taken now
    List<Line, &Line::of_ready> ready_;      // of these, those that may go on
    List<Line, &Line::of_idle> idle_;        // of which nothing may be left
    Readings readings_;
    LongList list_{key_};
    bool is_last_list_ = false;  // the request that came last has it
    bool has_room_again_ = false;
    uint64_t connections_ = 0, total_ = 0, input_held_ = 0, requests_ = 0;
    uint64_t closed_[ENDED + 1] = {};
    double now_ = 0;
    double gone_since_ = INFINITY;
    Held gone_why_;
    bool is_given_up_ = false;
};

}  // namespace rallypoint
