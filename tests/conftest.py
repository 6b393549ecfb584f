"""The fixtures that every test may use."""

from pathlib import Path

import pytest
from hypothesis import settings
from tests.support.etcd import etcd, etcd_stores, etcd_url
from tests.support.scripted_peer import impatient
from tests.support.threads import pool
from tests.support.torch_forks import torch_forks
from tests.support.twins import each_twin

__all__ = ["each_twin", "etcd", "etcd_stores", "etcd_url", "impatient", "pool", "torch_forks"]

# A loaded machine may take its time over any example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

TESTS = Path(__file__).parent
# What takes long goes first: whoever runs several at a time has nothing long left when all the others have ended.
LONG_FIRST = ("compat/test_torch", "compat", "system", "sim", "model")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that take long first; the others stay in their order."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(TESTS).as_posix()
        return next((number for number, start in enumerate(LONG_FIRST) if path.startswith(start)), len(LONG_FIRST))

    items.sort(key=place)
