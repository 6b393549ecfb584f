from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rallypoint.agent.logs import LogOptions, Std
from rallypoint.agent.logspecs import DefaultLogsSpecs
from rallypoint.launch.logs_plugins import make_logs_specs

PLUGIN = """
from rallypoint.agent.logspecs import DefaultLogsSpecs as ours

class Foreign:
    def __init__(self, **told):
        self.told = told
        self.root_log_dir = "/root/of/foreign"
    def reify(self, envs):
        return self.told, envs

def broken(**told):
    raise RuntimeError("no")
"""


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that announces log specs."""
    (tmp_path / "logs_plugin_of_a_test.py").write_text(PLUGIN)
    info = tmp_path / "logs_plugin_of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: logs-plugin-of-a-test\nVersion: 1.0\n")
    lines = [f"{name} = logs_plugin_of_a_test:{name}" for name in ("ours", "Foreign", "broken", "missing")]
    (info / "entry_points.txt").write_text("\n".join(["[torchrun.logs_specs]", *lines]))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


@pytest.mark.usefixtures("_installed")
def test_a_plug_in_is_made_with_what_the_user_asked_for(tmp_path: Path) -> None:
    options = LogOptions(log_dir=tmp_path, tee=Std.OUT, local_ranks_filter=frozenset({1}))

    made = make_logs_specs("ours", options)

    assert isinstance(made, DefaultLogsSpecs)
    assert made.options == options


@pytest.mark.usefixtures("_installed")
def test_a_class_made_for_torch_does_as_well() -> None:
    made = make_logs_specs("Foreign", LogOptions(redirects=Std.ERR))

    told, envs = made.reify({0: {}})  # type: ignore[misc]
    assert told == {"log_dir": None, "redirects": Std.ERR, "tee": Std.NONE, "local_ranks_filter": None}
    assert envs == {0: {}}
    assert made.root_log_dir == "/root/of/foreign"


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("bogus", "'bogus' is no entry point of torchrun.logs_specs; there are: .*Foreign"),
        ("broken", r"the plug-in 'logs_plugin_of_a_test:broken' cannot be used: RuntimeError\('no'\)"),
        ("missing", "the plug-in 'logs_plugin_of_a_test:missing' cannot be used: AttributeError"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_named(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_logs_specs(name, LogOptions())
