"""What etcd's refusals mean."""

from __future__ import annotations

import pytest

from rallypoint.errors import AccessDeniedError, AuthenticationError, LocalProtocolError, RefusedError
from rallypoint.store.etcd_link import GrpcError
from rallypoint.store.etcd_refusal import Verdict, as_refusal, verdict_of
from rallypoint.types import Endpoint

HERE = Endpoint("host", 2379)


@pytest.mark.parametrize(
    ("code", "words", "verdict"),
    [
        (14, "etcdserver: leader changed", Verdict.AGAIN),
        (14, "etcdserver: request timed out, possibly due to previous leader failure", Verdict.AGAIN),
        (8, "etcdserver: too many requests", Verdict.AGAIN),
        (16, "etcdserver: invalid auth token", Verdict.NEW_TOKEN),
        (3, "etcdserver: revision of auth store is old", Verdict.NEW_TOKEN),
        (5, "etcdserver: requested lease not found", Verdict.FINAL),
        (3, "etcdserver: request is too large", Verdict.FINAL),
    ],
)
def test_what_is_done_about_it(code, words, verdict):
    assert verdict_of(GrpcError(code, words)) is verdict


@pytest.mark.parametrize(
    ("code", "words", "kind", "said"),
    [
        (3, "etcdserver: request is too large", LocalProtocolError, "--max-request-bytes"),
        (8, "grpc: received message larger than max (2 vs. 1)", LocalProtocolError, "--max-request-bytes"),
        (3, "etcdserver: too many operations in txn request", LocalProtocolError, "--max-txn-ops"),
        (7, "etcdserver: permission denied", AccessDeniedError, "host:2379"),
        (3, "etcdserver: authentication failed, invalid user ID or password", AuthenticationError, "who we are"),
        (3, "etcdserver: user name is empty", AuthenticationError, "who we are"),
        (8, "etcdserver: mvcc: database space exceeded", RefusedError, "--quota-backend-bytes"),
        (3, "etcdserver: something else", RefusedError, "something else"),
    ],
)
def test_what_callers_see(code, words, kind, said):
    error = as_refusal(GrpcError(code, words), HERE, 7)
    assert type(error) is kind
    assert said in str(error)
