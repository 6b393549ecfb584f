from __future__ import annotations

import pytest

from rallypoint.errors import RendezvousConnectionError, RendezvousStateError
from rallypoint.rendezvous.contact import Contact
from rallypoint.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def contact(clock: ManualClock) -> Contact:
    return Contact("the store", 5.0, clock)


def test_nothing_is_wrong_where_nothing_is_asked(contact: Contact, clock: ManualClock) -> None:
    clock.advance(100)
    contact.ask()
    assert contact.trouble() is None
    assert contact.until_trouble_s() == 5.0
    contact.end()
    clock.advance(100)
    assert contact.trouble() is None


def test_a_question_without_an_answer_is_trouble_after_a_while(contact: Contact, clock: ManualClock) -> None:
    contact.ask()
    clock.advance(4.0)
    assert contact.trouble() is None
    assert contact.until_trouble_s() == 1.0
    clock.advance(2.0)
    assert str(contact.trouble()) == "the store has not answered for 6.0 s"
    assert contact.until_trouble_s() == 0.0
    contact.answer()
    assert contact.trouble() is None


def test_questions_of_several_threads_are_one_conversation(contact: Contact, clock: ManualClock) -> None:
    contact.ask()
    clock.advance(4.0)
    contact.ask()
    contact.answer()
    contact.end()
    clock.advance(4.0)
    assert contact.trouble() is None, "it answers, though the first question is older than that"
    clock.advance(1.0)
    assert contact.trouble() is not None


def test_a_failure_is_trouble_until_it_is_taken_back(contact: Contact, clock: ManualClock) -> None:
    failure = RendezvousStateError("no state of ours")
    contact.fail(failure)
    assert contact.trouble() is failure
    contact.fail(OSError("broken"))
    trouble = contact.trouble()
    assert isinstance(trouble, RendezvousConnectionError)
    assert str(trouble) == "the rendezvous backend failed: broken"
    contact.fail(None)
    assert contact.trouble() is None


def test_silence_names_what_is_behind_it(contact: Contact, clock: ManualClock) -> None:
    clock.advance(7.0)
    assert contact.silence() == "nothing was heard from the store for 7.0 s"
    failure = RendezvousConnectionError("look inside")
    failure.__cause__ = OSError("its keys are gone")
    contact.fail(failure)
    assert contact.silence() == "nothing was heard from the store for 7.0 s (its keys are gone)"
