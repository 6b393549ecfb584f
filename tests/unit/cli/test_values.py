"""How options are read; that each one is, and into what, is tested in ``test_run``."""

from __future__ import annotations

from typing import Any

import click
import pytest

from rallypoint.agent.logs import Std
from rallypoint.cli import values
from rallypoint.cli.values import Read


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (values.read_nodes, "3", (3, 3)),
        (values.read_nodes, "1:4", (1, 4)),
        (values.read_workers, " 2 ", 2),
        (values.read_streams, "3", Std.ALL),
        (values.read_ranks, "", None),
        (values.read_ranks, "0, 2,", frozenset({0, 2})),
        (values.read_texts, "", ()),
        (values.read_texts, "a,b,,c", ("a", "b,c")),
        (values.read_options, "a=1,b=x", {"a": "1", "b": "x"}),
        (values.read_signals, "SIGTERM,SIGINT", "SIGTERM,SIGINT"),
    ],
)
def test_what_is_written_has_one_meaning(read: Any, text: str, value: object) -> None:
    assert Read(read).convert(text, None, None) == value


@pytest.mark.parametrize(
    ("read", "text", "complaint"),
    [
        (values.read_nodes, "two", r"^'two' is no number of nodes; write N or MIN:MAX$"),
        (values.read_nodes, "3:2", r"^'3:2' is no number of nodes; it must be at least 1, and MIN not above MAX$"),
        (values.read_nodes, "0", r"at least 1"),
        (values.read_workers, "many", r"^'many' is no number of workers; write a number, auto, cpu or gpu$"),
        (values.read_workers, "0", r"^0 is no number of workers; it must be at least 1$"),
        (values.read_ranks, "0;1", r"^'0;1' is no list of local ranks; write numbers split by commas$"),
    ],
)
def test_what_has_no_meaning_is_complained_about(read: Any, text: str, complaint: str) -> None:
    with pytest.raises(click.BadParameter, match=complaint):
        Read(read).convert(text, None, None)


def test_what_was_read_already_is_left_alone() -> None:
    assert Read(values.read_nodes).convert((1, 2), None, None) == (1, 2)


def test_the_graphics_cards_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rallypoint.launch.devices.count_gpus", lambda _environ: 8)
    assert values.read_workers("gpu") == 8
    assert values.read_workers("auto") == 8
