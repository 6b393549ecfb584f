// Equal reads of several peers that one call answers, and the long list of keys that came last, twin of
// gateway/readings.py and lists.py.
//
// Reads are asked for at the end of the turn. This twin is so quick that it meets the peers one by one where the Python
// one meets them together: so those that have waited for a list are waited for in turn, a moment, when some of them read
// it. One call for all costs much less than two, and to sleep is what lets the others get to it.
#pragma once

#include "relay_slots.hpp"

namespace rallypoint {

// How long those who are about to read a long list are waited for when some of them read it, in seconds.
constexpr double kCrowdS = 0.0005;

// The long list that came last.
class LongList {
  public:
    explicit LongList(const HashKey &key) : key_(key) {}

    bool is(const Value *fields) const { return fields == fields_.get(); }
    // Whether these bytes, a request's behind its verb, begin with the list: then they are it, for no list is the
    // beginning of another. To compare costs less than to look at its items.
    bool begins(Bytes bytes) const {
        return came_ && bytes.size >= came_->size && memcmp(bytes.data, came_->data(), came_->size) == 0;
    }
    size_t size() const { return came_->size; }
    // What it is at the server.
    Value *get() { return share(fields_.get()); }
    // Keep another one, if it is worth it: the bytes that came, unless they are those of the server's fields.
    void keep(Bytes came, Value *fields, bool is_same) {
        if (came.size < kLongSize || came.size > kLongSizeMax) return;
        came_.hold(is_same ? share(fields) : make_value(came));
        fields_.hold(share(fields));
        ++number_;
        hash_ = expected_ = 0;
    }
    // The hash of fields, which is remembered of the list.
    uint64_t hash(Value *fields) {
        if (!is(fields)) return key_.hash(fields->bytes());
        if (hash_ == 0) hash_ = key_.hash(fields->bytes());
        return hash_;
    }

    // A peer that has waited for the list is expected to read it, until it goes on with anything.
    size_t expected() const { return expected_; }
    void expect(Line &line) {
        if (line.waited != 0) return;
        line.waited = number_;
        ++expected_;
    }
    void expect_no_more(Line &line) {
        if (line.waited == number_ && number_ > 0) --expected_;
        line.waited = 0;
    }

  private:
    const HashKey key_;
    Held came_, fields_;
    uint64_t number_ = 0;  // of how many that is
    uint64_t hash_ = 0;    // 0: not known
    size_t expected_ = 0;
};

class Readings {
  public:
    ~Readings() {
        while (Reading *reading = all_.take_first()) delete reading;
    }

    // Until when the crowd is waited for, infinity if it is not.
    double until() const { return until_; }

    // Take one more that wants to read.
    void add(Slot &slot, uint64_t hash) {
        const Bytes bytes = slot.fields->bytes();
        Reading *reading = by_hash_.find(hash, [&](const Reading &each) {
            return each.is_of(slot.verb, slot.fields.get(), bytes);
        });
        if (reading == nullptr) {
            reading = new Reading;
            reading->hash = hash;
            by_hash_.add(*reading);
            all_.add(*reading);
        }
        reading->waiting.add(slot);
        ++reading->count;
        if (reading->asked.first == nullptr) due_.put(*reading);
    }

    // Give one that is to be asked for now, null if there is none; it is on its way from then on.
    Reading *take_due(const LongList &list, double now) {
        Reading *reading = due_.first;
        if (reading != nullptr && is_awaiting_crowd(*reading, list, now)) {
            reading = reading->of_due.after;
        } else {
            until_ = INFINITY;
        }
        if (reading == nullptr) return nullptr;
        due_.remove(*reading);
        while (Slot *slot = reading->waiting.take_first()) reading->asked.add(*slot);
        if (list.is(reading->one().fields.get())) crowd_ = reading->count;
        reading->count = 0;
        return reading;
    }

    // What was on its way was answered, or never will be: give whose it was. Those who came meanwhile are due.
    List<Slot, &Slot::of_reading> over(Reading &reading, const LongList &list) {
        const List<Slot, &Slot::of_reading> readers = reading.asked;
        reading.asked = {};
        if (reading.waiting.first != nullptr) {
            if (list.is(reading.one().fields.get())) crowd_ += reading.count;
            due_.add(reading);
        } else {
            by_hash_.remove(reading);
            all_.remove(reading);
            delete &reading;
        }
        return readers;
    }

  private:
    // Several who have waited for the list, and read the last one together, are about to read it.
    bool is_awaiting_crowd(const Reading &reading, const LongList &list, double now) {
        if (list.expected() == 0 || reading.count >= crowd_ || !list.is(reading.one().fields.get())) return false;
        if (isinf(until_)) until_ = now + kCrowdS;
        return now < until_;
    }

    Index<Reading> by_hash_;
    List<Reading, &Reading::of_all> all_;
    List<Reading, &Reading::of_due> due_;
    size_t crowd_ = 0;  // how many have read the list that was read last
    double until_ = INFINITY;
};

}  // namespace rallypoint
