from __future__ import annotations

from rallypoint.launch.macros import macros


def test_the_local_rank_takes_its_placeholders_place_and_nothing_else_changes() -> None:
    args = [f"--rank={macros.local_rank}", "$x ${y}", 3, None]

    assert macros.substitute(args, "5") == ["--rank=5", "$x ${y}", 3, None]
