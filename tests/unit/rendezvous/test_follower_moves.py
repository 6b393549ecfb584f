from __future__ import annotations

import typing

from rallypoint.rendezvous import follower, follower_moves


def test_the_machine_hands_out_all_its_words() -> None:
    words = {*typing.get_args(follower_moves.Event), *typing.get_args(follower_moves.Effect)}
    assert {word.__name__ for word in words} <= set(follower_moves.__all__)
    assert set(follower_moves.__all__) <= set(follower.__all__)
