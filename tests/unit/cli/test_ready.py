from __future__ import annotations

import json
import os

from rallypoint.cli.ready import ready_line
from rallypoint.types import Endpoint


def test_the_first_address_of_each_kind_is_told():
    endpoints = [Endpoint("127.0.0.1", 1), Endpoint("unix:/a", 0), Endpoint("::1", 1), Endpoint("unix:/b", 0)]
    assert json.loads(ready_line(endpoints)) == {"host": "127.0.0.1", "port": 1, "path": "/a", "pid": os.getpid()}


def test_what_is_not_there_is_not_told():
    assert set(json.loads(ready_line([Endpoint("unix:/a", 0)]))) == {"path", "pid"}
