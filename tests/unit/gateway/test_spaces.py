from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.gateway.spaces import NAME_SIZE_MAX, KeySpace
from rallypoint.protocol.spec import VERBS, Kind, Verb

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
