from __future__ import annotations

import errno
import os

import pytest

from rallypoint.errors import ConnectionLostError, DistNetworkError
from rallypoint.net.loss import lost, silent, translate
from rallypoint.types import Endpoint

SOMEWHERE = Endpoint("node0", 29500)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ECONNRESET, ConnectionLostError),
        (errno.EPIPE, ConnectionLostError),
        (errno.ETIMEDOUT, ConnectionLostError),
        (errno.EHOSTUNREACH, ConnectionLostError),
        (errno.ENOBUFS, DistNetworkError),
        (errno.EPERM, DistNetworkError),
    ],
)
def test_the_systems_errors_are_translated_by_one_table(number, kind):
    error = translate(OSError(number, "x"), SOMEWHERE)
    assert type(error) is kind
    assert os.strerror(number) in str(error)
    assert "node0:29500" in str(error)
    assert error.endpoint == SOMEWHERE


def test_a_silent_peer_and_one_that_is_gone_are_named():
    error = silent(SOMEWHERE, "did not answer", 1.5)
    assert str(error) == "the server at node0:29500 did not answer within 1.500 s"
    assert (error.endpoint, error.waited_s) == (SOMEWHERE, 1.5)
    assert str(lost(SOMEWHERE)).endswith("The server was node0:29500.")
