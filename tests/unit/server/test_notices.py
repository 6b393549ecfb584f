from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rallypoint import events
from rallypoint.net.address import listen, listen_unix
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.notices import Notices
from rallypoint.server.vocabulary import EndReason


@pytest.fixture
def heard():
    told = []
    events.subscribe(told.append)
    yield told
    events.unsubscribe(told.append)


def test_each_kind_of_line_goes_where_it_belongs(heard):
    lines = []
    notices = Notices((), lines.append)
    reasons, ends = list(CloseReason), list(EndReason)
    notices.tell(0, b"-100 lost\x000 refused\x00-1 full\x00-3 gone\x00", is_listening=True)
    assert lines == ["lost", "refused", "full"]
    assert [(event.name, event.message, event.fields["reason"]) for event in heard] == [
        ("server.refused", "refused", reasons[0].name),
        ("server.disconnected", "gone", ends[1].name),
    ]


def test_refusals_without_a_line_are_counted_in_the_next():
    lines = []
    notices = Notices((), lines.append)
    notices.tell(3, b"", is_listening=True)
    notices.tell(0, b"-1 full\x00", is_listening=True)
    assert lines == ["full (3 refusals before this one were not logged)"]


def test_listeners_are_let_go_of_and_their_files_go_when_they_are_closed(tmp_path):
    path = str(tmp_path / "a.sock")
    listeners = [*listen("127.0.0.1", 0), listen_unix(path)]
    fds = [listener.fileno() for listener in listeners]
    notices = Notices(listeners, lambda _: None)
    assert [listener.fileno() for listener in listeners] == [-1, -1]
    notices.tell(0, b"", is_listening=True)
    assert Path(path).exists()
    for fd in fds:
        socket.close(fd)
    notices.tell(0, b"", is_listening=False)
    assert not Path(path).exists()
