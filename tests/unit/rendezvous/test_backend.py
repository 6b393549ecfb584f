from __future__ import annotations

import pytest

from rallypoint.rendezvous import backend as module
from rallypoint.rendezvous.backend import POLL_INTERVAL_S, RendezvousBackend, Token


class Nothing(RendezvousBackend):
    @property
    def name(self) -> str:
        return "nothing"

    def get_state(self) -> tuple[bytes, Token] | None:
        return None

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        return None


def test_a_backend_must_bring_name_get_and_set() -> None:
    with pytest.raises(TypeError, match="abstract"):
        RendezvousBackend()  # type: ignore[abstract]


def test_a_backend_that_cannot_be_watched_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    class Clock:
        def sleep(self, duration_s: float) -> None:
            pauses.append(duration_s)

    monkeypatch.setattr(module, "SYSTEM_CLOCK", Clock())
    Nothing().wait_for_change(None, 0.1)
    Nothing().wait_for_change(b"token", 60.0)
    assert pauses == [0.1, POLL_INTERVAL_S]
