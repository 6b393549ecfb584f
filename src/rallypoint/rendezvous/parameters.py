"""How one node asks to take part in a run: what every backend needs, and the options of its own."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any

from rallypoint.net.url import without_secrets

__all__ = ["RendezvousParameters"]

_SECRET = re.compile("password|secret|token")
_TRUE = frozenset({"1", "true", "t", "yes", "y"})
_FALSE = frozenset({"0", "false", "f", "no", "n"})


class RendezvousParameters:
    """How one node asks to take part in a run.

    Args:
        backend: the name of a registered rendezvous backend.
        endpoint: where the backend is reached, in the backend's own form.
        run_id: the name of the run; nodes with the same name meet.
        min_nodes: the fewest nodes that make a round, at least 1.
        max_nodes: the most nodes in a round, at least ``min_nodes``.
        local_addr: the address under which other nodes reach this one; ``None``: found out.
        **kwargs: the backend's own options, kept in ``config`` as they are.

    Raises:
        ValueError: if a value is out of range.

    Source: torch 2.13.0's class, whose sentences the errors keep.
    """

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        backend: str,
        endpoint: str,
        run_id: str,
        min_nodes: int,
        max_nodes: int,
        local_addr: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not backend:
            raise ValueError("The rendezvous backend name must be a non-empty string.")
        if min_nodes < 1:
            raise ValueError(f"The minimum number of rendezvous nodes ({min_nodes}) must be greater than zero.")
        if max_nodes < min_nodes:
            raise ValueError(
                f"The maximum number of rendezvous nodes ({max_nodes}) must be greater than or equal to the "
                f"minimum number of rendezvous nodes ({min_nodes})."
            )
        self.backend = backend
        self.endpoint = endpoint
        self.run_id = run_id
        self.min_nodes = min_nodes
        self.max_nodes = max_nodes
        self.local_addr = local_addr
        self.config: dict[str, Any] = kwargs

    def get(self, key: str, default: Any = None) -> Any:
        """Give an option as it was passed, or ``default`` if it was not."""
        return self.config.get(key, default)

    def get_as_bool(self, key: str, default: bool | None = None) -> bool | None:
        """Give a yes-or-no option.

        Args:
            key: the option. Yes: ``True``, 1, ``"1" "true" "t" "yes" "y"`` in any case; no: ``False``, 0,
                ``"0" "false" "f" "no" "n"``.
            default: given back if the option was not passed or is ``None``.

        Raises:
            ValueError: for any other value.
        """
        value = self.config.get(key)
        if value is None:
            return default
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        if isinstance(value, str):
            if value.lower() in _TRUE:
                return True
            if value.lower() in _FALSE:
                return False
        raise ValueError(
            f"The rendezvous configuration option '{key}' does not represent a valid boolean value. It is {value!r}; "
            "write true or false."
        )

    def get_as_int(self, key: str, default: int | None = None) -> int | None:
        """Give a whole-number option.

        Args:
            key: the option: whatever ``int()`` takes.
            default: given back if the option was not passed or is ``None``.

        Raises:
            ValueError: if it is not a whole number.
        """
        value = self.config.get(key)
        if value is None:
            return default
        try:
            return int(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"The rendezvous configuration option '{key}' does not represent a valid integer value. It is "
                f"{value!r}; write a whole number, as in {key}=3."
            ) from error

    def get_as_seconds(self, key: str, default: float | None = None) -> float | None:
        """Give a duration in seconds; fractions are welcome.

        Args:
            key: the option: a number, its text, or a ``timedelta``.
            default: given back if the option was not passed or is ``None``.

        Raises:
            ValueError: if it is not a finite number, or is below 0.
        """
        value = self.config.get(key)
        if value is None:
            return default
        try:
            seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(
                f"The rendezvous configuration option '{key}' is {value!r}; it must be a number of seconds, at least 0."
            )
        return seconds

    def __repr__(self) -> str:
        shown = vars(self) | {"endpoint": without_secrets(self.endpoint or "")}
        shown["config"] = {name: "..." if _SECRET.search(name) else value for name, value in self.config.items()}
        return f"RendezvousParameters({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
