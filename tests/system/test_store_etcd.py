"""A store on three real members of etcd: one is killed, frozen or cut off from us while many calls are under way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from time import monotonic

import pytest
from tests.support.certificates import Authority
from tests.support.etcd import running_etcd

from rallypoint.errors import AccessDeniedError, AuthenticationError, ConnectTimeoutError, UnreachableError
from rallypoint.net.tls import Tls
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd import EtcdStore
from rallypoint.store.session_calls import ABSENT, Changed, Deleted

LONG_S = 100.0

pytestmark = pytest.mark.timeout(300)


class Load:
    """Threads that write and read, each with a store of its own, until they are told to stop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self.errors: list[BaseException] = []
        self.added: list[int] = []
        self.written: dict[str, bytes] = {}
        self.popped: list[bytes] = []
        self.pushed: list[bytes] = []
        self.longest_s = 0.0
        self._threads = [
            threading.Thread(target=self._run, args=(body, number))
            for body in (self._add, self._set, self._push)
            for number in range(2)
        ]

    def _run(self, body, number):
        try:
            with EtcdStore(self._url, timeout=LONG_S) as store:
                turn = 0
                while not self._over.is_set():
                    started = monotonic()
                    body(store, number, turn)
                    self.longest_s = max(self.longest_s, monotonic() - started)
                    turn += 1
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)

    def _add(self, store, number, turn):
        self.added.append(store.add("sum", 1))

    def _set(self, store, number, turn):
        key, value = f"set{number}.{turn % 50}", b"%d" % turn
        store.set(key, value)
        self.written[key] = value
        assert store.get(key) == value

    def _push(self, store, number, turn):
        item = b"%d.%d" % (number, turn)
        store.queue_push("q", item)
        self.pushed.append(item)
        self.popped.append(store.queue_pop("q"))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(LONG_S)
            assert not thread.is_alive()

    def await_progress(self, steps=50):
        """Wait until so many more of each have been done."""
        for done in (self.added, self.popped):
            wanted = len(done) + steps
            until = monotonic() + LONG_S
            while len(done) < wanted and not self.errors:
                assert monotonic() < until, (len(done), wanted)
                self._over.wait(0.01)


def check_totals(load: Load, store: EtcdStore) -> None:
    assert load.errors == []
    assert sorted(load.added) == list(range(1, len(load.added) + 1))
    assert store.add("sum", 0) == len(load.added)
    for key, value in load.written.items():
        assert store.get(key) == value
    assert sorted(load.popped) == sorted(load.pushed)
    assert store.queue_len("q") == 0


@pytest.mark.parametrize("who", ["leader", "follower", "asked"])
def test_a_killed_member_costs_a_delay_and_nothing_else(who, pool):
    with running_etcd(3) as cluster:
        url = cluster.url()
        leader = cluster.leader()
        with EtcdStore(url, timeout=LONG_S) as store, EtcdStore(url, timeout=LONG_S) as other:
            others = [member for member in cluster.members if member is not leader]
            asked = next(member for member in cluster.members if member.endpoint == store._cluster.endpoint)
            victim = {"leader": leader, "follower": others[0], "asked": asked}[who]
            lease = store.lease_grant(None)
            assert store.swap("alive", ABSENT, "", lease=lease)[0]
            watch = store.watch("news/", is_prefix=True)
            waiting = [pool.submit(store.get, "late"), pool.submit(store.wait, ["late", "later"])]
            with Load(url) as load:
                load.await_progress()
                other.set("news/0", "0")
                victim.kill()
                for number in range(1, 20):
                    other.set(f"news/{number}", str(number))
                load.await_progress()
                other.set("late", "v")
                other.set("later", "v")
                assert waiting[0].result(LONG_S) == b"v"
                waiting[1].result(LONG_S)
                assert [watch.next(LONG_S)[:2] for _ in range(20)] == [
                    (f"news/{number}", b"%d" % number) for number in range(20)
                ]
                victim.start()
                load.await_progress()
            check_totals(load, store)
            assert store.read("alive") is not None
            assert store.lease_renew(lease) > 0
            watch.close()


def test_a_frozen_member_is_left(pool):
    with running_etcd(3) as cluster:
        url = cluster.url()
        with EtcdStore(url, timeout=LONG_S) as store, Load(url) as load:
            asked = next(member for member in cluster.members if member.endpoint == store._cluster.endpoint)
            waiting = pool.submit(store.get, "late")
            load.await_progress()
            asked.signal(signal.SIGSTOP)
            load.await_progress()
            store.set("late", "v")
            assert waiting.result(LONG_S) == b"v"
            asked.signal(signal.SIGCONT)
            load.await_progress()
        with EtcdStore(url, timeout=LONG_S) as store:
            check_totals(load, store)


def test_without_a_majority_nothing_is_done_and_later_everything():
    with running_etcd(3) as cluster:
        url = cluster.url()
        with EtcdStore(url, timeout=LONG_S) as store:
            store.set("k", "1")
            for member in cluster.members[1:]:
                member.kill()
            store.set_timeout(1.0)
            with pytest.raises(UnreachableError, match="knows of no leader"):
                store.add("n", 1)
            for member in cluster.members[1:]:
                member.start()
            store.set_timeout(LONG_S)
            assert store.get("k") == b"1"
            assert store.add("n", 1) in {1, 2}  # what was given up may have been done


def test_the_keys_of_a_killed_process_go_with_its_session(etcd, etcd_url):
    code = (
        "import sys, threading\n"
        "from rallypoint.store.etcd import EtcdStore\n"
        "store = EtcdStore(sys.argv[1], timeout=60, session_ttl=2)\n"
        "store.swap('me', 0, 'here', lease=store.lease_grant(None))\n"
        "threading.Event().wait()\n"
    )
    with EtcdStore(etcd_url, timeout=LONG_S) as store, store.watch("me") as watch:
        child = subprocess.Popen([sys.executable, "-c", code, etcd_url])
        try:
            assert isinstance(watch.next(), Changed)
        finally:
            child.kill()
            child.wait(LONG_S)
        assert isinstance(watch.next(), Deleted)


def test_a_process_that_ends_by_itself_gives_its_leases_back_at_once(etcd, etcd_url):
    code = (
        "import sys\n"
        "from rallypoint.store.etcd import EtcdStore\n"
        "store = EtcdStore(sys.argv[1], timeout=60, session_ttl=3600)\n"
        "store.swap('me', 0, 'here', lease=store.lease_grant(None))\n"
    )
    subprocess.run([sys.executable, "-c", code, etcd_url], check=True, timeout=LONG_S)
    with EtcdStore(etcd_url, timeout=LONG_S) as store:
        assert store.read("me") is None


def test_ctrl_c_ends_a_wait(etcd, etcd_url):
    code = (
        "import sys\n"
        "from rallypoint.store.etcd import EtcdStore\n"
        "store = EtcdStore(sys.argv[1], timeout=600)\n"
        "try:\n"
        "    store.set('ready', '')\n"
        "    store.wait(['never'])\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(42)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, etcd_url])
    try:
        with EtcdStore(etcd_url, timeout=LONG_S) as store:
            store.wait(["ready"])
        while child.poll() is None:  # it may not wait yet
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1.0)
        assert child.returncode == 42
    finally:
        child.kill()
        child.wait(LONG_S)


def test_a_child_made_by_fork_ends_as_usual(etcd, etcd_url):
    with EtcdStore(etcd_url, timeout=LONG_S) as store:
        lease = store.lease_grant(None)
        with store.watch("k"):
            code = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", _FORKING, etcd_url])
        assert code == 0
        assert store.lease_renew(lease) > 0


_FORKING = """
import os, sys
from rallypoint.store.etcd import EtcdStore
store = EtcdStore(sys.argv[1], timeout=60)
lease = store.lease_grant(None)
store.watch("k")
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert store.lease_renew(lease) > 0
"""


# --- who gets in -----------------------------------------------------------------------------------------


def test_tls_with_certificates_on_both_sides(tmp_path):
    authority = Authority(tmp_path / "ca")
    ours, theirs = authority.issue("127.0.0.1"), authority.issue("client", common_name="client")
    with running_etcd(tls=ours, client_tls=theirs) as cluster:
        url = cluster.url()
        with EtcdStore(url, tls=theirs, timeout=LONG_S) as store, store.watch("k") as watch:
            store.set("k", b"v" * 1_000_000)
            assert len(watch.next().value) == 1_000_000
            assert store.add("n", 1) == 1
        query = f"?tls_ca={theirs.ca}&tls_cert={theirs.cert}&tls_key={theirs.key}"
        with EtcdStore(url + query, timeout=LONG_S) as store:
            assert store.get("n") == b"1"
        stranger = Authority(tmp_path / "other").issue("client")
        with pytest.raises(AuthenticationError, match="trusted authority"):
            EtcdStore(url, tls=Tls(stranger.ca, theirs.cert, theirs.key), timeout=LONG_S)
        with pytest.raises((AuthenticationError, ConnectTimeoutError)):
            EtcdStore(url, tls=Tls(theirs.ca), timeout=1.0)
        with pytest.raises(ConnectTimeoutError):
            EtcdStore(url.replace("etcds", "etcd"), timeout=1.0)


def field(number: int, text: bytes) -> bytes:
    return wire._text(number, text)


def test_a_user_with_a_password_reads_and_writes_where_it_may(tmp_path):
    # Tokens are short-lived here, so that they lapse amid the test.
    with running_etcd(extra=["--auth-token-ttl=1"]) as cluster:
        for name in (b"root", b"worker"):
            cluster.ask("Auth/UserAdd", field(1, name) + field(2, b"pass-" + name))
            cluster.ask("Auth/RoleAdd", field(1, name))
            cluster.ask("Auth/UserGrantRole", field(1, name) + field(2, name))
        mine = b"jobs/"
        allowed = wire._number(1, 2) + field(2, mine) + field(3, wire.end_of_prefix(mine))
        cluster.ask("Auth/RoleGrantPermission", field(1, b"worker") + field(2, allowed))
        cluster.ask("Auth/AuthEnable")
        host = str(cluster.members[0].endpoint)
        password = tmp_path / "password"
        password.touch(mode=0o600)
        password.write_text("pass-worker\n")
        url = f"etcd://worker@{host}/jobs/7?password_file={password}"
        with EtcdStore(url, timeout=LONG_S) as store, store.watch("k") as watch:
            store.set("k", "1")
            assert watch.next().value == b"1"
            lease = store.lease_grant(1)  # nobody renews it: when it has ended, a token has lapsed
            store.swap("clock", ABSENT, "", lease=lease)
            with store.watch("clock") as clock:
                assert isinstance(clock.next(LONG_S), Deleted)
            store._cluster._token = "lapsed.0"
            store.set("k", "2")
            assert watch.next().value == b"2"
            with store.watch("k2") as fresh:
                store.set("k2", "v")
                assert fresh.next().value == b"v"
        with pytest.raises(AuthenticationError, match="does not know who we are"):
            EtcdStore(f"etcd://worker:wrong@{host}/jobs/7", timeout=LONG_S)
        with pytest.raises(AuthenticationError, match="does not know who we are"):
            EtcdStore(f"etcd://{host}/jobs/7", timeout=LONG_S)
        with pytest.raises(AccessDeniedError, match="does not let this user"):
            EtcdStore(f"etcd://worker:pass-worker@{host}/other", timeout=LONG_S)
