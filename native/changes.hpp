// What a durable server remembers, noted as it changes, as the bytes of one commit; and what an earlier life has left,
// read again. Twin of server/changes.py and server/journal_log.py: the same changes give the same bytes.
//
// Shape: MessagePack, [bodies, changes]; a change is [number of its kind, fields]. Bodies that answers share stand there
// once. Who takes a commit writes it, whole, before anything leaves that tells of it.
#pragma once

#include "containers.hpp"
#include "session_codec.hpp"

namespace rallypoint {


// Writes MessagePack as msgspec does: each number and size as short as can be.
class Packed {
  public:
    ~Packed() { release(bytes_); }

    Bytes bytes() const { return bytes_->bytes(); }
    void clear() {
        if (bytes_->size + bytes_->room > KEPT_SIZE_MAX) {
            release(bytes_);
            bytes_ = make_value(0);
        }
        bytes_->room += static_cast<uint32_t>(bytes_->size);
        bytes_->size = 0;
    }

    Packed &array(uint64_t count) {
        return count < 16 ? head(0x90 | count, 0, 0) : count <= UINT16_MAX ? head(0xdc, count, 2) : head(0xdd, count, 4);
    }
    Packed &number(int64_t number) {
        const uint64_t bits = static_cast<uint64_t>(number);
        if (number >= -32 && number < 128) return head(bits, 0, 0);
        const int width = number < 0 ? width_of(~bits << 1) : width_of(bits);
        return head((number < 0 ? 0xd0 : 0xcc) + static_cast<unsigned>(width), bits, 1 << width);
    }
    // A text in two parts, whichever of them there are.
    Packed &text(Bytes text, Bytes rest = {nullptr, 0}) {
        const uint64_t size = text.size + rest.size;
        const int width = width_of(size);
        head(0xc4 + static_cast<unsigned>(width), size, 1 << width);
        return raw(text).raw(rest);
    }
    Packed &raw(Bytes text) {
        bytes_ = grow(bytes_, text);
        return *this;
    }

  private:
    static constexpr size_t KEPT_SIZE_MAX = 1 << 20;

    // The power of 2 of the bytes that a number needs.
    static int width_of(uint64_t number) {
        return number <= UINT8_MAX ? 0 : number <= UINT16_MAX ? 1 : number <= UINT32_MAX ? 2 : 3;
    }
    Packed &head(uint64_t first, uint64_t number, int size) {
        char bytes[9] = {static_cast<char>(first)};
        for (int at = size; at > 0; --at, number >>= 8) bytes[at] = static_cast<char>(number);
        return raw({bytes, static_cast<size_t>(size) + 1});
    }

    Value *bytes_ = make_value(0);
};

// Reads what `encode_changes` of this process has just made: well formed.
class Unpacked {
  public:
    explicit Unpacked(Bytes bytes) : at_(bytes.data) {}

    size_t array() {
        const unsigned first = byte();
        return first == 0xdc ? number_of(2) : first == 0xdd ? number_of(4) : first & 15;
    }
    int64_t number() {
        const unsigned first = byte();
        if (first < 0x80 || first >= 0xe0) return static_cast<int8_t>(first);
        const int size = 1 << (first & 3);
        const uint64_t bits = number_of(size);
        const int unused = first < 0xd0 ? 0 : 64 - 8 * size;
        return static_cast<int64_t>(bits << unused) >> unused;
    }
    Bytes text() {
        const size_t size = number_of(1 << (byte() & 3));
        at_ += size;
        return {at_ - size, size};
    }

  private:
    unsigned byte() { return static_cast<unsigned char>(*at_++); }
    uint64_t number_of(int size) {
        uint64_t number = 0;
        for (; size > 0; --size) number = number << 8 | byte();
        return number;
    }

    const char *at_;
};

// The numbers of the kinds of changes: part of the format.
enum class ChangeKind : uint8_t {
    KEY_SET, ANSWER_KEPT, ANSWERS_FORGOTTEN, KEY_DELETED, APPENDED, PUSHED, POPPED, LEASE_GRANTED, LEASE_ENDED,
    SESSION_MADE, SESSION_ENDED, GROUP_MET, GROUP_FORGOTTEN
};
constexpr int64_t kNoBody = -1;

// Changes as the bytes of one commit.
class Commit {
  public:
    explicit Commit(const HashKey &key) : key_(key), bodies_(key) {}

    size_t count() const { return count_; }
    // Put the bytes of all since the last time behind a value, and forget them.
    Value *take(Value *to) {
        Packed head;
        head.array(2).array(bodies_.count());
        for (auto *each = bodies_.first(); each != nullptr; each = each->order.after) head.text(each->name());
        head.array(count_);
        to = grow(grow(to, head.bytes()), changes_.bytes());
        while (bodies_.first() != nullptr) bodies_.erase(bodies_.first());
        last_body_.drop();
        changes_.clear();
        count_ = 0;
        return to;
    }

    // Begin a change, whose fields follow.
    Packed &begin(ChangeKind kind, size_t fields) {
        ++count_;
        return changes_.array(2).number(static_cast<uint8_t>(kind)).array(fields);
    }
    void key_set(Bytes key, Bytes value, int64_t revision, int64_t lease) {
        begin(ChangeKind::KEY_SET, 4).text(key).text(value).number(revision).number(lease);
    }
    void appended(Bytes key, Bytes tail, int64_t revision) {
        begin(ChangeKind::APPENDED, 3).text(key).text(tail).number(revision);
    }
    void key_deleted(Bytes key, int64_t revision) { begin(ChangeKind::KEY_DELETED, 2).text(key).number(revision); }
    void pushed(Bytes name, Bytes item) { begin(ChangeKind::PUSHED, 2).text(name).text(item); }
    void popped(Bytes name) { begin(ChangeKind::POPPED, 1).text(name); }
    void answers_forgotten(Bytes session, uint64_t done) {
        begin(ChangeKind::ANSWERS_FORGOTTEN, 2).text(session).number(static_cast<int64_t>(done));
    }
    void answer_kept(Bytes session, const Answer &answer) {
        begin(ChangeKind::ANSWER_KEPT, answer.size == 0 ? 2 : 4).text(session).number(static_cast<int64_t>(answer.id));
        if (answer.size == 0) return;
        // What is said of one request is its own; only values are shared.
        const Status status = static_cast<Status>(answer.head[4]);
        const bool is_own = status == Status::REFUSED || status == Status::EXPIRED;
        changes_.text(answer.bytes(), is_own ? answer.body->bytes() : Bytes{nullptr, 0});
        changes_.number(is_own || answer.body_size() == 0 ? kNoBody : place_of(answer.body));
    }

  private:
    int64_t place_of(Value *body) {
        if (last_body_.get() == body) return last_place_;
        const Name name(key_, body->bytes());
        auto *entry = bodies_.find(name);
        if (entry == nullptr) {
            const int64_t place = static_cast<int64_t>(bodies_.count());
            entry = bodies_.insert(name);
            entry->item = place;
        }
        last_body_.hold(share(body));
        return last_place_ = entry->item;
    }

    const HashKey key_;
    uint64_t count_ = 0;
    Packed changes_;
    Table<int64_t> bodies_;  // and their places
    Held last_body_;         // what many share comes in a row
    int64_t last_place_ = 0;
};

// What has changed: all of it, for the next commit; and what, since commits were last added up, for the sum.
//
// For the sum names are enough: what is there in the end, the keyspace knows. Rare changes are kept as they are.
class Changes {
  public:
    struct KeyMark {
        bool was_deleted, is_set;
        uint64_t appended;  // bytes, while it is not set
    };
    struct QueueMark {
        uint64_t popped;  // of the items that were there before
        uint64_t pushed;  // and not popped since
    };

    explicit Changes(const HashKey &key) : commit(key), sum(key), keys(key), queues(key) {}

    bool is_on = false;  // else nothing is noted
    int64_t lease = 0;   // that the key which is being written is to belong to

    void key_set(const Name &key, Bytes value, int64_t revision) {
        if (!is_on) return;
        commit.key_set(key, value, revision, lease);
        KeyMark *mark = &mark_of(keys, key);
        if (mark->was_deleted && !mark->is_set) {  // it is younger now than all that were not deleted
            keys.erase(keys.find(key));
            mark = &keys.insert(key)->item;
            mark->was_deleted = true;
        }
        mark->is_set = true;
    }
    void appended(const Name &key, Bytes tail, int64_t revision) {
        if (!is_on) return;
        commit.appended(key, tail, revision);
        mark_of(keys, key).appended += tail.size;
    }
    void key_deleted(const Name &key, int64_t revision) {
        if (!is_on) return;
        commit.key_deleted(key, revision);
        mark_of(keys, key) = {true, false, 0};
    }
    void pushed(const Name &name, Bytes item) {
        if (!is_on) return;
        commit.pushed(name, item);
        ++mark_of(queues, name).pushed;
    }
    void popped(const Name &name, size_t length) {
        if (!is_on) return;
        commit.popped(name);
        QueueMark &mark = mark_of(queues, name);
        if (mark.pushed < length) {
            ++mark.popped;
        } else {
            --mark.pushed;
        }
    }

    void lease_granted(int64_t id, int64_t ttl_ms, Bytes session) {
        rare(ChangeKind::LEASE_GRANTED, 4, [&](Packed &to) {
            to.number(id).number(ttl_ms).text(session).text({nullptr, 0});
        });
    }
    void lease_ended(int64_t id) {
        rare(ChangeKind::LEASE_ENDED, 1, [&](Packed &to) { to.number(id); });
    }
    void session_made(Bytes session, Bytes label, Bytes identity, int64_t timeout_ms) {
        rare(ChangeKind::SESSION_MADE, 4, [&](Packed &to) {
            to.text(session).text(label).text(identity).number(timeout_ms);
        });
    }
    void session_ended(Bytes session) {
        rare(ChangeKind::SESSION_ENDED, 1, [&](Packed &to) { to.text(session); });
    }
    // `put_members` puts them.
    template <typename Put>
    void group_met(uint8_t kind, Bytes name, uint64_t generation, size_t count, Put put_members) {
        rare(ChangeKind::GROUP_MET, 4, [&](Packed &to) {
            put_members(to.number(kind).text(name).number(static_cast<int64_t>(generation)).array(count));
        });
    }
    void group_forgotten(uint8_t kind, Bytes name) {
        rare(ChangeKind::GROUP_FORGOTTEN, 2, [&](Packed &to) { to.number(kind).text(name); });
    }

    Commit commit, sum;
    Table<KeyMark> keys;
    Table<QueueMark> queues;

  private:
    template <typename Put>
    void rare(ChangeKind kind, size_t fields, Put put) {
        if (!is_on) return;
        put(commit.begin(kind, fields));
        put(sum.begin(kind, fields));
    }
    template <typename Mark>
    static Mark &mark_of(Table<Mark> &marks, const Name &name) {
        auto *entry = marks.find(name);
        return (entry == nullptr ? marks.insert(name) : entry)->item;
    }
};

}  // namespace rallypoint
