"""The rendezvous state in a key of a store that several agents reach.

The key is ``torch.rendezvous.<run id>``. Its value is the base64 text of a JSON object::

    {"schema": 1, "version": 7, "nonce": "9f0c…", "state": "<base64 of the caller's bytes>"}

``compare_set`` swaps whole values, and a store answers a swap with the value that it holds afterwards, not with a
verdict. Because every write carries a fresh random ``nonce``, no two writes are ever equal: the value found is ours
only if our swap happened, and a state that comes back later is another version all the same. So the whole value is
the token.

A torch agent keeps a pickle under the same key. It is recognised by its first byte and refused; nothing that is
read here is ever executed.

Who waits for a change waits for a key that the writer of the next version sets, ``rallypoint.changed/<run
id>/<version>``; the last ``_CHANGE_KEYS_KEPT`` of these stay in the store. Who misses one because it is gone already
waits for its own timeout, so nothing depends on them but speed.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

import msgspec

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.errors import (
    LocalProtocolError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStateError,
)
from rallypoint.events import emit
from rallypoint.net.url import without_secrets
from rallypoint.primitives.kind import has_sessions
from rallypoint.rendezvous.backend import POLL_INTERVAL_S, RendezvousBackend, Token
from rallypoint.rendezvous.c10d_store import DEFAULT_PORT, UNREACHABLE, open_tcp_store
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.store.base import Store
from rallypoint.store.file import FileStore
from rallypoint.types import Endpoint, as_bytes

__all__ = ["DEFAULT_PORT", "SCHEMA", "C10dRendezvousBackend", "create_backend"]

SCHEMA = 1
"""The form of the stored value that this version reads and writes."""

_FILE_TIMEOUT_S = 300.0
_PAUSE_MAX_S = 3600.0
_CHANGE_KEYS_KEPT = 16
_CORRUPT = "The state object is corrupt. See inner exception for details."
_PICKLE = b"\x80"  # every pickle of protocol 2 and later begins with it, no JSON text does
_NOBODYS = "-"  # never a stored value, because it is no base64
_TIMEOUT_WORDS = re.compile(r"time[d -]?\s?out", re.IGNORECASE)

Result = TypeVar("Result")


class _Envelope(msgspec.Struct, frozen=True):
    schema: int
    version: int
    nonce: str
    state: bytes  # base64 in the JSON text


def state_key_of(run_id: str) -> str:
    """Give the key of a run's state, which is torch's."""
    return f"torch.rendezvous.{run_id}"


class C10dRendezvousBackend(RendezvousBackend):
    """Keeps the state of a run in one key of a store.

    Args:
        store: any store that can ``compare_set``: ours, torch's, or a user's.
        run_id: the name of the run.
        announces: whether to set a key with each change, for those who wait for one; without, and on stores that
            cannot wait, waiting is polling.

    Raises:
        ValueError: if the run id is empty.

    Cost: one round trip a call; without sessions, announcing a change takes two more.

    Source: torch 2.13.0's class; the key is the same, the value is not.
    """

    def __init__(self, store: Store, run_id: str, *, announces: bool = True) -> None:
        if not run_id:
            raise ValueError("The run id must be a non-empty string.")
        self._store = store
        self._run_id = run_id
        self._announces = announces
        self._key = state_key_of(run_id)

    @property
    def name(self) -> str:
        """``c10d``."""
        return "c10d"

    @property
    def where(self) -> str:
        """See the base class."""
        host, port = getattr(self._store, "host", None), getattr(self._store, "port", None)
        return "the store" if host is None or port is None else f"the store at {Endpoint(host, port)}"

    def get_state(self) -> tuple[bytes, Token] | None:
        """See the base class."""
        if has_sessions(self._store):  # a swap would be kept for resuming, by a durable server on its disk
            entry = self._call(lambda: self._store.read(self._key))
            return None if entry is None else (self._decode(entry.value).state, entry.value)
        found = self._swap(_NOBODYS, _NOBODYS)  # gives the present value, or what was expected if there is none
        return None if found == _NOBODYS.encode() else (self._decode(found).state, found)

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        """See the base class."""
        version = 1
        expected = b""
        if token is not None:
            replaced = self._read_token(token)
            if replaced is None:
                present = self.get_state()
                return None if present is None else (*present, False)
            assert isinstance(token, bytes)
            expected, version = token, replaced.version + 1
        desired = base64.b64encode(msgspec.json.encode(_Envelope(SCHEMA, version, secrets.token_hex(16), state)))
        if self._announces and has_sessions(self._store):
            return self._swap_loudly(expected, desired, version, state)
        found = self._swap(expected.decode(), desired.decode())
        if found == desired:
            with suppress(RendezvousError):  # the swap has happened, whatever becomes of its announcement
                self._announce(version)
            return state, desired, True
        if found == expected:
            return None  # there is no value at all, and the store said back what we expected
        return self._decode(found).state, found, False

    def _swap_loudly(
        self, expected: bytes, desired: bytes, version: int, state: bytes
    ) -> tuple[bytes, Token, bool] | None:
        """Swap and announce in one round trip: a swap that is lost means that this version is there already."""
        found = as_bytes(self._call(lambda: self._send(expected, desired, version)))
        if found == desired:
            return state, desired, True
        try:
            present = None if found == expected else self._decode(found)
        except RendezvousStateError:
            self._take_back(version)
            raise
        if present is None or not present.version - _CHANGE_KEYS_KEPT < version <= present.version:
            self._take_back(version)  # nobody else would
        return None if present is None else (present.state, found, False)

    def _send(self, expected: bytes, desired: bytes, version: int) -> bytes:
        batch = self._store.pipeline()
        swap = batch.compare_set(self._key, expected, desired)
        batch.set(self._change_key(version), "1")
        if version > _CHANGE_KEYS_KEPT:
            batch.delete_key(self._change_key(version - _CHANGE_KEYS_KEPT))
        try:
            batch.flush()
        except (OSError, RuntimeError):
            if swap.error is not None:
                raise
        return swap.value

    def _take_back(self, version: int) -> None:
        self._call(lambda: self._store.delete_key(self._change_key(version)))

    def wait_for_change(self, token: Token | None, timeout_s: float) -> None:
        """See the base class; a change that is announced ends the wait at once."""
        if timeout_s <= 0:
            return
        seen = None if token is None else self._read_token(token)
        if token is None:
            awaited = self._key
        elif self._announces and seen is not None:
            awaited = self._change_key(seen.version + 1)
        else:
            super().wait_for_change(token, timeout_s)
            return
        try:
            self._store.wait([awaited], timedelta(seconds=min(max(timeout_s, 0.001), _PAUSE_MAX_S)))
        except NotImplementedError:
            SYSTEM_CLOCK.sleep(min(timeout_s, POLL_INTERVAL_S))
        except (OSError, RuntimeError) as error:
            if not (isinstance(error, TimeoutError) or _TIMEOUT_WORDS.search(str(error))):
                raise RendezvousConnectionError(UNREACHABLE) from error

    def _swap(self, expected: str, desired: str) -> bytes:
        return as_bytes(self._call(lambda: self._store.compare_set(self._key, expected, desired)))

    def _announce(self, version: int) -> None:
        if not self._announces:
            return
        self._call(lambda: self._store.set(self._change_key(version), "1"))
        if version > _CHANGE_KEYS_KEPT:
            self._call(lambda: self._store.delete_key(self._change_key(version - _CHANGE_KEYS_KEPT)))

    def _change_key(self, version: int) -> str:
        return f"rallypoint.changed/{self._run_id}/{version}"

    def _call(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except LocalProtocolError as error:
            raise RendezvousStateError(f"the state of run {self._run_id!r} cannot be stored: {error}") from error
        except (OSError, RuntimeError) as error:  # torch's own errors are RuntimeErrors
            raise RendezvousConnectionError(UNREACHABLE) from error

    def _read_token(self, token: Token) -> _Envelope | None:
        """Give the version that a token names, or ``None`` if it is no token of ours."""
        if not isinstance(token, bytes):
            return None
        try:
            return self._decode(token)
        except RendezvousStateError:
            return None

    def _decode(self, value: bytes) -> _Envelope:
        try:
            raw = base64.b64decode(value, validate=True)
            if raw.startswith(_PICKLE):
                raise RendezvousStateError(
                    f"the key {self._key!r} holds the pickled state of a torch.distributed.elastic agent, which is "
                    f"never loaded here: run rallypoint on all nodes of run {self._run_id!r}, or give this run a run "
                    "id of its own"
                )
            envelope = msgspec.json.decode(raw, type=_Envelope)
        except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RendezvousStateError(_CORRUPT) from error
        if envelope.schema != SCHEMA:
            raise RendezvousStateError(
                f"the key {self._key!r} holds a state of schema {envelope.schema}; this version of rallypoint reads "
                f"schema {SCHEMA}: run the same version on all nodes of run {self._run_id!r}"
            )
        return envelope


def create_backend(params: RendezvousParameters) -> tuple[C10dRendezvousBackend, Store]:
    """Reach, or start, the store that the agents of a run share, and keep the run's state in it.

    Options (``params.config``):

    - ``store_type``: ``tcp`` (default) or ``file``, in any case.
    - ``read_timeout``: how long to try to connect, and then to wait for a key, in seconds; default 60.
    - ``is_host``, tcp only: true: start the server here, or fail; false: only connect; absent: if the endpoint means
      this machine, try to start the server, and connect if the port is taken already.

    Args:
        params: for tcp the endpoint is ``host[:port]``, the port 29400 if none is written; 0 (the kernel chooses)
            is for one node alone, or for a host that tells the others ``store.port`` itself. For file it is the
            path of a file that all nodes see; one node alone may leave it out.

    Returns:
        The backend, and its store: ``store.host`` and ``store.port`` are where others reach it.

    Raises:
        ValueError: if an option or the endpoint is wrong.
        RendezvousConnectionError: if the store cannot be reached, or not be started.
        RendezvousError: if a temporary file cannot be made.

    Source: options, defaults and sentences as observed in torch 2.13.0.
    """
    store_type = str(params.get("store_type", "tcp")).strip().lower()
    if store_type not in {"tcp", "file"}:
        raise ValueError("Invalid store type given. Currently only supports file and tcp.")
    try:
        store, where, is_host = _create_file_store(params) if store_type == "file" else open_tcp_store(params)
    except RendezvousError as error:
        emit(
            "rendezvous.failed",
            f"the store of run {params.run_id!r} cannot be used: {error.__cause__ or error}",
            backend=params.backend,
            run_id=params.run_id,
            endpoint=without_secrets(params.endpoint),
        )
        raise
    emit(
        "rendezvous.connected",
        f"run {params.run_id!r} meets at {where}" + (", which this node hosts" if is_host else ""),
        backend=params.backend,
        run_id=params.run_id,
        endpoint=where,
        is_host=is_host,
    )
    # Every announcement would grow the file of a FileStore, and its readers poll anyhow.
    return C10dRendezvousBackend(store, params.run_id, announces=store_type == "tcp"), store


def _create_file_store(params: RendezvousParameters) -> tuple[Store, str, bool]:
    path = params.endpoint
    if not path:
        if params.max_nodes > 1:
            raise ValueError(
                f"a rendezvous of up to {params.max_nodes} nodes through a file needs its path as the endpoint: name "
                "a file on a file system that all nodes share"
            )
        try:
            descriptor, path = tempfile.mkstemp(prefix="rallypoint-")
        except OSError as error:
            raise RendezvousError(
                "The file creation for C10d store has failed. See inner exception for details."
            ) from error
        os.close(descriptor)
    try:
        store = FileStore(path)
        store.set_timeout(_FILE_TIMEOUT_S)
        store.num_keys()  # a path that cannot be opened shows here
    except (OSError, RuntimeError, ValueError) as error:
        raise RendezvousConnectionError(UNREACHABLE) from error
    return store, path, False
