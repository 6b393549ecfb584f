from __future__ import annotations

import pytest

from rallypoint.cli.status_tables import show, shown_age, shown_size, table
from rallypoint.observe.status import (
    BarrierEntry,
    Barriers,
    Bound,
    KeyEntry,
    Keys,
    Leases,
    MemberEntry,
    Now,
    Overview,
    PeerEntry,
    Peers,
    Rates,
    Totals,
    WaitEntry,
)


def overview(**changes):
    fields = {
        "version": 1,
        "section": "overview",
        "rallypoint": "1.2.3",
        "twin": "python",
        "dialects": ["c10d", "session"],
        "life": "ab",
        "data": "ab",
        "uptime_s": 3700.0,
        "now": Now(*range(1, 14)),
        "totals": Totals(9, 8, 7),
        "rates": Rates(2.0, 4.5, 2048.0, 1024.0),
        "closed": {},
        "limits": {"connections_max": Bound(1, 100), "leases_max": Bound(60, 100)},
    }
    return show(Overview(**fields | changes))


def test_an_overview_names_limits_that_are_near_and_no_others():
    text = overview()
    assert text.startswith("rallypoint 1.2.3, python twin, up 1 h 1 min\n")
    assert "in memory" in text
    assert text.endswith("near a limit: leases_max 60 of 100")
    assert overview(limits={}).endswith("no limit is near")


def test_closed_connections_are_counted_by_reason():
    assert "\nclosed: 2 bad_handshake, 1 unknown_verb\n" in overview(closed={"unknown_verb": 1, "bad_handshake": 2})


def test_peers_say_what_they_wait_for():
    wait = WaitEntry("WAIT", ["a", "b"], 3, 61.0)
    peer = PeerEntry(7, "c10d", True, "10.0.0.1:5", "", "", None, 5.0, 10, 2048, 0, True, [wait])
    lines = show(Peers(1, "peers", 2, 1, [peer])).splitlines()
    assert lines[0].split() == ["PEER", "DIALECT", "ADDRESS", "IDENTITY", "LABEL", "AGE", "IN", "OUT", "WAITS", "FOR"]
    assert lines[1].endswith("2.0 KiB  WAIT a b and 3 more for 1 min 1 s (paused)")
    assert lines[2] == "and 1 more"


def test_barriers_name_the_missing():
    members = [MemberEntry(rank, f"node {rank}", None) for rank in range(10)]
    text = show(Barriers(1, "barriers", 1, 0, [BarrierEntry("barrier", "go", 3, 12, 2, members, [], [])]))
    assert "2 of 12" in text
    assert "5 (node 5) and 4 more" in text


def test_a_queue_and_a_value_are_told_apart():
    keys = [KeyEntry("q", 5, items=2), KeyEntry("k", 2000, revision=4, value="AGE=")]
    lines = show(Keys(1, "keys", 2, 0, "", keys)).splitlines()
    assert lines[1].split() == ["q", "5", "B", "queue", "of", "2"]
    assert lines[2].split() == ["k", "2.0", "KiB", "4", "'\\x00a'", "..."]


def test_nothing_is_said_in_words():
    assert show(Leases(1, "leases", 0, 0, [])) == "no leases"


def test_columns_are_as_wide_as_need_be_and_control_characters_do_not_reach_the_terminal():
    text = table(["A", "B"], [["x" * 200, "y" * 200], ["\x1b[31m", "b\n"]])
    assert text.splitlines() == [
        "A" + " " * 101 + "B",
        "x" * 97 + "...  " + "y" * 200,
        "\\x1b[31m" + " " * 94 + "b\\n",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (59.9, "60 s"), (200, "3 min 20 s"), (7200, "2 h"), (190_000, "2 d 4 h")],
)
def test_ages_have_two_units(seconds, text):
    assert shown_age(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_have_a_unit(size, text):
    assert shown_size(size) == text
