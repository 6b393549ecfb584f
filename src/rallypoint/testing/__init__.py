"""For tests, ours and users': a clock that is moved by hand, simulated hosts and network, a conformance kit for stores.

>>> from rallypoint.testing import check_store
>>> from rallypoint.store.hash import HashStore
>>> check_store(HashStore)
"""

from __future__ import annotations

from rallypoint.testing.clock import ManualClock
from rallypoint.testing.conformance import Check, StoreFactory, check_store, store_checks
from rallypoint.testing.network import Link, SimNetwork, SimStream
from rallypoint.testing.simulation import SimHost, Simulation

__all__ = [
    "Check",
    "Link",
    "ManualClock",
    "SimHost",
    "SimNetwork",
    "SimStream",
    "Simulation",
    "StoreFactory",
    "check_store",
    "store_checks",
]
