from __future__ import annotations

import os
from pathlib import Path

import pytest

from rallypoint.launch.devices import count_cpus, count_gpus


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.usefixtures("eight_cpus")
def test_without_quotas_the_affinity_mask_counts(tmp_path: Path) -> None:
    assert count_cpus(tmp_path, tmp_path / "none") == 8


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("max 100000", 8),
        ("", 8),
        ("9900000 100000", 8),
    ],
)
def test_a_quota_of_the_own_group_cuts_the_count(tmp_path: Path, quota: str, expected: int) -> None:
    own = write(tmp_path / "own", "0::/jobs/mine\n")
    write(tmp_path / "fs" / "jobs" / "mine" / "cpu.max", quota)

    assert count_cpus(tmp_path / "fs", own) == expected


@pytest.mark.usefixtures("eight_cpus")
def test_a_quota_further_up_counts_too(tmp_path: Path) -> None:
    own = write(tmp_path / "own", "0::/jobs/mine\n")
    write(tmp_path / "fs" / "jobs" / "cpu.max", "300000 100000")
    write(tmp_path / "fs" / "jobs" / "mine" / "cpu.max", "max 100000")

    assert count_cpus(tmp_path / "fs", own) == 3


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(("quota", "expected"), [("400000", 4), ("-1", 8)])
def test_the_older_control_groups_are_read_too(tmp_path: Path, quota: str, expected: int) -> None:
    own = write(tmp_path / "own", "3:cpu,cpuacct:/mine\n2:memory:/elsewhere\n")
    write(tmp_path / "fs" / "cpu" / "mine" / "cpu.cfs_quota_us", quota + "\n")
    write(tmp_path / "fs" / "cpu" / "mine" / "cpu.cfs_period_us", "100000\n")

    assert count_cpus(tmp_path / "fs", own) == expected


def test_this_host_has_a_processor() -> None:
    assert count_cpus() >= 1


@pytest.mark.parametrize(
    ("visible", "expected"), [("0,1,2", 3), ("GPU-aa,MIG-bb", 2), ("", 0), ("-1", 0), ("0,-1,2", 1), (" 3 ", 1)]
)
def test_visible_devices_are_counted_as_cuda_counts_them(visible: str, expected: int) -> None:
    assert count_gpus({"CUDA_VISIBLE_DEVICES": visible}) == expected


def test_without_the_variable_the_driver_is_asked(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:02:00.0").mkdir()

    assert count_gpus({}, tmp_path) == 2


def test_without_variable_and_driver_nothing_is_known(tmp_path: Path) -> None:
    assert count_gpus({}, tmp_path / "none") is None
