from __future__ import annotations

import typing

from rallypoint.rendezvous import office, office_moves


def test_the_machine_hands_out_all_its_words() -> None:
    words = {*typing.get_args(office_moves.Event), *typing.get_args(office_moves.Effect)}
    assert {word.__name__ for word in words} <= set(office_moves.__all__)
    assert set(office_moves.__all__) <= set(office.__all__)
