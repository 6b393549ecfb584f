from __future__ import annotations

import errno
import json
import os
import sys

import click
import pytest

from rallypoint.cli.ready import announce, check_ready_json, ready_line
from rallypoint.net.address import listen
from rallypoint.types import Endpoint


def test_the_first_address_of_each_kind_is_told():
    endpoints = [Endpoint("127.0.0.1", 1), Endpoint("unix:/a", 0), Endpoint("::1", 1), Endpoint("unix:/b", 0)]
    assert json.loads(ready_line(endpoints)) == {"host": "127.0.0.1", "port": 1, "path": "/a", "pid": os.getpid()}


def test_what_is_not_there_is_not_told():
    assert set(json.loads(ready_line([Endpoint("unix:/a", 0)]))) == {"path", "pid"}


def test_a_line_that_is_wanted_needs_a_standard_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    check_ready_json(False)
    with pytest.raises(click.ClickException, match="the standard output is closed"):
        check_ready_json(True)


def test_listeners_that_nobody_is_told_of_are_closed(monkeypatch):
    listeners = listen("127.0.0.1", 0)

    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(click.ClickException, match=r"ready line cannot be written .* No space left"):
        announce("ready", listeners)
    assert [listener.fileno() for listener in listeners] == [-1]
