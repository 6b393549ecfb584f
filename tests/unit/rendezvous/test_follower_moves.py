from __future__ import annotations

import typing

from rallypoint.rendezvous import follower_moves


def test_all_words_are_handed_out() -> None:
    words = {*typing.get_args(follower_moves.Event), *typing.get_args(follower_moves.Effect)}
    assert {word.__name__ for word in words} <= set(follower_moves.__all__)
