"""The fixtures that every test may use."""

from tests.support.scripted_peer import impatient
from tests.support.threads import pool
from tests.support.twins import each_twin

__all__ = ["each_twin", "impatient", "pool"]
