"""``torch.distributed.elastic.rendezvous.utils``, the names with an underscore included: torch's own tests use them."""

from __future__ import annotations

from rallypoint.rendezvous.endpoint import matches_machine_hostname as _matches_machine_hostname
from rallypoint.rendezvous.endpoint import parse_rendezvous_config as _parse_rendezvous_config
from rallypoint.rendezvous.endpoint import parse_rendezvous_endpoint
from rallypoint.rendezvous.endpoint import try_parse_port as _try_parse_port
from rallypoint.rendezvous.timer import PeriodicTimer as _PeriodicTimer
from rallypoint.rendezvous.timer import delay as _delay

__all__ = [
    "_PeriodicTimer",
    "_delay",
    "_matches_machine_hostname",
    "_parse_rendezvous_config",
    "_try_parse_port",
    "parse_rendezvous_endpoint",
]
