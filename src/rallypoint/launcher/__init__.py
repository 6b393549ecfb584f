"""``torch.distributed.launcher`` as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.launch.config import LaunchConfig
from rallypoint.launch.launch import elastic_launch, launch_agent

__all__ = ["LaunchConfig", "elastic_launch", "launch_agent"]
