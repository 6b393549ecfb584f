// What the answers to a request's calls are in c10d again, twin of the second half of gateway/slots.py: each answer is put
// into its slot, which is filled when it knows its reply.
#pragma once

#include "relay_space.hpp"
#include "relay_upstream.hpp"

namespace rallypoint {

class Answers : public Upstream {
  protected:
    Answers(Driver &driver, const HashKey &key) : Upstream(driver), key_(key) {}

    // Make a call for a slot.
    Call &call(Slot &slot, uint32_t index, SessionVerb verb, Value *fields) {
        Call &made = ask(verb, fields);
        made.slot = &slot;
        made.index = index;
        ++slot.calls;
        ++calls_count_;
        return made;
    }

    // Take what the call of this index has answered, OK or EXPIRED; false if that means nothing.
    bool fill(Slot &slot, uint32_t index, Status status, Bytes body, Value *value) {
        const bool is_ok = status == Status::OK;
        switch (slot.verb) {
        case Verb::WAIT:
        case Verb::BARRIER:
            slot.is_filled = true;
            if (is_ok) slot.put(kGoOn);
            return true;
        case Verb::QUEUE_POP: return fill_pop(slot, index, is_ok, body, value);
        case Verb::MULTI_GET:
            if (index > 0) return is_ok && fill_one(slot, index - 1, body);
            if (!is_ok) return status == Status::EXPIRED && gather(slot, body);
            slot.fill(body, value);
            return true;
        default: break;
        }
        if (!is_ok) return false;
        switch (slot.verb) {
        case Verb::LIST_KEYS:
        case Verb::GETNUMKEYS:
            if (space_.is_on()) return fill_listed(slot, body);
            slot.fill(body, value);
            break;
        case Verb::SET:
        case Verb::APPEND:
        case Verb::MULTI_SET:
        case Verb::QUEUE_PUSH: slot.is_filled = true; break;
        case Verb::CANCEL_WAIT:
            slot.is_filled = true;
            slot.put(kCancelled);
            break;
        default: slot.fill(body, value);
        }
        return true;
    }

    // The reason that a server's code stands for; ENDED for one that this version does not know.
    static int reason_of(Bytes said) {
        for (int reason = 0; reason < ENDED; ++reason) {
            const Code code(reason);
            if (said == Bytes{code.text, strlen(code.text)}) return reason;
        }
        return ENDED;
    }

    const HashKey key_;
    KeySpace space_;
    uint64_t calls_count_ = 0;  // on their way, for slots and readings

  private:
    bool fill_pop(Slot &slot, uint32_t index, bool is_ok, Bytes body, Value *value) {
        int64_t length;
        if (index == 0) {
            if (!is_ok || !Cursor(body).number(&length)) return false;
            slot.has_length = true;
            slot.put<int64_t>(length > 1 ? length : 1);  // others may have pushed since
        } else {
            slot.has_popped = true;
            if (is_ok) slot.reply.hold(value != nullptr ? share(value) : make_value(body));
        }
        if (!slot.has_length || !slot.has_popped) return true;
        if (!slot.reply) store<int64_t>(slot.few, 0);
        slot.is_filled = true;
        return true;
    }

    // Of a key space the keys are listed, also to be counted.
    bool fill_listed(Slot &slot, Bytes body) {
        Held listed;
        listed.hold(space_.inward(body));
        if (!listed) return false;
        slot.fill(slot.verb == Verb::LIST_KEYS ? listed->bytes() : Bytes{body.data, 8}, nullptr);
        return true;
    }

    // Ask for the values that are there one by one; the body names those that are missing.
    bool gather(Slot &slot, Bytes body) {
        Gathered *gathered = slot.gathered = new Gathered(key_);
        Cursor missing(body);
        int64_t count;
        if (!missing.number(&count)) return false;
        for (Bytes key; count > 0; --count) {
            if (!missing.text(&key)) return false;
            const Name name(key_, key);
            if (gathered->found.find(name) == nullptr) gathered->found.insert(name);
        }
        Fields keys = {slot.fields->data()};
        for (int64_t left = keys.number(); left > 0; --left) {
            const Bytes key = keys.text();
            const Name name(key_, key);
            if (gathered->found.find(name) != nullptr) continue;
            gathered->wanted.push(&gathered->found.insert(name)->item);
            Value *fields = make_value({key.data - 8, 8 + key.size});
            call(slot, static_cast<uint32_t>(gathered->wanted.count()), SessionVerb::READ, fields);
        }
        gathered->left = gathered->wanted.count();
        if (gathered->left == 0) put_together(slot);
        return true;
    }
    bool fill_one(Slot &slot, size_t at, Bytes body) {
        Gathered &gathered = *slot.gathered;
        Cursor fields(body);
        Bytes value;
        if (!fields.text(&value)) return false;
        if (value.size > 0) gathered.wanted[at]->value.hold(make_value(value));
        if (--gathered.left == 0) put_together(slot);
        return true;
    }
    void put_together(Slot &slot) {
        Gathered &gathered = *slot.gathered;
        Fields keys = {slot.fields->data()};
        for (int64_t left = keys.number(); left > 0; --left) {
            const Held &value = gathered.found.find(Name(key_, keys.text()))->item.value;
            store<uint64_t>(gathered.reply.extend(8), value ? value->size : 0);
            if (value) gathered.reply.append(value.get());
        }
        slot.is_filled = true;
    }
};

}  // namespace rallypoint
