"""The log behind a FileStore: locks, damage, files that change under our feet, counting out."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import os
import threading

import pytest

from rallypoint import events
from rallypoint.clock import Deadline
from rallypoint.errors import CorruptStoreError, DistStoreError, LocalProtocolError, StoreTimeoutError
from rallypoint.store import filelog
from rallypoint.store.filelog import FileLog
from rallypoint.store.filerecords import CLEANUP, KEY_SIZE_MAX, REFCOUNT, encode_record

LONG_S = 30.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def open_log(path):
    logs = []

    def make():
        log = FileLog(str(path))
        logs.append(log)
        return log

    yield make
    for log in logs:
        log.leave(-1)


@pytest.fixture
def told():
    seen = []
    events.subscribe(seen.append)
    yield seen
    events.unsubscribe(seen.append)


def write(log, *records):
    with log.writing(Deadline(LONG_S)):
        log.write(*records)


def read(log):
    with log.reading(Deadline(LONG_S)) as space:
        return {key: space.get(key) for key in space.keys()}  # noqa: SIM118


def file_lock(path, kind):
    """Hold the lock as another process would: by an open file of its own."""
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, kind)
    return fd


def test_one_log_reads_what_another_writes(open_log):
    writer, reader = open_log(), open_log()
    write(writer, (b"/a", b"1"), (b"/b", b"2"))
    assert read(reader) == {b"/a": b"1", b"/b": b"2"}
    write(reader, (b"-/a", b""), (b"/b", b"3"))
    assert read(writer) == {b"/b": b"3"}


def test_several_records_are_one_write(open_log, monkeypatch):
    log = open_log()
    log.enter(Deadline(LONG_S))
    written = []
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, offset, real=os.pwrite: written.append(data) or real(fd, data, offset)
    )
    write(log, (b"/a", b"1"), (b"/b", b"2"))
    assert written == [encode_record(b"/a", b"1") + encode_record(b"/b", b"2")]


def test_a_record_larger_than_a_read_is_read_whole(open_log, monkeypatch):
    monkeypatch.setattr(filelog, "READ_SIZE", 16)
    value = os.urandom(10_000)
    write(open_log(), (b"/a", b"1"), (b"/large", value), (b"/b", b"2"))
    assert read(open_log()) == {b"/a": b"1", b"/large": value, b"/b": b"2"}


def test_only_what_is_new_is_read(open_log, monkeypatch):
    writer, reader = open_log(), open_log()
    write(writer, (b"/large", bytes(100_000)))
    read(reader)
    sizes = []
    monkeypatch.setattr(os, "pread", lambda fd, size, at, real=os.pread: sizes.append(size) or real(fd, size, at))
    write(writer, (b"/a", b"1"))
    assert read(reader)[b"/a"] == b"1"
    assert sum(sizes) < 1000


@pytest.mark.parametrize("kept", range(1, 10))
def test_a_torn_record_is_an_error_for_readers_and_writers_alike(open_log, path, kept):
    write(open_log(), (b"/a", b"1"))
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(encode_record(b"/b", b"2")[:kept])
    for log, use in ((open_log(), read), (open_log(), lambda log: write(log, (b"/c", b"3")))):
        with pytest.raises(CorruptStoreError, match=f"the file ends {kept} bytes into it") as caught:
            use(log)
        assert (caught.value.path, caught.value.offset) == (str(path), whole)
    assert path.stat().st_size == whole + kept


def test_a_recreated_file_is_read_from_its_start(open_log, path):
    log, other = open_log(), open_log()
    write(log, (b"/old", b"1" * 100))
    path.unlink()
    assert log.has_moved()
    assert read(log) == {}
    write(other, (b"/new", b"2"))
    assert log.has_moved()
    assert read(log) == {b"/new": b"2"}
    write(log, (b"/more", b"3"))
    assert read(other) == {b"/new": b"2", b"/more": b"3"}


@pytest.mark.parametrize("regrown", [b"", encode_record(b"/new", b"2"), encode_record(b"/new", b"2" * 500)])
def test_a_file_that_was_cut_is_read_from_its_start(open_log, path, regrown):
    log = open_log()
    write(log, (b"/old", b"1" * 100))
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(regrown)
    assert read(log) == ({b"/new": regrown[12:]} if regrown else {})
    write(log, (b"/a", b"1"))
    assert read(open_log())[b"/a"] == b"1"


def test_a_writer_that_lost_the_race_with_a_removal_writes_to_the_file_that_is_there(open_log, path, monkeypatch):
    first, late = open_log(), open_log()
    write(first, (b"/old", b"1"))
    real = fcntl.flock
    raced = []

    def flock(fd, kind):
        if not raced:
            raced.append(fd)
            path.unlink()
        real(fd, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    write(late, (b"/new", b"2"))
    assert read(open_log()) == {b"/new": b"2"}


def test_the_lock_is_waited_for_as_long_as_allowed(open_log, path):
    log = open_log()
    write(log, (b"/a", b"1"))
    fd = file_lock(path, fcntl.LOCK_SH)
    try:
        assert read(log) == {b"/a": b"1"}
        deadline = Deadline(0.2)
        with (
            pytest.raises(StoreTimeoutError, match=r"Timeout waiting for the lock of .* after 200 ms"),
            log.writing(deadline),
        ):
            pass
        assert deadline.waited_s() >= 0.2
    finally:
        os.close(fd)
    write(log, (b"/b", b"2"))


def test_a_lock_held_for_a_moment_does_not_fail_a_call_that_looks_once(open_log, path):
    log = open_log()
    write(log, (b"/a", b"1"))
    fd = file_lock(path, fcntl.LOCK_EX)
    is_tried = threading.Event()
    results = []

    def look():
        is_tried.set()
        with log.reading(Deadline(0)) as space:
            results.append(space.get(b"/a"))

    thread = threading.Thread(target=look)
    thread.start()
    is_tried.wait(LONG_S)
    os.close(fd)
    thread.join(LONG_S)
    assert results == [b"1"]


def test_a_missing_directory_is_an_error_at_once(tmp_path):
    log = FileLog(str(tmp_path / "missing" / "log"))
    deadline = Deadline(LONG_S)
    with pytest.raises(DistStoreError, match="No such file or directory"), log.writing(deadline):
        pass
    with pytest.raises(DistStoreError, match="No such file or directory"), log.reading(deadline):
        pass
    assert not deadline.has_passed()


def test_what_is_no_regular_file_is_refused(tmp_path):
    with pytest.raises(DistStoreError, match="Is a directory"), FileLog(str(tmp_path)).writing(Deadline(LONG_S)):
        pass
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with pytest.raises(DistStoreError, match="not a regular file"), FileLog(pipe).writing(Deadline(LONG_S)):
        pass


def test_a_write_that_does_not_fit_leaves_the_file_as_it_was(open_log, path, monkeypatch):
    log = open_log()
    write(log, (b"/a", b"1"))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, offset, real=os.pwrite: real(fd, data[:5], offset))
        with pytest.raises(DistStoreError, match="5 of 11 bytes went in"):
            write(log, (b"/b", b"2"))
    assert path.read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(DistStoreError, match="No space left on device"):
            write(log, (b"/b", b"2"))
    write(log, (b"/c", b"3"))
    assert read(log) == {b"/a": b"1", b"/c": b"3"}


def test_a_refused_record_leaves_no_trace(open_log):
    log = open_log()
    write(log, (b"/a", b"1"))
    with log.writing(Deadline(LONG_S)) as space:
        space.set(b"/b", b"2")
        with pytest.raises(LocalProtocolError):
            log.write((b"/" * (KEY_SIZE_MAX + 1), b""))
    assert read(log) == {b"/a": b"1"}


def test_stores_are_counted_and_the_last_of_the_world_removes_the_file(open_log, path):
    first, second = open_log(), open_log()
    assert [first.enter(Deadline(LONG_S)), second.enter(Deadline(LONG_S))] == [0, 1]
    assert read(first) == {REFCOUNT: b"2"}
    first.leave(2)
    assert read(second) == {REFCOUNT: b"1", CLEANUP: b"1"}
    second.leave(2)
    assert not path.exists()


@pytest.mark.parametrize("world_size", [-1, 3])
def test_the_file_stays_while_the_world_is_not_complete(open_log, path, world_size):
    log = open_log()
    log.enter(Deadline(LONG_S))
    log.leave(world_size)
    assert read(open_log()) == {REFCOUNT: b"0", CLEANUP: b"1"}


def test_leaving_twice_counts_once_and_ends_the_use(open_log):
    log, other = open_log(), open_log()
    log.enter(Deadline(LONG_S))
    log.leave(-1)
    log.leave(-1)
    assert read(other)[CLEANUP] == b"1"
    with pytest.raises(DistStoreError, match="is closed"):
        read(log)


def test_a_file_in_the_place_of_ours_is_not_counted_out_of(open_log, path):
    log = open_log()
    log.enter(Deadline(LONG_S))
    path.unlink()
    other = open_log()
    other.enter(Deadline(LONG_S))
    log.leave(1)
    assert read(other) == {REFCOUNT: b"1"}


def test_leaving_a_damaged_or_locked_file_is_told_and_raises_nothing(open_log, path, told, monkeypatch):
    monkeypatch.setattr(filelog, "LEAVE_TIMEOUT_S", 0.1)
    torn, locked = open_log(), open_log()
    torn.enter(Deadline(LONG_S))
    locked.enter(Deadline(LONG_S))
    fd = file_lock(path, fcntl.LOCK_EX)
    locked.leave(1)
    os.close(fd)
    with path.open("ab") as file:
        file.write(b"\x05")
    torn.leave(1)
    assert [event.name for event in told] == ["store.file_left_behind"] * 2
    assert "lock" in told[0].message
    assert "damaged" in told[1].message


def test_a_store_collected_while_its_thread_holds_the_lock_is_counted_out_afterwards(open_log):
    log, collected = open_log(), open_log()
    log.enter(Deadline(LONG_S))
    collected.enter(Deadline(LONG_S))
    with log.writing(Deadline(LONG_S)):
        collected.leave(-1)
        gc.collect()
    assert read(log) == {REFCOUNT: b"1", CLEANUP: b"1"}


def use_in_child(log, answers):
    write(log, (b"/child", b"1"))
    answers.put(read(log))
    log.leave(0)


def test_a_forked_child_opens_the_file_for_itself_and_does_not_count_its_parent_out(open_log, path):
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    log = open_log()
    log.enter(Deadline(LONG_S))
    with log.writing(Deadline(LONG_S)):  # also while the parent holds the lock
        child = context.Process(target=use_in_child, args=(log, answers))
        child.start()
        log.write((b"/parent", b"1"))
    child.join(LONG_S)
    assert child.exitcode == 0
    assert answers.get() == {REFCOUNT: b"1", b"/parent": b"1", b"/child": b"1"}
    answers.close()
    assert read(log) == {REFCOUNT: b"1", b"/parent": b"1", b"/child": b"1"}


def test_has_moved_tells_new_records_from_none(open_log, path):
    log, other = open_log(), open_log()
    assert not log.has_moved()
    write(other, (b"/a", b"1"))
    assert log.has_moved()
    read(log)
    assert not log.has_moved()
    write(log, (b"/b", b"1"))
    assert not log.has_moved()


def test_damaged_counters_are_named(open_log):
    log = open_log()
    write(log, (REFCOUNT, b"many"))
    with pytest.raises(DistStoreError, match=r"b'many' under refcount/, expected a number"):
        log.enter(Deadline(LONG_S))
