"""The conformance kit for stores: what every store must do, ours or a user's.

::

    from rallypoint.testing import check_store

    def test_my_store_behaves_as_a_store():
        check_store(lambda: MyStore(...))          # everything, one report

or, one test for each behaviour::

    @pytest.mark.parametrize("check", store_checks(), ids=str)
    def test_my_store(check):
        check.run(lambda: MyStore(...))

The behaviours are those of torch's stores without their faults; the modules ``key_checks``, ``wait_checks`` and
``queue_checks`` have them, each with a sentence that says what must be. A store that has no queues, or cannot list its
keys, says so with ``NotImplementedError``; what it does not have is not checked.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from rallypoint.store.base import Store

__all__ = ["Check", "Lab", "StoreFactory", "check_store", "store_checks"]

StoreFactory: TypeAlias = Callable[[], Store]
"""Gives a store on new, empty data each time it is called. A store that has ``close`` is closed after its check."""

JOIN_TIMEOUT_S = 30.0
"""How long a check waits for a thread that should have been released long ago."""

SHORT_S = 0.15
"""The timeout of waits that are expected to fail."""

SETTLE_S = 0.02
"""How long a thread may need to come to its wait."""


class Lab:
    """What a check works with: stores, threads, and words for what was expected.

    Args:
        factory: makes the store.

    Attributes:
        store: a store on empty data; its timeout is long.
    """

    def __init__(self, factory: StoreFactory) -> None:
        self.store = factory()
        self.store.set_timeout(_seconds(2 * JOIN_TIMEOUT_S))  # a wait that nobody woke must not succeed at its end
        self._threads: list[threading.Thread] = []

    def close(self) -> None:
        """Wait for the threads that come to an end, and close the store."""
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)
        close = getattr(self.store, "close", None)
        if close is not None:
            close()

    def equal(self, found: object, expected: object, what: str) -> None:
        """Demand that ``what`` gave ``expected``."""
        if found != expected or type(found) is not type(expected):
            raise AssertionError(f"{what} gave {_shown(found)}, expected {_shown(expected)}")

    def spawn(self, call: Callable[[], Any], what: str) -> Callable[[], Any]:
        """Run ``call`` in a thread; the function that is given back waits for its result, or raises its error."""
        results: list[Any] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(call())
            except BaseException as error:  # noqa: BLE001 - carried to the waiting thread
                errors.append(error)

        thread = threading.Thread(target=run, name=what, daemon=True)
        self._threads.append(thread)
        thread.start()

        def result() -> Any:
            thread.join(JOIN_TIMEOUT_S)
            if thread.is_alive():
                self._threads.remove(thread)
                raise AssertionError(f"{what} still waits after {JOIN_TIMEOUT_S:g} s")
            if errors:
                raise errors[0]
            return results[0]

        return result

    def together(self, calls: Sequence[Callable[[], Any]], what: str) -> list[Any]:
        """Run all calls at once, each in a thread, and give their results in order."""
        start = threading.Barrier(len(calls))

        def at_once(call: Callable[[], Any]) -> Any:
            start.wait(JOIN_TIMEOUT_S)
            return call()

        results = [self.spawn(partial(at_once, call), what) for call in calls]
        return [result() for result in results]

    def settle(self) -> None:
        """Let the threads that were spawned come to their wait.

        Nobody can tell from outside whether a thread waits already. If it does not, the check that follows sees less,
        but calls nothing wrong that is right.
        """
        time.sleep(SETTLE_S)

    @contextlib.contextmanager
    def short_timeout(self) -> Iterator[None]:
        """Give the store a timeout that is quickly over."""
        self.store.set_timeout(_seconds(SHORT_S))
        try:
            yield
        finally:
            self.store.set_timeout(_seconds(2 * JOIN_TIMEOUT_S))

    def times_out(self, call: Callable[[], Any], what: str, *, names: Sequence[str] = (), spares: str = "") -> None:
        """Demand that ``call`` fails because its time is up.

        Args:
            call: what is tried.
            what: how the report names it.
            names: keys that the error must speak of.
            spares: a key that was there, which the error must not call missing.
        """
        started = time.monotonic()
        try:
            result = call()
        except RuntimeError as error:
            text = str(error)
            if "imeout" not in text and "imed out" not in text:
                raise AssertionError(
                    f"{what}: an error of a wait must have 'timeout' in its text, got {text!r}"
                ) from error
            missing = getattr(error, "missing", None)
            for name in names:
                if name not in text or (missing is not None and not any(key.endswith(name) for key in missing)):
                    raise AssertionError(f"{what}: the error does not name {name!r}: {text!r}") from error
            if spares and missing is not None and any(key.endswith(spares) for key in missing):
                raise AssertionError(f"{what}: the error calls {spares!r} missing, which is there: {text!r}") from error
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{what}: a timeout must be a RuntimeError, got {error!r}") from error
        else:
            waited_s = time.monotonic() - started
            raise AssertionError(f"{what} gave {_shown(result)} after {waited_s:.3f} s, expected a timeout")


@dataclass(frozen=True)
class Check:
    """One behaviour.

    Attributes:
        sentence: what must be.
        body: tries it.
    """

    sentence: str
    body: Callable[[Lab], None]

    def __str__(self) -> str:
        return self.sentence

    def run(self, factory: StoreFactory) -> None:
        """Try the behaviour on a new store.

        Raises:
            AssertionError: the store does otherwise, or fails; the text says how.
        """
        lab = Lab(factory)
        try:
            self.body(lab)
        except AssertionError:
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise AssertionError(f"the store raised {error!r} ({place.filename}:{place.lineno})") from error
        finally:
            lab.close()


def store_checks() -> list[Check]:
    """Give all behaviours, in reading order."""
    from rallypoint.testing import key_checks, queue_checks, wait_checks

    return [
        Check(_sentence(body), body)
        for module in (key_checks, wait_checks, queue_checks)
        for name, body in vars(module).items()
        if name.startswith("check_")
    ]


def check_store(factory: StoreFactory) -> None:
    """Try every behaviour that a store must have, each on a store of its own.

    Args:
        factory: gives a store on new, empty data each time it is called.

    Raises:
        AssertionError: some behaviours are missing; the text lists them all, each with what was seen instead.

    Cost: a few seconds, most of them spent waiting for timeouts to pass.
    """
    failures: list[str] = []
    checks = store_checks()
    for check in checks:
        try:
            check.run(factory)
        except AssertionError as error:  # noqa: PERF203 - all are reported together
            failures.append(f"- {check.sentence}\n      {error}")
    if failures:
        raise AssertionError(f"{len(failures)} of {len(checks)} checks failed:\n" + "\n".join(failures))


def _sentence(body: Callable[[Lab], None]) -> str:
    return (body.__doc__ or body.__name__).strip().rstrip(".")


def _seconds(duration_s: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=duration_s)  # which every store takes, foreign ones too


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]}... ({len(text)} characters)"
