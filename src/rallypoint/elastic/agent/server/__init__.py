"""``torch.distributed.elastic.agent.server``, as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.elastic.agent.server import api
from rallypoint.elastic.agent.server.api import *  # noqa: F403 - the same names

__all__ = api.__all__
