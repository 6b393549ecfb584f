"""``torch.distributed.launcher.api`` as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.launch.config import LaunchConfig
from rallypoint.launch.launch import elastic_launch, launch_agent
from rallypoint.launch.launch import entrypoint_name as _get_entrypoint_name

__all__ = ["LaunchConfig", "_get_entrypoint_name", "elastic_launch", "launch_agent"]
