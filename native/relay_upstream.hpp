// A relay's one session with the server, twin of gateway/upstream.py over protocol/session/client.py: what is on its way,
// what came of it, and the connection that it has at the time.
//
// Whoever owns the relay connects and shakes hands, again and again, and hands the connection over (`begin_on`). What is
// not answered is sent again then, with its old id; exactly once is the server's part. Frames are put into the
// connection's output, so what is asked in one turn leaves together.
//
// A large answer is received where it stays: its value is made when its head has come, and goes to all who asked.
#pragma once

#include "relay_slots.hpp"

namespace rallypoint {

class Upstream {
  public:
    // Where to receive what comes next: for the driver.
    char *room(const Peer &peer, char *buffer, size_t &size) {
        if (&peer != peer_ || !large_) return buffer;
        size = large_->room;
        return large_->data() + large_->size;
    }

    // Tell, once, that a connection is wanted, and of which session; null if none is.
    Value *take_wish() {
        if (!wants_connection_) return nullptr;
        wants_connection_ = false;
        return session_id_ ? share(session_id_.get()) : make_value(0);
    }

  protected:
    explicit Upstream(Driver &driver) : driver_(driver) {}
    ~Upstream() {
        while (Call *call = calls_.first) {
            take_out(*call);
            delete call;
        }
    }

    // A call was answered; it is over after this. Of an OK that holds c10d's reply the body is that, and if there is a
    // value it is the body.
    virtual void answered(Call &call, Status status, Bytes body, Value *value) = 0;
    // A call will not be answered.
    virtual void failed(Call &call, Bytes why) = 0;
    virtual void there(bool is_same) = 0;
    virtual void gone(Bytes why) = 0;

    // --- the connection, for the owner ------------------------------------------------------------------------------

    // Go on over a connection past its handshake, which the driver serves already.
    void begin_on(Peer &peer, bool is_far, Bytes endpoint, Bytes session, Bytes data, bool is_resumed) {
        const bool is_known = static_cast<bool>(data_id_), is_same = !is_known || data_id_.equals(data);
        data_id_.hold(make_value(data));
        endpoint_.hold(make_value(endpoint));
        if (!is_same) {
            start_over("the server upstream has other data than before");
        } else if (is_known && !is_resumed) {
            const uint64_t last = last_id_;  // what a failure lets through is asked behind it
            while (writes_.first != nullptr && writes_.first->hash <= last) {
                fail(*writes_.first, "the session upstream ended: it is not known whether the request was applied");
            }
        }
        session_id_.hold(make_value(session));
        peer_ = &peer;
        is_probed_ = false;
        is_far_ = is_far;
        awaited_ = 1;
        trouble_.drop();
        char line[128];
        snprintf(line, sizeof line, "the server upstream is there%s%s", is_known ? " again" : "",
                 is_same ? "" : ", with other data");
        driver_.note(line);
        for (Call *call = calls_.first; call != nullptr; call = call->of_session.after) send(*call);
        for (Call *call = calls_.first; call != nullptr; call = call->of_session.after) {
            if (call->is_cancelled) send_cancel(*call);
        }
        there(is_same);
    }

    // Take note that an attempt to connect came to nothing.
    void miss(Bytes why) {
        if (!trouble_.equals(why)) {
            trouble_.hold(make_value(why));
            say("the server upstream cannot be reached, trying on: %.*s", static_cast<int>(why.size), why.data);
        }
        gone(why);
    }

    // --- asking ------------------------------------------------------------------------------------------------------

    // Make a call, and send it or keep it until there is a connection. The fields are not too long.
    Call &ask(SessionVerb verb, Value *fields) {
        Call *call = new Call;
        call->hash = ++last_id_;
        call->verb = verb;
        call->done = passed();
        call->fields.hold(fields);
        calls_.add(*call);
        by_id_.add(*call);
        if (call->row().is_write) writes_.add(*call);
        if (peer_ != nullptr) send(*call);
        return *call;
    }

    // End a call's wait, if it is one that waits; it is answered all the same.
    void cancel(Call &call) {
        if (!call.row().is_deferred) return;
        call.is_cancelled = true;
        if (peer_ != nullptr) send_cancel(call);
    }

    // --- the connection ----------------------------------------------------------------------------------------------

    bool is_upstream(const Peer &peer) const { return &peer == peer_; }

    // Give a silent server up, or ask it for a sign of life, each kProbeS.
    void probe(double now) {
        if (now < probe_at_) return;
        const bool is_first = probe_at_ == 0;
        probe_at_ = now + kProbeS;
        if (is_first || peer_ == nullptr) return;
        if (awaited_ > 1) return await(1);  // less than is awaited may be there, and is told now
        if (is_probed_) {
            char why[64];
            snprintf(why, sizeof why, "it has said nothing for %g s", kProbeS);
            return lose(why);
        }
        is_probed_ = true;
        Value *number = make_value(sizeof(uint32_t));
        store<uint32_t>(number->extend(sizeof(uint32_t)), 0);
        ask(SessionVerb::PING, number);
    }
    double probe_at() const { return probe_at_; }

    // The connection is lost, in the driver's words.
    void lost() {
        const int place_size = static_cast<int>(endpoint_->size), error = peer_->error;
        const char *place = endpoint_->data();
        char why[1024];
        if (error == 0) {
            snprintf(why, sizeof why, "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server"
                     " shutdown or crash? The server was %.*s.", place_size, place);
        } else {
            snprintf(why, sizeof why, "%s: the connection to %.*s is lost", strerror(error), place_size, place);
        }
        peer_->output.clear();
        peer_ = nullptr;
        end_connection(why);
    }

    // The end of the relay: say good-bye, if that leaves at once, and ask nothing any more.
    void leave() {
        has_ended_ = true;
        if (peer_ != nullptr && peer_->output.empty()) ask(SessionVerb::BYE, make_value(0));
    }

    // --- hearing -----------------------------------------------------------------------------------------------------

    void hear(const char *data, size_t size) {
        is_probed_ = false;
        if (large_) {
            large_->extend(size);
            await(large_->room);
            if (large_->room == 0) give_large();
        } else {
            reader_.feed(data, size);
            while (peer_ != nullptr) {
                Bytes frame;
                const Reader::Step step = reader_.next_frame(kReplyFrameSizeMax, REPLY_HEAD_SIZE - 4, &frame, refusal_);
                if (step == Reader::REFUSED) return lose(refusal_.detail);
                if (step == Reader::MORE) break;
                take(frame);
            }
            make_room();
            reader_.keep();
        }
        if (closing_reason_) lose(closing_sentence_->data());
    }

  private:
    uint64_t passed() const { return writes_.first != nullptr ? writes_.first->hash : last_id_; }

    Output &output() {
        if (peer_->output.empty()) driver_.owes(*peer_);
        return peer_->output;
    }
    static char *put_head(char *to, size_t size, SessionVerb verb, uint64_t id, uint64_t done) {
        to = store(to, static_cast<uint32_t>(REQUEST_HEAD_SIZE - 4 + size));
        return store(store(store(to, verb), id), done);
    }
    void send(Call &call) {
        Output &out = output();
        Value *fields = call.fields.get();
        put_head(out.extend(REQUEST_HEAD_SIZE), fields->size, call.verb, call.hash, call.done);
        out.append(fields);
    }
    void send_cancel(const Call &call) {
        const uint64_t done = writes_.first != nullptr ? writes_.first->hash : last_id_ + 1;
        char *to = output().extend(REQUEST_HEAD_SIZE + 8);
        store(put_head(to, 8, SessionVerb::CANCEL, kClosingId, done), call.hash);
    }

    void take_out(Call &call) {
        calls_.remove(call);
        by_id_.remove(call);
        writes_.drop(call);
    }
    Call *find(uint64_t id) const {
        return by_id_.find(id, [](const Call &) { return true; });
    }

    // Where c10d's reply begins in an OK's fields, as slots.REPLY_AT; it ends where they do.
    static size_t reply_at(Status status, const Call &call) {
        return status == Status::OK && call.verb == SessionVerb::READ ? 8 : 0;
    }

    void take(Bytes frame) {
        const uint8_t number = static_cast<uint8_t>(frame.data[4]);
        const Status status = static_cast<Status>(number);
        const uint64_t id = load<uint64_t>(frame.data + 5);
        const Bytes body = {frame.data + REPLY_HEAD_SIZE, frame.size - REPLY_HEAD_SIZE};
        char why[96];
        if (status <= Status::LOST) {
            if (Call *call = find(id)) {
                const size_t at = reply_at(status, *call);
                if (body.size >= at) return give(*call, status, {body.data + at, body.size - at}, nullptr);
                return lose("a frame ends amid a number");
            }
            if (id > 0 && id <= last_id_) return;  // nobody wants it any more
            snprintf(why, sizeof why, "the server answers request %" PRIu64 ", the last one was %" PRIu64, id, last_id_);
            lose(why);
        } else if (status == Status::CLOSING) {
            Cursor fields(body);
            Bytes reason, sentence;
            if (!fields.text(&reason) || !fields.text(&sentence)) return lose("a frame ends amid a key");
            closing_reason_.hold(make_value(reason));
            closing_sentence_.hold(grow(make_value(sentence), {"", 1}));
        } else if (status != Status::EVENT) {
            snprintf(why, sizeof why, "the server sends a frame of status %u, which means nothing here", number);
            lose(why);
        }
    }

    // If a large answer has begun, make the value that it is to be.
    void make_room() {
        const Bytes begun = reader_.begun_frame();
        if (peer_ == nullptr || begun.size < REPLY_HEAD_SIZE + 8) return;
        const size_t size = size_t{4} + load<uint32_t>(begun.data);
        if (size - begun.size < kRoomSizeMin || size - begun.size > kRoomSizeMax) return;
        large_status_ = static_cast<Status>(begun.data[4]);
        large_id_ = load<uint64_t>(begun.data + 5);
        const Call *call = large_status_ <= Status::LOST ? find(large_id_) : nullptr;
        if (call == nullptr) return;
        const size_t at = REPLY_HEAD_SIZE + reply_at(large_status_, *call);
        Value *value = make_value(size - at);
        const Bytes came = {begun.data + at, begun.size - at};
        came.copy_to(value->extend(came.size));
        large_.hold(value);
        reader_.close();
        await(value->room);
    }
    // Be told of a large answer once, not for each segment of it.
    void await(size_t size) {
        size = size > kAwaitedSizeMax ? kAwaitedSizeMax : size > 0 ? size : 1;
        if (!is_far_ || size == awaited_) return;
        awaited_ = size;
        driver_.awaits(*peer_, size);
    }
    void give_large() {
        Value *value = large_.take();
        if (Call *call = find(large_id_)) give(*call, large_status_, value->bytes(), value);
        release(value);
    }
    void give(Call &call, Status status, Bytes body, Value *value) {
        take_out(call);
        if (call.slot != nullptr || call.reading != nullptr) answered(call, status, body, value);
        delete &call;
    }

    // --- the end of a connection, or of a session --------------------------------------------------------------------

    [[gnu::format(printf, 2, 3)]] void say(const char *format, ...) {
        char line[1024];
        va_list words;
        va_start(words, format);
        vsnprintf(line, sizeof line, format, words);
        va_end(words);
        driver_.note(line);
    }

    void lose(const char *why) {
        if (peer_ == nullptr) return;
        Peer &peer = *peer_;
        peer_ = nullptr;
        driver_.dropped(peer);
        char words[1024];  // they may be the closing sentence, which is dropped
        snprintf(words, sizeof words, "%s", why);
        end_connection(words);
    }

    void end_connection(const char *why) {
        reader_.close();
        large_.drop();
        if (!has_ended_) {
            if (closing_reason_ && is_fatal(closing_reason_->bytes())) {
                char words[1200];
                snprintf(words, sizeof words, "the server upstream ended the session (%.*s): %s",
                         static_cast<int>(closing_reason_->size), closing_reason_->data(), closing_sentence_->data());
                start_over(words);
            }
            say("the server upstream is lost: %s", why);
            gone({why, strlen(why)});
            wants_connection_ = true;
        }
        closing_reason_.drop();
        closing_sentence_.drop();
    }

    // The last words of a server after which the same session need not come again, as store/uplink.FATAL_REASONS.
    static bool is_fatal(Bytes said) {
        constexpr int FATAL[] = {TAKEN_OVER, AUTHENTICATION_FAILED, AUTHENTICATION_REQUIRED, BAD_FRAME, FIELD_TOO_LARGE,
                                 REQUEST_TOO_LARGE, UNKNOWN_VERB};
        for (int reason : FATAL) {
            const Code code(reason);
            if (said == Bytes{code.text, strlen(code.text)}) return true;
        }
        return false;
    }

    // Begin another session; what the old one has not answered will not be.
    void start_over(const char *why) {
        List<Call, &Call::of_session> old;
        while (Call *call = calls_.first) {
            take_out(*call);
            old.add(*call);
        }
        session_id_.drop();
        last_id_ = 0;
        while (Call *call = old.take_first()) give_up(*call, why);
    }
    void fail(Call &call, const char *why) {
        take_out(call);
        give_up(call, why);
    }
    void give_up(Call &call, const char *why) {
        if (call.slot != nullptr || call.reading != nullptr) failed(call, {why, strlen(why)});
        delete &call;
    }

  protected:
    Driver &driver_;
    Refusal refusal_;
    bool has_ended_ = false;

  private:
    List<Call, &Call::of_session> calls_;  // on their way, in the order of their ids
    List<Call, &Call::of_writes> writes_;  // of these, those that change something
    Index<Call> by_id_;
    uint64_t last_id_ = 0;
    Held session_id_, data_id_;
    Peer *peer_ = nullptr;  // the connection
    Held endpoint_;
    bool wants_connection_ = false;
    Held trouble_;  // why it could not be made, when that was said last
    bool is_far_ = false;  // over TCP, where the system can be told what is awaited
    size_t awaited_ = 1;   // bytes that are to be there before it tells us
    bool is_probed_ = false;
    double probe_at_ = 0;
    Reader reader_;
    Held large_;  // an answer that is being received
    Status large_status_ = Status::OK;
    uint64_t large_id_ = 0;
    Held closing_reason_, closing_sentence_;  // the server's last words, if it has said them
};

}  // namespace rallypoint
