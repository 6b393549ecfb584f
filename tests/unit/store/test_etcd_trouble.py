from __future__ import annotations

from rallypoint.errors import DistNetworkError, ReplyTimeoutError
from rallypoint.store.etcd_link import GrpcError
from rallypoint.store.etcd_trouble import Troubles
from rallypoint.types import Endpoint

A, B, C = (Endpoint(name, 2379) for name in "abc")


def noted(*pairs):
    troubles = Troubles()
    for member, trouble in pairs:
        troubles.note(member, trouble)
    return str(troubles)


def refused(member):
    return DistNetworkError(f"no connection to {member}: connection refused")


def silent(member):
    return ReplyTimeoutError(f"the server at {member} did not answer within 1.000 s")


def test_one_members_trouble_is_told_without_its_name():
    assert noted((A, refused(A))) == "connection refused"
    assert noted((A, silent(A))) == "it did not answer within 1.000 s"


def test_a_cause_that_several_share_is_told_once():
    assert noted((A, refused(A)), (B, refused(B))) == "b:2379 and a:2379: connection refused"


def test_each_members_last_trouble_is_told():
    told = noted((A, DistNetworkError("of another kind")), (B, refused(B)), (A, refused(A)), (C, silent(C)))
    assert told == "c:2379: it did not answer within 1.000 s; a:2379 and b:2379: connection refused"


def test_silence_does_not_hide_what_was_known_before():
    assert noted((A, refused(A)), (A, silent(A))) == "connection refused"
    assert noted((A, silent(A)), (A, refused(A))) == "connection refused"


def test_a_missing_leader_is_explained():
    told = noted((A, GrpcError(14, "etcdserver: no leader")), (A, silent(A)))
    assert told == "it knows of no leader: more than half of the cluster's members have to run and reach each other"
