"""Metrics of a server as a process, of either twin."""

from __future__ import annotations

import re
import urllib.request

import pytest
from tests.support.raw_server import LOOP_TWINS, RawClient, use_twin
from tests.support.served import served


@pytest.mark.parametrize("twin", LOOP_TWINS)
def test_a_server_is_scraped_while_it_serves(twin, monkeypatch):
    use_twin(twin, monkeypatch)
    with served("--port", "0", "--metrics-port", "0") as (process, ready):
        line = process.stderr.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/metrics", line)[0]
        client = RawClient((ready["host"], ready["port"]))
        assert client.ping()
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        client.close()
        assert "rallypoint_up 1.0" in text
        assert "rallypoint_connections 1.0" in text
        assert 'rallypoint_limit{name="connections_max"} 100000.0' in text
        process.terminate()
        assert process.wait(30) == 0


def test_a_port_that_is_taken_ends_the_server_with_a_sentence():
    with (
        served("--port", "0", "--metrics-port", "0") as (process, _),
    ):
        port = re.search(r":(\d+)/metrics", process.stderr.readline())[1]
        with (
            pytest.raises(AssertionError, match=f"metrics cannot be served on 127.0.0.1:{port}"),
            served("--port", "0", "--metrics-port", port),
        ):
            pass
