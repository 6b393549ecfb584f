"""Machines on one network, as network namespaces on this one: their links can be cut, so that nothing is even refused.

Each machine has an interface on a bridge, which is in a namespace of its own; so nothing of this is to be seen from
outside, and it is gone with the namespaces. All share this machine's files, processes and monotonic clock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest

__all__ = ["Machine", "Network", "network"]

COMMAND_S = 30.0
"""How long one command may take, in seconds."""


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)} failed: {done.stderr.strip()}"
    return done.stdout


class Machine:
    """One namespace.

    Attributes:
        name: of the namespace.
        address: where the others reach it.
        before: what stands in front of a command, to run it there.
    """

    def __init__(self, network: str, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.231.7.{number}"
        self.before = ("ip", "netns", "exec", name)
        self._network = network
        self._port = f"port{number}"

    def start(self) -> None:
        """Add it to the network."""
        _run("ip", "netns", "add", self.name)
        veth = ("type", "veth", "peer", "name", "eth0", "netns", self.name)
        _run("ip", "-n", self._network, "link", "add", self._port, *veth)
        _run("ip", "-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for namespace, device in ((self.name, "lo"), (self.name, "eth0"), (self._network, self._port)):
            _run("ip", "-n", namespace, "link", "set", device, "up")
        self.heal()

    def cut(self) -> None:
        """Let nothing pass from now on, either way; its own interface stays up."""
        _run("ip", "-n", self._network, "link", "set", self._port, "nomaster")

    def heal(self) -> None:
        """Let everything pass again."""
        _run("ip", "-n", self._network, "link", "set", self._port, "master", "bridge")

    def reset(self, peer: Machine) -> None:
        """Break all connections to another machine at this end; while one of the two is cut, only here."""
        _run("ip", "netns", "exec", self.name, "ss", "-K", "-t", "dst", peer.address)


class Network:
    """The bridge and its machines; see ``network``."""

    def __init__(self) -> None:
        self._prefix = f"rallypoint-{os.getpid()}-"
        self._bridge = f"{self._prefix}bridge"
        self._machines: list[Machine] = []

    def start(self) -> None:
        """Make the bridge."""
        _run("ip", "netns", "add", self._bridge)
        _run("ip", "-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._bridge, "link", "set", "bridge", "up")

    def machine(self, name: str) -> Machine:
        """Add a machine."""
        machine = Machine(self._bridge, self._prefix + name, len(self._machines) + 1)
        self._machines.append(machine)
        machine.start()
        return machine

    def close(self) -> None:
        """Remove everything, and end what still runs on the machines; names and ids are this network's alone."""
        for name in (*(machine.name for machine in self._machines), self._bridge):
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in map(int, found.stdout.split()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            psutil.wait_procs(
                [psutil.Process(pid) for pid in map(int, found.stdout.split()) if psutil.pid_exists(pid)], 5
            )
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _why_not() -> str:
    """Give why there can be no namespaces here; empty if there can."""
    for command in ("ip", "ss"):
        if shutil.which(command) is None:
            return f"needs the command {command!r} (iproute2)"
    name = f"rallypoint-{os.getpid()}-try"
    try:
        done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
        if done.returncode:
            return f"needs the right to make network namespaces: {done.stderr.strip()}"
        link = ["ip", "-n", name, "link", "add", "port0", "type", "veth", "peer", "name", "port1"]
        bridge = ["ip", "-n", name, "link", "add", "bridge", "type", "bridge"]
        for command in (link, bridge):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"needs the right to make bridges and pairs of interfaces: {done.stderr.strip()}"
        return ""
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Make a network; skips the test where that cannot be done."""
    why_not = _why_not()
    if why_not:
        pytest.skip(why_not)
    made = Network()
    try:
        made.start()
        yield made
    finally:
        made.close()
