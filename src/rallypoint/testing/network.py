"""A network between the hosts of a simulation: streams over packets that come late, twice, in another order, or never.

Rules:

- A stream is what TCP makes of such packets: bytes in order, once, or a broken connection. A packet that was lost is
  sent again, later and later, and after ``GIVE_UP_S`` the sender's end breaks. (That packets are acknowledged is left
  out: the network knows what it has lost.)
- A process that ends closes its connections: the other end hears of it as soon as a packet gets through
  (``SimNetwork.crash``). A machine that loses its power says nothing; nor does a link that is cut.
- Packets to a host that has been started anew find no connection there, and are answered by a reset.

::

    one end                      network                     other end
    send(b"abc")  --- packet 1 ----- lost
    send(b"d")    --- packet 2 ------------ delayed ------>  kept: 1 is missing
                  --- packet 1 again --------------------->  received(b"abcd")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from rallypoint.testing.simulation import SimHost, Simulation

__all__ = ["Link", "SimNetwork", "SimStream"]

GIVE_UP_S: Final = 30.0
"""How long a packet is sent again and again, in seconds."""

AGAIN_FIRST_S: Final = 0.2
AGAIN_MAX_S: Final = 3.0
"""Before a packet is sent again, doubling."""

_OPEN, _DATA, _END, _RESET = "open", "data", "end", "reset"


class _Packet(NamedTuple):
    """What is under way.

    Attributes:
        kind: one of the four above.
        number: its place in the stream, from 1 on; 0 for a reset.
        data: bytes.
        again_s: when it is sent again if it is lost.
        waited_s: how long ago it was sent first.
    """

    kind: str
    number: int
    data: bytes
    again_s: float = AGAIN_FIRST_S
    waited_s: float = 0.0


@dataclass
class Link:
    """How packets fare between two hosts.

    Attributes:
        delay_s: the shortest and the longest time on the way, in seconds.
        loss: how likely a packet is lost, 0 to 1.
        repeat: how likely it comes twice.
        is_cut: none comes through.
    """

    delay_s: tuple[float, float] = (0.0001, 0.0005)
    loss: float = 0.0
    repeat: float = 0.0
    is_cut: bool = False


class SimStream:
    """One end of a connection.

    Attributes:
        host: where this end is.
        peer: the name of the host at the other end.
        received: takes the bytes that have come.
        ended: takes the reason, once, when the connection has ended and not by this end's ``close``.
        is_open: bytes can be sent.
    """

    def __init__(self, network: SimNetwork, host: SimHost, peer: str) -> None:
        self.host = host
        self.peer = peer
        self.received: Callable[[bytes], None] = _ignore
        self.ended: Callable[[str], None] = _ignore
        self.is_open = True
        self._network = network
        self._life = host.life
        self._other = self
        self._sent = 0
        self._next = 1
        self._early: dict[int, _Packet] = {}

    def send(self, data: bytes) -> None:
        """Send bytes; nothing comes of it if the connection has ended."""
        if self.is_open:
            self._transmit(_DATA, data)

    def close(self) -> None:
        """Send what was sent, then the end; nothing is heard any more."""
        if self.is_open:
            self._transmit(_END, b"")
            self.is_open = False
            self.received = self.ended = _ignore

    def reset(self) -> None:
        """Break the connection at both ends, as something between them would."""
        self._carry(_Packet(_RESET, 0, b""))
        self._fail("the connection was reset")

    @property
    def is_alive(self) -> bool:
        """Tell whether the process that has this end still runs."""
        return self.host.is_up and self.host.life == self._life

    # --- what the system does for it, frozen or not --------------------------------------------------------

    def join(self, other: SimStream) -> None:
        """Have another end; for the network."""
        self._other = other
        self._transmit(_OPEN, b"")

    def take(self, packet: _Packet) -> None:
        """Take a packet; for the network."""
        if packet.kind == _RESET:
            self._fail("the connection was reset")
            return
        if packet.number >= self._next:
            self._early[packet.number] = packet
        while (due := self._early.pop(self._next, None)) is not None:
            self._next += 1
            self._deliver(due)

    def miss(self, packet: _Packet) -> None:
        """Send a packet again that was lost, or give up; for the network."""
        if packet.kind == _RESET or not self.is_alive:
            return
        if packet.waited_s > GIVE_UP_S:
            self._fail(f"{self.peer} has not answered for {packet.waited_s:.0f} s")
            return
        again_s = packet.again_s
        later = packet._replace(again_s=min(2 * again_s, AGAIN_MAX_S), waited_s=packet.waited_s + again_s)
        self._network.simulation.after(again_s, lambda: self._carry(later) if self.is_alive else None)

    def _deliver(self, packet: _Packet) -> None:
        if packet.kind == _OPEN:
            self._hand_over(lambda: self._network.accept(self))
        elif packet.kind == _END:
            self._fail("the other end closed the connection")
        else:
            self._hand_over(lambda: self.received(packet.data))

    def _fail(self, why: str) -> None:
        if self.is_open:
            self.is_open = False
            self._hand_over(lambda: self.ended(why))

    def _hand_over(self, callback: Callable[[], None]) -> None:
        self.host.after(0.0, callback, is_timer=False)

    def _transmit(self, kind: str, data: bytes) -> None:
        self._sent += 1
        self._carry(_Packet(kind, self._sent, data))

    def _carry(self, packet: _Packet) -> None:
        self._network.carry(self, self._other, packet)


class SimNetwork:
    """The hosts' network.

    Args:
        simulation: whose hosts.
        link: how packets fare where nothing else was said.

    Attributes:
        simulation: see there.
    """

    def __init__(self, simulation: Simulation, link: Link | None = None) -> None:
        self.simulation = simulation
        self._usual = link or Link()
        self._links: dict[frozenset[str], Link] = {}
        self._listeners: dict[str, tuple[int, Callable[[SimStream], None]]] = {}
        self._streams: list[SimStream] = []

    def link(self, one: str, other: str) -> Link:
        """Give the link between two hosts, to be changed at will."""
        pair = frozenset((one, other))
        if pair not in self._links:
            self._links[pair] = replace(self._usual)
        return self._links[pair]

    def listen(self, host: SimHost, accept: Callable[[SimStream], None]) -> None:
        """Take the connections to a host, as long as it lives; ``accept`` gets this end of each."""
        self._listeners[host.name] = (host.life, accept)

    def connect(self, host: SimHost, peer: str) -> SimStream:
        """Begin a connection; bytes may be sent at once. If nobody listens there, or the way is cut, it ends."""
        near, far = SimStream(self, host, peer), SimStream(self, self.simulation.host(peer), host.name)
        self._streams = [stream for stream in self._streams if stream.is_open] + [near, far]
        far._other = near  # noqa: SLF001 - the two classes are one thing
        near.join(far)
        return near

    def streams_of(self, host: SimHost) -> list[SimStream]:
        """Give the ends of connections that are open on a host."""
        return [stream for stream in self._streams if stream.host is host and stream.is_open]

    def crash(self, host: SimHost, *, silently: bool = False) -> None:
        """End all that runs on a host.

        Args:
            host: which.
            silently: its power is gone; else its process was killed, and the system closes the connections.
        """
        mine = self.streams_of(host)
        if not silently:
            for stream in mine:
                stream.close()
                self.carry(stream, stream._other, _Packet(_RESET, 0, b""))  # noqa: SLF001 - as above
        host.crash()
        for stream in mine:
            stream.is_open = False

    # --- for streams ---------------------------------------------------------------------------------------

    def accept(self, stream: SimStream) -> None:
        """Hand a new connection to who listens."""
        life, accept = self._listeners.get(stream.host.name, (0, _ignore))
        if life == stream.host.life:
            accept(stream)
        else:
            stream.reset()

    def carry(self, sender: SimStream, receiver: SimStream, packet: _Packet) -> None:
        """Carry a packet, as the link has it."""
        link, dice = self.link(sender.host.name, receiver.host.name), self.simulation.dice
        is_lost = True
        for _ in range(2 if link.repeat and dice.random() < link.repeat else 1):
            if link.is_cut or (link.loss and dice.random() < link.loss):
                continue
            # A packet that is under way when the link is cut still comes.
            self.simulation.after(dice.uniform(*link.delay_s), partial(self._arrive, sender, receiver, packet))
            is_lost = False
        if is_lost:
            sender.miss(packet)

    def _arrive(self, sender: SimStream, receiver: SimStream, packet: _Packet) -> None:
        if receiver.is_alive:
            receiver.take(packet)
        elif not receiver.host.is_up:
            sender.miss(packet)
        elif packet.kind != _RESET:
            self.carry(receiver, sender, _Packet(_RESET, 0, b""))


def _ignore(_: Any) -> None:
    pass
