from __future__ import annotations

import math

from rallypoint.rendezvous.lifeline import CUT_OFF_SHARE, RESUME_S, Lifeline


def test_a_node_stops_before_its_lease_can_end_whenever_the_answer_came() -> None:
    lifeline = Lifeline(10.0)
    lifeline.renew(100.0)
    lifeline.renew(99.0)  # of two answers that come the other way round the later question counts
    assert lifeline.ends_at() == 100.0 + CUT_OFF_SHARE * 10.0
    assert "in the last 8.5 s was acknowledged" in lifeline.tell_end(108.5)


def test_a_connection_that_is_not_made_again_counts_for_more_than_a_lease() -> None:
    lifeline = Lifeline(10.0)
    lifeline.renew(100.0)
    lifeline.doubt(101.0)
    assert lifeline.ends_at() == 101.0 + RESUME_S
    assert "the connection to the store was lost" in lifeline.tell_end(102.0)
    lifeline.doubt(math.inf)
    assert lifeline.ends_at() == 100.0 + CUT_OFF_SHARE * 10.0


def test_nothing_was_heard_before_the_first_renewal() -> None:
    assert Lifeline(10.0).ends_at() == -math.inf


def test_a_session_may_have_ended_from_a_moment_on_and_what_was_heard_can_be_forgotten() -> None:
    lifeline = Lifeline(10.0)
    lifeline.renew(1.0)
    lifeline.doubt(3.0)
    assert (lifeline.has_ended(2.9), lifeline.has_ended(3.0)) == (False, True)
    lifeline.forget()
    assert lifeline.ends_at() == float("-inf")
    lifeline.doubt(float("inf"))
    lifeline.renew(4.0)
    assert lifeline.ends_at() == 12.0
