"""The fixtures that every test may use."""

from tests.support.etcd import etcd, etcd_stores, etcd_url
from tests.support.scripted_peer import impatient
from tests.support.threads import pool
from tests.support.twins import each_twin

__all__ = ["each_twin", "etcd", "etcd_stores", "etcd_url", "impatient", "pool"]
