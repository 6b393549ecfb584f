"""The rendezvous state between torch and us: our backend on torch's stores, torch's handler on our backend, and
neither side taking the other's state for its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.torch_peers import MEETINGS, meet, name_of, torch_client, torch_dist, torch_server

from rallypoint.errors import RendezvousConnectionError, RendezvousStateError
from rallypoint.rendezvous.c10d import C10dRendezvousBackend
from rallypoint.store.tcp import TCPStore

PATIENCE_S = 60.0


def must(answer: tuple[bytes, object, bool] | None) -> tuple[bytes, object, bool]:
    assert answer is not None
    return answer


def check_swaps(one: C10dRendezvousBackend, other: C10dRendezvousBackend) -> None:
    """Go once through all that a backend promises, between two nodes."""
    assert one.get_state() is None
    assert one.set_state(b"early", b"no token") is None
    _, first, has_set = must(one.set_state(b"\x00one"))
    assert has_set
    assert other.get_state() == (b"\x00one", first)
    assert other.set_state(b"late") == (b"\x00one", first, False)
    _, second, has_set = must(other.set_state(b"two", first))
    assert has_set
    assert one.set_state(b"two", first) == (b"two", second, False)
    assert one.set_state(b"again", b"no token") == (b"two", second, False)
    one.wait_for_change(first, PATIENCE_S)
    one.wait_for_change(second, 0.05)


def check_waking(one: C10dRendezvousBackend, other: C10dRendezvousBackend) -> None:
    _, token, _ = must(one.set_state(b"one"))
    waiter = threading.Thread(target=one.wait_for_change, args=(token, 10 * PATIENCE_S), daemon=True)
    waiter.start()
    other.set_state(b"two", token)
    waiter.join(PATIENCE_S)
    assert not waiter.is_alive()


@pytest.mark.parametrize("meeting", MEETINGS, ids=name_of)
@pytest.mark.parametrize("check", [check_swaps, check_waking])
def test_state_is_swapped_over_any_pair_of_client_and_server(
    meeting: tuple[str, str], check: Callable[[C10dRendezvousBackend, C10dRendezvousBackend], None]
) -> None:
    with meet(*meeting) as found:
        check(*(C10dRendezvousBackend(found.connect(), "run") for _ in range(2)))


@pytest.mark.parametrize("kind", ["file", "hash", "prefix"])
def test_state_is_swapped_over_torchs_other_stores(kind: str, tmp_path: Path) -> None:
    stores: dict[str, Callable[[], Any]] = {
        "file": lambda: torch_dist.FileStore(str(tmp_path / "state"), 1),
        "hash": torch_dist.HashStore,
        "prefix": lambda: torch_dist.PrefixStore("a/b", torch_dist.HashStore()),
    }
    store = stores[kind]()
    check_swaps(C10dRendezvousBackend(store, "run"), C10dRendezvousBackend(store, "run"))


def test_a_torch_store_whose_server_is_gone_is_a_connection_error() -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    backend = C10dRendezvousBackend(torch_client(server.port), "run")
    assert backend.get_state() is None
    server.close()
    with pytest.raises(RendezvousConnectionError) as caught:
        backend.get_state()
    assert isinstance(caught.value.__cause__, RuntimeError)


# --- torch's own handler ---------------------------------------------------------------------------------


def torch_rendezvous(store: Any, backend: Any, nodes: int) -> Any:
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    params = RendezvousParameters("c10d", "", "run", nodes, nodes, "127.0.0.1", join_timeout=60, last_call_timeout=1)
    return create_handler(store, backend, params)


def torch_backend(store: Any) -> Any:
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend as TorchsBackend

    return TorchsBackend(store, "run")


@pytest.fixture
def server() -> Iterator[TCPStore]:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as hosted:
        yield hosted


def test_torchs_handler_meets_over_our_backend(server: TCPStore) -> None:
    handlers = [torch_rendezvous(torch_client(server.port), C10dRendezvousBackend(server, "run"), 2) for _ in range(2)]
    found: list[tuple[int, int, int]] = []

    def join(handler: Any) -> None:
        info = handler.next_rendezvous()
        found.append((info.rank, info.world_size, info.bootstrap_store_info.master_port))

    threads = [threading.Thread(target=join, args=(handler,), daemon=True) for handler in handlers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(one[:2] for one in found) == [(0, 2), (1, 2)]
    assert len({one[2] for one in found}) == 1
    assert [handler.shutdown() for handler in handlers] == [True, True]


def test_the_state_of_a_torch_agent_is_refused_and_left_alone(server: TCPStore) -> None:
    store = torch_client(server.port)
    handler = torch_rendezvous(store, torch_backend(store), 1)
    handler.next_rendezvous()
    theirs = server.get("torch.rendezvous.run")
    backend = C10dRendezvousBackend(server, "run")
    for call in (backend.get_state, lambda: backend.set_state(b"x"), lambda: backend.set_state(b"x", b"junk")):
        with pytest.raises(RendezvousStateError, match=r"pickled state of a torch\.distributed\.elastic agent"):
            call()
    with pytest.raises(RendezvousStateError):
        backend.set_state(b"x", theirs)
    assert handler.shutdown()


def test_a_torch_agent_refuses_our_state_and_leaves_it_alone() -> None:
    from torch.distributed.elastic.rendezvous import RendezvousStateError as TorchsStateError

    store = torch_server()
    ours = C10dRendezvousBackend(store, "run")
    ours.set_state(b"{}")
    before = store.get("torch.rendezvous.run")
    handler = torch_rendezvous(store, torch_backend(store), 1)
    with pytest.raises(TorchsStateError):
        handler.next_rendezvous()
    assert store.get("torch.rendezvous.run") == before
