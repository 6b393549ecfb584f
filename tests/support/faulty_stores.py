"""What a check of the conformance kit must do: pass a right store, and find out a faulty one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeAlias

import pytest

from rallypoint.store.hash import HashStore
from rallypoint.testing import Check, conformance

__all__ = ["Fault", "checks_of", "find_out", "over_faults"]

Fault: TypeAlias = tuple[Callable[..., Any], type[HashStore], str]
"""A check, a store that does otherwise, and a part of what the check says of it."""


def over_faults(faults: Iterable[Fault]) -> pytest.MarkDecorator:
    """Run a test with ``check``, ``faulty`` and ``detail`` of each fault."""
    return pytest.mark.parametrize(
        ("check", "faulty", "detail"), faults, ids=lambda value: getattr(value, "__name__", None)
    )


def find_out(check: Callable[..., Any], faulty: type[HashStore], detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """See that a check passes a right store and describes what is wrong with another."""
    monkeypatch.setattr(conformance, "JOIN_TIMEOUT_S", 1.0)
    Check("as a right store does", check).run(HashStore)
    with pytest.raises(AssertionError) as caught:
        Check("as this store does not", check).run(faulty)
    assert detail in str(caught.value)


def checks_of(module: ModuleType) -> set[str]:
    """Name all checks of a module."""
    return {name for name in vars(module) if name.startswith("check_")}
