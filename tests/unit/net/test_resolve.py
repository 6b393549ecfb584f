from __future__ import annotations

import socket
import threading

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectTimeoutError, DistNetworkError
from rallypoint.net import resolve as module
from rallypoint.net.resolve import Resolved, resolve


def no_lookup(*args, **kwargs):
    raise AssertionError("nothing needs to be looked up")


def test_addresses_need_no_thread_and_no_resolver(monkeypatch):
    monkeypatch.setattr(threading, "Thread", no_lookup)
    passed = Deadline(0)
    assert resolve("127.0.0.1", 5, passed) == [Resolved(socket.AF_INET, ("127.0.0.1", 5))]
    assert resolve("::1", 5, passed) == [Resolved(socket.AF_INET6, ("::1", 5, 0, 0))]
    assert resolve("unix:/run/a.sock", 0, passed) == [Resolved(socket.AF_UNIX, "/run/a.sock")]


def test_a_name_gives_each_of_its_addresses_once():
    found = resolve("localhost", 5, Deadline(30))
    assert Resolved(socket.AF_INET, ("127.0.0.1", 5)) in found
    assert len(found) == len(set(found))


def test_an_unknown_name_is_an_error_that_names_it(monkeypatch):
    def unknown(host, port, flags):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(module, "_look_up", unknown)
    with pytest.raises(
        DistNetworkError, match="'no-such-host' cannot be resolved: Name or service not known"
    ) as caught:
        resolve("no-such-host", 5, Deadline(30))
    assert isinstance(caught.value.__cause__, socket.gaierror)


def test_a_name_that_no_resolver_may_be_asked_for_is_an_error_too():
    with pytest.raises(DistNetworkError, match="cannot be resolved"):
        resolve("x" * 300, 5, Deadline(30))


def test_a_resolver_that_stays_silent_does_not_exceed_the_deadline(monkeypatch):
    may_answer = threading.Event()

    def silent(host, port, flags):
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        may_answer.wait(30)
        return []

    monkeypatch.setattr(module, "_look_up", silent)
    with pytest.raises(ConnectTimeoutError, match="'slow-host' was not resolved") as caught:
        resolve("slow-host", 5, Deadline(0.05))
    may_answer.set()
    assert caught.value.waited_s >= 0.05
