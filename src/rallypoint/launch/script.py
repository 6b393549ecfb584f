"""A script as a function, for workers that are functions."""

from __future__ import annotations

import os
import sys

__all__ = ["run_script_path"]


def run_script_path(training_script: str, *training_script_args: str) -> None:
    """Run a Python script in this process, as ``python <script> <arguments>`` would.

    Args:
        training_script: its path.
        training_script_args: what it finds in ``sys.argv`` behind its own name.
    """
    import runpy

    sys.argv = [training_script, *training_script_args]
    sys.path.insert(0, os.path.dirname(os.path.abspath(training_script)))  # noqa: PTH100, PTH120 - as Python does it
    runpy.run_path(training_script, run_name="__main__")
