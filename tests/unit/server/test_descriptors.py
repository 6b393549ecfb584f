from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rallypoint.server.descriptors import above_standard, is_standard_stream, standard_error


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
