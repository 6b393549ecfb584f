from __future__ import annotations

import base64
import pickle
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rallypoint import events
from rallypoint.errors import (
    ConnectionLostError,
    LocalProtocolError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStateError,
)
from rallypoint.rendezvous.c10d import C10dRendezvousBackend, create_backend
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.store.base import Store
from rallypoint.store.file import FileStore
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore
from rallypoint.store.tcp import TCPStore

KEY = "torch.rendezvous.run"
PATIENCE_S = 30.0
UNREACHABLE = r"^The connection to the C10d store has failed\. See inner exception for details\.$"


# --- the state -------------------------------------------------------------------------------------------


@pytest.fixture(params=["hash", "file", "prefix"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    makers: dict[str, Callable[[], Store]] = {
        "hash": HashStore,
        "file": lambda: FileStore(str(tmp_path / "state")),
        "prefix": lambda: PrefixStore("a/b", HashStore()),
    }
    made = makers[request.param]()
    yield made
    made.close()


@pytest.fixture
def backend(store: Store) -> C10dRendezvousBackend:
    return C10dRendezvousBackend(store, "run")


def must(answer: tuple[bytes, object, bool] | None) -> tuple[bytes, object, bool]:
    assert answer is not None
    return answer


def test_it_is_named_c10d_and_needs_a_run_id() -> None:
    assert C10dRendezvousBackend(HashStore(), "run").name == "c10d"
    with pytest.raises(ValueError, match="run id"):
        C10dRendezvousBackend(HashStore(), "")


def test_nothing_stored_is_none_and_stays_nothing(backend: C10dRendezvousBackend, store: Store) -> None:
    assert backend.get_state() is None
    assert not store.check([KEY])


def test_without_a_token_the_state_is_created_once(backend: C10dRendezvousBackend) -> None:
    state, token, has_set = must(backend.set_state(b"one"))
    assert (state, has_set) == (b"one", True)
    assert backend.get_state() == (b"one", token)
    assert backend.set_state(b"two") == (b"one", token, False)


def test_with_the_present_token_the_state_is_replaced(backend: C10dRendezvousBackend) -> None:
    _, first, _ = must(backend.set_state(b"one"))
    state, second, has_set = must(backend.set_state(b"two", first))
    assert (state, has_set) == (b"two", True)
    assert second != first
    assert backend.get_state() == (b"two", second)


def test_with_an_old_token_the_present_state_comes_back(backend: C10dRendezvousBackend) -> None:
    _, first, _ = must(backend.set_state(b"one"))
    _, second, _ = must(backend.set_state(b"two", first))
    assert backend.set_state(b"three", first) == (b"two", second, False)


def test_two_writers_of_equal_bytes_do_not_both_win(store: Store) -> None:
    mine, theirs = C10dRendezvousBackend(store, "run"), C10dRendezvousBackend(store, "run")
    _, token, _ = must(mine.set_state(b"start"))
    assert must(theirs.set_state(b"same", token))[2]
    assert not must(mine.set_state(b"same", token))[2]


def test_a_state_that_comes_back_is_another_version(backend: C10dRendezvousBackend) -> None:
    _, seen, _ = must(backend.set_state(b"a"))
    _, token, _ = must(backend.set_state(b"b", seen))
    _, again, _ = must(backend.set_state(b"a", token))
    assert again != seen
    assert not must(backend.set_state(b"c", seen))[2]


@pytest.mark.parametrize("token", [b"garbage", b"", b"-", 5, "text", object()])
def test_a_token_that_is_none_of_ours_counts_as_old(backend: C10dRendezvousBackend, token: object) -> None:
    assert backend.set_state(b"one", token) is None
    assert backend.get_state() is None
    _, present, _ = must(backend.set_state(b"one"))
    assert backend.set_state(b"two", token) == (b"one", present, False)


def test_a_good_token_for_a_state_that_is_gone_changes_nothing() -> None:
    store = HashStore()
    backend = C10dRendezvousBackend(store, "run")
    _, token, _ = must(backend.set_state(b"one"))
    store.delete_key(KEY)
    assert backend.set_state(b"two", token) is None
    assert backend.get_state() is None


def test_runs_do_not_see_each_other(store: Store) -> None:
    C10dRendezvousBackend(store, "run").set_state(b"one")
    assert C10dRendezvousBackend(store, "other").get_state() is None


def test_the_stored_value_is_json_with_a_schema_number(backend: C10dRendezvousBackend, store: Store) -> None:
    backend.set_state(b"\x00\xff")
    value = msgspec.json.decode(base64.b64decode(store.get(KEY), validate=True))
    assert (value["schema"], value["version"]) == (1, 1)
    assert base64.b64decode(value["state"]) == b"\x00\xff"


class Trap:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was loaded",))


def test_the_pickled_state_of_a_torch_agent_is_refused_and_never_loaded() -> None:
    store = HashStore()
    store.set(KEY, base64.b64encode(pickle.dumps(Trap())))
    backend = C10dRendezvousBackend(store, "run")
    for call in (backend.get_state, lambda: backend.set_state(b"x"), lambda: backend.set_state(b"x", b"junk")):
        with pytest.raises(RendezvousStateError, match=r"a torch\.distributed\.elastic agent.*run id of its own$"):
            call()


def encoded(**fields: Any) -> bytes:
    return base64.b64encode(msgspec.json.encode(fields))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"non_base64",
        b"abc",
        base64.b64encode(b"not json"),
        base64.b64encode(b"\xff\xfe"),
        encoded(schema=1),
        encoded(schema=1, version="1", nonce="n", state=""),
        encoded(schema=1, version=1, nonce="n", state="not base64"),
        base64.b64encode(b"[]"),
    ],
)
def test_a_value_that_is_no_state_is_an_error_with_its_cause(value: bytes) -> None:
    store = HashStore()
    store.set(KEY, value)
    with pytest.raises(RendezvousStateError, match=r"^The state object is corrupt\. See inner") as caught:
        C10dRendezvousBackend(store, "run").get_state()
    assert caught.value.__cause__ is not None


def test_a_state_of_another_schema_is_refused_with_both_numbers() -> None:
    store = HashStore()
    store.set(KEY, encoded(schema=2, version=1, nonce="n", state=""))
    with pytest.raises(RendezvousStateError, match=r"schema 2; this version of rallypoint reads schema 1"):
        C10dRendezvousBackend(store, "run").get_state()


class BrokenStore(Store):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def compare_set(self, *arguments: Any) -> bytes:
        raise self.error

    def wait(self, *arguments: Any) -> None:
        raise self.error


@pytest.mark.parametrize("error", [ConnectionLostError("gone"), OSError("gone"), RuntimeError("torch's own")])
def test_a_store_that_fails_is_a_connection_error(error: Exception) -> None:
    backend = C10dRendezvousBackend(BrokenStore(error), "run")
    for call in (backend.get_state, lambda: backend.set_state(b"x"), lambda: backend.wait_for_change(None, 5.0)):
        with pytest.raises(RendezvousConnectionError, match=UNREACHABLE) as caught:
            call()
        assert caught.value.__cause__ is error


def test_a_state_that_the_store_cannot_carry_is_a_state_error() -> None:
    backend = C10dRendezvousBackend(BrokenStore(LocalProtocolError("9000000 bytes")), "run")
    with pytest.raises(RendezvousStateError, match=r"'run' cannot be stored: 9000000 bytes"):
        backend.set_state(b"x")


# --- waiting for a change --------------------------------------------------------------------------------


def waiting(backend: C10dRendezvousBackend, token: object) -> threading.Thread:
    thread = threading.Thread(target=backend.wait_for_change, args=(token, 10 * PATIENCE_S), daemon=True)
    thread.start()
    return thread


def test_a_change_ends_the_wait() -> None:
    backend = C10dRendezvousBackend(HashStore(), "run")
    waiter = waiting(backend, None)
    _, token, _ = must(backend.set_state(b"one"))
    waiter.join(PATIENCE_S)
    assert not waiter.is_alive()
    waiter = waiting(backend, token)
    backend.set_state(b"two", token)
    waiter.join(PATIENCE_S)
    assert not waiter.is_alive()


def test_a_change_that_has_happened_already_is_not_waited_for() -> None:
    backend = C10dRendezvousBackend(HashStore(), "run")
    _, token, _ = must(backend.set_state(b"one"))
    backend.set_state(b"two", token)
    backend.wait_for_change(token, 10 * PATIENCE_S)
    backend.wait_for_change(None, 10 * PATIENCE_S)


def test_a_wait_ends_when_the_time_is_up() -> None:
    backend = C10dRendezvousBackend(HashStore(), "run")
    _, token, _ = must(backend.set_state(b"one"))
    backend.wait_for_change(token, 0.01)
    backend.wait_for_change(token, 0)
    backend.wait_for_change(token, -1)


def test_the_keys_of_changes_do_not_pile_up() -> None:
    store = HashStore()
    backend = C10dRendezvousBackend(store, "run")
    token = None
    for count in range(50):
        _, token, has_set = must(backend.set_state(str(count).encode(), token))
        assert has_set
    assert store.num_keys() <= 1 + 16


@pytest.fixture
def session() -> Iterator[TCPStore]:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, dialect="session", server="thread") as store:
        yield store


def test_over_a_session_a_swap_and_its_announcement_are_one_step(session: TCPStore) -> None:
    backend = C10dRendezvousBackend(session, "run")
    _, token, has_set = must(backend.set_state(b"one"))
    assert has_set
    assert sorted(session.list_keys()) == ["rallypoint.changed/run/1", "torch.rendezvous.run"]
    waiter = waiting(backend, token)
    _, second, has_set = must(backend.set_state(b"two", token))
    assert has_set
    waiter.join(PATIENCE_S)
    assert not waiter.is_alive()
    assert must(backend.set_state(b"three", token)) == (b"two", second, False)
    assert must(backend.get_state()) == (b"two", second)


def test_over_a_session_a_look_writes_nothing(session: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = C10dRendezvousBackend(session, "run")
    before = session.watch("torch.rendezvous.run")
    monkeypatch.delattr(TCPStore, "compare_set")
    assert backend.get_state() is None
    session.set("torch.rendezvous.run", b"nonsense")
    with pytest.raises(RendezvousStateError):
        backend.get_state()
    assert before.next(PATIENCE_S).revision == must(session.read("torch.rendezvous.run")).revision
    before.close()


def test_over_a_session_the_keys_of_changes_do_not_pile_up(session: TCPStore) -> None:
    backend = C10dRendezvousBackend(session, "run")
    _, first, _ = must(backend.set_state(b"0"))
    token = first
    for count in range(50):
        _, token, has_set = must(backend.set_state(str(count).encode(), token))
        assert has_set
    assert session.num_keys() == 1 + 16
    before = set(session.list_keys())
    assert must(backend.set_state(b"late", first))[2] is False
    assert set(session.list_keys()) == before, "what a swap that was long lost has announced is taken back"
    session.delete_key("torch.rendezvous.run")
    assert backend.set_state(b"lost", token) is None
    assert set(session.list_keys()) == before - {"torch.rendezvous.run", "rallypoint.changed/run/36"}


def test_without_announcements_there_is_one_key_and_waiting_is_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("rallypoint.clock.SystemClock.sleep", lambda self, duration_s: pauses.append(duration_s))
    store = HashStore()
    backend = C10dRendezvousBackend(store, "run", announces=False)
    _, token, _ = must(backend.set_state(b"one"))
    assert store.num_keys() == 1
    backend.wait_for_change(token, 60.0)
    backend.wait_for_change(b"garbage", 60.0)
    assert pauses == [0.5, 0.5]


def test_a_store_that_cannot_wait_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("rallypoint.clock.SystemClock.sleep", lambda self, duration_s: pauses.append(duration_s))
    C10dRendezvousBackend(BrokenStore(NotImplementedError("no")), "run").wait_for_change(None, 0.2)
    assert pauses == [0.2]


class Timeless(BrokenStore):
    def wait(self, *arguments: Any) -> None:
        raise RuntimeError("Wait timeout")  # torch's HashStore says no more


def test_a_foreign_timeout_is_known_by_its_words() -> None:
    C10dRendezvousBackend(Timeless(OSError()), "run").wait_for_change(None, 0.2)


# --- making one ------------------------------------------------------------------------------------------


def parameters(endpoint: str, max_nodes: int = 1, **options: Any) -> RendezvousParameters:
    return RendezvousParameters("c10d", endpoint, "run", 1, max_nodes, **options)


@pytest.fixture
def heard() -> Iterator[list[events.Event]]:
    happened: list[events.Event] = []

    def sink(event: events.Event) -> None:
        happened.append(event)

    events.subscribe(sink)
    yield happened
    events.unsubscribe(sink)


def test_one_node_alone_hosts_on_a_port_that_the_kernel_chose(heard: list[events.Event]) -> None:
    backend, store = create_backend(parameters("localhost:0"))
    with store:
        assert isinstance(store, TCPStore)
        assert store.port > 0
        backend.set_state(b"one")
        (event,) = (one for one in heard if one.name == "rendezvous.connected")
        assert event.fields["is_host"] is True
        assert event.fields["endpoint"] == f"localhost:{store.port}"


def test_the_second_on_a_machine_connects_to_the_first(heard: list[events.Event]) -> None:
    first, first_store = create_backend(parameters("localhost:0", 2, is_host=True))
    with first_store:
        assert isinstance(first_store, TCPStore)
        held = f"127.0.0.1:{first_store.port}"
        second, second_store = create_backend(parameters(held, 2, is_host="0"))
        with second_store:
            first.set_state(b"one")
            found = second.get_state()
            assert found is not None
            assert found[0] == b"one"
        assert [event.fields["is_host"] for event in heard if event.name == "rendezvous.connected"] == [True, False]


def test_nobody_at_the_endpoint_is_a_connection_error_within_the_read_timeout(heard: list[events.Event]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RendezvousConnectionError, match=UNREACHABLE):
            create_backend(parameters(endpoint, is_host=False, read_timeout="0.2"))
    assert [event.name for event in heard] == ["rendezvous.failed"]


@pytest.mark.parametrize("store_type", ["etcd", "", "tcpx"])
def test_an_unknown_store_type_is_an_error(store_type: str) -> None:
    with pytest.raises(ValueError, match=r"^Invalid store type given\. Currently only supports file and tcp\.$"):
        create_backend(parameters("localhost", store_type=store_type))


@pytest.mark.parametrize("read_timeout", ["0", "-10", 0, "soon"])
def test_a_read_timeout_must_be_positive(read_timeout: object) -> None:
    with pytest.raises(ValueError, match=rf"^The read timeout must be a positive integer\. It is {read_timeout!r}"):
        create_backend(parameters("localhost:0", read_timeout=read_timeout))


@pytest.mark.parametrize("store_type", ["file", "FILE", " File "])
def test_nodes_meet_in_a_file(tmp_path: Path, store_type: str) -> None:
    path = str(tmp_path / "meeting")
    first, first_store = create_backend(parameters(path, 2, store_type=store_type))
    second, second_store = create_backend(parameters(path, 2, store_type=store_type))
    with first_store, second_store:
        first.set_state(b"one")
        found = second.get_state()
        assert found is not None
        assert found[0] == b"one"
        assert isinstance(first_store, FileStore)
        assert first_store.path == path
        assert first_store.timeout.total_seconds() == 300


def test_one_node_alone_gets_a_temporary_file() -> None:
    backend, store = create_backend(parameters("", store_type="file"))
    assert isinstance(store, FileStore)
    path = Path(store.path)
    with store:
        assert backend.get_state() is None
        backend.set_state(b"one")
        assert path.exists()
    path.unlink(missing_ok=True)


def test_several_nodes_need_a_path() -> None:
    with pytest.raises(ValueError, match=r"up to 2 nodes through a file needs its path"):
        create_backend(parameters("", 2, store_type="file"))


def test_a_temporary_file_that_cannot_be_made_is_an_error(
    monkeypatch: pytest.MonkeyPatch, heard: list[events.Event]
) -> None:
    def refuse(**options: Any) -> Any:
        raise OSError("disk full")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(RendezvousError, match=r"^The file creation for C10d store has failed\. See inner"):
        create_backend(parameters("", store_type="file"))
    assert heard[-1].name == "rendezvous.failed"
    assert "disk full" in heard[-1].message


def test_a_path_that_cannot_be_opened_is_a_connection_error(tmp_path: Path) -> None:
    with pytest.raises(RendezvousConnectionError, match=UNREACHABLE):
        create_backend(parameters(str(tmp_path / "missing" / "file"), store_type="file"))
