"""The verbs as a c10d peer means them: what is done, and the bytes that it is sent.

Rules:

- Each method takes ``(peer, request)``, makes its replies, and gives how many bytes of them the requester gets.
- What c10d cannot say closes the connection: a refusal is raised, and nothing has changed.
- Order of replies within one request: first those to peers that it releases (the requester too, if it waits), key by
  key as the request names them and in the order of their registration, then the requester's own.

What this file does not know: connections, what time it is, the session dialect.

Source: behaviour observed on a torch 2.13.0 server, see ``tests/support/vectors.jsonl``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from rallypoint.protocol.codec import I64, U32, U64, Request, RequestError
from rallypoint.protocol.spec import CANCELLED, GO_ON, NOT_READY, READY, CloseReason, Verb
from rallypoint.server.ground import COPIED_SIZE_MAX, Ground
from rallypoint.server.vocabulary import Reply

__all__ = ["C10dVerbs", "Handler"]

Handler: TypeAlias = Callable[[int, Request], int]
"""``(peer, request)`` -> bytes of replies to that peer."""


class C10dVerbs:
    """The handlers of one server.

    Args:
        ground: what they work on.
        validated: called with a peer that has sent VALIDATE.

    Attributes:
        handlers: by verb.
    """

    def __init__(self, ground: Ground, validated: Callable[[int], None]) -> None:
        self._ground = ground
        self._keyspace = ground.keyspace
        self._validated = validated
        self.handlers: tuple[Handler, ...] = tuple(getattr(self, f"_{verb.name.lower()}") for verb in Verb)

    def _validate(self, peer: int, request: Request) -> int:  # noqa: ARG002 - the reader has looked at it
        self._validated(peer)
        return 0

    def _set(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no reply
        _, key, value = request
        if self._keyspace.set(key, value):
            self._ground.created(key)
        return 0

    def _compare_set(self, peer: int, request: Request) -> int:
        _, key, expected, desired = request
        reply, is_new = self._keyspace.compare_set(key, expected, desired)
        if is_new:
            self._ground.created(key)
        return self._reply_value(peer, reply)

    def _get(self, peer: int, request: Request) -> int:
        return self._reply_value(peer, self._keyspace.get(request[1]) or b"")

    def _add(self, peer: int, request: Request) -> int:
        _, key, delta = request
        total, is_new = self._keyspace.add(key, delta)
        if is_new:
            self._ground.created(key)
        return self._reply(peer, I64.pack(total))

    def _check(self, peer: int, request: Request) -> int:
        return self._reply(peer, NOT_READY if self._keyspace.missing(request[1]) else READY)

    def _wait(self, peer: int, request: Request) -> int:
        ground = self._ground
        ground.abandon(peer)
        names = dict.fromkeys(request[1])
        missing = self._keyspace.missing(names)
        if missing:
            total = ground.names_held + len(names)
            if total > ground.limits.waited_names_max:
                detail = f"all peers would wait for {total} names, the limit is {ground.limits.waited_names_max}"
                raise RequestError(CloseReason.TOO_MANY_WAITED, detail)
            ground.waiters.wait(peer, names, missing, ground.now)
            return 0
        return self._reply(peer, GO_ON)

    def _getnumkeys(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no fields
        return self._reply(peer, I64.pack(len(self._keyspace)))

    def _delete_key(self, peer: int, request: Request) -> int:
        return self._reply(peer, I64.pack(self._ground.delete(request[1])))

    def _append(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no reply
        if self._keyspace.append(request[1], request[2]):
            self._ground.created(request[1])
        return 0

    def _multi_get(self, peer: int, request: Request) -> int:
        get = self._keyspace.get
        effects = self._ground.effects
        produced = 0
        copied: list[bytes] = []
        for key in request[1]:
            value = get(key) or b""
            copied.append(U64.pack(len(value)))
            produced += 8 + len(value)
            if len(value) <= COPIED_SIZE_MAX:
                copied.append(value)
            else:
                effects += (Reply(peer, b"".join(copied)), Reply(peer, value))
                copied = []
        if copied:
            effects.append(Reply(peer, b"".join(copied)))
        return produced

    def _multi_set(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no reply
        for key in self._keyspace.multi_set(request[1]):
            self._ground.created(key)
        return 0

    def _cancel_wait(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no fields
        self._ground.abandon(peer)
        return self._reply(peer, CANCELLED)

    def _ping(self, peer: int, request: Request) -> int:
        return self._reply(peer, U32.pack(request[1]))

    def _queue_push(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no reply
        self._ground.push(request[1], request[2])
        return 0

    def _queue_pop(self, peer: int, request: Request) -> int:
        name = request[1]
        self._ground.waiters.popped(peer, name)
        length, item = self._ground.pop(name)
        self._reply(peer, I64.pack(length))
        return 8 if item is None else 8 + self._reply_value(peer, item)

    def _queue_len(self, peer: int, request: Request) -> int:
        return self._reply(peer, I64.pack(self._keyspace.queue_length(request[1])))

    def _list_keys(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no fields
        return self._reply(peer, self._ground.listing())

    def _barrier(self, peer: int, request: Request) -> int:
        _, key, world_size = request
        ground = self._ground
        ground.abandon(peer)
        count = ground.arrive(key)
        if count < world_size:
            ground.waiters.wait_barrier(peer, key, world_size, ground.now)
            return 0
        return self._reply(peer, GO_ON)

    def _reply(self, peer: int, data: bytes) -> int:
        self._ground.effects.append(Reply(peer, data))
        return len(data)

    def _reply_value(self, peer: int, value: bytes) -> int:
        size = len(value)
        if size <= COPIED_SIZE_MAX:
            self._ground.effects.append(Reply(peer, U64.pack(size) + value))
        else:
            self._ground.effects += (Reply(peer, U64.pack(size)), Reply(peer, value))
        return 8 + size
