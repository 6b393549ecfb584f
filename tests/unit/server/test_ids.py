from __future__ import annotations

from rallypoint.server.ids import Ids


def test_no_id_comes_twice() -> None:
    ids = Ids(b"s" * 32)
    made = [ids.make(purpose, 16) for purpose in (b"session", b"nonce") for _ in range(100)]
    assert len(set(made)) == 200
    assert {len(each) for each in made} == {16}


def test_a_seed_gives_the_same_ids_and_another_others() -> None:
    assert Ids(b"s" * 32).make(b"life", 16) == Ids(b"s" * 32).make(b"life", 16)
    assert Ids(b"s" * 32).make(b"life", 16) != Ids(b"t" * 32).make(b"life", 16)
    assert Ids(b"s" * 32).make(b"life", 16) != Ids(b"s" * 32).make(b"data", 16)
