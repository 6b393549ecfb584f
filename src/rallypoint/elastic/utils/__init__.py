"""``torch.distributed.elastic.utils``, as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.elastic.utils import api
from rallypoint.elastic.utils.api import *  # noqa: F403 - the same names

__all__ = api.__all__
