"""Minutes that no node of a run can go on from, and what its nodes are told: real processes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.support.launcher import Run, serving, write_script

from rallypoint.rendezvous.minutes import Minutes, encode_minutes
from rallypoint.rendezvous.policy import Books, Policy
from rallypoint.rendezvous.state import new_state
from rallypoint.store.tcp import TCPStore

CONF = "is_host=0,keep_alive_interval=0.5,keep_alive_max_attempt=20,join_timeout=3600"

FOREIGN = Minutes(term=1, state=new_state("0" * 32, 2, 2), books=Books(policy=Policy(placement="near")))


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (b"garbage", "cannot be read"),
        (encode_minutes(replace(FOREIGN, schema=7)), "have schema 7, this version of rallypoint reads"),
        (encode_minutes(FOREIGN), "there is no placement 'near'; known are labels, sticky"),
    ],
    ids=["garbage", "another version's", "an unknown placement"],
)
def test_nodes_that_nobody_can_coordinate_are_told_so_long_before_they_would_give_up(
    tmp_path: Path, minutes: bytes, words: str
) -> None:
    work = write_script(tmp_path, "report()")
    with ExitStack() as stack:
        endpoint = stack.enter_context(serving())
        host, _, port = endpoint.rpartition(":")
        store = TCPStore(host, int(port), is_master=False, wait_for_workers=False)
        stack.callback(store.close)
        store.set("rallypoint.rendezvous.lost/state", minutes)
        options = ("--nnodes=2", "--rdzv-backend=rallypoint", f"--rdzv-endpoint={endpoint}", "--rdzv-id=lost")
        runs = [stack.enter_context(Run(tmp_path, *options, f"--rdzv-conf={CONF}", work, name=name)) for name in "ab"]
        assert [run.wait() for run in runs] == [1, 1]
        for run in runs:
            assert words in run.stderr.splitlines()[-1]
            assert not run.reports()
        assert store.get("rallypoint.rendezvous.lost/state") == minutes
