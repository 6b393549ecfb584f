"""Why a call to a cluster has come to nothing: what went wrong last with each member, in words.

A call that is out of time nearly always ends with a member's silence, because its last attempt is cut short. That says
little; so silence does not replace what the same member was known to suffer from before.
"""

from __future__ import annotations

from rallypoint.types import Endpoint

__all__ = ["Troubles"]


class Troubles:
    """The troubles of one call."""

    __slots__ = ("_causes",)

    def __init__(self) -> None:
        self._causes: dict[Endpoint, tuple[str, bool]] = {}

    def note(self, member: Endpoint, trouble: Exception) -> None:
        """Take note of what went wrong with a member.

        Args:
            member: whom the call was to.
            trouble: what was raised.
        """
        is_silence = isinstance(trouble, TimeoutError)
        known = self._causes.pop(member, None)
        if known is not None and is_silence and not known[1]:
            self._causes[member] = known
        else:
            self._causes[member] = (_in_words(str(trouble), member), is_silence)

    def __str__(self) -> str:
        """Give the causes, those of the members that were asked last first; equal ones once."""
        told: dict[str, list[str]] = {}
        for member, (cause, _) in reversed(self._causes.items()):
            told.setdefault(cause, []).append(str(member))
        if len(self._causes) == 1:
            return next(iter(told))
        return "; ".join(f"{' and '.join(members)}: {cause}" for cause, members in told.items())


def _in_words(text: str, member: Endpoint) -> str:
    """Give a cause without the member's name, which stands before it."""
    text = text.removeprefix(f"no connection to {member}: ")
    for name in (f"the server at {member} ", f"etcd at {member} "):
        if text.startswith(name):
            text = f"it {text.removeprefix(name)}"
    if "no leader" in text:
        return "it knows of no leader: more than half of the cluster's members have to run and reach each other"
    return text
