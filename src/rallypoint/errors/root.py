"""What all errors of the package are, and those that belong to no layer."""

from __future__ import annotations

__all__ = [
    "DistBackendError",
    "DistError",
    "LocalProtocolError",
    "rebuild",
]


class DistError(RuntimeError):
    """The root of all errors of this package.

    Instances survive being copied and being sent between processes, their data included.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return rebuild, (type(self), self.args, self.__dict__)


def rebuild(kind: type[DistError], args: tuple[object, ...], data: dict[str, object]) -> DistError:
    """Make an error again, data included."""
    # The attribute kind.__new__ is RuntimeError's, which refuses classes laid out as OSError.
    new = OSError.__new__ if issubclass(kind, OSError) else RuntimeError.__new__
    error: DistError = new(kind, *args)
    error.args = args
    for name, value in data.items():
        setattr(error, name, value)
    return error


class DistBackendError(DistError):
    """A communication backend failed; kept for code that catches torch's name."""


class LocalProtocolError(DistError, ValueError):
    """The caller asked for something that the protocol cannot carry: a key too long, a value too large."""
