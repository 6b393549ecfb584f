"""The fixtures that every test may use."""

from hypothesis import settings
from tests.support.etcd import etcd, etcd_stores, etcd_url
from tests.support.scripted_peer import impatient
from tests.support.threads import pool
from tests.support.twins import each_twin

__all__ = ["each_twin", "etcd", "etcd_stores", "etcd_url", "impatient", "pool"]

# A loaded machine may take its time over any example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
