from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from rallypoint.server.descriptors import above_standard, fitting, is_standard_stream, standard_error, widen_table
from rallypoint.server.limits import Limits


def test_handshakes_leave_half_of_the_descriptors_to_the_others(monkeypatch):
    for most, wanted, fitted in ((1024, 8192, 512), (1024, 512, 512), (1, 9, 1), (resource.RLIM_INFINITY, 9, 9)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, most=most: (most, most))
        limits = Limits(handshakes_max=wanted, keys_max=3)
        assert fitting(limits) == Limits(handshakes_max=fitted, keys_max=3)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the size of the table")
def test_room_for_descriptors_is_made_at_once_and_none_stays_open():
    code = (
        "import os, re\n"
        "from pathlib import Path\n"
        "from rallypoint.server.descriptors import widen_table\n"
        "before = os.listdir('/proc/self/fd')\n"
        "widen_table()\n"
        "assert os.listdir('/proc/self/fd') == before\n"
        "print(re.search(r'FDSize:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    script = f'ulimit -Sn 4000; exec {sys.executable} -c "$0"'
    done = subprocess.run(["sh", "-c", script, code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 4000


def test_without_descriptors_nothing_is_widened_and_nothing_fails(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 40, 1 << 40))
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError("no descriptor is left")))
    widen_table()


def test_a_descriptor_above_the_standard_streams_is_given_as_it_is():
    fd = os.open(os.devnull, os.O_RDONLY)
    with above_standard(fd) as given:
        assert given == fd
    os.close(fd)


def test_a_low_descriptor_is_copied_upward_for_as_long_as_needed():
    with above_standard(2) as copy:
        assert copy >= 3
        assert os.path.sameopenfile(copy, 2)
        assert not os.get_inheritable(copy)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)


def test_a_console_is_what_was_inherited_or_has_a_number_of_its_own():
    read_end, write_end = os.pipe()
    assert is_standard_stream(2)
    assert is_standard_stream(write_end)
    os.close(read_end)
    os.close(write_end)
    assert not is_standard_stream(write_end)
    assert standard_error() is None


def test_without_standard_streams_what_has_their_numbers_is_no_console():
    code = (
        "import os, sys\n"
        "from rallypoint.server.descriptors import is_standard_stream, standard_error\n"
        "first = is_standard_stream(2)\n"
        "taken = os.open(os.devnull, os.O_RDWR)\n"
        "sys.exit((first, taken, is_standard_stream(2), standard_error()) != (False, 2, False, -3))\n"
    )
    assert subprocess.run(["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code], check=False).returncode == 0
