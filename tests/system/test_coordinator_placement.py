"""Where nodes stand in a round, as real processes of one run see it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.support.launcher import Run, serving, write_script

CONF = "is_host=0,keep_alive_interval=0.5,keep_alive_max_attempt=20"


def test_nodes_of_one_rack_get_neighbouring_ranks(tmp_path: Path) -> None:
    work = write_script(tmp_path, "report()")
    with ExitStack() as stack:
        endpoint = stack.enter_context(serving())
        runs = {}
        for name, rack in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")):
            options = ("--nnodes=4", "--rdzv-backend=rallypoint", f"--rdzv-endpoint={endpoint}", "--rdzv-id=racks")
            more = (f"--rdzv-conf={CONF},placement=labels:rack+host", f"--label=rack={rack}")
            runs[name] = stack.enter_context(Run(tmp_path, *options, *more, work, name=name))
        assert [run.wait() for run in runs.values()] == [0] * 4, "".join(run.stderr for run in runs.values())
        ranks = {name: int(run.reports()[-1]["GROUP_RANK"]) for name, run in runs.items()}
    assert sorted([{ranks["a"], ranks["c"]}, {ranks["b"], ranks["d"]}], key=min) == [{0, 1}, {2, 3}]


def test_a_placement_that_there_is_not_is_a_usage_error(tmp_path: Path) -> None:
    work = write_script(tmp_path, "report()")
    options = ("--nnodes=2", "--rdzv-backend=rallypoint", "--rdzv-endpoint=127.0.0.1:9", "--rdzv-conf=placement=near")
    with Run(tmp_path, *options, work) as run:
        assert run.wait() == 2
        assert "there is no placement 'near'; known are labels, sticky" in run.stderr
