from __future__ import annotations

from rallypoint.errors import rendezvous as errors


def test_an_end_and_a_lack_of_nodes_have_their_sentences() -> None:
    assert str(errors.RendezvousClosedError()) == "the rendezvous is closed"
    assert str(errors.RendezvousTimeoutError()) == "the rendezvous timed out"


def test_a_backend_that_cannot_be_reached_is_a_connection_error() -> None:
    assert issubclass(errors.RendezvousConnectionError, ConnectionError)
