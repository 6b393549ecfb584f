"""For tests, ours and users': a clock that is moved by hand, and a conformance kit for stores.

>>> from rallypoint.testing import check_store
>>> from rallypoint.store.hash import HashStore
>>> check_store(HashStore)
"""

from __future__ import annotations

from rallypoint.testing.clock import ManualClock
from rallypoint.testing.conformance import Check, StoreFactory, check_store, store_checks

__all__ = ["Check", "ManualClock", "StoreFactory", "check_store", "store_checks"]
