"""``rallypoint doctor``: what an installation has to work with, and whether it works.

Every look is a small function that gives a finding; the command prints them and turns the worst into an exit code. A
look that fails is a finding too.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TypeAlias

import click

import rallypoint
from rallypoint import twin

__all__ = ["ENVIRONMENT", "Finding", "doctor", "examine"]

Fact: TypeAlias = "str | int | float | bool | None"

TRIAL_S = 10.0
"""Seconds that the trial of a store may take."""

DESCRIPTORS_WANTED = 4096
"""Below so many descriptors a server of a large job runs out of them."""

SOMAXCONN_WANTED = 1024
"""Below so many waiting connections a storm of clients is slowed down by retries."""

ENVIRONMENT = {
    "RALLYPOINT_DIALECT": "what a store speaks with its server",
    "RALLYPOINT_ETCD_USER": "who a store on etcd is",
    "RALLYPOINT_ETCD_PASSWORD": "the password of a store on etcd",
    "RALLYPOINT_ETCD_PASSWORD_FILE": "the file that holds the password",
    "RALLYPOINT_ETCD_TLS_CA": "whose certificates a store on etcd trusts",
    "RALLYPOINT_ETCD_TLS_CERT": "the own certificate there",
    "RALLYPOINT_ETCD_TLS_KEY": "the own certificate's key there",
    "RALLYPOINT_ETCD_TLS_NAME": "the name that an etcd member's certificate must have",
    "RALLYPOINT_PLAIN_STORE": "where a worker's agent speaks c10d only",
    "RALLYPOINT_PURE": "forces the Python twin",
    "RALLYPOINT_SERVER": "where an embedded server runs",
    "RALLYPOINT_SPIN_US": "how long to look for an answer before sleeping",
    "RALLYPOINT_TOKEN": "what both sides of a connection prove that they have",
    "RALLYPOINT_TOKEN_FILE": "the file that holds the token",
    "RALLYPOINT_ALLOW_PLAIN": "networks whose clients an embedded server lets in without a token or TLS",
    "RALLYPOINT_TLS_CA": "whose certificates are trusted",
    "RALLYPOINT_TLS_CERT": "the own certificate",
    "RALLYPOINT_TLS_KEY": "the own certificate's key",
    "RALLYPOINT_TLS_NAME": "the name that the server's certificate must have",
    "RALLYPOINT_UNIX": "whether a TCP server is also reached by a local name",
    "RALLYPOINT_ROUND": "set for workers by the agent",
    "RALLYPOINT_NODE_RESTARTS": "set for workers by the agent",
    "RALLYPOINT_WORKER_OF": "set for workers by the agent",
}
"""The variables of our own that are read or set somewhere, and what each does."""

_SECRET = frozenset({"RALLYPOINT_TOKEN", "RALLYPOINT_ETCD_PASSWORD"})


@dataclass(frozen=True)
class Finding:
    """What one look found.

    Attributes:
        name: what was looked at.
        text: one sentence.
        is_broken: nothing can work before this is repaired.
        advice: what to do about it, if anything should be done.
        facts: the same for machines.
    """

    name: str
    text: str
    is_broken: bool = False
    advice: str | None = None
    facts: dict[str, Fact] = field(default_factory=dict)


@click.command()
@click.option("--json", "is_json", is_flag=True, help="Print the findings as one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, *, is_json: bool) -> None:
    """Say which twin runs and why, and whether a store works here.

    The exit code is 0 if it can work, 1 if something is broken.
    """
    findings = examine()
    is_broken = any(finding.is_broken for finding in findings)
    if is_json:
        report = {finding.name: _without_name(finding) for finding in findings}
        click.echo(json.dumps({"works": not is_broken, "findings": report}, indent=2))
    else:
        for finding in findings:
            click.echo(f"{'BROKEN' if finding.is_broken else '':<7}{finding.name:<14}{finding.text}")
            if finding.advice:
                click.echo(f"{'':<21}-> {finding.advice}")
    ctx.exit(1 if is_broken else 0)


def _without_name(finding: Finding) -> dict[str, object]:
    return {key: value for key, value in asdict(finding).items() if key != "name"}


def examine() -> list[Finding]:
    """Look at everything; takes a moment, because a store is tried."""
    return [_examine(name, look) for name, look in _LOOKS]


def _examine(name: str, look: Callable[[], Finding]) -> Finding:
    """Look, and take an error for what it is: something that does not work here."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - whatever fails is what the user wants to know
        return Finding(name, f"{type(error).__name__}: {error}", is_broken=True)


def _twin() -> Finding:
    choice = twin.choice()
    name = "Python" if choice.module is None else "native"
    return Finding("twin", f"{name}: {choice.why}", facts={"name": name, "why": choice.why})


def _python() -> Finding:
    version, made_by = platform.python_version(), platform.python_implementation()
    text = f"{made_by} {version} at {sys.executable}"
    return Finding("python", text, facts={"version": version, "implementation": made_by, "path": sys.executable})


def _platform() -> Finding:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("platform", f"{platform.platform()}, {cpus} cores for this process", facts={"cores": cpus})


def _package() -> Finding:
    folder = os.path.dirname(rallypoint.__file__)  # noqa: PTH120 - pathlib is not worth its import
    version = rallypoint.__version__
    return Finding("rallypoint", f"{version} at {folder}", facts={"version": version, "path": folder})


def _dependencies() -> Finding:
    """Compare what is installed with what the package asks for."""
    found: dict[str, Fact] = {}
    wrong = []
    for name, least in _requirements():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
            wrong.append(f"{name} is missing")
            continue
        found[name] = version
        if _release(version) < _release(least):
            wrong.append(f"{name} {version} is older than {least}")
    text = ", ".join(f"{name} {version or 'is missing'}" for name, version in found.items())
    advice = f"{'; '.join(wrong)}: pip install --upgrade rallypoint" if wrong else None
    return Finding("dependencies", text, bool(wrong), advice, found)


def _requirements() -> list[tuple[str, str]]:
    """Give the packages that are always needed, each with its least version."""
    lines = metadata.requires("rallypoint") or ()
    plain = (re.match(r"([\w.-]+)\s*>=\s*([\d.]+)$", line) for line in lines)
    return [(match[1], match[2]) for match in plain if match]


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _descriptors() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "without limit" if hard == resource.RLIM_INFINITY else f"up to {hard}"
    if soft == resource.RLIM_INFINITY:
        return Finding("descriptors", "without limit", facts={"soft": None, "hard": None})
    advice = None if soft >= DESCRIPTORS_WANTED else f"a server needs one a client: ulimit -n {DESCRIPTORS_WANTED}"
    facts: dict[str, Fact] = {"soft": soft, "hard": None if hard == resource.RLIM_INFINITY else hard}
    return Finding("descriptors", f"{soft} at a time, can be raised {most}", advice=advice, facts=facts)


def _somaxconn() -> Finding:
    try:
        with open("/proc/sys/net/core/somaxconn", encoding="ascii") as file:  # noqa: PTH123 - as above
            limit = int(file.read())
    except OSError:
        return Finding("somaxconn", "unknown: this system does not tell", facts={"limit": None})
    advice = None if limit >= SOMAXCONN_WANTED else f"for a large job: sysctl net.core.somaxconn={SOMAXCONN_WANTED * 4}"
    return Finding("somaxconn", f"{limit} connections may wait to be accepted", advice=advice, facts={"limit": limit})


def _epoll() -> Finding:
    has_it = hasattr(select, "epoll")
    return Finding(
        "epoll", "there" if has_it else "not on this system; the Python twin uses poll", facts={"has": has_it}
    )


def _unix_sockets() -> Finding:
    """Bind an abstract name, as a server does to offer itself to its own machine."""
    if sys.platform != "linux":
        return Finding("unix sockets", "files only: abstract names are Linux's", facts={"abstract": False})
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.bind("")  # the kernel chooses an abstract name
        except OSError as error:
            text = f"abstract names do not work: {error.strerror}; clients use TCP"
            return Finding("unix sockets", text, facts={"abstract": False})
    return Finding("unix sockets", "abstract names work", facts={"abstract": True})


def _loopback() -> Finding:
    """Listen on the loopback address, and connect to that."""
    with socket.socket() as listener, socket.socket() as client:
        listener.settimeout(TRIAL_S)
        client.settimeout(TRIAL_S)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client.connect(listener.getsockname())
        listener.accept()[0].close()
    return Finding("loopback", "listening on 127.0.0.1 and connecting to it works")


def _store() -> Finding:
    """Run a store as a program would, and ask it."""
    from rallypoint.store.hosting import server_mode
    from rallypoint.store.tcp import TCPStore

    mode = server_mode(None)
    began = time.monotonic()
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=TRIAL_S, server=mode)
    with contextlib.closing(store):
        store.set("rallypoint", b"works")
        if store.get("rallypoint") != b"works":
            return Finding("store", "an embedded server gives back another value than it was given", is_broken=True)
    took_ms = round((time.monotonic() - began) * 1000, 1)
    text = f"an embedded server in a {mode} started, answered and ended in {took_ms} ms"
    return Finding("store", text, facts={"mode": mode, "took_ms": took_ms})


def _environment() -> Finding:
    ours = {name: _shown(name, value) for name, value in sorted(os.environ.items()) if name.startswith("RALLYPOINT_")}
    unknown = [name for name in ours if name not in ENVIRONMENT]
    text = ", ".join(f"{name}={value} ({ENVIRONMENT.get(name, 'unknown')})" for name, value in ours.items())
    advice = f"nothing reads {', '.join(unknown)}: is a name misspelled?" if unknown else None
    return Finding("environment", text or "no RALLYPOINT_* variable is set", advice=advice, facts=dict(ours))


def _shown(name: str, value: str) -> str:
    """Give what may be seen of a variable: no secret, nor what may be one under a misspelled name."""
    return value if name in ENVIRONMENT and name not in _SECRET else "(not shown)"


_LOOKS: Sequence[tuple[str, Callable[[], Finding]]] = (
    ("twin", _twin),
    ("python", _python),
    ("platform", _platform),
    ("rallypoint", _package),
    ("dependencies", _dependencies),
    ("descriptors", _descriptors),
    ("somaxconn", _somaxconn),
    ("epoll", _epoll),
    ("unix sockets", _unix_sockets),
    ("loopback", _loopback),
    ("store", _store),
    ("environment", _environment),
)
