from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rallypoint
from rallypoint import errors

SOURCE = Path(rallypoint.__file__).parent


def modules() -> list[str]:
    """Name every module of the package but its entry point."""
    paths = (path.relative_to(SOURCE.parent).with_suffix("") for path in SOURCE.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__")


@pytest.mark.parametrize("name", rallypoint.__all__)
def test_every_public_name_can_be_loaded(name: str) -> None:
    assert getattr(rallypoint, name) is not None


def test_every_error_can_be_caught_by_its_name_at_the_top() -> None:
    assert set(errors.__all__) <= set(rallypoint.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'TCPStoer'"):
        rallypoint.TCPStoer  # noqa: B018 - the look-up is the test


def test_packages_are_reached_without_an_import_of_their_own() -> None:
    script = "import rallypoint as dist; print(callable(dist.rendezvous), dist.elastic.__name__)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split() == ["True", "rallypoint.elastic"]


def test_public_names_are_shown_before_they_are_loaded() -> None:
    assert set(rallypoint.__all__) <= set(dir(rallypoint))


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_is_for_and_what_is_public(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    # A package that only holds modules promises nothing itself.
    is_package = hasattr(module, "__path__")
    for public in getattr(module, "__all__", ()) if is_package else module.__all__:
        assert hasattr(module, public), f"{name}.__all__ promises {public}"


def test_importing_the_package_pulls_in_nothing_but_itself() -> None:
    script = (
        "import sys; before = set(sys.modules); import rallypoint; "
        "print(*sorted(m for m in set(sys.modules) - before if m.split('.')[0] not in sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split() == ["rallypoint"]
