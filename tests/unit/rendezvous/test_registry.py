from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from rallypoint import events
from rallypoint.rendezvous import registry as module
from rallypoint.rendezvous.adapter import AdaptedHandler
from rallypoint.rendezvous.endpoint import refuse_unknown_options
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.registry import (
    RendezvousHandlerRegistry,
    discover_handlers,
    get_rendezvous_handler,
    rendezvous_handler_registry,
)
from rallypoint.rendezvous.static import StaticTCPRendezvous


class NamedHandler:
    def __init__(self, name: str) -> None:
        self.name = name

    def get_backend(self) -> str:
        return self.name


def creator_of(name: str) -> Any:
    return lambda params: NamedHandler(name)


def parameters(backend: str, **options: Any) -> RendezvousParameters:
    return RendezvousParameters(backend, "h:1", "run", 1, 1, **options)


# --- registering -----------------------------------------------------------------------------------------


def test_the_same_creator_may_be_registered_twice() -> None:
    registry = RendezvousHandlerRegistry()
    creator = creator_of("a")
    registry.register("a", creator)
    registry.register("a", creator)
    assert registry.knows("a")
    assert not registry.knows("b")


def test_another_creator_under_a_taken_name_is_an_error_naming_both() -> None:
    registry = RendezvousHandlerRegistry()
    first, second = creator_of("a"), creator_of("a")
    registry.register("a", first)
    with pytest.raises(ValueError, match=r"^The rendezvous backend 'a' cannot be registered with ") as caught:
        registry.register("a", second)
    assert f"'{second}' as it is already registered with '{first}'." in str(caught.value)


def test_a_name_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match=r"^The rendezvous backend name must be a non-empty string\.$"):
        RendezvousHandlerRegistry().register("", creator_of("a"))


# --- creating --------------------------------------------------------------------------------------------


def test_an_unknown_backend_is_an_error_with_a_hint() -> None:
    sentence = r"^The rendezvous backend 'x' is not registered\. Did you forget to call `register`\?$"
    with pytest.raises(ValueError, match=sentence):
        RendezvousHandlerRegistry().create_handler(parameters("x"))


@pytest.mark.parametrize(
    ("asked", "hint"), [("rallypont", r" Or did you mean 'rallypoint'\?"), ("bogus", "")], ids=["near", "far"]
)
def test_an_unknown_backend_is_told_from_those_that_there_are(asked: str, hint: str) -> None:
    registry = RendezvousHandlerRegistry()
    for name in ("rallypoint", "c10d"):
        registry.register(name, creator_of(name))
    with pytest.raises(ValueError, match=rf"call `register`\?{hint} Registered are c10d, rallypoint\.$"):
        registry.create_handler(parameters(asked))


def test_a_handler_must_call_itself_what_was_asked_for() -> None:
    registry = RendezvousHandlerRegistry()
    registry.register("a", creator_of("b"))
    with pytest.raises(RuntimeError, match=r"^The rendezvous backend 'b' does not match the requested backend 'a'\.$"):
        registry.create_handler(parameters("a"))


def test_a_foreign_handler_is_wrapped() -> None:
    registry = RendezvousHandlerRegistry()
    registry.register("a", creator_of("a"))
    handler = registry.create_handler(parameters("a"))
    assert isinstance(handler, AdaptedHandler)
    assert isinstance(handler.wrapped, NamedHandler)


def test_the_built_in_backends_are_known() -> None:
    assert rendezvous_handler_registry.knows("c10d")
    assert rendezvous_handler_registry.knows("static")
    assert isinstance(get_rendezvous_handler(parameters("static", rank="0", timeout=900)), StaticTCPRendezvous)


@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_an_unknown_option_is_an_error_with_the_nearest_known_one(backend: str) -> None:
    with pytest.raises(ValueError, match=r"option 'timeot' is unknown .* did you mean 'timeout'\? known are "):
        get_rendezvous_handler(parameters(backend, rank=0, timeot="5"))


def test_an_option_unlike_any_other_is_an_error_without_a_guess() -> None:
    with pytest.raises(ValueError, match=r"option 'x' is unknown to the backend 'b': known are one, two\.$"):
        refuse_unknown_options(parameters("b", x=1), ["two", "one"])
    refuse_unknown_options(parameters("b", two=1), ["two", "one"])


# --- plug-ins --------------------------------------------------------------------------------------------


PLUG_IN = """
class Handler:
    def __init__(self, params): self.run_id = params.run_id
    def get_backend(self): return "{name}"
    def get_run_id(self): return self.run_id

def get_handler():
    {body}
"""


def install(site: Path, name: str, body: str = "return Handler") -> None:
    """Put a package with one entry point where Python finds it."""
    (site / f"{name}_plugin.py").write_text(PLUG_IN.format(name=name, body=body))
    info = site / f"{name}_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[torchrun.handlers]\n{name} = {name}_plugin:get_handler\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    registry = RendezvousHandlerRegistry(module._discover_one)
    monkeypatch.setattr(module, "rendezvous_handler_registry", registry)
    module.register_default_handlers()
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_plug_in_is_found_when_its_name_is_asked_for(site: Path) -> None:
    install(site, "sunny")
    assert "sunny_plugin" not in sys.modules
    handler = get_rendezvous_handler(parameters("sunny"))
    assert handler.get_run_id() == "run"


def test_plug_ins_that_came_since_are_found_by_looking_again(site: Path) -> None:
    assert "windy" not in discover_handlers()
    install(site, "windy")
    assert "windy" in discover_handlers()
    assert module.rendezvous_handler_registry.knows("windy")


def test_a_broken_plug_in_is_one_warning_that_names_it(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "rainy", "raise OSError('no licence')")
    install(site, "mild")
    heard: list[events.Event] = []
    events.subscribe(heard.append)
    try:
        with caplog.at_level(logging.WARNING, "rallypoint.rendezvous"):
            found = discover_handlers()
    finally:
        events.unsubscribe(heard.append)
    assert "mild" in found
    assert "rainy" not in found
    (record,) = (one for one in caplog.records if "rainy" in one.getMessage())
    assert "OSError('no licence')" in record.getMessage()
    assert [event.name for event in heard if event.fields["backend"] == "rainy"] == ["rendezvous.plugin_failed"]


def test_asking_for_a_broken_plug_in_says_that_it_is_not_registered(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "stormy", "raise OSError('no licence')")
    with pytest.raises(ValueError, match="'stormy' is not registered"):
        get_rendezvous_handler(parameters("stormy"))
    assert "no licence" in caplog.text


def test_asking_for_one_plug_in_does_not_load_the_others(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "foggy", "raise OSError('no licence')")
    install(site, "clear")
    get_rendezvous_handler(parameters("clear"))
    assert "foggy" not in caplog.text


def test_a_plug_in_does_not_replace_a_built_in_backend(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "static")
    assert "static" not in discover_handlers()
    assert "already registered" in caplog.text
    assert isinstance(get_rendezvous_handler(parameters("static", rank=0)), StaticTCPRendezvous)


def test_what_this_package_announces_to_torchrun_is_no_plug_in_of_its_own(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = site / "rallypoint_again-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: rallypoint-again\nVersion: 1\n")
    value = "rallypoint.integrations.torchrun:get_handler"
    (info / "entry_points.txt").write_text(f"[torchrun.handlers]\nannounced_by_us = {value}\n")
    with caplog.at_level(logging.WARNING, logger="rallypoint.rendezvous"):
        assert "announced_by_us" not in discover_handlers()
    assert not caplog.records
