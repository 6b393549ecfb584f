from __future__ import annotations

import msgspec
import pytest

from rallypoint.observe.status import SECTIONS, VERSION, Keys, Overview, Peers, read
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import MAGIC, Verb
from rallypoint.server.engine import Connected, Engine, Received, Ticked
from rallypoint.server.status import SCHEMA_VERSION


@pytest.fixture
def server():
    engine = Engine()
    engine.step(Ticked(), 0.0)
    engine.step(Connected(1, "10.0.0.1:5"), 0.0)
    engine.step(Received(1, encode_request(Verb.VALIDATE, MAGIC)), 0.0)
    engine.step(Received(1, encode_request(Verb.SET, b"/k", b"v")), 0.0)
    engine.step(Received(1, encode_request(Verb.QUEUE_PUSH, b"/q", b"item")), 0.0)
    engine.step(Received(1, encode_request(Verb.WAIT, [b"/never"])), 0.0)
    engine.step(Connected(2, "10.0.0.2:5"), 0.0)
    engine.step(Received(2, encode_request(Verb.VALIDATE, MAGIC)), 0.0)
    engine.step(Received(2, encode_request(Verb.BARRIER, b"/b", 2)), 0.0)
    engine.step(Connected(3, "10.0.0.3:5"), 0.0)
    engine.step(Received(3, b"\xff"), 0.0)
    return engine


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_that_the_server_tells_is_in_the_layout(server, section):
    what = {"overview": "", "keys": "keys/", "values": "values/"}.get(section, section)
    document = server.status.document(what, 2.0)
    seen = read(document)
    assert type(seen) is SECTIONS[section]
    assert msgspec.to_builtins(seen) == document


def test_the_versions_are_one():
    assert VERSION == SCHEMA_VERSION


def test_what_is_read_has_names(server):
    peers = read(server.status.document("peers", 2.0))
    assert isinstance(peers, Peers)
    assert peers.peers[0].waits[0].names == ["never"]
    keys = read(server.status.document("values/k", 2.0))
    assert isinstance(keys, Keys)
    assert (keys.keys[0].key, keys.keys[0].value) == ("k", "dg==")


def test_fields_of_a_newer_server_are_ignored(server):
    assert isinstance(read(server.status.document("", 1.0) | {"brand_new": 1}), Overview)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"version": 2, "section": "peers"}, "version 2, this program reads version 1"),
        ({"version": 1, "section": "everything"}, "section 'everything', this program reads overview, peers"),
        ({"version": 1, "section": "peers"}, "missing required field `total`"),
        ([], "Expected `object`"),
    ],
)
def test_what_is_no_document_is_refused(document, complaint):
    with pytest.raises(ValueError, match=complaint):
        read(document)
