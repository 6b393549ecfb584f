"""A command that serves, without what it would serve."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from rallypoint.gateway.front import FrontOptions

__all__ = ["record_serving"]


def record_serving(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give what the command of a module has to be served: one call, as keywords, with the listeners' addresses.

    Its exit code is 0, or what a test puts there as ``exit_code``.
    """
    calls: dict[str, Any] = {}

    def record(*arguments: Any, **keywords: Any) -> int:
        listeners = next(argument for argument in arguments if isinstance(argument, list))
        options = next((argument for argument in arguments if isinstance(argument, FrontOptions)), None)
        calls.update(vars(options) if options else {})
        calls["addresses"] = [listener.getsockname() for listener in listeners]
        calls.update(keywords)
        keywords["on_ready"]()
        for listener in listeners:
            listener.close()
        return int(calls.get("exit_code", 0))

    monkeypatch.setattr(module, "serve_forever", record)
    return calls
