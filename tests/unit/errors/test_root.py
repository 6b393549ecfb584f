from __future__ import annotations

import copy
import errno
import multiprocessing
from multiprocessing.connection import Connection

import pytest

from rallypoint import errors
from rallypoint.types import Endpoint

ENDPOINT = Endpoint("127.0.0.1", 29400)

SAMPLES: list[errors.DistError] = [
    errors.StoreTimeoutError("s", keys=["a", "b"], missing=["b"], waited_s=1.5, endpoint=ENDPOINT),
    errors.WorkersMissingError("w", arrived=1, expected=2, waited_s=1.0, endpoint=ENDPOINT),
    errors.BarrierTimeoutError("b", missing=["rank 3"], arrived=3, expected=4, waited_s=2.0),
    errors.BarrierBrokenError("b", gone=["rank 3"], expected=4, waited_s=2.0),
    errors.DuplicateMemberError("d", member="rank 3"),
    errors.RefusedError("r", reason="store_full", endpoint=ENDPOINT),
    errors.LeaseLostError("l", lease=5),
    errors.LockTimeoutError("t", name="lock", holder="host 1", waited_s=2.0),
    errors.NotANumberError("n", key="count"),
    errors.CorruptStoreError("c", path="/tmp/store", offset=12),
    errors.ForkedStoreError("f", owner_pid=7),
    errors.AccessDeniedError("a", endpoint=ENDPOINT),
    errors.BindError("i", endpoint=ENDPOINT, errno=errno.EADDRINUSE),
    errors.ConnectTimeoutError("t", endpoint=ENDPOINT, waited_s=1.0, attempts=3),
    errors.ReplyTimeoutError("r", endpoint=ENDPOINT, waited_s=1.0),
    errors.AuthenticationError("u", endpoint=ENDPOINT),
    errors.ConnectionLostError("l", endpoint=ENDPOINT),
    errors.SessionLostError("l", endpoint=ENDPOINT),
    errors.UnreachableError("u", endpoint=ENDPOINT, waited_s=1.0, unreachable_s=2.0),
    errors.RendezvousClosedError("c", outcome="succeeded"),
    errors.RendezvousTimeoutError("t", waited_s=1.0, arrived=1, expected=2),
    errors.SignalException("s", 15),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_the_text_is_the_sentence_alone(error: errors.DistError) -> None:
    assert str(error) == error.args[0]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_a_copy_carries_the_data(error: errors.DistError) -> None:
    twin = copy.copy(error)
    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
    assert getattr(twin, "errno", None) == getattr(error, "errno", None)


def _send_errors(pipe: Connection) -> None:
    pipe.send(SAMPLES)
    pipe.close()


def test_errors_cross_from_a_child_process() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send_errors, args=(theirs,))
    child.start()
    theirs.close()
    received = ours.recv()
    child.join()
    ours.close()
    assert [(type(error), vars(error)) for error in received] == [(type(error), vars(error)) for error in SAMPLES]
