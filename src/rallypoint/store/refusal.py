"""Why a server hangs up on c10d, which has no words for a refusal.

A server that wants a token closes a connection that speaks c10d, and would do so again at every further attempt. Asked
in the session dialect it says what it wants.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from rallypoint.clock import Deadline
from rallypoint.errors import AuthenticationError, DistNetworkError
from rallypoint.net.stream import Stream
from rallypoint.protocol.session.auth import Hello
from rallypoint.protocol.session.codec import encode_request
from rallypoint.protocol.session.handshake import handshake
from rallypoint.protocol.session.spec import LABEL_SIZE_MAX, NONCE_SIZE, SessionVerb
from rallypoint.store.credentials import has_token
from rallypoint.types import Endpoint

__all__ = ["ANSWER_S_MAX", "check_whether_welcome"]

ANSWER_S_MAX = 1.0
"""How long a server may take to say why, in seconds: one that does not know the session dialect says nothing."""


def check_whether_welcome(call_again: Callable[[Deadline], Stream], endpoint: Endpoint, left_s: float) -> None:
    """Ask a server that has hung up whether it wants a token, or TLS.

    Args:
        call_again: makes another connection to it.
        endpoint: the server, for errors.
        left_s: how long the caller has, in seconds.

    Raises:
        AuthenticationError: so it is.

    Cost: a connection and one round trip.
    """
    deadline = Deadline(min(ANSWER_S_MAX, left_s))
    try:
        with contextlib.closing(call_again(deadline)) as stream:
            label = f"{socket.gethostname()} pid {os.getpid()}".encode()[:LABEL_SIZE_MAX]
            course = handshake(Hello(b"", b"", label, os.urandom(NONCE_SIZE), 0))
            step = next(course)
            with contextlib.suppress(StopIteration):
                while True:
                    if isinstance(step, bytes):
                        stream.send(step, deadline)
                        step = course.send(b"")
                    else:
                        step = course.send(stream.receive_exactly(step, deadline))
            stream.send(encode_request(SessionVerb.BYE, 1, 0), deadline)  # it is welcome, and was not then
    except AuthenticationError as error:
        if error.reason:  # it has said so itself, of a missing TLS for example
            error.endpoint = endpoint
            raise
        which = "RALLYPOINT_TOKEN or RALLYPOINT_TOKEN_FILE and " if not has_token() else ""
        raise AuthenticationError(
            "the server wants to see a token, which this store cannot show in c10d: "
            f"set {which}the dialect 'session' (RALLYPOINT_DIALECT)",
            endpoint=endpoint,
        ) from error
    except DistNetworkError:
        return
