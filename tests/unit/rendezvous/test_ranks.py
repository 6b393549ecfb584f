from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rallypoint.rendezvous.ranks import choose_members, natural_key, place_ranks
from rallypoint.rendezvous.state import Card, Node, Standing, State, new_state

READY, SPARE = Standing.READY, Standing.SPARE


def make(
    nodes: dict[str, tuple[str, Standing, int | None]], previous: dict[str, int] | None = None, most: int = 9
) -> State:
    """A state of nodes given as id letter -> (host, standing, wish), which arrived in this order."""
    made = {
        letter * 32: Node(card=Card(host=host, address=host, rank_wish=wish), standing=standing, arrival=arrival)
        for arrival, (letter, (host, standing, wish)) in enumerate(nodes.items())
    }
    kept = {letter * 32: rank for letter, rank in (previous or {}).items()}
    return replace(new_state("0" * 32, 1, most), nodes=made, previous=kept)


def ranks_of(state: State) -> dict[str, int]:
    return {node_id[0]: rank for node_id, rank in place_ranks(state, choose_members(state, 0)).items()}


def test_host_names_sort_by_the_numbers_in_them() -> None:
    hosts = ["node10", "node2", "node1", "alpha", "node2b", "10", "9", "node", "node1-rack10", "node1-rack9"]
    assert sorted(hosts, key=natural_key) == [
        "9", "10", "alpha", "node", "node1", "node1-rack9", "node1-rack10", "node2", "node2b", "node10",
    ]  # fmt: skip


def test_new_nodes_get_ranks_in_the_natural_order_of_their_hosts() -> None:
    state = make({"a": ("node10", READY, None), "b": ("node2", READY, None), "c": ("node1", READY, None)})
    assert ranks_of(state) == {"c": 0, "b": 1, "a": 2}


def test_who_stays_keeps_its_rank_and_who_comes_fills_the_hole() -> None:
    nodes = {"b": ("node2", READY, None), "c": ("node3", READY, None), "d": ("node1", READY, None)}
    assert ranks_of(make(nodes, previous={"a": 0, "b": 1, "c": 2})) == {"d": 0, "b": 1, "c": 2}


def test_a_rank_that_no_longer_exists_is_given_up_for_a_hole() -> None:
    nodes = {"b": ("node2", READY, None), "c": ("node3", READY, None)}
    assert ranks_of(make(nodes, previous={"a": 0, "b": 1, "c": 2})) == {"c": 0, "b": 1}


def test_a_wish_goes_before_habit_and_a_second_wish_for_it_is_in_vain() -> None:
    nodes = {"a": ("node1", READY, None), "b": ("node2", READY, 0), "c": ("node3", READY, 0)}
    assert ranks_of(make(nodes, previous={"a": 0})) == {"b": 0, "a": 1, "c": 2}


def test_a_wish_beyond_the_world_is_not_heard() -> None:
    assert ranks_of(make({"a": ("node1", READY, 7), "b": ("node2", READY, None)})) == {"a": 0, "b": 1}


def test_places_go_to_the_last_round_then_to_newcomers_then_to_spares() -> None:
    nodes = {"s": ("s", SPARE, None), "n": ("n", READY, None), "o": ("o", READY, None), "t": ("t", SPARE, None)}
    letters = "".join(node_id[0] for node_id in choose_members(make(nodes, previous={"o": 0}, most=3), 0))
    assert letters == "ons"
    assert [node_id[0] for node_id in choose_members(make(nodes, previous={"o": 0}, most=1), 0)] == ["o"]


def test_spares_do_not_take_reserved_places() -> None:
    nodes = {"a": ("a", READY, None), "s": ("s", SPARE, None), "t": ("t", SPARE, None)}
    state = make(nodes, most=3)
    assert len(choose_members(state, reserved=1)) == 2
    assert len(choose_members(state, reserved=2)) == 1
    assert len(choose_members(state, reserved=5)) == 1


def test_spares_alone_make_no_world() -> None:
    assert choose_members(make({"s": ("s", SPARE, None)}), 0) == []


@given(
    st.dictionaries(
        st.sampled_from("abcdef0123456789"),
        st.tuples(st.text(max_size=6), st.just(READY), st.none() | st.integers(0, 20)),
        min_size=1,
    ),
    st.lists(st.sampled_from("abcdef0123456789"), unique=True),
)
def test_ranks_are_always_0_to_n_minus_1(nodes: dict[str, tuple[str, Standing, int | None]], old: list[str]) -> None:
    state = make(nodes, previous={letter: rank for rank, letter in enumerate(old)}, most=20)
    assert sorted(ranks_of(state).values()) == list(range(len(nodes)))
