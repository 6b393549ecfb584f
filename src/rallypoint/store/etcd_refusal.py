"""What etcd's refusals mean to a caller: one table from gRPC's statuses and etcd's words to our errors."""

from __future__ import annotations

import enum
from typing import Final

from rallypoint.errors import AccessDeniedError, AuthenticationError, DistError, LocalProtocolError, RefusedError
from rallypoint.store.etcd_link import GrpcError
from rallypoint.types import Endpoint

__all__ = [
    "ALREADY_EXISTS",
    "AUTH_IS_OFF",
    "COMPACTED",
    "NO_SUCH_LEASE",
    "Verdict",
    "as_refusal",
    "is_about",
    "verdict_of",
]

NO_SUCH_LEASE: Final = "requested lease not found"
ALREADY_EXISTS: Final = "lease already exists"
AUTH_IS_OFF: Final = "authentication is not enabled"
COMPACTED: Final = "required revision has been compacted"

_INVALID, _DEADLINE, _DENIED, _EXHAUSTED, _INTERNAL, _UNAVAILABLE, _UNKNOWN_PEER = 3, 4, 7, 8, 13, 14, 16

_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "revision in header is old")
_WRONG_PERSON = ("authentication failed", "user name is empty", "user name not found", "auth: ", "role name")


class Verdict(enum.Enum):
    """What is to be done about a refusal."""

    AGAIN = "the member could not do it now: ask again, another one"
    NEW_TOKEN = "the token has lapsed: prove anew who we are, and ask again"  # noqa: S105 - no password
    FINAL = "asking again would not help"


def is_about(error: GrpcError, words: str) -> bool:
    """Tell whether a refusal is the one that has these words in it."""
    return words in error.message


def verdict_of(error: GrpcError) -> Verdict:
    """Tell what is to be done about a refusal."""
    if error.code == _UNKNOWN_PEER or any(words in error.message for words in _STALE_TOKEN):
        return Verdict.NEW_TOKEN
    if error.code in (_DEADLINE, _UNAVAILABLE) or is_about(error, "too many requests"):
        return Verdict.AGAIN
    return Verdict.FINAL


def as_refusal(error: GrpcError, endpoint: Endpoint, size: int = 0) -> DistError:
    """Give the error that a caller sees.

    ==========================================  ===========================
    etcd says                                   callers see
    ==========================================  ===========================
    the request is too large                    ``LocalProtocolError``
    who are you                                 ``AuthenticationError``
    you may not                                 ``AccessDeniedError``
    its disk quota is used up, anything else    ``RefusedError``
    ==========================================  ===========================

    Args:
        error: what etcd has answered.
        endpoint: the member that was asked.
        size: bytes of the request.
    """
    words = error.message
    if "request is too large" in words or "larger than max" in words:
        return LocalProtocolError(
            f"a request of {size} bytes is too large for etcd at {endpoint}: its option --max-request-bytes sets the "
            "limit, 1572864 bytes (1.5 MiB) unless it is given"
        )
    if "too many operations" in words:
        return LocalProtocolError(
            f"a request has more operations than etcd at {endpoint} takes: its option --max-txn-ops must be 128, its "
            "default, or more"
        )
    if error.code == _DENIED:
        return AccessDeniedError(f"etcd at {endpoint} does not let this user do that: {words}", endpoint=endpoint)
    if error.code == _UNKNOWN_PEER or any(part in words for part in _WRONG_PERSON):
        return AuthenticationError(f"etcd at {endpoint} does not know who we are: {words}", endpoint=endpoint)
    if "database space exceeded" in words:
        return RefusedError(
            f"etcd at {endpoint} has used up its disk quota and takes no writes: compact and defragment it, then "
            "disarm its alarm; its option --quota-backend-bytes sets the quota",
            reason="no_space",
            endpoint=endpoint,
        )
    return RefusedError(f"etcd at {endpoint} refuses: {words}", reason=f"grpc_{error.code}", endpoint=endpoint)
