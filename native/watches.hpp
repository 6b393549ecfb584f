// Who watches which keys, and what is kept for whom that does not read; twin of server/watches.py, by the same rules.
#pragma once

#include "sessions.hpp"

namespace rallypoint {

// What happened to a key, its fields parted where the value is, which is shared.
struct Event {
    Value *before;  // kind, key and the value's size
    Value *value;   // null for none
    int64_t revision;

    size_t value_size() const { return value == nullptr ? 0 : value->size; }
    size_t fields_size() const { return before->size + value_size() + sizeof(revision); }
    // Bytes that it is taken to need when it is kept.
    uint64_t size() const { return kEventSize + before->size - 17 + value_size(); }

    static Event make(EventKind kind, Bytes key, Value *value, int64_t revision) {
        Event event = {make_value(17 + key.size), value == nullptr ? nullptr : share(value), revision};
        store_text(store(event.before->extend(9 + key.size), kind), key);
        store(event.before->extend(8), uint64_t{event.value_size()});
        return event;
    }
    Event shared() const { return {share(before), value == nullptr ? nullptr : share(value), revision}; }
    void drop() const {
        release(before);
        release(value);
    }
};

// One watch.
struct KeyWatch {
    Session *session;
    uint64_t request;
    Held key;
    bool is_prefix;
    uint64_t kept_size = 0;
    int64_t missed = 0;  // the last revision of what was dropped, 0 if nothing was
    Ring<Event> kept;    // to be sent when the session reads again
    Link<KeyWatch> of_key, of_session;
};

// A session that watches, or has watched.
struct Watcher {
    List<KeyWatch, &KeyWatch::of_session> watches;
    size_t count = 0;
    uint64_t sent = 0;  // bytes of events since it was last known to read
};

class Watches {
  public:
    Watches(const Limits &limits, const HashKey &key) : limits_(limits), key_(key), by_request_(key), by_key_(key), by_prefix_(key) {}

    size_t count() const { return count_; }
    uint64_t kept_size() const { return kept_size_; }

    // Begin a watch; null if there are too many.
    KeyWatch *watch(Session &session, uint64_t request, Bytes key, bool is_prefix, Refusal &refusal) {
        const size_t mine = session.watcher == nullptr ? 0 : session.watcher->count;
        if (count_ >= limits_.watches_max) {
            refusal.say(TOO_MANY_WATCHES, "there are %zu watches, the limit is %" PRIu64, count_, limits_.watches_max);
            return nullptr;
        }
        if (mine >= limits_.session_watches_max) {
            refusal.say(TOO_MANY_WATCHES, "the session has %zu watches, the limit is %" PRIu64, mine,
                        limits_.session_watches_max);
            return nullptr;
        }
        if (is_prefix && lengths_.count() >= kLengthsMax && !has_length(key.size)) {
            refusal.say(TOO_MANY_WATCHES, "prefixes of %zu different lengths are watched, the limit is %" PRIu64,
                        lengths_.count(), kLengthsMax);
            return nullptr;
        }
        if (session.watcher == nullptr) session.watcher = new (take_memory(sizeof(Watcher))) Watcher;
        KeyWatch *watch = new (take_memory(sizeof(KeyWatch))) KeyWatch;
        watch->session = &session;
        watch->request = request;
        watch->key.hold(make_value(key));
        watch->is_prefix = is_prefix;
        session.watcher->watches.add(*watch);
        ++session.watcher->count;
        ++count_;
        by_request_.insert(request_name(session, request))->item = watch;
        auto &table = is_prefix ? by_prefix_ : by_key_;
        const Name name(key_, key);
        auto *entry = table.find(name);
        if (entry == nullptr) {
            entry = table.insert(name);
            if (is_prefix) count_length(key.size);
        }
        entry->item.add(*watch);
        return watch;
    }

    // End the watch that a request began, if there is one.
    void unwatch(Session &session, uint64_t request) {
        auto *entry = by_request_.find(request_name(session, request));
        if (entry != nullptr) remove(*entry->item);
    }
    void end_session(Session &session) {
        if (session.watcher == nullptr) return;
        while (KeyWatch *watch = session.watcher->watches.first) remove(*watch);
        free(session.watcher);
        session.watcher = nullptr;
    }

    // Look at the watches of a key: its own as they began, then those of prefixes, the shortest first.
    template <typename Look>
    void each_concerned(const Name &key, Look look) {
        each(by_key_, key, look);
        for (size_t at = 0; at < lengths_.count() && lengths_[at].size <= key.size; ++at) {
            each(by_prefix_, Name(key_, {key.data, lengths_[at].size}), look);
        }
    }

    // Keep an event for a watch whose session does not read; what a bound allows.
    void keep(KeyWatch &watch, const Event &event) {
        const uint64_t size = event.size();
        if (watch.missed == 0 && watch.kept.count() < limits_.watch_events_max &&
            watch.kept_size + size <= limits_.watch_events_size_max && kept_size_ + size <= limits_.events_size_max) {
            watch.kept.push(event.shared());
            watch.kept_size += size;
            kept_size_ += size;
            return;
        }
        drop_kept(watch);
        watch.missed = event.revision;
    }

    // Hand out what was kept for a session that reads again, watch by watch, until it is `size_max` bytes or more; what
    // is left stays kept. Tells whether there was anything.
    template <typename Give>
    bool take(Session &session, uint64_t size_max, Give give) {
        bool has_any = false;
        uint64_t size = 0;
        for (KeyWatch *watch = session.watcher->watches.first; watch != nullptr; watch = watch->of_session.after) {
            if (watch->missed != 0) {
                const Event event = Event::make(EventKind::MISSED, {nullptr, 0}, nullptr, watch->missed);
                watch->missed = 0;
                has_any = true;
                give(*watch, event);
                event.drop();
            }
            while (watch->kept.count() > 0) {
                if (size > size_max) return has_any;
                const Event event = watch->kept.pop();
                size += event.size();
                watch->kept_size -= event.size();
                kept_size_ -= event.size();
                has_any = true;
                give(*watch, event);
                event.drop();
            }
        }
        return has_any;
    }

  private:
    using Line = List<KeyWatch, &KeyWatch::of_key>;
    // How many watched prefixes have a length.
    struct Length {
        size_t size, count;
    };

    template <typename Look>
    static void each(const Table<Line> &table, const Name &name, Look look) {
        const auto *entry = table.find(name);
        KeyWatch *watch = entry == nullptr ? nullptr : entry->item.first;
        for (; watch != nullptr; watch = watch->of_key.after) look(*watch);
    }

    // The watch of a request.
    struct RequestName {
        RequestName(const HashKey &key, const Session &session, uint64_t request)
            : numbers{session.number, request}, name(key, {reinterpret_cast<const char *>(numbers), sizeof(numbers)}) {}
        RequestName(const RequestName &) = delete;
        operator const Name &() const { return name; }

        const uint64_t numbers[2];
        const Name name;
    };
    RequestName request_name(const Session &session, uint64_t request) const { return {key_, session, request}; }

    bool has_length(size_t size) const {
        const size_t at = place_of(size);
        return at < lengths_.count() && lengths_[at].size == size;
    }
    size_t place_of(size_t size) const {
        size_t at = 0;
        while (at < lengths_.count() && lengths_[at].size < size) ++at;
        return at;
    }
    void count_length(size_t size) {
        const size_t at = place_of(size);
        if (at < lengths_.count() && lengths_[at].size == size) {
            ++lengths_[at].count;
            return;
        }
        lengths_.push({size, 1});
        for (size_t from = lengths_.count() - 1; from > at; --from) lengths_[from] = lengths_[from - 1];
        lengths_[at] = {size, 1};
    }
    void uncount_length(size_t size) {
        size_t at = place_of(size);
        if (--lengths_[at].count > 0) return;
        for (; at > 0; --at) lengths_[at] = lengths_[at - 1];
        lengths_.pop();
    }

    void drop_kept(KeyWatch &watch) {
        while (watch.kept.count() > 0) watch.kept.pop().drop();
        kept_size_ -= watch.kept_size;
        watch.kept_size = 0;
    }
    void remove(KeyWatch &watch) {
        drop_kept(watch);
        auto &table = watch.is_prefix ? by_prefix_ : by_key_;
        auto *entry = table.find(Name(key_, watch.key->bytes()));
        entry->item.remove(watch);
        if (entry->item.first == nullptr) {
            table.erase(entry);
            if (watch.is_prefix) uncount_length(watch.key->size);
        }
        by_request_.erase(by_request_.find(request_name(*watch.session, watch.request)));
        watch.session->watcher->watches.remove(watch);
        --watch.session->watcher->count;
        --count_;
        watch.~KeyWatch();
        free(&watch);
    }

    const Limits &limits_;
    const HashKey key_;
    Table<KeyWatch *> by_request_;
    Table<Line> by_key_, by_prefix_;
    Ring<Length> lengths_;  // of the prefixes in the table, rising
    size_t count_ = 0;
    uint64_t kept_size_ = 0;
};

}  // namespace rallypoint
