"""Which twin runs: the compiled one, ``rallypoint._native``, or the Python one. The only place that imports it.

The compiled twin does nothing that the Python one does not do; it does it faster and without the interpreter lock. It
is chosen whenever it was built, unless ``RALLYPOINT_PURE`` is set to anything but ``0`` or nothing.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Choice", "choice", "native"]

_REASON_NAME = "_native.txt"  # beside this file, written by native/build.py where it could not build


class Choice(NamedTuple):
    """The twin that runs, and why.

    Attributes:
        module: ``rallypoint._native``, or ``None`` for the Python twin.
        why: one sentence.
    """

    module: ModuleType | None
    why: str


@lru_cache(maxsize=1)
def choice() -> Choice:
    """Choose, once in the life of the process."""
    pure = os.environ.get("RALLYPOINT_PURE", "")
    if pure not in ("", "0"):
        return Choice(None, f"RALLYPOINT_PURE is set to {pure!r}")
    try:
        from rallypoint import _native
    except ImportError as error:
        return Choice(None, _why_not(error))
    return Choice(_native, f"it was built for this machine ({_native.__file__})")


def _why_not(error: ImportError) -> str:
    """Say why there is no module: what the build left behind, or else what the import says."""
    from pathlib import Path  # only here: a server process is faster up without it

    folder = Path(__file__).parent
    try:
        reason = (folder / _REASON_NAME).read_text(encoding="utf-8").strip()
    except OSError:
        if any(folder.glob("_native*.so")):
            return f"the native twin cannot be loaded: {error}"
        reason = "this is a bare source tree; pip install builds it"
    return f"the native twin was not built: {reason}"


def native() -> ModuleType | None:
    """Give the compiled twin if it runs, else ``None``."""
    return choice().module
