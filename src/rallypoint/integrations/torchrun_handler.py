"""Our rendezvous as torchrun's agent knows one: torch's methods, torch's errors, nothing else asked of it.

torch's agent knows less than ours. What it cannot say, this handler finds out or says for it:

- It asks only how many nodes wait. So a round that is over, a run that has failed and a place that was lost all count
  as one node that waits: the agent stops its workers and asks for the next round, and learns there what is the matter.
- It never says how its workers ended. But it ends its handler in a ``finally``: with ``ChildFailedError`` on its way up
  the last restart is used up, and the run fails for all nodes at once; with no exception its workers have ended well,
  and the run has succeeded once all nodes say so; with another one the node merely leaves.

torch's agent ends on the first ``RendezvousConnectionError`` that a question raises. Here a server that is away for a
moment is no news: the rendezvous itself decides when a node has to take itself for cut off.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rallypoint.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from rallypoint.events import emit
from rallypoint.observe.log import logged
from rallypoint.rendezvous.handler import RendezvousHandler, RendezvousInfo, RendezvousParameters, RoundStatus
from rallypoint.rendezvous.registry import get_rendezvous_handler
from rallypoint.rendezvous.worker_store import use_gateway

if TYPE_CHECKING:
    from rallypoint.rendezvous.worker_store import Served
    from rallypoint.store.base import Store

__all__ = ["TorchrunHandler", "make_handler"]

BACKEND = "rallypoint"
"""Which of our backends does the work, whatever torchrun calls it; an endpoint ``etcd://...`` makes it etcd's."""

FAREWELL_S = 5.0
"""How long a node that has ended well stays for the others to say the same: it may hold the store."""

_NO_FILE = ("", "<N/A>")

_log = logging.getLogger("rallypoint.rendezvous")

_ERRORS = (
    RendezvousClosedError,
    RendezvousTimeoutError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousStateError,
)


def make_handler(params: Any) -> TorchrunHandler:
    """Make the handler of one torchrun; see ``torchrun.create_handler``."""
    with ExitStack() as stack:
        # torchrun shows warnings only, unless LOGLEVEL says otherwise.
        stack.enter_context(logged({"LOGLEVEL": "WARNING", **os.environ}))
        use_gateway(_serve)
        with torchs_errors():
            ours = get_rendezvous_handler(_our_parameters(params))
        return TorchrunHandler(ours, params.backend, stack.pop_all())


def _serve(store: Store, key_space: str) -> Served:
    """Serve a round's keys to this machine's workers, where ``worker_store=gateway`` says so."""
    from rallypoint.gateway.local import LocalGateway

    return LocalGateway(store, key_space)


@contextmanager
def torchs_errors() -> Iterator[None]:
    """Raise our errors of the rendezvous again as torch's of the same name, with our text and the cause of it."""
    try:
        yield
    except RendezvousError as error:
        import torch.distributed.elastic.rendezvous as torchs

        name = next((kind.__name__ for kind in _ERRORS if isinstance(error, kind)), "RendezvousError")
        kind = torchs.RendezvousError if name == "RendezvousError" else getattr(torchs, name)
        raise kind(_text_of(error)) from error


def _text_of(error: BaseException) -> str:
    """Give an error's sentence, and that of the one behind it where its own does not say what happened."""
    cause = error.__cause__
    return str(error) if cause is None or str(cause) in str(error) else f"{error} ({cause})"


def _our_parameters(params: Any) -> RendezvousParameters:
    return RendezvousParameters(
        BACKEND,
        params.endpoint,
        params.run_id,
        params.min_nodes,
        params.max_nodes,
        params.local_addr,
        **params.config,
    )


class TorchrunHandler:
    """One torchrun's way to meet the others.

    Args:
        ours: does the work.
        backend: the name under which torchrun knows it.
        log: closed with the handler.

    Threads: those of ``ours``.
    """

    def __init__(self, ours: RendezvousHandler, backend: str, log: ExitStack) -> None:
        self._ours = ours
        self._backend = backend
        self._log = log
        self._has_round = False

    def get_backend(self) -> str:
        """Give the name under which torchrun knows it."""
        return self._backend

    @property
    def use_agent_store(self) -> bool:
        """Whether workers find a store served where the round says, as they do unless torch's variable forbids it."""
        return self._ours.use_agent_store

    def get_run_id(self) -> str:
        """Give the name of the run."""
        return self._ours.get_run_id()

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for a round that this node is in; ends the round that it was in.

        Returns:
            What torchrun's agent reads: ``store``, a store of ours with all that the agent calls; ``rank``;
            ``world_size``; ``bootstrap_store_info``.

        Raises:
            torch's RendezvousClosedError, RendezvousTimeoutError, RendezvousGracefulExitError (a spare is no longer
                needed), RendezvousConnectionError, RendezvousStateError, RendezvousError.
        """
        self._has_round = False
        with torchs_errors():
            info = self._ours.next_rendezvous()
        self._has_round = True
        return info

    def num_nodes_waiting(self) -> int:
        """Tell how many nodes wait for a round; at least 1 if this node should ask for the next, for whatever reason.

        Raises:
            torch's RendezvousStateError: if the backend holds no state of ours.
        """
        with torchs_errors():
            try:
                news = self._ours.check_round()
            except RendezvousStateError:
                raise
            except RendezvousError:
                return 0  # nothing is known; if that lasts, it is CUT_OFF
        if news.status is RoundStatus.CURRENT or (news.status is RoundStatus.CLOSED and news.outcome == "succeeded"):
            return 0
        _log.warning("torchrun's agent is asked to stop its workers and to meet again: %s", news.why)
        return 1

    def is_closed(self) -> bool:
        """Tell whether the run has ended."""
        with torchs_errors():
            return self._ours.is_closed()

    def set_closed(self) -> None:
        """End the run for all nodes."""
        with torchs_errors():
            self._ours.set_closed()

    def shutdown(self) -> bool:
        """Say how this node ended, as far as the exception tells that is being handled, and leave.

        Returns:
            Whether it went as it should. The run goes on for the others unless this node used up its last restart.
        """
        is_fine = True
        try:
            self._report_end(sys.exc_info()[1])
        except RendezvousError as error:
            is_fine = False
            emit("rendezvous.trouble", f"the others could not be told how this node ended: {_text_of(error)}")
        is_fine = self._ours.shutdown() and is_fine
        self._log.close()
        return is_fine

    def _report_end(self, error: BaseException | None) -> None:
        if not self._has_round:
            return
        self._has_round = False
        if error is None:
            self._ours.report_success()
            self._ours.wait_for_news(FAREWELL_S)
        elif any(kind.__name__ == "ChildFailedError" for kind in type(error).__mro__):
            self._ours.report_failure(*_first_failure(error), final=True)


def _first_failure(error: Any) -> tuple[str, int]:
    """Give message and exit code of the worker that failed first, out of torch's error."""
    try:
        rank, failure = error.get_first_failure()
        exit_code = int(failure.exitcode)
        if exit_code > 0 and failure.error_file in _NO_FILE:
            return f"rank {rank} left no error file", exit_code
        message = failure.message if isinstance(failure.message, str) else failure.message["message"]
    except (AttributeError, KeyError, TypeError, ValueError):  # as torch may have it one day
        return str(error), 1
    return f"rank {rank}: {message}", exit_code
