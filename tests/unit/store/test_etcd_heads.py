"""Headers: written so that nobody has to remember them, read whatever the peer remembers."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder

from rallypoint.store.etcd_heads import Heads, head_of

ANSWER = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILER = [(b"grpc-status", b"0"), (b"grpc-message", b"")]


def test_a_block_is_the_same_to_every_peer():
    block = head_of("KV/Range", "host:1", "a-token", True, True)
    decoder = Decoder()
    for _ in range(2):
        heads = dict(decoder.decode(block, raw=True))
        assert heads[b":path"] == b"/etcdserverpb.KV/Range"
        assert (heads[b"token"], heads[b"hasleader"], heads[b":scheme"]) == (b"a-token", b"true", b"https")


def test_who_has_no_token_shows_none():
    assert b"token" not in dict(Decoder().decode(head_of("KV/Range", "host:1", "", False), raw=True))


def test_what_the_peer_has_said_before_is_read_again():
    encoder, heads = Encoder(), Heads()
    for _ in range(5):
        assert heads.read(encoder.encode(ANSWER)) == ANSWER
        assert heads.read(encoder.encode(TRAILER)) == TRAILER


def test_a_block_means_something_else_when_the_table_has_changed():
    encoder, heads = Encoder(), Heads()
    for number in range(200):
        said = [(b"grpc-status", b"0"), (b"grpc-message", b"%d" % (number // 3))]
        assert heads.read(encoder.encode(said)) == said
        assert heads.read(encoder.encode(TRAILER)) == TRAILER


def test_what_is_no_block_is_refused():
    with pytest.raises(ValueError, match="headers cannot be read"):
        Heads().read(b"\xff\xff\xff")
