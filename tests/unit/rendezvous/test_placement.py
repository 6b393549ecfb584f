from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from msgspec.structs import replace

from rallypoint.rendezvous.placement import find_placement, register_placement
from rallypoint.rendezvous.state import Card, Node, Standing, State, new_state


def gathered(**cards: Card) -> tuple[State, list[str]]:
    ids = {name: name * 32 for name in cards}
    nodes = {ids[name]: Node(card=card, standing=Standing.READY, arrival=1) for name, card in cards.items()}
    return replace(new_state("0" * 32, 1, 16), nodes=nodes), list(nodes)


def card(host: str, wish: int | None = None, **labels: str) -> Card:
    return Card(host=host, address=host, rank_wish=wish, labels=labels)


def by_rank(ranks: Mapping[str, int]) -> str:
    return "".join(node_id[0] for node_id in sorted(ranks, key=ranks.__getitem__))


def test_sticky_gives_a_node_the_rank_that_it_had_in_whatever_round_if_it_is_free() -> None:
    state, chosen = gathered(a=card("h1"), b=card("h2"), c=card("h3"), d=card("h4"))
    state = replace(state, previous={"a" * 32: 0, "b" * 32: 1})
    before = {"c" * 32: 3, "d" * 32: 2, "a" * 32: 0, "b" * 32: 1}
    assert by_rank(find_placement("sticky")(state, chosen, before)) == "abdc"
    assert by_rank(find_placement("sticky")(state, chosen, {"c" * 32: 0})) == "abcd"


def test_equal_labels_are_neighbours_key_by_key() -> None:
    state, chosen = gathered(
        a=card("h3", rack="r2"), b=card("h1", rack="r10"), c=card("h4", rack="r2"), d=card("h1", rack="r10")
    )
    assert by_rank(find_placement("labels:rack,host")(state, chosen, {})) == "acbd"
    assert by_rank(find_placement("labels:rack+host")(state, chosen, {})) == "acbd"
    assert by_rank(find_placement("labels")(state, chosen, {})) == "acbd"
    assert by_rank(find_placement("labels:host")(state, chosen, {})) == "bdac"


def test_groups_stand_in_the_order_of_the_ranks_that_they_had() -> None:
    state, chosen = gathered(a=card("h1", rack="r1"), b=card("h2", rack="r2"), c=card("h0", rack="r2"))
    assert by_rank(find_placement("labels:rack")(state, chosen, {"b" * 32: 0})) == "bca"


def test_a_wish_moves_a_group_and_a_node_in_it() -> None:
    state, chosen = gathered(a=card("h1", rack="r1"), b=card("h2", rack="r2"), c=card("h3", wish=0, rack="r2"))
    assert by_rank(find_placement("labels:rack")(state, chosen, {})) == "cba"


def test_users_can_add_one() -> None:
    def make(keys: tuple[str, ...]) -> object:
        def place(_state: State, chosen: Sequence[str], _before: Mapping[str, int]) -> dict[str, int]:
            ordered = sorted(chosen, reverse="down" in keys)
            return {node_id: rank for rank, node_id in enumerate(ordered)}

        return place

    register_placement("alphabet-of-the-test", make)  # type: ignore[arg-type]
    state, chosen = gathered(a=card("h"), b=card("h"))
    assert by_rank(find_placement("alphabet-of-the-test:down")(state, chosen, {})) == "ba"
    with pytest.raises(ValueError, match="already"):
        register_placement("alphabet-of-the-test", make)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without a colon"):
        register_placement("a:b", make)  # type: ignore[arg-type]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no placement 'near'; known are .*labels.*sticky"):
        find_placement("near")
