"""What a command that serves says when it is ready."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from rallypoint.net.address import UNIX_PREFIX
from rallypoint.types import Endpoint

__all__ = ["ready_line"]


def ready_line(endpoints: Sequence[Endpoint]) -> str:
    """Give the first TCP address and the first socket file, as far as there are any, and the process id."""
    ready: dict[str, str | int] = {}
    for endpoint in reversed(endpoints):
        if endpoint.host.startswith(UNIX_PREFIX):
            ready["path"] = endpoint.host[len(UNIX_PREFIX) :]
        else:
            ready.update(host=endpoint.host, port=endpoint.port)
    return json.dumps({**ready, "pid": os.getpid()})
