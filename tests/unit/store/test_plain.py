from __future__ import annotations

import pytest

from rallypoint.store.plain import PLAIN_STORE_ENV, is_plain_store, plain_store_environment


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_worker_knows_the_place_that_it_was_told_of_and_no_other(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv(PLAIN_STORE_ENV, raising=False)
    assert not is_plain_store(host, 29500)
    for name, value in plain_store_environment(host, 29500).items():
        monkeypatch.setenv(name, value)
    assert is_plain_store(host, 29500)
    assert not is_plain_store(host, 29501)
    assert not is_plain_store("localhost", 29500)
    assert not is_plain_store(f"{host},localhost", 29500)


def test_an_empty_word_names_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLAIN_STORE_ENV, "")
    assert not is_plain_store("127.0.0.1", 29500)
