"""Unmodified torch processes on a gateway to an etcd cluster, one of whose members is killed meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.etcd import running_etcd
from tests.support.raw_server import PATIENCE_S
from tests.support.relayed import plain, started

from rallypoint.gateway.local import LocalGateway, delete_key_space
from rallypoint.gateway.opening import open_store

MEMBER = Path(__file__).parent.parent / "support" / "gloo_steps.py"
STEPS = 30


@pytest.fixture
def cluster():
    with running_etcd(3) as cluster:
        yield cluster


def test_a_gloo_group_trains_on_while_a_member_of_etcd_is_killed(cluster):
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
    trainers = []
    url = cluster.url("job")
    with (
        started("gateway", "--store", url, "--key-space", "rounds/1") as (_, first),
        started("gateway", "--store", url, "--key-space", "rounds/1") as (_, second),
        plain(first) as store,
    ):
        try:
            for rank in range(2):
                command = [sys.executable, str(MEMBER), str(rank), "2", str((first, second)[rank]), str(STEPS)]
                trainers.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
            store.wait([f"step 10 of {rank}" for rank in range(2)])
            cluster.leader().kill()
            store.set("go on/10", "")
            store.set("go on/20", "")
            store.set("go on/30", "")
            ends = [(trainer.communicate(timeout=100)[0], trainer.returncode) for trainer in trainers]
        finally:
            for trainer in trainers:
                if trainer.poll() is None:
                    trainer.kill()
                    trainer.communicate()
    assert [returncode for _, returncode in ends] == [0, 0]
    reports = [json.loads(output) for output, _ in ends]
    assert [report["seen"] for report in reports] == [[2] * STEPS] * 2
    assert [report["weight"] for report in reports] == [sum(1000 * (step + 0.5) for step in range(1, STEPS + 1))] * 2


def test_verbs_go_on_and_count_once_while_a_member_of_etcd_is_killed(cluster):
    counts, stop = [0] * 4, threading.Event()
    moved = threading.Condition()

    def count(number, port):
        with plain(port) as store:
            while not stop.is_set():
                assert store.add(f"n{number}", 1) == counts[number] + 1
                store.append(f"log{number}", ".")
                assert len(store.get(f"log{number}")) == counts[number] + 1
                with moved:
                    counts[number] += 1
                    moved.notify_all()

    def wait_for_progress():
        before = list(counts)
        with moved:
            assert moved.wait_for(lambda: all(now > then for now, then in zip(counts, before, strict=True)), PATIENCE_S)

    with started("gateway", "--store", cluster.url("job")) as (_, port), plain(port) as store:
        threads = [threading.Thread(target=count, args=(number, port)) for number in range(4)]
        waiting = threading.Thread(target=store.wait, args=(["released"],))
        for thread in (*threads, waiting):
            thread.start()
        wait_for_progress()
        cluster.leader().kill()
        for _ in range(20):
            wait_for_progress()
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        with plain(port) as other:
            other.set("released", "1")
            waiting.join(PATIENCE_S)
            assert not waiting.is_alive()
            assert [other.add(f"n{number}", 0) for number in range(4)] == counts
            assert [len(other.get(f"log{number}")) for number in range(4)] == counts


def test_rounds_of_one_store_do_not_see_each_other_and_are_deleted(cluster):
    with open_store(cluster.url("job"), PATIENCE_S) as store:
        for number in range(3):
            with LocalGateway(store, f"rounds/{number}/") as gateway, plain(gateway.port) as worker:
                assert not worker.check(["k"])
                worker.set("k", str(number))
                assert worker.get("k") == b"%d" % number
            if number:
                assert delete_key_space(store, f"rounds/{number - 1}/") == 1
        assert store.list_keys() == ["rounds/2/k"]
