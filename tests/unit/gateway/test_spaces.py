from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.gateway.spaces import NAME_SIZE_MAX, KeySpace
from rallypoint.protocol.codec import KeyList, encode_keys
from rallypoint.protocol.spec import KEY_SIZE_MAX, VERBS, Kind, Verb

KEYS = st.one_of(st.binary(max_size=6), st.sampled_from([b"", b"/", b"//", b"/\0", b"\0", b"\0/", b"init/", b"/k"]))
NAMES = st.sampled_from(["", "a", "a/", "a/b", "rounds/7/", "ü"])


def test_a_users_key_is_what_a_prefix_store_would_call_it():
    assert KeySpace("rounds/7/").outward(b"/k") == b"/rounds/7/k"
    assert KeySpace("rounds/7").outward(b"/k") == b"/rounds/7/k"
    assert KeySpace().outward(b"/k") == b"/k"


def test_a_clients_own_key_is_out_of_users_reach():
    assert KeySpace("job").outward(b"init/") == b"/job/\0init/"
    assert KeySpace("job").outward(b"/init/") == b"/job/init/"


@given(NAMES, KEYS)
def test_every_key_comes_back_as_it_was(name, key):
    space = KeySpace(name)
    there = space.outward(key)
    assert there.startswith(space.prefix)
    assert space.inward(there) == key


@given(NAMES, KEYS, KEYS)
def test_no_two_keys_fall_together(name, key, other):
    space = KeySpace(name)
    assert (space.outward(key) == space.outward(other)) == (key == other)


@given(KEYS, KEYS)
def test_spaces_beside_each_other_share_no_key(key, other):
    assert KeySpace("rounds/7").outward(key) != KeySpace("rounds/70").outward(other)


def test_the_keys_of_each_verb_are_translated_and_nothing_else():
    space = KeySpace("s")
    assert space.translate((Verb.SET, b"/k", b"/v")) == (Verb.SET, b"/s/k", b"/v")
    assert space.translate((Verb.COMPARE_SET, b"/k", b"/v", b"/w")) == (Verb.COMPARE_SET, b"/s/k", b"/v", b"/w")
    assert space.translate((Verb.ADD, b"/k", 3)) == (Verb.ADD, b"/s/k", 3)
    assert space.translate((Verb.WAIT, [b"/k", b"/l"])) == (Verb.WAIT, [b"/s/k", b"/s/l"])
    assert space.translate((Verb.MULTI_SET, [(b"/k", b"/v")])) == (Verb.MULTI_SET, [(b"/s/k", b"/v")])
    assert space.translate((Verb.QUEUE_PUSH, b"/q", b"/v")) == (Verb.QUEUE_PUSH, b"/s/q", b"/v")
    assert space.translate((Verb.BARRIER, b"/b", 4)) == (Verb.BARRIER, b"/s/b", 4)
    assert space.translate((Verb.PING, 4)) == (Verb.PING, 4)
    assert space.translate((Verb.LIST_KEYS,)) == (Verb.LIST_KEYS,)


def test_no_verb_names_keys_behind_its_first_field():
    named = {Kind.KEY, Kind.KEYS, Kind.PAIRS}
    assert not any(named & set(row.request[1:]) for row in VERBS.values())


@pytest.mark.parametrize("name", ["/", "a\0b", "x" * NAME_SIZE_MAX])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=r"key space"):
        KeySpace(name)


def test_a_list_that_knows_its_bytes_is_translated_once_and_knows_its_new_ones():
    space, keys = KeySpace("s"), [b"/a", b"init/"]
    known = KeyList(keys, encode_keys(keys))
    (_, first), (_, again) = (space.translate((verb, known)) for verb in (Verb.WAIT, Verb.MULTI_GET))
    assert first is again
    assert first.wire == encode_keys([b"/s/a", b"/s/\0init/"])
    assert first == [b"/s/a", b"/s/\0init/"]


def test_a_list_with_a_key_that_becomes_too_long_knows_no_bytes_that_nobody_has_checked():
    keys = [b"/" + b"k" * (KEY_SIZE_MAX - 1)]
    (_, outward) = KeySpace("s").translate((Verb.WAIT, KeyList(keys, encode_keys(keys))))
    assert type(outward) is list
