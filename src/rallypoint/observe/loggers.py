"""Loggers named after whoever asks: for code that was written for torch's elastic utilities.

Source: names and results as observed in torch 2.13.0; unlike there, a bad ``LOGLEVEL`` does not fail the import.
"""

from __future__ import annotations

import logging
import os
import sys

__all__ = ["derive_module_name", "get_log_level", "get_logger"]

LOG_LEVEL_ENV = "LOGLEVEL"


def get_logger(name: str | None = None) -> logging.Logger:
    """Give a logger whose level is that of the environment's ``LOGLEVEL``, ``WARNING`` if it names none.

    Args:
        name: the logger's name; ``None`` or empty for the caller's module.
    """
    logger = logging.getLogger(name or derive_module_name(depth=2))
    level = logging.getLevelName(os.environ.get(LOG_LEVEL_ENV, "WARNING").upper())
    logger.setLevel(level if isinstance(level, int) else logging.WARNING)
    return logger


def get_log_level() -> str:
    """Give the level that torch's elastic loggers have where nobody sets one."""
    return "WARNING"


def derive_module_name(depth: int = 1) -> str | None:
    """Give the name of the module whose code called.

    Args:
        depth: how many calls back: 1 for the direct caller, at least 0.

    Returns:
        The module's name, or ``None`` if there are not so many calls to go back, or the code belongs to no module.
    """
    try:
        frame = sys._getframe(depth)  # noqa: SLF001 - documented, and what inspect itself uses
    except ValueError:
        return None
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else None
