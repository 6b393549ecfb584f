"""The engine once more, as dumb as possible: lists, and a look at everything after every change.

It takes whole requests instead of bytes, and says for each peer which bytes it should have got and whether it should be
closed. Where it and the engine differ, one of them is wrong.
"""

from __future__ import annotations

import re

from rallypoint.protocol.codec import Request
from rallypoint.protocol.spec import Verb

__all__ = ["EngineTwin"]


class RefusedError(Exception):
    pass


class EngineTwin:
    def __init__(self, output_size_max: int) -> None:
        self.output_size_max = output_size_max
        self.values: dict[bytes, bytes] = {}
        self.queues: dict[bytes, list[bytes]] = {}
        self.waiting: list[tuple[int, str, list[bytes], int]] = []  # peer, "names" or "barrier", keys, world size
        self.calls: dict[int, bytes] = {}
        self.got: dict[int, bytes] = {}
        self.open: set[int] = set()
        self.paused: set[int] = set()
        self.pending: dict[int, list[Request]] = {}

    def connect(self, peer: int) -> None:
        self.got[peer] = b""
        self.pending[peer] = []
        self.open.add(peer)

    def receive(self, peer: int, request: Request) -> None:
        self.pending[peer].append(request)

    def resume(self, peer: int) -> None:
        self.paused.discard(peer)

    def leave(self, peer: int) -> None:
        self.open.discard(peer)
        self.paused.discard(peer)
        self.abandon(peer)

    def serve(self, peer: int) -> None:
        before = len(self.got[peer])
        while self.pending[peer] and peer in self.open and peer not in self.paused:
            released = len(self.got[peer])
            try:
                reply = self.apply(peer, self.pending[peer].pop(0))
            except RefusedError:
                self.leave(peer)
                return
            # What a request releases is not counted against the peer that it releases, itself included.
            before += len(self.got[peer]) - released
            self.got[peer] += reply
            if len(self.got[peer]) - before > self.output_size_max:
                self.paused.add(peer)

    # --- what is there -----------------------------------------------------------------------------------

    def has(self, name: bytes) -> bool:
        return name in self.values or bool(self.queues.get(name))

    def number(self, key: bytes) -> int:
        found = re.match(rb"\s*[+-]?[0-9]+", self.values.get(key, b"0"))
        if found is None or not -(2**63) <= int(found.group()) < 2**63:
            raise RefusedError
        return int(found.group())

    def put(self, key: bytes, value: bytes) -> None:
        is_new = key not in self.values
        self.values[key] = value
        if is_new:
            for waiter in list(self.waiting):
                self.release_if_complete(waiter, key)

    def count_up(self, key: bytes, delta: int) -> int:
        total = (self.number(key) + delta + 2**63) % 2**64 - 2**63
        self.put(key, str(total).encode())
        return total

    # --- who waits ---------------------------------------------------------------------------------------

    def release_if_complete(self, waiter: tuple[int, str, list[bytes], int], name: bytes) -> bool:
        peer, kind, names, _ = waiter
        if kind == "names" and name in names and all(self.has(each) for each in names):
            self.waiting.remove(waiter)
            self.got[peer] += b"\x00"
            return True
        return False

    def call(self, name: bytes) -> None:
        for waiter in list(self.waiting):
            if self.release_if_complete(waiter, name):
                self.calls[waiter[0]] = name
                return

    def abandon(self, peer: int) -> None:
        self.waiting = [waiter for waiter in self.waiting if waiter[0] != peer]
        name = self.calls.pop(peer, None)
        if name is not None and self.queues.get(name):
            self.call(name)

    # --- verbs -------------------------------------------------------------------------------------------

    def apply(self, peer: int, request: Request) -> bytes:
        verb, *fields = request
        if verb not in Verb.__members__.values() or verb == Verb.VALIDATE:
            raise RefusedError
        reply = getattr(self, Verb(verb).name.lower())(peer, *fields)
        return reply or b""

    def set(self, peer: int, key: bytes, value: bytes) -> None:
        self.put(key, value)

    def append(self, peer: int, key: bytes, value: bytes) -> None:
        self.put(key, self.values.get(key, b"") + value)

    def multi_set(self, peer: int, pairs: list[tuple[bytes, bytes]]) -> None:
        for key, value in pairs:
            self.put(key, value)

    def compare_set(self, peer: int, key: bytes, expected: bytes, desired: bytes) -> bytes:
        if self.values.get(key, b"") == expected:
            self.put(key, desired)
            return stored(desired)
        return stored(self.values.get(key, expected))

    def add(self, peer: int, key: bytes, delta: int) -> bytes:
        return number(self.count_up(key, delta))

    def get(self, peer: int, key: bytes) -> bytes:
        return stored(self.values.get(key, b""))

    def multi_get(self, peer: int, keys: list[bytes]) -> bytes:
        return b"".join(self.get(peer, key) for key in keys)

    def delete_key(self, peer: int, key: bytes) -> bytes:
        return number(self.values.pop(key, None) is not None)

    def ping(self, peer: int, nonce: int) -> bytes:
        return nonce.to_bytes(4, "little")

    def check(self, peer: int, names: list[bytes]) -> bytes:
        return b"\x00" if all(self.has(name) for name in names) else b"\x01"

    def wait(self, peer: int, names: list[bytes]) -> bytes | None:
        self.abandon(peer)
        if all(self.has(name) for name in names):
            return b"\x00"
        self.waiting.append((peer, "names", names, 0))
        return None

    def cancel_wait(self, peer: int) -> bytes:
        self.abandon(peer)
        return b"\x01"

    def getnumkeys(self, peer: int) -> bytes:
        return number(len(self.values))

    def list_keys(self, peer: int) -> bytes:
        return number(len(self.values)) + b"".join(stored(key) for key in self.values)

    def queue_push(self, peer: int, name: bytes, item: bytes) -> None:
        self.queues.setdefault(name, []).append(item)
        self.call(name)

    def queue_pop(self, peer: int, name: bytes) -> bytes:
        if self.calls.get(peer) == name:
            del self.calls[peer]
        items = self.queues.get(name, [])
        return number(len(items)) + (stored(items.pop(0)) if items else b"")

    def queue_len(self, peer: int, name: bytes) -> bytes:
        return number(len(self.queues.get(name, [])))

    def barrier(self, peer: int, key: bytes, world_size: int) -> bytes | None:
        self.abandon(peer)
        count = self.count_up(key, 1)
        for waiter in list(self.waiting):
            if waiter[1] == "barrier" and waiter[2] == [key] and count >= waiter[3]:
                self.waiting.remove(waiter)
                self.got[waiter[0]] += b"\x00"
        if count >= world_size:
            return b"\x00"
        self.waiting.append((peer, "barrier", [key], world_size))
        return None


def number(value: int) -> bytes:
    return value.to_bytes(8, "little", signed=True)


def stored(text: bytes) -> bytes:
    return number(len(text)) + text
