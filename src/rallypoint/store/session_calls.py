"""What a store can do whose server keeps sessions: revisions, prefixes, leases, watches, meetings, status.

:class:`SessionCalls` is a part of :class:`rallypoint.store.base.Store`. Every method raises ``NotImplementedError``
unless the store has what it takes; ``has_sessions`` tells that without trying.

Revisions: a store counts its changes, and a key's revision is the number of the change that wrote it last. They begin
with 1; 0 (``ABSENT``) stands for a key that is not there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from rallypoint.types import Text, Timeout

if TYPE_CHECKING:
    from rallypoint.store.pipeline import Pipeline

__all__ = ["ABSENT", "ANY_REVISION", "Changed", "Deleted", "Entry", "Event", "Missed", "SessionCalls", "Watch"]

ABSENT: Final = 0
"""The revision of a key that is not there."""

ANY_REVISION: Final = -1
"""For ``swap``: whatever the revision is."""

_NEEDS = "this needs a store whose server keeps sessions: has_sessions() tells"

AnyWatch = TypeVar("AnyWatch", bound="Watch")


class Entry(NamedTuple):
    """A key with what is stored there.

    Attributes:
        key: the key, as text.
        value: its value.
        revision: the number of the change that wrote it last, above 0.
    """

    key: str
    value: bytes
    revision: int


class Changed(NamedTuple):
    """A watched key was written."""

    key: str
    value: bytes
    revision: int


class Deleted(NamedTuple):
    """A watched key was removed, or its lease ended."""

    key: str
    revision: int


class Missed(NamedTuple):
    """There were changes that this watch does not tell: read again what you watch, then go on.

    Attributes:
        revision: the store's revision when the watch went on; what is read later is at least as new.
    """

    revision: int


Event: TypeAlias = Changed | Deleted | Missed
"""What a watch tells."""


class Watch(ABC):
    """A stream of changes to one key, or to all keys with a prefix; iterate over it, or ask ``next``.

    Nobody is made to wait for a slow reader: events are kept in a queue with a bound, and where it overflows they
    are replaced by one :class:`Missed`. Use it in a ``with`` block, or ``close`` it.

    Attributes:
        revision: the store's revision when the watch began: what was read before may be older.
    """

    revision: int

    @abstractmethod
    def next(self, timeout: Timeout | None = None) -> Event:
        """Give the next event, waiting for it.

        Args:
            timeout: seconds or a ``timedelta``; ``None`` is the store's own, 0 looks once.

        Raises:
            StoreTimeoutError: nothing happened in time.
            ConnectionLostError: the store was closed, or its server is gone for good.
            ValueError: the watch is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """End the watch; closing twice is fine."""

    def __iter__(self) -> Iterator[Event]:
        """Give event after event, each waited for as long as it takes."""
        while True:
            yield self.next(float("inf"))

    def __enter__(self: AnyWatch) -> AnyWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SessionCalls:
    """The part of a store that needs more than keys and values; see the module."""

    def has_sessions(self) -> bool:
        """Tell whether the methods of this class work; then ``set`` and the like are acknowledged, too."""
        return False

    def session_ends_at(self) -> float:
        """Tell when the server may end this session and what lives with it, as far as this process can know.

        Returns:
            A time on the monotonic clock; infinity while nothing speaks for an end. Where the connection was lost and
            nothing answers, it is the session's time after the first attempt to make another.

        Cost: none.
        """
        return float("inf")

    # --- many at a time, or unanswered -------------------------------------------------------------------

    def pipeline(self) -> Pipeline:
        """Collect requests that are sent together.

        ::

            with store.pipeline() as batch:
                count = batch.add("count", 1)
                for name, value in values:
                    batch.set(name, value)
            print(count.value)

        Leaving the block waits for all answers, and raises the first error.

        Cost: about one round trip for a thousand small requests.
        """
        raise NotImplementedError(_NEEDS)

    def post_set(self, key: Text, value: Text, /) -> None:
        """Store a value without waiting until the server has it; what becomes of it is not told.

        A later call of this object comes after it. A store without sessions does what ``set`` does.
        """
        raise NotImplementedError(_NEEDS)

    # --- revisions and prefixes --------------------------------------------------------------------------

    def read(self, key: Text, /) -> Entry | None:
        """Give a key's value and revision as they are now, ``None`` if it is absent. Cost: one round trip."""
        raise NotImplementedError(_NEEDS)

    def swap(self, key: Text, revision: int, value: Text, *, lease: int = 0) -> tuple[bool, int]:
        """Write a value if the key has the expected revision.

        Args:
            key: the key.
            revision: what it must be: as read, ``ABSENT``, or ``ANY_REVISION``.
            value: what to write.
            lease: the lease with whose end the key is removed; 0 lets the key stay.

        Returns:
            Whether it was written, and the key's revision now.

        Raises:
            LeaseLostError: there is no such lease (any more).

        Cost: one round trip.
        """
        raise NotImplementedError(_NEEDS)

    def read_prefix(self, prefix: Text, /) -> list[Entry]:
        """Give all entries whose keys begin with a prefix, as of one moment, in no particular order.

        Raises:
            RefusedError: there are more than the server gives in one reply (its limit ``prefix_keys_max``).
        """
        raise NotImplementedError(_NEEDS)

    def list_prefix(self, prefix: Text, /) -> list[str]:
        """Give all keys that begin with a prefix, as of one moment, in no particular order.

        Raises:
            RefusedError: there are more than the server gives in one reply (its limit ``prefix_keys_max``).
        """
        raise NotImplementedError(_NEEDS)

    def delete_prefix(self, prefix: Text, /) -> int:
        """Remove all keys that begin with a prefix; give how many there were.

        A server removes some thousands of them at one moment, in the order of the keys; those that are written
        meanwhile may be removed or stay.
        """
        raise NotImplementedError(_NEEDS)

    def watch(self, key: Text, *, is_prefix: bool = False, since: int | None = None) -> Watch:
        """Begin to watch a key.

        Args:
            key: the key, or the beginning of all keys that are meant.
            is_prefix: which of them.
            since: the revision up to which the caller knows, as the last event or reading had it; changes
                between it and now are told, at least as ``Missed``. ``None`` begins now.

        Cost: one round trip; a message for each change.
        """
        raise NotImplementedError(_NEEDS)

    # --- leases ------------------------------------------------------------------------------------------

    def lease_grant(self, ttl: Timeout | None, /) -> int:
        """Begin a lease: keys written under it (``swap``) are removed when it ends.

        Args:
            ttl: for how long it lives unless renewed, seconds or a ``timedelta``, by the server's clock; ``None``: as
                long as this store's session, that is until ``close``, or some seconds after the server has lost
                this process.

        Returns:
            Its number, above that of every lease granted before: a fencing token.

        Cost: one round trip.
        """
        raise NotImplementedError(_NEEDS)

    def lease_renew(self, lease: int, /) -> float:
        """Let a lease live on for its time; give the seconds until it ends.

        Raises:
            LeaseLostError: it has ended.

        Cost: one round trip.
        """
        raise NotImplementedError(_NEEDS)

    def lease_revoke(self, lease: int, /) -> int:
        """End a lease and remove its keys; give how many there were.

        Raises:
            LeaseLostError: it has ended.

        Cost: one round trip.
        """
        raise NotImplementedError(_NEEDS)

    # --- meetings ----------------------------------------------------------------------------------------

    def meet(self, name: Text, rank: int, world_size: int, *, label: str = "", timeout: Timeout | None = None) -> int:
        """Wait until all members have come to a barrier, which may be used again and again.

        Args:
            name: the barrier's.
            rank: the caller's place, from 0 on.
            world_size: how many members there are.
            label: how others are to call this member in errors.
            timeout: seconds or a ``timedelta``; ``None`` is the store's own.

        Returns:
            The generation that has met, from 1 on.

        Raises:
            BarrierTimeoutError: some did not come in time; it names them, and this member's arrival is taken back.
            BarrierBrokenError: a member is known to be gone.
            RefusedError: members do not agree on how many they are.

        Cost: one round trip and the time of the last.
        """
        raise NotImplementedError(_NEEDS)

    def exchange(
        self, name: Text, rank: int, world_size: int, value: Text, *, label: str = "", timeout: Timeout | None = None
    ) -> list[bytes]:
        """Give one value, and get every member's by rank; otherwise as ``meet``."""
        raise NotImplementedError(_NEEDS)

    # --- looking in --------------------------------------------------------------------------------------

    def status(self, what: str = "", /) -> dict[str, Any]:
        """Give what the server says of itself.

        Args:
            what: empty for an overview, ``"peers"``, ``"sessions"``, ``"barriers"``, ``"leases"``, ``"watches"``,
                ``"refusals"``, or ``"keys/"`` or ``"values/"`` and a prefix.

        Cost: one round trip; grows with what is asked for.
        """
        raise NotImplementedError(_NEEDS)
