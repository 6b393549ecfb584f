"""``torch.distributed.elastic.agent.server.local_elastic_agent``."""

from __future__ import annotations

from rallypoint.agent.health import HEALTH_PORT_ENV as TORCHELASTIC_HEALTH_CHECK_PORT
from rallypoint.agent.watchdog import ENABLE_ENV as TORCHELASTIC_ENABLE_FILE_TIMER
from rallypoint.agent.watchdog import TIMER_FILE_ENV as TORCHELASTIC_TIMER_FILE
from rallypoint.launch.local_agent import (
    LocalElasticAgent,
)

__all__ = [
    "TORCHELASTIC_ENABLE_FILE_TIMER",
    "TORCHELASTIC_HEALTH_CHECK_PORT",
    "TORCHELASTIC_TIMER_FILE",
    "LocalElasticAgent",
]
