// What the server says of itself, twin of server/status.py: the documents that STATUS is answered with. Their layout is
// that of observe/status.py.
#pragma once

#include "json.hpp"
#include "session_dialect.hpp"

namespace rallypoint {

class StatusVerb : protected SessionDialect {
  protected:
    using SessionDialect::SessionDialect;

    ~StatusVerb() {
        while (refusals_.count() > 0) forget_refusal();
    }

    virtual const Peer *first_peer() const = 0;
    virtual Statistics statistics() const = 0;
    virtual uint64_t handshakes() const = 0;
    virtual uint64_t most_of_one_host() const = 0;

    void note_refusal(const Peer &peer) {
        if (refusals_.count() == kRefusalsKept) forget_refusal();
        char address[ADDRESS_SIZE] = "";
        driver_.address(peer, address);
        refusals_.push({now_, refusal_.reason, make_value(Bytes{address, strlen(address)}),
                        make_value(Bytes{refusal_.detail, strlen(refusal_.detail)})});
    }

    // Bytes that came, and those of the answers they caused. Cost: the number of peers.
    struct Traffic {
        uint64_t received, sent;
    };
    Traffic traffic() const {
        Traffic all = {gone_received_, gone_sent_};
        for (const Peer *peer = first_peer(); peer != nullptr; peer = peer->of_all.after) {
            all.received += peer->received;
            all.sent += peer->sent;
        }
        return all;
    }

    double began_ = NAN;
    uint64_t gone_received_ = 0, gone_sent_ = 0;  // bytes of peers that are gone

  private:
    struct Refused {
        double at;
        int reason;
        Value *address, *detail;
    };
    struct Sample {
        double at;
        uint64_t requests, received, sent;
    };

    Value *describe(Bytes what) override {
        static constexpr struct {
            const char *name;
            void (StatusVerb::*describe)(Json &);
        } SECTIONS[] = {
            {"", &StatusVerb::overview},        {"peers", &StatusVerb::peers},     {"sessions", &StatusVerb::sessions},
            {"barriers", &StatusVerb::barriers}, {"leases", &StatusVerb::leases},   {"watches", &StatusVerb::watches},
            {"refusals", &StatusVerb::refusals},
        };
        Json json;
        for (const auto &section : SECTIONS) {
            if (!(what == Bytes{section.name, strlen(section.name)})) continue;
            open(json, section.name[0] == '\0' ? "overview" : section.name);
            (this->*section.describe)(json);
            json.end('}');
            return json.take();
        }
        const bool has_values = what.size >= 7 && memcmp(what.data, "values/", 7) == 0;
        if (has_values || (what.size >= 5 && memcmp(what.data, "keys/", 5) == 0)) {
            const size_t head = has_values ? 7 : 5;
            open(json, has_values ? "values" : "keys");
            keys(json, {what.data + head, what.size - head}, has_values);
            json.end('}');
            return json.take();
        }
        refusal_.say(BAD_ARGUMENT, "there is no status of %s, there is: peers, sessions, barriers, leases, watches,"
                     " refusals, keys/PREFIX, values/PREFIX", Shown(what, 99, false).text);
        return nullptr;
    }

    static void open(Json &json, const char *section) {
        json.begin('{');
        json.number("version", kSchemaVersion);
        json.text("section", section);
    }
    // Begin a list of which so many are shown.
    static uint64_t list(Json &json, const char *name, uint64_t total) {
        const uint64_t shown = total < kListedMax ? total : kListedMax;
        json.number("total", total);
        json.number("left_out", total - shown);
        json.begin('[', name);
        return shown;
    }
    // A key as its user writes it.
    static Bytes user_name(Bytes key) {
        return key.size > 0 && key.data[0] == '/' ? Bytes{key.data + 1, key.size - 1} : key;
    }
    static Bytes label_of(const Held &label) { return label ? label->bytes() : Bytes{nullptr, 0}; }

    // --- the overview -------------------------------------------------------------------------------------------

    void overview(Json &json) {
        const Statistics numbers = statistics();
        const double began = isnan(began_) ? now_ : began_;
        const auto [received, sent] = traffic();
        json.text("rallypoint", kPackageVersion);
        json.text("twin", "native");
        json.begin('[', "dialects");
        json.text(nullptr, "c10d");
        json.text(nullptr, "session");
        json.end(']');
        char life[2 * kSessionIdSize + 1], data[sizeof(life)];
        for (size_t i = 0; i < kSessionIdSize; ++i) {
            sprintf(life + 2 * i, "%02x", life_id_[i] & 0xff);
            sprintf(data + 2 * i, "%02x", data_id_[i] & 0xff);
        }
        json.text("life", life);
        json.text("data", data);
        json.real("uptime_s", now_ - began);
        json.begin('{', "now");
        const struct {
            const char *name;
            uint64_t number;
        } counts[] = {
            {"connections", numbers.connections}, {"validated", numbers.validated}, {"paused", numbers.paused},
            {"sessions", numbers.sessions}, {"waiting", numbers.waiting}, {"keys", numbers.keys},
            {"queues", numbers.queues}, {"groups", groups_.count()}, {"leases", leases_.count()},
            {"watches", watches_.count()}, {"stored_size", numbers.stored_size}, {"input_size", numbers.input_held},
            {"answers_size", numbers.answers_size},
        };
        for (const auto &each : counts) json.number(each.name, each.number);
        json.end('}');
        json.begin('{', "totals");
        json.number("requests", numbers.requests);
        json.number("received_size", received);
        json.number("sent_size", sent);
        json.end('}');
        rates(json, {now_, numbers.requests, received, sent}, began);
        json.begin('{', "closed");
        for (int reason = 0; reason <= ENDED; ++reason) {
            if (numbers.closed[reason] > 0) json.number(Code(reason).text, numbers.closed[reason]);
        }
        json.end('}');
        bounds(json, numbers);
    }

    // Count since the last look that is old enough, or since the beginning.
    void rates(Json &json, const Sample &now, double began) {
        while (samples_.count() > 1 && now.at - samples_[1].at >= kRateOverS) samples_.pop();
        Sample then = {began, 0, 0, 0};
        if (samples_.count() > 0 && now.at - samples_[0].at >= kRateOverS) then = samples_[0];
        if (samples_.count() == 0 || now.at - samples_[samples_.count() - 1].at >= kRateOverS) samples_.push(now);
        const double over_s = now.at - then.at;
        const auto rate = [over_s](uint64_t count, uint64_t old) {
            return over_s > 0 ? static_cast<double>(count - old) / over_s : 0.0;
        };
        json.begin('{', "rates");
        json.real("over_s", over_s);
        json.real("requests_per_s", rate(now.requests, then.requests));
        json.real("received_size_per_s", rate(now.received, then.received));
        json.real("sent_size_per_s", rate(now.sent, then.sent));
        json.end('}');
    }

    void bounds(Json &json, const Statistics &numbers) {
        const uint64_t names_held = waiters_.names_held() + readers_.names_held();
        const struct {
            const char *name;
            uint64_t used, limit;
        } all[] = {
            {"connections_max", numbers.connections, limits_.connections_max},
            {"connections_per_address_max", most_of_one_host(), limits_.connections_per_address_max},
            {"handshakes_max", handshakes(), limits_.handshakes_max},
            {"input_total_max", numbers.input_held, limits_.input_total_max},
            {"output_total_max", driver_.unread_size(), limits_.output_total_max},
            {"waited_names_max", names_held, limits_.waited_names_max},
            {"stored_size_max", numbers.stored_size, limits_.stored_size_max},
            {"keys_max", numbers.keys, limits_.keys_max},
            {"sessions_max", numbers.sessions, limits_.sessions_max},
            {"answers_size_max", numbers.answers_size, limits_.answers_size_max},
            {"groups_max", groups_.count(), limits_.groups_max},
            {"group_members_max", groups_.members(), limits_.group_members_max},
            {"group_values_size_max", groups_.values_size(), limits_.group_values_size_max},
            {"leases_max", leases_.count(), limits_.leases_max},
            {"watches_max", watches_.count(), limits_.watches_max},
            {"events_size_max", watches_.kept_size(), limits_.events_size_max},
        };
        json.begin('{', "limits");
        for (const auto &each : all) {
            json.begin('{', each.name);
            json.number("used", each.used);
            json.number("limit", each.limit);
            json.end('}');
        }
        json.end('}');
    }

    // --- who is there -------------------------------------------------------------------------------------------

    void peers(Json &json) {
        uint64_t left = list(json, "peers", statistics().connections);
        for (const Peer *peer = first_peer(); left > 0; peer = peer->of_all.after, --left) describe(json, *peer);
        json.end(']');
    }

    void describe(Json &json, const Peer &peer) {
        Session *session = peer.talk == nullptr ? nullptr : peer.talk->session;
        const bool has_spoken = peer.reader.is_validated || peer.reader.held() > 0;
        char address[ADDRESS_SIZE] = "";
        driver_.address(peer, address);
        json.begin('{');
        json.signed_number("peer", peer.id);
        json.text("dialect", peer.talk != nullptr ? "session" : has_spoken ? "c10d" : "");
        json.truth("is_validated", peer.reader.is_validated);
        json.text("address", address);
        json.text("identity", "");
        json.text("label", session == nullptr ? Bytes{nullptr, 0} : label_of(session->label));
        session == nullptr ? json.nothing("session") : json.number("session", session->number);
        json.real("age_s", now_ - peer.came_at);
        json.number("received_size", peer.received);
        json.number("sent_size", peer.sent);
        json.number("input_size", peer.held);
        json.truth("is_paused", peer.is_paused);
        if (session != nullptr) {
            waits(json, *session);
        } else {
            json.begin('[', "waits");
            waits(json, peer);
            json.end(']');
        }
        json.end('}');
    }

    void waits(Json &json, const Waiter &waiter) {
        if (waiter.barrier != nullptr) {
            const Bytes name = Table<Barrier>::entry_of(waiter.barrier)->name();
            begin_wait(json, "BARRIER");
            json.text(nullptr, user_name(name));
            end_wait(json, 0, waiter.since);
        } else if (waiter.set != nullptr) {
            Ring<Bytes> names;  // the newest first
            for (const Watch *each = waiter.set->watches; each != nullptr; each = each->next) {
                names.push(Table<Watched>::entry_of(each->name)->name());
            }
            const uint64_t shown = names.count() < kNamesMax ? names.count() : kNamesMax;
            begin_wait(json, "WAIT");
            for (uint64_t i = 0; i < shown; ++i) json.text(nullptr, user_name(names[names.count() - 1 - i]));
            end_wait(json, names.count() - shown, waiter.since);
        }
    }
    void waits(Json &json, const Session &session) {
        json.begin('[', "waits");
        uint64_t left = kNamesMax;
        for (const Pending *each = session.pending.first; each != nullptr && left > 0; --left) {
            const bool is_listed = each->verb == SessionVerb::WAIT || each->verb == SessionVerb::MULTI_GET;
            Fields fields = {each->request->data()};
            const uint64_t count = is_listed ? static_cast<uint64_t>(fields.number()) : 1;
            const uint64_t shown = count < kNamesMax ? count : kNamesMax;
            begin_wait(json, each->frame().name());
            for (uint64_t i = 0; i < shown; ++i) json.text(nullptr, user_name(fields.text()));
            end_wait(json, count - shown, each->since);
            each = each->of_session.after;
        }
        json.end(']');
    }
    static void begin_wait(Json &json, const char *verb) {
        json.begin('{');
        json.text("verb", verb);
        json.begin('[', "names");
    }
    void end_wait(Json &json, uint64_t left_out, double since) {
        json.end(']');
        json.number("names_left_out", left_out);
        json.real("since_s", now_ - since);
        json.end('}');
    }

    void sessions(Json &json) {
        uint64_t left = list(json, "sessions", sessions_.count());
        sessions_.each([&](Session &session) {
            if (left == 0) return;
            --left;
            json.begin('{');
            json.number("session", session.number);
            json.text("identity", "");
            json.text("label", label_of(session.label));
            session.peer == nullptr ? json.nothing("peer") : json.signed_number("peer", session.peer->id);
            json.real("age_s", now_ - session.since);
            json.real("timeout_s", session.timeout_s);
            session.peer != nullptr ? json.nothing("ends_in_s") : json.real("ends_in_s", fmax(0, session.due_at - now_));
            json.number("answers", session.answers.count());
            json.number("answers_size", session.answers_size);
            json.number("pending", session.pending_count);
            waits(json, session);
            json.end('}');
        });
        json.end(']');
    }

    // --- what they meet at, and what is kept ----------------------------------------------------------------------

    void barriers(Json &json) {
        uint64_t left = list(json, "barriers", groups_.count() + waiters_.barriers().count());
        groups_.each([&](Group &group, Bytes name) {
            if (left == 0) return;
            --left;
            const bool is_exchange = group.kind == static_cast<uint8_t>(SessionVerb::EXCHANGE);
            barrier(json, is_exchange ? "exchange" : "barrier", name, group.generation, group.count, group.arrived_count);
            groups_.look(group);
            members(json, "missing", group.missing);
            members(json, "waiting", group.waiting);
            Ring<Named> gone;
            Groups::name_gone(group, gone);
            members(json, "gone", gone);
            Groups::unname(gone);
            json.end('}');
        });
        for (auto *each = waiters_.barriers().first(); each != nullptr && left > 0; each = each->order.after, --left) {
            int64_t most = INT64_MIN, arrived = 0;
            for (const Waiter *one = each->item.line.first; one != nullptr; one = one->in_line.after) {
                most = one->world_size > most ? one->world_size : most;
            }
            keyspace_.count(keyspace_.name(each->name()), &arrived, refusal_);
            barrier(json, "c10d", each->name(), 0, most, arrived);
            static constexpr const char *NOBODY[] = {"missing", "waiting", "gone"};
            for (const char *none : NOBODY) {
                json.begin('[', none);
                json.end(']');
            }
            json.end('}');
        }
        json.end(']');
    }
    static void barrier(Json &json, const char *kind, Bytes name, uint64_t generation, int64_t members,
                        int64_t arrived) {
        json.begin('{');
        json.text("kind", kind);
        json.text("name", user_name(name));
        json.number("generation", generation);
        json.signed_number("members", members);
        json.signed_number("arrived", arrived);
    }
    void members(Json &json, const char *key, Ring<Named> &list) {
        json.begin('[', key);
        for (size_t at = 0; at < list.count() && at < kMembersNamedMax; ++at) {
            const Named &member = list[at];
            json.begin('{');
            json.number("rank", member.rank);
            json.text("label", member.label == nullptr ? Bytes{nullptr, 0} : member.label->bytes());
            const int64_t since_ms = member.since_ms(now_);
            since_ms < 0 ? json.nothing("since_s") : json.real("since_s", static_cast<double>(since_ms) / 1000);
            json.end('}');
        }
        json.end(']');
    }

    void leases(Json &json) {
        uint64_t left = list(json, "leases", leases_.count());
        leases_.each([&](const Lease &lease) {
            if (left == 0) return;
            --left;
            const double left_ms = fmax(0, trunc((lease.due_at - now_) * 1000));
            json.begin('{');
            json.signed_number("lease", lease.id);
            json.number("session", lease.session_number);
            json.text("identity", "");
            lease.ttl_ms == 0 ? json.nothing("ttl_s") : json.real("ttl_s", static_cast<double>(lease.ttl_ms) / 1000);
            lease.ttl_ms == 0 ? json.nothing("left_s") : json.real("left_s", left_ms / 1000);
            json.number("keys", lease.key_count);
            json.end('}');
        });
        json.end(']');
    }

    void watches(Json &json) {
        uint64_t left = list(json, "watches", watches_.count());
        sessions_.each([&](Session &session) {
            const KeyWatch *each = session.watcher == nullptr ? nullptr : session.watcher->watches.first;
            for (; each != nullptr && left > 0; each = each->of_session.after, --left) {
                json.begin('{');
                json.number("session", session.number);
                json.text("key", user_name(each->key->bytes()));
                json.truth("is_prefix", each->is_prefix);
                json.number("kept", each->kept.count());
                json.truth("has_missed", each->missed != 0);
                json.end('}');
            }
        });
        json.end(']');
    }

    void refusals(Json &json) {
        for (uint64_t left = list(json, "refusals", refusals_.count()); left > 0; --left) {
            const Refused &refused = refusals_[left - 1];
            json.begin('{');
            json.real("age_s", now_ - refused.at);
            json.text("address", refused.address->bytes());
            json.text("reason", Code(refused.reason).text);
            json.text("detail", refused.detail->bytes());
            json.end('}');
        }
        json.end(']');
    }
    void forget_refusal() {
        const Refused oldest = refusals_.pop();
        release(oldest.address);
        release(oldest.detail);
    }

    void keys(Json &json, Bytes prefix, bool has_values) {
        char wire[1 + kKeySizeMax] = "/";
        const size_t size = prefix.size == 0 ? 0 : 1 + prefix.size;
        prefix.copy_to(wire + 1);
        Ring<Bytes> found;
        if (size > 0) {
            Ring<Keyspace::Values::Entry *> entries;
            keyspace_.find({wire, size}, UINT64_MAX, entries);
            for (size_t at = 0; at < entries.count(); ++at) found.push(entries[at]->name());
        } else {
            keyspace_.each_key([&](Bytes key) { found.push(key); });
        }
        uint64_t queue_count = 0;
        keyspace_.each_queue({wire, size}, [&](Bytes, const Ring<Value *> &) { ++queue_count; });
        json.text("prefix", prefix);
        uint64_t left = list(json, "keys", found.count() + queue_count);
        for (size_t at = 0; at < found.count() && left > 0; ++at, --left) {
            const Name name = keyspace_.name(found[at]);
            const Bytes value = keyspace_.get(name)->bytes();
            json.begin('{');
            json.text("key", user_name(found[at]));
            json.number("size", value.size);
            json.signed_number("revision", keyspace_.revision_of(name));
            if (has_values) json.base64("value", {value.data, value.size < kStatusValueMax ? value.size : kStatusValueMax});
            json.end('}');
        }
        keyspace_.each_queue({wire, size}, [&](Bytes name, const Ring<Value *> &items) {
            if (left == 0) return;
            --left;
            uint64_t whole = 0;
            for (size_t at = 0; at < items.count(); ++at) whole += items[at]->size;
            json.begin('{');
            json.text("key", user_name(name));
            json.number("size", whole);
            json.number("items", items.count());
            json.end('}');
        });
        json.end(']');
    }

    Ring<Refused> refusals_;
    Ring<Sample> samples_;
};

}  // namespace rallypoint
