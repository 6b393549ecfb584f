from __future__ import annotations

import queue
import threading

import pytest
from tests.support.stores import HOST, making_stores

from rallypoint import events
from rallypoint.errors import DistError, RendezvousError
from rallypoint.rendezvous import other_backend as module
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.other_backend import look_for_c10d, look_for_coordinator, tell_of_other_backend
from rallypoint.rendezvous.registry import get_rendezvous_handler
from rallypoint.store.hash import HashStore

PATIENCE_S = 60.0


@pytest.fixture
def store():
    with making_stores() as build:
        yield build(dialect="session")


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(module, "FIRST_LOOK_S", 0.01)
    monkeypatch.setattr(module, "PAUSE_S_MAX", 0.2)
    monkeypatch.setattr(module, "LOOKS_MAX", 1000)
    seen = queue.SimpleQueue()

    def take(event):
        if event.name == "rendezvous.trouble" and "by the backend" in event.message:
            seen.put(event)

    events.subscribe(take)
    yield seen
    events.unsubscribe(take)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "rallypoint-other-backend"]


def test_a_coordinator_is_there_as_long_as_its_key(store):
    look = look_for_coordinator(store, "run")
    assert not look()
    store.set("rallypoint.rendezvous.run/coordinator", "somebody")
    assert look()
    assert not look_for_coordinator(store, "other")()


def test_a_state_that_does_not_change_is_an_earlier_runs(store):
    store.set("torch.rendezvous.run", "closed")
    look = look_for_c10d(store, "run")
    assert [look(), look()] == [False, False]
    store.set("torch.rendezvous.run", "a heartbeat")
    assert [look(), look()] == [True, False]


def test_a_state_that_has_just_come_is_not_called_living_yet(store):
    look = look_for_c10d(store, "run")
    assert not look()
    store.set("torch.rendezvous.run", "new")
    assert [look(), look()] == [False, False]


def test_it_is_told_once(store, told):
    answers = iter([False, True])
    tell_of_other_backend(store, "run", "c10d", "rallypoint", lambda: next(answers))
    event = told.get(timeout=PATIENCE_S)
    assert event.message.startswith("nodes of run 'run' meet here by the backend 'rallypoint', this one by 'c10d'")
    assert "--rdzv-backend" in event.message


def test_a_lost_store_ends_the_looks(store, told):
    looked = threading.Event()

    def look():
        looked.set()
        raise DistError("gone")

    tell_of_other_backend(store, "run", "c10d", "rallypoint", look)
    assert looked.wait(PATIENCE_S)
    for thread in threads():
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert told.empty()


def test_where_nobody_could_be_nobody_is_looked_for():
    before = len(threads())
    tell_of_other_backend(HashStore(), "run", "c10d", "rallypoint", lambda: True)
    assert len(threads()) == before


def test_two_nodes_with_two_backends_are_told_of_each_other(store, told):
    def meet(handler):
        with pytest.raises(RendezvousError):
            handler.next_rendezvous()

    handlers = [
        get_rendezvous_handler(
            RendezvousParameters(
                backend, f"{HOST}:{store.port}", "run", 2, 2, "node", is_host=False, join_timeout=PATIENCE_S,
                keep_alive_interval=0.1, keep_alive_max_attempt=100,
            )
        )
        for backend in ("c10d", "rallypoint")
    ]  # fmt: skip
    meeting = [threading.Thread(target=meet, args=(handler,)) for handler in handlers]
    for thread in meeting:
        thread.start()
    try:
        said = {told.get(timeout=PATIENCE_S).message.partition(": ")[0] for _ in handlers}
    finally:
        for handler in handlers:
            handler.shutdown()
        for thread in meeting:
            thread.join(PATIENCE_S)
    assert said == {
        "nodes of run 'run' meet here by the backend 'rallypoint', this one by 'c10d'",
        "nodes of run 'run' meet here by the backend 'c10d', this one by 'rallypoint'",
    }
