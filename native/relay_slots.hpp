// What one c10d request is in the session dialect, twin of gateway/slots.py with peers.py and readings.py: its place in
// its peer's line, the calls upstream that it takes, and equal reads that one call answers.
//
// A slot lives until it has left its line and its last call is over; a line until its peer is gone and its last slot.
#pragma once

#include "ground.hpp"
#include "session_codec.hpp"

namespace rallypoint {

struct Line;
struct Reading;
struct Slot;

// Memory that ends the process where there is none, as everywhere here.
struct Taken {
    static void *operator new(size_t size) { return take_memory(size); }
    static void operator delete(void *memory) { free(memory); }
};

// Texts one after the other that may end too soon; unlike `Fields`, which are whole.
struct Cursor {
    const char *at, *end;

    explicit Cursor(Bytes bytes) : at(bytes.data), end(bytes.data + bytes.size) {}

    bool number(int64_t *number) {
        if (end - at < 8) return false;
        *number = load<int64_t>(at);
        at += 8;
        return true;
    }
    bool text(Bytes *text) {
        int64_t size;
        if (!number(&size) || size < 0 || size > end - at) return false;
        *text = {at, static_cast<size_t>(size)};
        at += size;
        return true;
    }
};

// Things by a number of theirs, their `hash`, in chains through their `next`.
template <typename Thing>
class Index {
  public:
    Index() = default;
    ~Index() { free(chains_); }
    Index(const Index &) = delete;
    Index &operator=(const Index &) = delete;

    template <typename IsIt>
    Thing *find(uint64_t hash, IsIt is_it) const {
        Thing *thing = room_ == 0 ? nullptr : chains_[hash & (room_ - 1)];
        while (thing != nullptr && !(thing->hash == hash && is_it(*thing))) thing = thing->next;
        return thing;
    }
    void add(Thing &thing) {
        if (count_++ == room_) resize(room_ == 0 ? 16 : room_ * 2);
        put(thing);
    }
    void remove(Thing &thing) {
        Thing **at = &chains_[thing.hash & (room_ - 1)];
        while (*at != &thing) at = &(*at)->next;
        *at = thing.next;
        if (--count_ == 0 && room_ > KEPT) resize(KEPT);
    }

  private:
    static constexpr size_t KEPT = 1024;  // chains that are not given back

    void put(Thing &thing) {
        Thing **chain = &chains_[thing.hash & (room_ - 1)];
        thing.next = *chain;
        *chain = &thing;
    }
    void resize(size_t room) {
        Thing **old = chains_;
        const size_t old_room = room_;
        room_ = room;
        chains_ = static_cast<Thing **>(take_memory(room * sizeof(Thing *)));
        memset(chains_, 0, room * sizeof(Thing *));
        for (size_t at = 0; at < old_room; ++at) {
            while (Thing *thing = old[at]) {
                old[at] = thing->next;
                put(*thing);
            }
        }
        free(old);
    }

    Thing **chains_ = nullptr;
    size_t count_ = 0;
    size_t room_ = 0;  // a power of 2
};

// One request upstream, from when it is asked to its answer. Whose it is: a slot's, a reading's, or a probe's.
struct Call : Taken {
    uint64_t hash = 0;  // its id
    Call *next = nullptr;
    uint64_t done = 0;  // what its frame says
    Held fields;
    Slot *slot = nullptr;
    Reading *reading = nullptr;
    uint32_t index = 0;  // among its slot's
    SessionVerb verb;
    bool is_cancelled = false;
    Link<Call> of_session, of_writes;

    const SessionRow &row() const { return kSessionRows[static_cast<unsigned>(verb)]; }
};

// The values of a MULTI_GET of which some are missing, as they come.
struct Gathered : Taken {
    struct Found {
        Held value;  // none: it is missing, or not there yet
    };

    explicit Gathered(const HashKey &key) : found(key) {}

    Table<Found> found;
    Ring<Found *> wanted;  // those that are asked for, in the order of their calls
    size_t left = 0;       // of these, not answered
    Output reply;
};

// A request's place in its peer's line.
struct Slot : Taken {
    Slot(Line &of, Verb asked, Value *given, size_t counted) : line(of), size(counted), verb(asked) { fields.hold(given); }
    ~Slot() { delete gathered; }

    Line &line;
    const uint64_t size;  // about how many bytes the request keeps
    Held fields;
    const Verb verb;
    bool is_filled = false;  // the reply is known: `few`, then `reply`, or what was gathered
    bool is_in_line = true;
    bool has_length = false, has_popped = false;  // of a QUEUE_POP's two answers
    uint8_t few_size = 0;
    uint32_t calls = 0;  // that are not over
    int refusal = -1;    // why the peer is to be closed here instead, ...
    char few[16];
    Held reply;          // ... and the sentence
    Gathered *gathered = nullptr;
    Link<Slot> of_line, of_reading;

    // Its reply does not keep those behind it.
    bool is_deferred() const { return verb == Verb::WAIT || verb == Verb::BARRIER; }
    // Its peer's wait ends with it.
    bool replaces_wait() const { return is_deferred() || verb == Verb::CANCEL_WAIT; }
    // Its reply may be of any size, so requests behind it are not sent upstream before it is filled.
    bool is_stalling() const {
        return verb == Verb::GET || verb == Verb::MULTI_GET || verb == Verb::COMPARE_SET || verb == Verb::QUEUE_POP ||
               verb == Verb::LIST_KEYS;
    }
    // Equal ones may be served by one call.
    bool is_shared() const { return verb == Verb::GET || verb == Verb::MULTI_GET; }

    template <typename Number>
    void put(Number number) {
        store(few + few_size, number);
        few_size = static_cast<uint8_t>(few_size + sizeof(number));
    }
    // Fill it with bytes that came, which are the value's if there is one.
    void fill(Bytes bytes, Value *value) {
        is_filled = true;
        if (bytes.size + few_size <= sizeof(few)) {
            bytes.copy_to(few + few_size);
            few_size = static_cast<uint8_t>(few_size + bytes.size);
        } else {
            reply.hold(value != nullptr ? share(value) : make_value(bytes));
        }
    }
    // Fill it with the end of its peer, unless it is filled so already.
    void refuse(int reason, Bytes sentence) {
        if (refusal >= 0) return;
        refusal = reason;
        is_filled = true;
        reply.hold(make_value(sentence));
    }
};

// The calls that a request begins with: the verb upstream, and whether it is withdrawn at once if it is to wait.
inline SessionVerb verb_upstream(Verb verb) {
    if (verb == Verb::GET) return SessionVerb::READ;
    return verb == Verb::CANCEL_WAIT ? SessionVerb::PING : static_cast<SessionVerb>(verb);
}

// About how many bytes a request with these fields keeps, as slots.py counts.
inline size_t counted_size(Verb verb, Bytes fields) {
    size_t size = kOverheadSize + fields.size;
    for (const Kind *kind = kRequestLayouts[static_cast<unsigned>(verb)]; *kind != Kind::NOTHING; ++kind) {
        switch (*kind) {
        case Kind::KEYS: return size + kOverheadSize * load<uint64_t>(fields.data);
        case Kind::PAIRS: return size + (kOverheadSize - 16) * load<uint64_t>(fields.data) - 8;
        default: size -= *kind == Kind::U32 ? 4 : 8;
        }
    }
    return size;
}

// Several readers of one thing: those whose call is on its way, and those who came meanwhile and are the next.
struct Reading : Taken {
    uint64_t hash = 0;
    Reading *next = nullptr;
    List<Slot, &Slot::of_reading> asked, waiting;
    size_t count = 0;  // of those who wait
    Link<Reading> of_all, of_due;

    const Slot &one() const { return asked.first != nullptr ? *asked.first : *waiting.first; }
    bool is_of(Verb verb, const Value *fields, Bytes bytes) const {
        const Slot &slot = one();
        return slot.verb == verb && (slot.fields.get() == fields || slot.fields.equals(bytes));
    }
};

// One local peer: its line of requests, and why nothing more of it is taken for now.
struct Line : Taken {
    explicit Line(Peer &of) : peer(&of) {}

    Peer *peer;  // null once it is gone
    Reader reader;
    List<Slot, &Slot::of_line> slots;
    size_t slot_count = 0;
    size_t alive = 0;     // slots whose memory is not given back
    uint64_t size = 0;    // bytes of the requests in the line
    uint64_t held = 0;    // bytes that the reader kept when they were last accounted for
    uint64_t caused = 0;  // bytes of replies since it was last resumed
    double deadline = 0;  // of its handshake
    Call *wait = nullptr;  // of its WAIT or BARRIER
    Call *withdrawn = nullptr;  // the call that was withdrawn, ...
    Slot *postponed = nullptr;  // ... and what takes its place
    uint64_t waited = 0;      // the number of the list that it has waited for, if it has asked nothing since
    bool is_unread = false;   // not all that it has sent was looked at
    bool is_paused = false;   // it is to be sent what it has caused before it causes more
    bool is_stalled = false;  // the last slot is to be filled, or begun, before the next request
    bool is_refused = false;  // nothing more of it is taken
    bool is_session = false;  // it opens with the other dialect
    Link<Line> of_relay, of_strangers, of_blocked, of_ready, of_idle;
};

}  // namespace rallypoint
