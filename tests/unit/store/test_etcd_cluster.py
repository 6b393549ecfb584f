"""A cluster as one peer: members that are dead, silent or strange are left; forks, users and the end are told."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest
from tests.support.cutting_proxy import CuttingProxy

from rallypoint.clock import Deadline
from rallypoint.errors import (
    AuthenticationError,
    ConnectionLostError,
    ForkedStoreError,
    LocalProtocolError,
    UnreachableError,
)
from rallypoint.store import etcd_cluster
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd_cluster import Cluster, Refused
from rallypoint.types import Endpoint

HOST = "127.0.0.1"
LONG_S = 60.0
SOON_S = 0.2


@pytest.fixture
def reach():
    """Give a function that makes clusters of endpoints, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(*endpoints: Endpoint, user: str = "", password: str = "") -> Cluster:
            cluster = Cluster(endpoints, None, user, password)
            stack.callback(cluster.close, "is done")
            return cluster

        yield make


@pytest.fixture
def nobody():
    """Give an address where nobody listens."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        yield Endpoint(*sock.getsockname())


@pytest.fixture
def silent():
    """Give an address where connections are taken and nothing is said."""
    with socket.create_server((HOST, 0)) as listener:
        yield Endpoint(*listener.getsockname())


def ask(cluster, timeout_s=LONG_S):
    return cluster.ask("KV/Range", wire.range_of(b"test-cluster"), Deadline(timeout_s))


def test_a_dead_member_is_left_for_the_next(reach, nobody, etcd):
    cluster = reach(nobody, etcd.members[0].endpoint)
    assert wire.revision_of(ask(cluster)) > 0
    assert cluster.endpoint == etcd.members[0].endpoint


def test_a_silent_member_is_left_for_the_next(reach, silent, etcd, monkeypatch):
    monkeypatch.setattr(etcd_cluster, "ATTEMPT_S", SOON_S)
    assert wire.revision_of(ask(reach(silent, etcd.members[0].endpoint))) > 0


def test_where_nobody_answers_the_deadline_counts(reach, nobody, silent):
    with pytest.raises(UnreachableError, match=r"^etcd at .*,.* did not do .* s: .*: connection refused") as caught:
        ask(reach(nobody, silent), SOON_S)
    assert caught.value.waited_s >= SOON_S


def test_the_only_member_that_does_not_answer_is_told_to_have_done_nothing(reach, nobody):
    with pytest.raises(UnreachableError, match=r"^etcd at .* did not do what was asked .* s: connection refused$"):
        ask(reach(nobody), SOON_S)


def test_a_lost_connection_is_made_anew_and_the_request_sent_again(reach, etcd):
    with CuttingProxy(etcd.members[0].endpoint.port, lambda number: (None, 60 if number == 0 else None)) as proxy:
        cluster = reach(Endpoint(HOST, proxy.port))
        answer = cluster.request("KV/Range", wire.range_of(b"test-cluster"), Deadline(LONG_S))
        assert answer.was_unsure
        assert proxy.connections == 2
        assert not cluster.request("KV/Range", wire.range_of(b"test-cluster"), Deadline(LONG_S)).was_unsure
        assert proxy.connections == 2


def test_a_refusal_is_final(reach, etcd):
    cluster = reach(etcd.members[0].endpoint)
    with pytest.raises(Refused, match="key is not provided") as caught:
        cluster.request("KV/Put", wire.put(b"", b""), Deadline(LONG_S))
    assert not caught.value.was_unsure
    with pytest.raises(LocalProtocolError, match="--max-request-bytes"):
        cluster.ask("KV/Put", wire.put(b"test-cluster", b"v" * 2_000_000), Deadline(LONG_S))


def test_one_member_can_be_asked(reach, etcd, nobody):
    cluster = reach(nobody, etcd.members[0].endpoint)
    answer = cluster.ask_member(etcd.members[0].endpoint, "Maintenance/Status", b"", Deadline(LONG_S))
    assert wire.texts_of(answer, 2)[0].startswith(b"3.")


def test_an_idle_connection_is_used_again(reach, etcd):
    with CuttingProxy(etcd.members[0].endpoint.port, lambda number: (None, None)) as proxy:
        cluster = reach(Endpoint(HOST, proxy.port))
        for _ in range(5):
            ask(cluster)
        assert proxy.connections == 1


def test_a_closed_one_says_so(reach, etcd):
    cluster = reach(etcd.members[0].endpoint)
    cluster.close("was closed")
    with pytest.raises(ConnectionLostError, match="was closed"):
        ask(cluster)


def test_a_call_under_way_ends_with_the_cluster(reach, silent, pool):
    cluster = reach(silent)
    waiting = pool.submit(ask, cluster)
    while not cluster._busy:  # until it is under way
        pass
    cluster.close("was closed")
    with pytest.raises(ConnectionLostError, match="was closed"):
        waiting.result(LONG_S)


def test_a_forked_child_is_refused(reach, etcd):
    cluster = reach(etcd.members[0].endpoint)
    ask(cluster)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"nothing"
        try:
            ask(cluster)
        except ForkedStoreError:
            said = b"forked"
        finally:
            os.write(writer, said)
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"forked"
    os.close(reader)
    os.close(writer)
    ask(cluster)


def test_a_user_nobody_asks_for_is_none(reach, etcd):
    cluster = reach(etcd.members[0].endpoint, user="somebody", password="secret")
    assert cluster.has_user
    ask(cluster)
    assert not cluster.has_user


def test_authentication_is_not_tried_for_ever(reach, etcd, monkeypatch):
    cluster = reach(etcd.members[0].endpoint, user="somebody")
    monkeypatch.setattr(cluster, "_prove", lambda link, deadline: (_ for _ in ()).throw(AuthenticationError("no")))
    with pytest.raises(AuthenticationError, match="no"):
        ask(cluster)
