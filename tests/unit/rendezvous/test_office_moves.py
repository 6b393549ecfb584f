from __future__ import annotations

import typing

from rallypoint.rendezvous import office_moves


def test_all_words_are_handed_out() -> None:
    words = {*typing.get_args(office_moves.Event), *typing.get_args(office_moves.Effect)}
    assert {word.__name__ for word in words} <= set(office_moves.__all__)
