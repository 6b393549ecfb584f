// Who meets whom, twin of server/groups.py, by the same rules: barriers and exchanges that take one request a member.
//
// A seat is found by its rank in its group's table, and stands in one of three lists of the group. The values of an
// exchange become one body, which all its replies share.
#pragma once

#include "containers.hpp"
#include "session_codec.hpp"

namespace rallypoint {

struct Group;

// One member's place.
struct Seat {
    Group *group = nullptr;
    struct Attendee *session = nullptr;  // while it lives
    uint64_t session_number = 0;
    uint64_t request = 0;  // 0 unless it waits
    uint64_t met = 0;      // the last generation in which it took part
    double since = 0;
    Held label, value;
    uint32_t rank = 0;
    bool is_gone = false;
    Link<Seat> in_group, of_session;
};

using SeatList = List<Seat, &Seat::in_group>;

// A session as groups see it; their numbers rise with their age.
struct Attendee {
    uint64_t number = 0;
    List<Seat, &Seat::of_session> seats;  // those of which it is not gone
};

// A member as it was when somebody looked; `label` null for one that was never seen.
struct Named {
    uint32_t rank;
    Value *label;
    double since;

    // -1 if it was never seen.
    int64_t since_ms(double now) const {
        const double since_ms = (now - since) * 1000;
        return label == nullptr ? -1 : since_ms > 0 ? static_cast<int64_t>(since_ms) : 0;
    }
};

struct Group {
    uint8_t kind = 0;
    uint32_t count = 0;
    bool has_looked = false, is_loss = false;
    size_t arrived_count = 0, gone_count = 0;
    size_t mates = 0;        // how many of those who wait took part in the last generation
    size_t fresh = 0;        // arrivals since somebody looked
    uint64_t generation = 0;
    uint64_t horizon = 0;    // the youngest session at the last loss
    uint64_t values_size = 0;
    Table<Seat> *seats = nullptr;
    SeatList arrived, others, gone;
    Ring<Named> missing, waiting;  // as last looked at
    Link<Group> of_idle, of_lost, of_losses;

    bool is_mate(const Seat &seat) const { return seat.met > 0 && seat.met == generation; }
};

// A member comes.
struct Arrival {
    uint8_t kind;
    Bytes name;
    uint32_t rank, count;
    Bytes label, value = {nullptr, 0};
    Attendee *session;
    uint64_t request;

    Arrival(const Frame &frame, Attendee &attendee)
        : kind(static_cast<uint8_t>(frame.verb)), session(&attendee), request(frame.id) {
        Fields fields = {frame.body.data};
        name = fields.text();
        rank = load<uint32_t>(fields.at);
        count = load<uint32_t>(fields.at + 4);
        fields.at += 8;
        label = fields.text();
        if (frame.verb == SessionVerb::EXCHANGE) value = fields.text();
    }
};

class Groups {
  public:
    // Told what becomes of requests.
    class Listener {
      public:
        virtual void settled(Attendee &session, const Answer &answer, size_t sharers) = 0;
        // A generation is complete, its members by rank; or nothing is known of a group any more.
        virtual void met(const Group &group, Bytes name, Seat *const *seats) = 0;
        virtual void forgotten(const Group &group, Bytes name) = 0;

      protected:
        ~Listener() = default;
    };

    Groups(const Limits &limits, const HashKey &key, Listener &listener)
        : limits_(limits), key_(key), listener_(listener), groups_(key) {}
    ~Groups() {
        while (groups_.first() != nullptr) forget(groups_.first()->item);
    }

    size_t count() const { return groups_.count(); }
    uint64_t members() const { return members_; }
    uint64_t values_size() const { return values_size_; }
    // Look at each, oldest first, with its name.
    template <typename Look>
    void each(Look look) {
        for (auto *entry = groups_.first(); entry != nullptr; entry = entry->order.after) {
            look(entry->item, name_of(entry->item));
        }
    }
    // Put back a group of an earlier life, and then its members.
    Group &restore(uint8_t kind, Bytes name, uint64_t generation) {
        Group &group = *make(FullName(kind, name).bytes(), kind);
        group.count = 1;
        group.generation = generation;
        rest(group);
        return group;
    }
    void restore_member(Group &group, uint32_t rank, Attendee &session, Bytes label, double now) {
        Seat &seat = add_seat(group, rank, session);
        if (rank >= group.count) group.count = rank + 1;
        seat.label.hold(make_value(label));
        seat.met = group.generation;
        seat.since = now;
        group.others.add(seat);
    }

    void arrive(const Arrival &arrival, double now, Refusal &refusal) {
        const FullName name(arrival.kind, arrival.name);
        auto *entry = groups_.find(Name(key_, name.bytes()));
        Group *group = entry == nullptr ? nullptr : &entry->item;
        if (!allows(group, arrival, refusal)) return refuse(*arrival.session, arrival.request, refusal);
        const bool is_same = group == nullptr || group->count == arrival.count;
        Seat *seat = group != nullptr && is_same ? seat_of(*group, arrival.rank) : nullptr;
        const bool is_own = seat != nullptr && seat->session_number == arrival.session->number;
        if (is_own && seat->request == arrival.request) return;
        if (group != nullptr && group->gone_count > 0 && is_same) {
            if (seat == nullptr ? arrival.session->number <= group->horizon : is_own && seat->request == 0) {
                Value *body = named_gone(*group, now);
                listener_.settled(*arrival.session, Answer(Status::LOST, arrival.request).with(body), 1);
                return;
            }
        }
        if (!make_room(group, seat == nullptr)) {
            refusal.say(TOO_MANY_GROUPS,
                        "members wait in %zu groups, %" PRIu64 " in all, the limits are %" PRIu64 " and %" PRIu64,
                        groups_.count(), members_, limits_.groups_max, limits_.group_members_max);
            return refuse(*arrival.session, arrival.request, refusal);
        }
        if (group == nullptr) group = make(name.bytes(), arrival.kind);
        idle_.drop(*group);
        find_again(*group);
        if (!is_same) {
            disband(*group);
        } else if (group->gone_count > 0) {
            if (seat != nullptr && seat->is_gone) seat = nullptr;
            forget_gone(*group);
        }
        group->count = arrival.count;
        sit(*group, seat, arrival, now, refusal);
        if (group->arrived_count == group->count) release_all(*group);
    }

    // Let a member that waits give up; gives what EXPIRED says.
    Value *cancel(const Arrival &arrival, double now) {
        Group &group = groups_.find(Name(key_, FullName(arrival.kind, arrival.name).bytes()))->item;
        Seat &seat = *seat_of(group, arrival.rank);
        look(group);
        Value *body = named(group.missing, seat.rank, now, nullptr);
        body = named(group.waiting, seat.rank, now, body);
        group.arrived.remove(seat);
        --group.arrived_count;
        stand_up(group, seat);
        group.others.add(seat);
        rest(group);
        return body;
    }

    // Take note that a session ends; `settle` follows, once for all that end together.
    void leave(Attendee &session) {
        if (session.seats.first == nullptr) return;
        Attendee *left = new (take_memory(sizeof(Attendee))) Attendee(session);
        for (Seat *seat = left->seats.first; seat != nullptr; seat = seat->of_session.after) seat->session = left;
        session.seats = {};
        left_.push(left);
    }
    bool has_left() const { return left_.count() > 0; }

    // `newest` is the number of the youngest session that there has been.
    void settle(uint64_t newest, double now) {
        while (left_.count() > 0) {
            Attendee *left = left_.pop();
            while (Seat *seat = left->seats.take_first()) {
                Group &group = *seat->group;
                losses_.put(group);
                group.is_loss |= lose(group, *seat, now);
            }
            free(left);
        }
        while (Group *group = losses_.take_first()) {
            const bool is_loss = group->is_loss;
            group->is_loss = false;
            if (group->gone_count > 0) group->horizon = newest;
            if (is_loss && group->arrived.first != nullptr) fail_all(*group, now);
            if (group->arrived.first != nullptr) continue;
            rest(*group);
            if (group->others.first == nullptr) bury(*group);
        }
    }

    // --- who is named -----------------------------------------------------------------------------------------

    // Remember who is missing and who waits, unless that is known well enough.
    void look(Group &group) {
        if (group.has_looked && group.fresh * kMembersNamedMax < (group.arrived_count > 0 ? group.arrived_count : 1)) {
            for (size_t left = group.missing.count(); left > 0; --left) {
                const Named member = group.missing.pop();
                if (has_arrived(group, member.rank)) {
                    release(member.label);
                } else {
                    group.missing.push(member);
                }
            }
            if (group.missing.count() > 0) return;
        }
        unname(group.missing);
        unname(group.waiting);
        for (uint32_t rank = 0; rank < group.count && group.missing.count() < kMembersNamedMax; ++rank) {
            const Seat *seat = seat_of(group, rank);
            if (seat == nullptr) {
                group.missing.push({rank, nullptr, 0});
            } else if (seat->request == 0) {
                group.missing.push(name(*seat));
            }
        }
        for (Seat *seat = group.arrived.first; seat != nullptr && group.waiting.count() <= kMembersNamedMax;
             seat = seat->in_group.after) {
            group.waiting.push(name(*seat));
        }
        group.has_looked = true;
        group.fresh = 0;
    }

    static void name_gone(Group &group, Ring<Named> &gone) {
        for (Seat *seat = group.gone.first; seat != nullptr && gone.count() < kMembersNamedMax;
             seat = seat->in_group.after) {
            gone.push(name(*seat));
        }
    }
    static void unname(Ring<Named> &list) {
        for (size_t at = 0; at < list.count(); ++at) release(list[at].label);
        list.clear();
    }

  private:
    // What a group is found by: its kind and its name.
    struct FullName {
        char text[1 + kKeySizeMax];
        size_t size;

        FullName(uint8_t kind, Bytes name) : size(1 + name.size) { name.copy_to(store(text, kind)); }
        Bytes bytes() const { return {text, size}; }
    };

    static Bytes name_of(Group &group) {
        const Bytes name = Table<Group>::entry_of(&group)->name();
        return {name.data + 1, name.size - 1};
    }
    Name rank_name(const uint32_t &rank) const {
        return Name(key_, {reinterpret_cast<const char *>(&rank), sizeof(rank)});
    }
    Seat *seat_of(Group &group, uint32_t rank) const {
        auto *entry = group.seats->find(rank_name(rank));
        return entry == nullptr ? nullptr : &entry->item;
    }

    void refuse(Attendee &session, uint64_t request, const Refusal &refusal) {
        listener_.settled(session, Answer(Status::REFUSED, request).with(refusal_body(refusal)), 1);
    }

    bool allows(Group *group, const Arrival &arrival, Refusal &refusal) {
        const uint32_t count = arrival.count, rank = arrival.rank;
        if (count < 1 || count > kGroupSizeMax) {
            return refusal.say(GROUP_MISMATCH, "the group is to have %u members, it may have 1 to %" PRIu64, count,
                               kGroupSizeMax);
        }
        if (rank >= count) {
            return refusal.say(GROUP_MISMATCH, "the member's rank is %u, the group is to have %u members", rank, count);
        }
        if (group != nullptr && group->arrived_count > 0 && group->count != count) {
            return refusal.say(GROUP_MISMATCH, "the group is to have %u members, those that wait say %u", count,
                               group->count);
        }
        if (arrival.label.size > kLabelSizeMax) {
            return refusal.say(FIELD_TOO_LARGE, "the member's label has %zu bytes, the limit is %" PRIu64,
                               arrival.label.size, kLabelSizeMax);
        }
        const Seat *standing = group == nullptr ? nullptr : seat_of(*group, rank);
        if (standing != nullptr && standing->request == 0) standing = nullptr;
        const uint64_t grown = arrival.value.size - (standing == nullptr ? 0 : value_size(*standing));
        const uint64_t size =
            kHeadsSize + 8 * uint64_t{count} + (group == nullptr ? 0 : group->values_size) + grown;
        if (size > kReplyFrameSizeMax) {
            return refusal.say(REPLY_TOO_LARGE, "the exchange would have %" PRIu64 " bytes, the limit is %" PRIu64,
                               size, kReplyFrameSizeMax);
        }
        if (values_size_ + grown > limits_.group_values_size_max) {
            return refusal.say(TOO_MANY_GROUPS, "all exchanges would hold %" PRIu64 " bytes, the limit is %" PRIu64,
                               values_size_ + grown, limits_.group_values_size_max);
        }
        return true;
    }

    // Forget idle groups until there is room for one more group or member; tell whether there is.
    bool make_room(Group *group, bool is_new_member) {
        while ((group == nullptr && groups_.count() >= limits_.groups_max) ||
               (is_new_member && members_ >= limits_.group_members_max)) {
            Group *oldest = idle_.first;
            if (oldest != nullptr && oldest == group) oldest = oldest->of_idle.after;
            if (oldest == nullptr) return false;
            forget(*oldest);
        }
        return true;
    }

    // --- seats ------------------------------------------------------------------------------------------------

    static size_t value_size(const Seat &seat) { return seat.value ? seat.value->size : 0; }

    // Let a member wait; `seat` is what is known of its place, nobody being gone.
    void sit(Group &group, Seat *seat, const Arrival &arrival, double now, Refusal &refusal) {
        if (seat != nullptr) {
            if (seat->request != 0) {
                refusal.say(TAKEN_OVER, "another request has come for rank %u", arrival.rank);
                refuse(*seat->session, seat->request, refusal);
                stand_up(group, *seat);
                group.arrived.remove(*seat);
                --group.arrived_count;
            } else {
                group.others.remove(*seat);
            }
            if (seat->session_number != arrival.session->number) {
                drop(group, *seat);
                seat = nullptr;
            }
        }
        if (seat == nullptr) seat = &add_seat(group, arrival.rank, *arrival.session);
        seat->request = arrival.request;
        if (!seat->label.equals(arrival.label)) seat->label.hold(make_value(arrival.label));
        if (arrival.value.size > 0) seat->value.hold(make_value(arrival.value));
        seat->since = now;
        group.arrived.add(*seat);
        ++group.arrived_count;
        group.mates += group.is_mate(*seat);
        group.values_size += arrival.value.size;
        values_size_ += arrival.value.size;
        ++group.fresh;
    }

    Seat &add_seat(Group &group, uint32_t rank, Attendee &session) {
        Seat &seat = group.seats->insert(rank_name(rank))->item;
        seat.group = &group;
        seat.rank = rank;
        seat.session = &session;
        seat.session_number = session.number;
        session.seats.add(seat);
        ++members_;
        return seat;
    }

    // Let a member wait no longer; which list it is in is the caller's business.
    void stand_up(Group &group, Seat &seat) {
        group.mates -= group.is_mate(seat);
        group.values_size -= value_size(seat);
        values_size_ -= value_size(seat);
        seat.request = 0;
        seat.value.drop();
    }

    // Forget a seat that has been taken out of its group's lists.
    void drop(Group &group, Seat &seat) {
        if (!seat.is_gone) seat.session->seats.remove(seat);
        group.seats->erase(Table<Seat>::entry_of(&seat));
        --members_;
    }

    // Let a seat's session end; tell whether those who wait, wait in vain.
    bool lose(Group &group, Seat &seat, double now) {
        bool is_loss = true;
        seat.is_gone = true;
        if (seat.request != 0) {
            stand_up(group, seat);
            group.arrived.remove(seat);
            --group.arrived_count;
        } else {
            group.others.remove(seat);
            if (!group.is_mate(seat)) {
                drop(group, seat);
                return false;
            }
            is_loss = group.mates > 0;
        }
        seat.session = nullptr;
        seat.since = now;
        group.gone.add(seat);
        ++group.gone_count;
        return is_loss;
    }

    // --- groups -----------------------------------------------------------------------------------------------

    Group *make(Bytes name, uint8_t kind) {
        Group *group = &groups_.insert(Name(key_, name))->item;
        group->kind = kind;
        group->seats = new (take_memory(sizeof(Table<Seat>))) Table<Seat>(key_);
        return group;
    }

    // Answer all; they are the last generation now.
    void release_all(Group &group) {
        ++group.generation;
        Seat **seats = static_cast<Seat **>(take_memory(group.count * sizeof(Seat *)));
        for (Seat *seat = group.arrived.first; seat != nullptr; seat = seat->in_group.after) seats[seat->rank] = seat;
        listener_.met(group, name_of(group), seats);
        Value *body = nullptr;
        if (group.kind == static_cast<uint8_t>(SessionVerb::EXCHANGE)) {
            body = make_value(8 + group.values_size + 8 * size_t{group.count});
            store(body->extend(8), group.generation);
            for (uint32_t rank = 0; rank < group.count; ++rank) {
                const Bytes value = seats[rank]->value ? seats[rank]->value->bytes() : Bytes{nullptr, 0};
                store_text(body->extend(8 + value.size), value);
            }
        }
        values_size_ -= group.values_size;
        group.values_size = group.mates = group.fresh = 0;
        group.has_looked = false;
        group.others = group.arrived;
        group.arrived = {};
        group.arrived_count = 0;
        rest(group);
        for (uint32_t rank = 0; rank < group.count; ++rank) {
            Seat &seat = *seats[rank];
            Answer answer(Status::OK, seat.request);
            body == nullptr ? answer.put(group.generation) : answer.with(share(body));
            seat.request = 0;
            seat.value.drop();
            seat.met = group.generation;
            listener_.settled(*seat.session, answer, group.count);
        }
        release(body);
        free(seats);
    }

    // Tell all who wait that some are gone.
    void fail_all(Group &group, double now) {
        Value *body = named_gone(group, now);
        const size_t sharers = group.arrived_count;
        for (Seat *seat = group.arrived.first; seat != nullptr; seat = group.arrived.first) {
            const uint64_t request = seat->request;
            group.arrived.remove(*seat);
            stand_up(group, *seat);
            group.others.add(*seat);
            listener_.settled(*seat->session, Answer(Status::LOST, request).with(share(body)), sharers);
        }
        group.arrived_count = 0;
        release(body);
    }

    void find_again(Group &group) {
        lost_count_ -= lost_.has(group);
        lost_.drop(group);
    }
    void rest(Group &group) {
        if (group.arrived.first == nullptr) idle_.put(group);
    }
    void forget_gone(Group &group) {
        while (Seat *seat = group.gone.take_first()) drop(group, *seat);
        group.gone_count = 0;
    }
    // Forget all members of an idle group.
    void disband(Group &group) {
        forget_gone(group);
        while (Seat *seat = group.others.take_first()) drop(group, *seat);
        group.has_looked = false;
    }
    void forget(Group &group) {
        if (group.generation > 0) listener_.forgotten(group, name_of(group));
        while (Seat *seat = group.arrived.take_first()) drop(group, *seat);  // at the very end only
        disband(group);
        unname(group.missing);
        unname(group.waiting);
        idle_.drop(group);
        find_again(group);
        group.seats->~Table();
        free(group.seats);
        groups_.erase(Table<Group>::entry_of(&group));
    }
    // Keep of a group whose members are all gone what those need to know who come late.
    void bury(Group &group) {
        if (group.generation > 0) listener_.forgotten(group, name_of(group));
        group.generation = 0;
        group.has_looked = false;
        while (group.gone_count > kMembersNamedMax) {
            Seat &last = *group.gone.last;
            group.gone.remove(last);
            drop(group, last);
            --group.gone_count;
        }
        lost_count_ += !lost_.has(group);
        lost_.put(group);
        if (group.gone_count == 0) {
            forget(group);
        } else if (lost_count_ > kLostGroupsMax) {
            forget(*lost_.first);
        }
    }

    static Named name(const Seat &seat) { return {seat.rank, share(seat.label.get()), seat.since}; }
    bool has_arrived(Group &group, uint32_t rank) const {
        const Seat *seat = seat_of(group, rank);
        return seat != nullptr && seat->request != 0;
    }

    // Put MEMBERS behind a body: at most kMembersNamedMax of a list, the member of one rank left out.
    static Value *named(Ring<Named> &list, uint64_t but, double now, Value *body) {
        if (body == nullptr) body = make_value(0);
        int64_t count = 0;
        const size_t at = body->size;
        body = put(body, count);
        for (size_t i = 0; i < list.count() && count < static_cast<int64_t>(kMembersNamedMax); ++i) {
            const Named &member = list[i];
            if (member.rank == but) continue;
            body = put(body, member.rank);
            const Bytes label = member.label == nullptr ? Bytes{nullptr, 0} : member.label->bytes();
            body = grow(put(body, uint64_t{label.size}), label);
            body = put(body, member.since_ms(now));
            ++count;
        }
        store(body->data() + at, count);
        return body;
    }
    template <typename Number>
    static Value *put(Value *body, Number number) {
        return grow(body, {reinterpret_cast<const char *>(&number), sizeof(number)});
    }
    static Value *named_gone(Group &group, double now) {
        Ring<Named> gone;
        name_gone(group, gone);
        Value *body = named(gone, UINT64_MAX, now, nullptr);
        unname(gone);
        return body;
    }

    const Limits &limits_;
    const HashKey key_;
    Listener &listener_;
    Table<Group> groups_;
    List<Group, &Group::of_idle> idle_;  // nobody waits; the longest idle first
    List<Group, &Group::of_lost> lost_;  // of them, those whose members are all gone
    List<Group, &Group::of_losses> losses_;
    Ring<Attendee *> left_;  // sessions that have ended since they were settled
    size_t lost_count_ = 0;
    uint64_t members_ = 0;  // that are remembered
    uint64_t values_size_ = 0;
};

}  // namespace rallypoint
