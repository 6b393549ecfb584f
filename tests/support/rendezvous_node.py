"""One node of a run as a process of its own: it meets, says so on stdout, hears the news, meets again.

``python -m tests.support.rendezvous_node '<JSON of NodeOptions>'`` prints one JSON line for each thing that happens,
and takes orders from stdin, one word a line: ``fail``, ``succeed``, ``leave``, ``close``. Ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any

__all__ = ["NodeOptions", "NodeProcess"]

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 60.0


@dataclass(frozen=True)
class NodeOptions:
    """How a node is started.

    Attributes:
        name: its address.
        store: ``tcp:<port>``, ``legacy:<port>`` (torch's older server), ``torch:<port>`` (with torch's client) or
            ``file:<path>``; or ``coordinated:<port>``, to have a coordinator on the store there.
        least: the fewest nodes.
        most: the most.
        interval_s: the keep-alive interval.
        attempts: so many intervals of silence are too many.
        last_call_s: the last call.
        skew_s: how far its clocks are ahead of the others', wall clock and monotonic clock.
        tells_spare: say so when it stands by for the first time.
        more: further options of a rendezvous through a coordinator.
    """

    name: str
    store: str
    least: int
    most: int
    interval_s: float = 0.5
    attempts: int = 6
    last_call_s: float = 0.2
    skew_s: float = 0.0
    tells_spare: bool = False
    more: dict[str, Any] = field(default_factory=dict)


class NodeProcess:
    """A node, seen from the test: what it said, and what can be done to it."""

    def __init__(self, options: NodeOptions) -> None:
        self.options = options
        self._said: Queue[dict[str, Any] | None] = Queue()
        # A skewed clock is Python's only: the compiled client would go on with the kernel's.
        twin = {"RALLYPOINT_PURE": "1"} if options.skew_s else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.rendezvous_node", json.dumps(asdict(options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **twin, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def expect(self, *kinds: str) -> dict[str, Any]:
        """Give the next thing that the node says; it must be of one of these kinds."""
        kind = " or ".join(kinds)
        try:
            said = self._said.get(timeout=PATIENCE_S)
        except Empty:
            raise AssertionError(f"{self.options.name} said nothing for {PATIENCE_S} s, expected {kind}") from None
        assert said is not None, f"{self.options.name} has ended, expected {kind}"
        assert said["kind"] in kinds, f"{self.options.name} said {said}, expected {kind}"
        return said

    def has_said_something(self) -> bool:
        return not self._said.empty()

    def says_nothing_for(self, duration_s: float) -> None:
        try:
            said = self._said.get(timeout=duration_s)
        except Empty:
            return
        raise AssertionError(f"{self.options.name} said {said}")

    def order(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def send(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self._process.wait(PATIENCE_S)

    def wait(self) -> int:
        return self._process.wait(PATIENCE_S)

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))
        self._said.put(None)


def main(options: NodeOptions) -> None:
    _skew_clocks(options.skew_s)
    if options.tells_spare:
        _tell_spare()
    from rallypoint.errors import RendezvousClosedError, RendezvousGracefulExitError
    from rallypoint.rendezvous.handler import RoundStatus

    kind, _, place = options.store.partition(":")
    handler = _coordinated(options, place) if kind == "coordinated" else _dynamic(options)
    orders: Queue[str] = Queue()
    threading.Thread(target=_take_orders, args=(orders,), daemon=True).start()
    while True:
        began = time.monotonic()
        try:
            info = handler.next_rendezvous()
        except (RendezvousClosedError, RendezvousGracefulExitError) as error:
            _say("stopped", error=type(error).__name__, why=str(error))
            break
        where = info.bootstrap_store_info
        _say(
            "round",
            round=info.round,
            rank=info.rank,
            world=info.world_size,
            master=[where.master_addr, where.master_port],
            seconds=time.monotonic() - began,
            **_share_keys(info),
        )
        news = handler.check_round()
        while news.status is RoundStatus.CURRENT:
            _obey(handler, orders)
            news = handler.wait_for_news(0.02)
        _say(news.status.value, why=news.why, outcome=news.outcome)
        if news.status is RoundStatus.CLOSED:
            break
    handler.shutdown()


def _dynamic(options: NodeOptions) -> Any:
    from rallypoint.rendezvous.c10d import C10dRendezvousBackend
    from rallypoint.rendezvous.dynamic import DynamicRendezvousHandler, RendezvousTimeout

    store = _open_store(options.store)
    return DynamicRendezvousHandler.from_backend(
        "run",
        store,
        C10dRendezvousBackend(store, "run"),
        options.least,
        options.most,
        options.name,
        RendezvousTimeout(join=PATIENCE_S, last_call=options.last_call_s),
        options.interval_s,
        options.attempts,
    )


def _coordinated(options: NodeOptions, port: str) -> Any:
    from rallypoint.rendezvous.handler import RendezvousParameters
    from rallypoint.rendezvous.registry import get_rendezvous_handler

    return get_rendezvous_handler(
        RendezvousParameters(
            "rallypoint",
            f"127.0.0.1:{port}",
            "run",
            options.least,
            options.most,
            options.name,
            is_host=False,
            join_timeout=PATIENCE_S,
            last_call_timeout=options.last_call_s,
            keep_alive_interval=options.interval_s,
            keep_alive_max_attempt=options.attempts,
            **options.more,
        )
    )


def _open_store(where: str) -> Any:
    kind, _, place = where.partition(":")
    if kind == "file":
        from rallypoint.store.file import FileStore

        return FileStore(place)
    if kind == "torch":
        from tests.support.torch_peers import torch_client

        return torch_client(int(place), PATIENCE_S)
    from rallypoint.store.tcp import TCPStore

    return TCPStore("127.0.0.1", int(place), wait_for_workers=False, timeout=PATIENCE_S, use_libuv=kind != "legacy")


def _share_keys(info: Any) -> dict[str, Any]:
    """Do what workers do: meet in the workers' store, and tell what was in there before."""
    from rallypoint.store.tcp import TCPStore

    # Node names are not host names here: every node is on this machine.
    with TCPStore("127.0.0.1", info.bootstrap_store_info.master_port, wait_for_workers=False, timeout=20) as workers:
        old = [key for key in workers.list_keys() if not key.startswith(f"round{info.round}/")]
        workers.set(f"round{info.round}/{info.rank}", "here")
        workers.wait([f"round{info.round}/{rank}" for rank in range(info.world_size)])
    old_agent_key = info.store.check(["mark"])
    info.store.add("marks", 1)
    if info.store.add("marks", 0) == info.world_size:
        info.store.set("mark", "")
    return {"old_keys": old, "old_agent_key": old_agent_key}


def _tell_spare() -> None:
    from rallypoint.events import Event, subscribe, unsubscribe

    def look(event: Event) -> None:
        if event.message.endswith("standing by"):
            unsubscribe(look)
            _say("standing by")

    subscribe(look)


def _skew_clocks(skew_s: float) -> None:
    wall, monotonic = time.time, time.monotonic
    time.time = lambda: wall() + skew_s
    time.monotonic = lambda: monotonic() + skew_s


def _take_orders(orders: Queue[str]) -> None:
    for line in sys.stdin:
        orders.put(line.strip())
    os._exit(3)


def _obey(handler: Any, orders: Queue[str]) -> None:
    if orders.empty():
        return
    order = orders.get()
    if order == "fail":
        handler.report_failure("told to fail", 7, final=False)
    elif order == "succeed":
        handler.report_success()
    elif order == "close":
        handler.set_closed()
    elif order == "leave":
        handler.leave("told to leave")
        _say("left")
        os._exit(0)


def _say(kind: str, **fields: Any) -> None:
    print(json.dumps({"kind": kind, **fields}), flush=True)  # noqa: T201 - the protocol with the test


if __name__ == "__main__":
    main(NodeOptions(**json.loads(sys.argv[1])))
