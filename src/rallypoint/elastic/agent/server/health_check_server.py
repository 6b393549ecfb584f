"""``torch.distributed.elastic.agent.server.health_check_server``."""

from __future__ import annotations

from rallypoint.agent.health import (
    HealthCheckServer,
    create_healthcheck_server,
)

__all__ = [
    "HealthCheckServer",
    "create_healthcheck_server",
]
