"""The headers of calls: how a request's are written, and an answer's read.

Written are only headers that the peer is not to remember, so that a block is the same on every connection and is made
once. Read they are by ``hpack``, the one part of HTTP/2 that is not a few lines. A block that only points into the
table of a connection, as nearly all of them do, is read once as long as the table stays as it is.

Source: RFC 7541 (HPACK), and gRPC's description of its protocol over HTTP/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hpack import Decoder

__all__ = ["Heads", "head_of"]

BLOCKS_MAX: Final = 64
"""Blocks that are remembered, for each connection."""


@lru_cache(maxsize=256)
def head_of(method: str, authority: str, token: str, is_tls: bool, needs_leader: bool = False) -> bytes:
    """Give the header block of a call, the same on every connection: nothing in it is remembered by the peer.

    Args:
        method: as ``KV/Range``.
        authority: whom the connection is to.
        token: who calls; empty if etcd does not ask.
        is_tls: whether the connection is secured.
        needs_leader: a member that has lost the leader of its cluster is to refuse.
    """
    from hpack import Encoder, NeverIndexedHeaderTuple

    heads = [
        (":method", "POST"),
        (":scheme", "https" if is_tls else "http"),
        (":path", f"/etcdserverpb.{method}"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "rallypoint"),
    ]
    if token:
        heads.append(("token", token))
    if needs_leader:
        heads.append(("hasleader", "true"))
    block: bytes = Encoder().encode([NeverIndexedHeaderTuple(*pair) for pair in heads], huffman=False)
    return block


class Heads:
    """What reads the headers of one connection.

    Threads: none but the caller's.
    """

    __slots__ = ("_decoder", "_known")

    def __init__(self) -> None:
        from hpack import Decoder

        self._decoder: Decoder = Decoder()
        self._known: dict[bytes, Sequence[tuple[bytes, bytes]]] = {}

    def read(self, block: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Give the headers in a block.

        Raises:
            ValueError: it is none.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        from hpack import HPACKError

        try:
            heads: Sequence[tuple[bytes, bytes]] = [(bytes(one[0]), bytes(one[1])) for one in self._decode(block)]
        except HPACKError as error:
            raise ValueError(f"headers cannot be read: {error}") from error
        if block and min(block) > 127 and max(block) < 255 and len(self._known) < BLOCKS_MAX:
            self._known[block] = heads
        else:
            self._known.clear()  # it may have changed the table
        return heads

    def _decode(self, block: bytes) -> Sequence[tuple[bytes, bytes]]:
        return self._decoder.decode(block, raw=True)  # type: ignore[return-value]  # bytes, as asked for
