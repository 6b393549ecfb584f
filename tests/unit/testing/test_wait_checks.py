"""The checks of time: each finds out a store that does otherwise."""

from __future__ import annotations

import threading

from tests.support.faulty_stores import checks_of, find_out, over_faults

from rallypoint.errors import StoreTimeoutError
from rallypoint.store.hash import HashStore
from rallypoint.testing import wait_checks as checks


class AddWakesNobody(HashStore):
    def add(self, key, amount, /):
        with self._changed:
            return self._space.add(key.encode(), amount)[0]


class FailedSwapWakes(HashStore):
    def compare_set(self, key, expected, desired, /):
        found = super().compare_set(key, expected, desired)
        if found != desired and not self.check([key]):
            self.set(key, "")
        return found


class DeletedKeysCount(HashStore):
    def delete_key(self, key, /):
        return self.check([key])


class TimeoutNamesAll(HashStore):
    def wait(self, keys, timeout=None, /):
        try:
            super().wait(keys, *([] if timeout is None else [timeout]))
        except StoreTimeoutError as error:
            raise StoreTimeoutError(f"wait timeout, keys: {', '.join(keys)}", keys=keys, missing=keys) from error


class TimeoutIsNoRuntimeError(HashStore):
    def get(self, key, /):
        try:
            return super().get(key)
        except StoreTimeoutError as error:
            raise KeyError(f"timeout: {key}") from error


class TimeoutDoesNotSaySo(HashStore):
    def get(self, key, /):
        try:
            return super().get(key)
        except StoreTimeoutError as error:
            raise RuntimeError(f"no {key}") from error


class ZeroFailsOnWhatIsThere(HashStore):
    def wait(self, keys, timeout=None, /):
        if timeout is not None and not timeout:
            raise StoreTimeoutError(f"wait timeout, keys: {keys}", missing=keys)
        super().wait(keys, *([] if timeout is None else [timeout]))


class BarrierPassesAtOnce(HashStore):
    def barrier(self, key, world_size, timeout=None):
        pass


class EachNameCountsOnce(HashStore):
    def wait(self, keys, timeout=None, /):
        if len(set(keys)) < len(keys):
            raise AssertionError("waits for a second a")
        super().wait(keys, *([] if timeout is None else [timeout]))


class MultiGetDoesNotWait(HashStore):
    def multi_get(self, keys, /):
        return [self._space.get(key.encode()) or b"" for key in keys]


class OneIsWoken(HashStore):
    def _wake_if(self, is_new):
        if is_new:
            self._changed.notify()


class BrokenByATimeout(HashStore):
    is_broken = False

    def wait(self, keys, timeout=None, /):
        try:
            super().wait(keys, *([] if timeout is None else [timeout]))
        except StoreTimeoutError:
            self.is_broken = True
            raise

    def get(self, key, /):
        return b"" if self.is_broken else super().get(key)


class OneAtATime(HashStore):
    def __init__(self):
        super().__init__()
        self.one = threading.Lock()

    def get(self, key, /):
        with self.one:
            return super().get(key)

    def add(self, key, amount, /):
        if not self.one.acquire(timeout=0.1):
            raise AssertionError("somebody holds the only connection")
        self.one.release()
        return super().add(key, amount)


FAULTS = [
    (checks.check_get_waits_for_every_kind_of_creation, AddWakesNobody, "get of a key that is made by add still waits"),
    (checks.check_wait_needs_all_keys, EachNameCountsOnce, "waits for a second a"),
    (
        checks.check_multi_get_waits,
        MultiGetDoesNotWait,
        "multi_get of a key that came later gave [b'1', b''], expected [b'1', b'2']",
    ),
    (checks.check_everybody_who_waits_is_woken, OneIsWoken, "get in 8 threads still waits"),
    (checks.check_a_timeout_names_the_missing, TimeoutNamesAll, "calls 'present' missing, which is there"),
    (
        checks.check_a_timeout_names_the_missing,
        TimeoutIsNoRuntimeError,
        "a timeout must be a RuntimeError, got KeyError",
    ),
    (checks.check_a_timeout_names_the_missing, TimeoutDoesNotSaySo, "must have 'timeout' in its text, got 'no absent'"),
    (checks.check_a_store_works_after_a_timeout, BrokenByATimeout, "get after a timeout gave b'', expected b'v'"),
    (checks.check_a_timeout_of_zero_looks_once, ZeroFailsOnWhatIsThere, "wait timeout, keys: ['present']"),
    (checks.check_a_deleted_key_is_missing, DeletedKeysCount, "'a' set and deleted before 'b' was set gave None after"),
    (checks.check_a_swap_that_fails_wakes_nobody, FailedSwapWakes, "wrote nothing gave b'' after"),
    (checks.check_a_wait_holds_nobody_up, OneAtATime, "somebody holds the only connection"),
    (checks.check_barriers, BarrierPassesAtOnce, "barrier('alone', 2) of one member gave None after"),
]


@over_faults(FAULTS)
def test_a_fault_is_found_and_described(check, faulty, detail, monkeypatch):
    find_out(check, faulty, detail, monkeypatch)


def test_every_check_is_tried():
    assert {check.__name__ for check, *_ in FAULTS} == checks_of(checks)
