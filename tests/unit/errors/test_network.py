from __future__ import annotations

import errno

from rallypoint.errors import network as errors
from rallypoint.types import Endpoint

ENDPOINT = Endpoint("127.0.0.1", 29400)


def test_torch_code_finds_the_kinds_it_catches() -> None:
    assert issubclass(errors.ConnectTimeoutError, errors.DistNetworkError)
    assert issubclass(errors.ConnectionLostError, ConnectionError)
    assert issubclass(errors.BindError, OSError)


def test_a_bind_error_knows_the_systems_number() -> None:
    error = errors.BindError("port 29400 is in use", endpoint=ENDPOINT, errno=errno.EADDRINUSE)
    assert error.errno == errno.EADDRINUSE
    assert str(error) == "port 29400 is in use"
