"""Cut a stream into frames, for either end of the session dialect.

Rules:

- A frame comes out only when all its bytes are there.
- Every byte is copied at most once more than it comes, however the stream is cut.
- A size over the limit, or one that no frame can have, is refused as soon as its four bytes are there; no memory is
  ever taken on the strength of a claim.

Theory of operation. ``feed`` gives a segment, ``next`` the place of the next frame in ``data``. A frame that a
segment ends amid is gathered in a growing buffer until it is whole::

    feed(abc|de) -> next: abc       next: None (de is kept)
    feed(f|gh)   -> next: def       next: None (gh is kept)

Whoever receives large frames that it has asked for may have the system write the rest of one where it belongs
(``room``, ``fill``): nothing of it is copied then, and ``data`` is a bytearray. Up to ``ROOM_SIZE_MAX`` bytes of memory
are taken on the strength of a claim there.

What this file does not know: what a frame means.
"""

from __future__ import annotations

from typing import cast

from rallypoint.protocol.codec import U32, RequestError
from rallypoint.protocol.spec import CloseReason

__all__ = ["ROOM_SIZE_MAX", "ROOM_SIZE_MIN", "FrameCutter"]

ROOM_SIZE_MIN = 64 * 1024
"""Bytes that a frame must lack so that there is room for them."""

ROOM_SIZE_MAX = 8 * 1024 * 1024
"""Bytes that a frame may lack so that there is room for them."""

_SIZE = U32.size
_size_at = U32.unpack_from


class FrameCutter:
    """One direction's frames.

    Args:
        size_min: what a frame's size field must say at least: the rest of its head.
        size_max: what it may say at most.

    Attributes:
        data: where the frame that ``next`` gave is.
        held: bytes of a begun frame that are kept until the rest comes.
        size_max: as given; it may be changed between frames.

    Threads: none but the caller's.
    """

    __slots__ = ("_begun", "_filled", "_need", "_pos", "_size_min", "_whole", "data", "size_max")

    def __init__(self, size_min: int, size_max: int) -> None:
        self._size_min = size_min
        self.size_max = size_max
        self.data = b""
        self._pos = 0
        self._whole: bytearray | None = None  # where a frame that is not whole is filled in, instead of _begun
        self._filled = 0
        self._begun = bytearray()  # a frame that is not whole, from its size on
        self._need = 0  # the whole length of that frame, 0 while its size is not known

    @property
    def held(self) -> int:
        """Bytes of a begun frame that are kept until the rest comes."""
        return len(self._begun) if self._whole is None else self._filled

    @property
    def missing(self) -> int:
        """Bytes of a begun frame that are still to come, as far as its size is known; 0 between frames."""
        held = self.held
        return max(0, self._need - held) if held else 0

    def room(self) -> memoryview | None:
        """Give where the rest of a begun frame belongs, ``None`` if that is not known or little or very much."""
        if self._whole is None:
            if not ROOM_SIZE_MIN <= self.missing <= ROOM_SIZE_MAX:
                return None
            self._whole = bytearray(self._need)
            self._filled = len(self._begun)
            self._whole[: self._filled] = self._begun
            self._begun = bytearray()
        return memoryview(self._whole)[self._filled :]

    def fill(self, size: int) -> bool:
        """Take note that so many bytes were written at the beginning of ``room``; tell whether the frame is whole."""
        self._filled += size
        return self._filled == self._need

    @property
    def unread(self) -> int:
        """Bytes that were fed and not looked at yet: above 0 only until ``next`` has said ``None``."""
        return len(self.data) - self._pos

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Cost: nothing if ``next`` has said ``None`` before; else a copy of what is unread."""
        if self._pos < len(self.data):
            data = bytes(self.data[self._pos :]) + data
        if self._whole is not None:
            self._begun, self._whole = self._whole[: self._filled], None
        self.data = data
        self._pos = 0

    def next(self) -> tuple[int, int] | None:
        """Give where in ``data`` the next frame begins, with its size, and where it ends; ``None`` if it is not there.

        Raises:
            RequestError: the size is none that a frame may have. The cutter must not be used afterwards.
        """
        if self._whole is not None:
            return self._filled_in(self._whole)
        if self._begun:
            return self._go_on()
        data = self.data
        at = self._pos
        left = len(data) - at
        if left >= _SIZE:
            size: int = _size_at(data, at)[0]
            length = size + _SIZE if self._size_min <= size <= self.size_max else self._checked(size)
            if length <= left:
                self._pos = at + length
                return at, self._pos
            self._need = length
        if left:
            self._begun += data[at:]
        self.data = b""
        self._pos = 0
        return None

    def use_up(self) -> None:
        """Let go of a segment whose last frame ``next`` has given, and which nobody looks at any more."""
        self.data = b""
        self._pos = 0

    def close(self) -> None:
        """Let go of all that is held."""
        self.data = b""
        self._pos = 0
        self._begun = bytearray()
        self._whole = None
        self._need = 0

    def _filled_in(self, whole: bytearray) -> tuple[int, int] | None:
        if self._filled < self._need:
            return None
        self.data = cast("bytes", whole)  # read like one, by those who have made room
        self._whole = None
        self._pos = end = self._need
        self._need = 0
        return 0, end

    def _go_on(self) -> tuple[int, int] | None:
        """Gather more of a begun frame."""
        begun = self._begun
        if not self._need:
            self._gather(_SIZE)
            if len(begun) < _SIZE:
                return None
            self._need = self._checked(_size_at(begun)[0])
        self._gather(self._need)
        if len(begun) < self._need:
            return None
        end = self._need
        # What follows the frame in this segment stands behind it again: one copy a segment.
        self.data = bytes(begun) + self.data[self._pos :]
        self._pos = end
        self._begun = bytearray()
        self._need = 0
        return 0, end

    def _gather(self, length: int) -> None:
        """Move bytes of the segment to the begun frame, until it has this length or the segment is used up."""
        piece = self.data[self._pos : self._pos + length - len(self._begun)]
        self._begun += piece
        self._pos += len(piece)
        if self._pos == len(self.data):
            self.data = b""
            self._pos = 0

    def _checked(self, size: int) -> int:
        if size > self.size_max:
            message = f"a frame claims {size} bytes, the limit is {self.size_max}"
            raise RequestError(CloseReason.REQUEST_TOO_LARGE, message)
        if size < self._size_min:
            raise RequestError(CloseReason.BAD_FRAME, f"a frame claims {size} bytes, it must have {self._size_min}")
        return size + _SIZE
