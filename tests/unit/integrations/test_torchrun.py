"""The entry point that every torchrun loads. Real torchruns are in tests/compat/test_torchrun_plugin.py."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

from rallypoint.integrations import torchrun

LOAD_TIME_MAX_S = 0.005

MEASURE = """
import sys, time, importlib, warnings, __future__
before = set(sys.modules)
start = time.process_time()
import rallypoint.integrations.torchrun as plug_in
plug_in.get_handler()
took = time.process_time() - start
print(took)
print(*sorted(set(sys.modules) - before))
"""


def test_the_package_announces_it() -> None:
    (point,) = importlib.metadata.entry_points(group="torchrun.handlers", name="rallypoint")
    assert point.load() is torchrun.get_handler
    assert torchrun.get_handler() is torchrun.create_handler


def test_loading_it_imports_nothing_else_and_takes_no_time() -> None:
    took_s = []
    for _ in range(5):
        output = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=60, check=True)
        seconds, modules = output.stdout.splitlines()
        assert modules.split() == ["rallypoint", "rallypoint.integrations", "rallypoint.integrations.torchrun"]
        took_s.append(float(seconds))
    assert min(took_s) < LOAD_TIME_MAX_S
