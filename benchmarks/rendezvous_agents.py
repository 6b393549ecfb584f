"""The agents of ``rendezvous.py``: threads of some processes, forked from this one, all told to go at the same moment.

    python -m benchmarks.rendezvous_agents KIND    # what the runner starts; KIND is "ours" or "torch"

One line of JSON in is one round: ``{"port": ..., "nodes": ..., "hosts": ..., "run": ...}``; one line out is what it
took. Each agent's handler is made, and connects; when all are, all go. What went over their connections is what the
kernel has counted on their sockets, so nothing stands between agents and server.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import HOST, tie_to_parent

__all__ = ["OURS", "THEIRS", "main"]

OURS, THEIRS = "ours", "torch"
ROUND_S = 60.0
AFTER_S = 0.05
"""How long after the last agent is in its round everything is counted: what is said last has arrived by then."""

SWITCH_S = 0.1
"""How long a thread may keep the interpreter that others wait for. Agents in processes of their own do not wait for
each other; here each of many that do would be woken every 5 ms, which alone keeps two cores busy."""

_TCP_INFO_SIZE = 256
_COUNTS = struct.Struct("QQIIIIII")  # bytes acknowledged and received, segments out and in, ..., those with data
_COUNTS_AT = 120

Joiner = Callable[[], Any]


def _ours(port: int, nodes: int, run: str) -> Joiner:
    from rallypoint.rendezvous.coordinated_store import create_coordinated_handler
    from rallypoint.rendezvous.handler import RendezvousParameters

    parameters = RendezvousParameters(
        "rallypoint", f"{HOST}:{port}", run, nodes, nodes, local_addr=HOST, is_host="false", read_timeout=60
    )
    handler = create_coordinated_handler(parameters)
    handler.expect_workers("default", 1)
    return handler.next_rendezvous


def _torch(port: int, nodes: int, run: str) -> Joiner:
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    parameters = RendezvousParameters(
        "c10d", f"{HOST}:{port}", run, nodes, nodes, local_addr=HOST, is_host="false", read_timeout=60
    )
    backend, store = create_backend(parameters)
    return create_handler(store, backend, parameters).next_rendezvous


MAKERS: dict[str, Callable[[int, int, str], Joiner]] = {OURS: _ours, THEIRS: _torch}


def _carried() -> tuple[int, int]:
    """Give the messages and bytes that this process' connections have carried, both ways.

    A message is a segment with data: on loopback a send that is not huge is one.
    """
    messages = carried = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as one:
            if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
                continue
            found = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
            sent, received, _, _, _, _, data_in, data_out = _COUNTS.unpack_from(found, _COUNTS_AT)
            messages += data_in + data_out
            carried += sent + received
    return messages, carried


def _say(out: int, **what: object) -> None:
    os.write(out, json.dumps(what).encode() + b"\n")  # short enough to be written in one piece


def _be_host(make: Callable[[], Joiner], agents: int, go: int, end: int, out: int) -> None:
    """Have some agents, a thread each, connect, then join, then count what they have sent and received."""
    joins = [make() for _ in range(agents)]
    started = threading.Barrier(agents + 1)
    going = threading.Event()

    def be_agent(join: Joiner) -> None:
        started.wait()
        going.wait()
        try:
            info = join()
            _say(out, at=time.monotonic_ns(), rank=info.rank, size=info.world_size)
        except Exception as error:  # noqa: BLE001 - told to the runner
            _say(out, error=repr(error)[:2000])

    for join in joins:
        threading.Thread(target=be_agent, args=(join,), daemon=True).start()
    started.wait()
    _say(out, ready=True)
    os.read(go, 1)
    messages, carried = _carried()
    cpu_s = time.process_time()
    going.set()
    os.read(end, 1)
    now_messages, now_carried = _carried()
    _say(out, messages=now_messages - messages, bytes=now_carried - carried, cpu_s=time.process_time() - cpu_s)


class _Crowd:
    """All agents of one round."""

    def __init__(self, make: Callable[[], Joiner], count: int, hosts: int) -> None:
        self._count = count
        hosts = min(hosts, count)
        self._go, self._end, (self._in, out) = os.pipe(), os.pipe(), os.pipe()
        self._rest = b""
        self._until = time.monotonic() + ROUND_S
        self.pids: list[int] = []
        for host in range(hosts):
            agents = count // hosts + (host < count % hosts)
            pid = os.fork()
            if not pid:
                try:
                    tie_to_parent()
                    os.close(self._go[1])
                    os.close(self._end[1])
                    _be_host(make, agents, self._go[0], self._end[0], out)
                except BaseException as error:  # noqa: BLE001 - told to the runner
                    _say(out, error=repr(error)[:2000])
                finally:
                    os._exit(0)
            self.pids.append(pid)
        os.close(out)

    def _hear(self, count: int, what: str) -> list[dict[str, Any]]:
        """Give so many messages; ``what`` says what has been done by whoever sends them."""
        heard: list[dict[str, Any]] = []
        while len(heard) < count:
            ready, _, _ = select.select([self._in], [], [], max(0.0, self._until - time.monotonic()))
            data = os.read(self._in, 1 << 16) if ready else b""
            if not data:
                raise RuntimeError(f"{len(heard)} of {count} {what} within {ROUND_S:g} s")
            *lines, self._rest = (self._rest + data).split(b"\n")
            heard += [json.loads(line) for line in lines]
            for one in heard:
                if "error" in one:
                    raise RuntimeError(one["error"])
        return heard

    def run(self) -> dict[str, Any]:
        """Have them all join."""
        self._hear(len(self.pids), "processes were ready")
        began = time.monotonic_ns()
        os.close(self._go[1])
        entered = self._hear(self._count, "agents were in their round")
        ranks = sorted(one["rank"] for one in entered)
        if ranks != list(range(self._count)) or {one["size"] for one in entered} != {self._count}:
            raise RuntimeError(f"{self._count} agents have the ranks {ranks}")
        time.sleep(AFTER_S)
        os.close(self._end[1])
        counted = self._hear(len(self.pids), "processes had counted")
        return {
            "ms": (max(one["at"] for one in entered) - began) / 1e6,
            **{name: sum(one[name] for one in counted) for name in ("messages", "bytes", "cpu_s")},
        }

    def close(self) -> None:
        """End them all."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        for fd in (self._go[0], self._end[0], self._in, self._go[1], self._end[1]):
            with contextlib.suppress(OSError):
                os.close(fd)


def main() -> None:
    """Run rounds as they are asked for on the standard input."""
    warnings.simplefilter("ignore")
    kind = sys.argv[1]
    if kind == THEIRS:
        import torch.distributed.elastic.rendezvous.c10d_rendezvous_backend
        import torch.distributed.elastic.rendezvous.dynamic_rendezvous  # noqa: F401 - once for all agents
    else:
        import rallypoint.rendezvous.coordinated_store
        import rallypoint.store.tcp  # noqa: F401 - as above
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        crowd = _Crowd(
            lambda asked=asked: MAKERS[kind](asked["port"], asked["nodes"], asked["run"]),
            asked["nodes"],
            asked["hosts"],
        )
        try:
            told = crowd.run()
        except (RuntimeError, OSError) as error:
            told = {"error": str(error)}
        finally:
            crowd.close()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
