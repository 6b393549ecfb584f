"""What a ``rallypoint://`` URL says, and what meeting there does; tests/compat/test_torch_groups.py has real groups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.torch_peers import torch_dist

from rallypoint.integrations.torch_url import Place, meet, parse_place
from rallypoint.store.tcp import TCPStore

PLACE = "?rank=0&world_size=2"


def test_a_url_says_all() -> None:
    place = parse_place("rallypoint://head:29500/run-7?rank=1&world_size=2", {})
    assert place == Place("tcp", "head:29500", "run-7", 1, 2, False)


def test_what_stands_behind_the_plus_is_the_kind_of_store() -> None:
    assert parse_place(f"rallypoint+etcd://a:1,b:1/r{PLACE}", {}).kind == "etcd"
    assert parse_place(f"rallypoint+tls://head:29500/r{PLACE}", {}).kind == "tls"
    place = parse_place(f"rallypoint+file:///shared/a%20b{PLACE}&run=r", {})
    assert (place.kind, place.address, place.run) == ("file", "/shared/a b", "r")


def test_several_hosts_stand_with_commas_between_them() -> None:
    assert parse_place(f"rallypoint://a:1,[::1]:2/r{PLACE}", {}).address == "a:1,[::1]:2"


def test_the_environment_says_what_the_url_does_not() -> None:
    environ = {"RANK": "3", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "job"}
    place = parse_place("rallypoint://head:29500", environ)
    assert (place.run, place.rank, place.world_size) == ("job", 3, 4)
    place = parse_place("rallypoint://head:29500/other?rank=0", environ)
    assert (place.run, place.rank, place.world_size) == ("other", 0, 4)


def test_a_run_is_unquoted_and_may_hold_an_equals_sign() -> None:
    assert parse_place(f"rallypoint://h:1/a%20b%2Fc{PLACE}", {}).run == "a b/c"
    assert parse_place(f"rallypoint://h:1{PLACE}&run=a%3Db=c", {}).run == "a=b=c"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("rallypoint://h:1/r", "rank is missing: give it to init_process_group"),
        ("rallypoint://h:1/r?rank=0", "world_size is missing"),
        ("rallypoint://h:1/r?rank=2&world_size=2", "rank 2 of .* must be 0 to 1 for world_size=2"),
        ("rallypoint://h:1/r?rank=-1&world_size=2", "rank of .* is '-1'"),
        (f"rallypoint://h:1{PLACE}", "names no run: jobs that share a server"),
        (f"rallypoint://h/r{PLACE}", "names no server: .* has no port: write h:29500"),
        (f"rallypoint:///r{PLACE}", "names no server"),
        (f"rallypoint://h:0/r{PLACE}", "port 0"),
        (f"rallypoint://h:1/r{PLACE}&servs=1", "unknown option 'servs': did you mean 'serve'"),
        (f"rallypoint://h:1/r{PLACE}&serve=maybe", "serve of .* is 'maybe'"),
        (f"rallypoint://h:1/r{PLACE}&serve", "an option without a value"),
        (f"rallypoint://a:1,b:1/r{PLACE}&serve=1", "several servers, of which rank 0 can run one"),
        (f"rallypoint+etcd://a:1/r{PLACE}&serve=1", "serve=1, which is for servers of ours"),
        (f"rallypoint+file://host/path{PLACE}&run=r", "names no file"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_sentence(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_place(url, {})


def test_a_secret_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="RALLYPOINT_TOKEN") as caught:
        parse_place(f"rallypoint://user:s3cret@h:1/r{PLACE}", {})
    assert "s3cret" not in str(caught.value)


# --- meeting ---------------------------------------------------------------------------------------------


def meet_all(url: str, world_size: int = 2, timeout: float = 60) -> list[Any]:
    """Let all members meet, each in a thread; give their stores."""

    def one(rank: int) -> Any:
        store, own_rank, count = next(meet(f"{url}?rank={rank}&world_size={world_size}", timeout))
        assert (own_rank, count) == (rank, world_size)
        return store

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(one, range(world_size)))


def close_all(stores: list[Any]) -> None:
    for store in stores:
        store.close()


def test_members_share_keys_below_their_run() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        first, second = meet_all(f"rallypoint://127.0.0.1:{server.port}/run")
        first.set("k", "v")
        assert second.get("k") == b"v"
        assert [key.split("/")[0] for key in server.list_keys() if key.endswith("/k")] == ["run"]
        close_all([first, second])


def test_each_life_of_a_run_has_its_own_keys_and_the_last_ones_are_deleted() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        url = f"rallypoint://127.0.0.1:{server.port}/run"
        before = meet_all(url)
        before[0].set("address", "stale")
        close_all(before)
        again = meet_all(url)
        assert not again[1].check(["address"])
        again[0].set("address", "fresh")
        close_all(again)
        last = meet_all(url)
        if server.has_sessions():  # others cannot delete by prefix
            assert not [key for key in server.list_keys() if key.endswith("/address")]
        close_all(last)


def test_who_does_not_come_is_named() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        url = f"rallypoint://127.0.0.1:{server.port}/run?rank=0&world_size=3"
        with pytest.raises(torch_dist.DistStoreError, match="1 of 3 came, missing: rank 1, rank 2"):
            next(meet(url, 0.2))


def test_no_server_is_started_unless_the_url_says_so() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        port = server.port
    with pytest.raises(torch_dist.DistNetworkError):
        next(meet(f"rallypoint://127.0.0.1:{port}/run?rank=0&world_size=1", 0.2))
    store, _, _ = next(meet(f"rallypoint://127.0.0.1:{port}/run?rank=0&world_size=1&serve=1", 60))
    store.set("k", "v")
    store.close()


def test_a_file_will_do(tmp_path: Path) -> None:
    def one(rank: int) -> Any:
        return next(meet(f"rallypoint+file://{tmp_path}/store?run=r&rank={rank}&world_size=2", 60))[0]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    first.set("k", "v")
    assert second.get("k") == b"v"
    close_all([first, second])
