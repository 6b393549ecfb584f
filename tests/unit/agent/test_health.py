from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request

import pytest
from tests.support.agents import observed

from rallypoint.agent.health import HEALTH_PORT_ENV, HealthCheckServer, create_healthcheck_server, served_health


def ask(port: int) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_who_lives_is_answered_well_and_who_does_not_is_not() -> None:
    last = [int(time.time())]
    server = create_healthcheck_server(lambda: last[0], 0, 30)
    server.stop()
    server.start()
    try:
        status, numbers = ask(server.port)
        assert (status, numbers["alive"], numbers["timeout_s"]) == (200, True, 30)
        last[0] -= 1000
        status, numbers = ask(server.port)
        assert (status, numbers) == (503, {"alive": False, "last_alive": last[0], "timeout_s": 30})
        assert server.alive_callback() == last[0]
    finally:
        server.stop()


def test_a_peer_that_says_nothing_keeps_nobody_waiting() -> None:
    server = HealthCheckServer(lambda: int(time.time()), 0, 30)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port)):
            assert ask(server.port)[0] == 200
    finally:
        server.stop()


class Own(HealthCheckServer):
    def __init__(self) -> None:
        super().__init__(lambda: 0, 0, 0)
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


def test_a_server_of_ones_own_is_started_and_stopped() -> None:
    own = Own()

    with served_health(own, {HEALTH_PORT_ENV: "1"}, lambda: 0):
        assert own.calls == ["start"]

    assert own.calls == ["start", "stop"]


def test_the_environment_asks_for_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with served_health(None, {HEALTH_PORT_ENV: str(port)}, lambda: int(time.time())):
        assert ask(port)[0] == 200


@pytest.mark.parametrize("text", ["", "http", "-1", "70000"])
def test_what_is_no_port_is_told(text: str) -> None:
    with observed() as events, served_health(None, {HEALTH_PORT_ENV: text}, lambda: 0):
        assert "which is no port" in events[0].message


def test_a_port_that_is_taken_is_told_and_stops_no_run() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with observed() as events, served_health(None, {HEALTH_PORT_ENV: str(port)}, lambda: 0):
            assert "cannot be listened on" in events[0].message
