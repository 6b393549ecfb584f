"""A place where c10d alone is spoken, as a worker's agent knows: a gateway of its own on this machine.

A client that speaks more would try that first, and be refused, for each worker in each round; and one that has a token
or TLS would have to refuse a server that can prove nothing. The agent proves what is to be proven upstream.

What this file does not know: who serves there.
"""

from __future__ import annotations

import os
from typing import Final

from rallypoint.net.address import format_endpoint
from rallypoint.types import Endpoint

__all__ = ["PLAIN_STORE_ENV", "is_plain_store", "plain_store_environment"]

PLAIN_STORE_ENV: Final = "RALLYPOINT_PLAIN_STORE"
"""Names the place, to the agent's workers."""


def plain_store_environment(host_name: str, port: int) -> dict[str, str]:
    """Give what tells a worker that c10d alone is spoken at a place, by its agent."""
    return {PLAIN_STORE_ENV: format_endpoint(Endpoint(host_name, port))}


def is_plain_store(host_name: str, port: int) -> bool:
    """Tell whether this process was told so of a place."""
    named = os.environ.get(PLAIN_STORE_ENV)
    return bool(named) and "," not in host_name and named == format_endpoint(Endpoint(host_name, port))
