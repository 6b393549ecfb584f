"""Streams over a network that loses, repeats, delays and reorders packets."""

from __future__ import annotations

import pytest

from rallypoint.testing.network import GIVE_UP_S, Link, SimNetwork
from rallypoint.testing.simulation import Simulation


class Talk:
    """A network with a host that listens, and one connection from another."""

    def __init__(self, link=None, seed=0):
        self.simulation = Simulation(seed)
        self.network = SimNetwork(self.simulation, link)
        self.near_host, self.far_host = self.simulation.host("near"), self.simulation.host("far")
        self.heard, self.ends, self.far = b"", [], None
        self.network.listen(self.far_host, self._accept)
        self.near = self.network.connect(self.near_host, "far")
        self.near.ended = lambda why: self.ends.append(("near", why))

    def _accept(self, stream):
        self.far = stream
        stream.received = self._hear
        stream.ended = lambda why: self.ends.append(("far", why))

    def _hear(self, data):
        self.heard += data

    def run(self, seconds):
        self.simulation.run(until=self.simulation.now + seconds)


@pytest.mark.parametrize("seed", range(20))
def test_bytes_come_once_and_in_order_however_packets_fare(seed):
    talk = Talk(Link(delay_s=(0.0, 0.3), loss=0.2, repeat=0.2), seed)
    for number in range(50):
        talk.near.send(bytes([number]))
    talk.run(25.0)
    assert talk.heard == bytes(range(50))
    assert talk.ends == []


def test_a_close_comes_after_what_was_sent():
    talk = Talk()
    talk.near.send(b"last words")
    talk.near.close()
    talk.run(1.0)
    assert talk.heard == b"last words"
    assert talk.ends == [("far", "the other end closed the connection")]


def test_a_reset_ends_both_ends():
    talk = Talk()
    talk.run(1.0)
    talk.near.reset()
    talk.run(1.0)
    assert [who for who, _ in talk.ends] == ["near", "far"]


def test_a_cut_link_holds_packets_up_until_it_is_healed():
    talk = Talk()
    talk.run(1.0)
    talk.network.link("near", "far").is_cut = True
    talk.near.send(b"late")
    talk.run(5.0)
    assert talk.heard == b""
    talk.network.link("far", "near").is_cut = False
    talk.run(5.0)
    assert talk.heard == b"late"


def test_a_link_that_stays_cut_breaks_the_connection():
    talk = Talk()
    talk.run(1.0)
    talk.network.link("near", "far").is_cut = True
    talk.near.send(b"lost")
    talk.run(2 * GIVE_UP_S)
    assert [who for who, _ in talk.ends] == ["near"]


def test_a_killed_process_is_noticed_at_once_and_a_dead_machine_is_not():
    killed, dead = Talk(), Talk()
    for talk, silently in ((killed, False), (dead, True)):
        talk.run(1.0)
        talk.network.crash(talk.near_host, silently=silently)
        talk.run(1.0)
    assert [who for who, _ in killed.ends] == ["far"]
    assert dead.ends == []


def test_a_host_that_was_started_anew_knows_no_connection_of_before():
    talk = Talk()
    talk.run(1.0)
    talk.network.crash(talk.far_host, silently=True)
    talk.far_host.start()
    talk.near.send(b"are you there")
    talk.run(1.0)
    assert talk.ends == [("near", "the connection was reset")]


def test_nobody_listens_there():
    simulation = Simulation()
    network = SimNetwork(simulation)
    stream, ends = network.connect(simulation.host("near"), "far"), []
    stream.ended = ends.append
    simulation.run(until=1.0)
    assert ends == ["the connection was reset"]


def test_a_frozen_host_hears_what_has_come_when_it_thaws():
    talk = Talk()
    talk.run(1.0)
    talk.far_host.freeze()
    talk.near.send(b"meanwhile")
    talk.run(3 * GIVE_UP_S)
    assert talk.heard == b""
    talk.far_host.thaw()
    talk.run(1.0)
    assert talk.heard == b"meanwhile"
    assert talk.ends == []
