"""Run something to its end, whatever signal handlers raise meanwhile.

Signal handlers run in the main thread only: in a thread of its own nothing can break into an action.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["run_to_its_end"]


def run_to_its_end(action: Callable[[], None], on_interrupt: Callable[[], None]) -> BaseException | None:
    """Run an action in a thread of its own; give the last exception that a signal handler raised meanwhile.

    Args:
        action: what to do.
        on_interrupt: called at each such exception.

    Raises:
        BaseException: what the action raised.
    """
    claim, done = threading.Lock(), threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        if not claim.acquire(blocking=False):
            return
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failed.append(error)
        finally:
            done.set()

    interrupt: BaseException | None = None
    thread: threading.Thread | None = None
    is_started = False
    while not done.is_set():
        try:
            if interrupt is not None:
                on_interrupt()
            if not is_started:
                # Broken into, a start has happened or not: a second one then finds the claim taken, or takes it.
                thread = threading.Thread(target=run, name="rallypoint-stop")
                thread.start()
                is_started = True
            done.wait()
        except BaseException as error:  # noqa: BLE001, PERF203 - kept for the caller, who raises it at the end
            if type(error) is RuntimeError and not claim.locked():
                run()  # the interpreter is ending, or the machine has no thread to give
            else:
                interrupt = error
    if thread is not None and thread.ident is not None:
        thread.join()
    if failed:
        raise failed[0]
    return interrupt
