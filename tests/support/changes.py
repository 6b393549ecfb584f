"""Changes of a server's state by chance, in an order in which an engine could give them."""

from __future__ import annotations

from hypothesis import strategies as st

from rallypoint.server.changes import (
    Answer,
    AnswerKept,
    AnswersForgotten,
    Appended,
    Change,
    GroupForgotten,
    GroupMet,
    KeyDeleted,
    KeySet,
    LeaseEnded,
    LeaseGranted,
    Member,
    Popped,
    Pushed,
    SessionEnded,
    SessionMade,
    State,
    apply,
)

__all__ = ["changes"]

NAMES = [b"", b"a", b"b", b"\0\xff", b"key"]
BODIES = [b"", b"shared body", b"another"]
KINDS = [46, 47]


def _value(draw):
    return draw(st.binary(max_size=20))


def _one(draw, state: State) -> Change:
    """Give one change that can follow upon a state."""
    name = draw(st.sampled_from(NAMES))
    revision = state.revision + 1
    makers = [
        lambda: KeySet(name, _value(draw), revision, draw(st.sampled_from([0, *state.leases]))),
        lambda: Pushed(name, _value(draw)),
        lambda: LeaseGranted(state.lease_last + 1, draw(st.integers(0, 9)), draw(st.sampled_from([b"", b"s"])), name),
    ]
    if name in state.keys:
        makers += [lambda: Appended(name, _value(draw), revision), lambda: KeyDeleted(name, revision)]
    if name in state.queues:
        makers.append(lambda: Popped(name))
    if state.leases:
        makers.append(lambda: LeaseEnded(draw(st.sampled_from(list(state.leases)))))
    session = name.ljust(16, b"s")
    kind = draw(st.sampled_from(KINDS))
    if session in state.sessions:
        found = state.sessions[session]
        answer = st.one_of(st.none(), st.builds(Answer, st.binary(max_size=9), st.sampled_from(BODIES)))
        makers += [
            lambda: AnswerKept(session, found.done + draw(st.integers(0, 3)), draw(answer)),
            lambda: AnswersForgotten(session, found.done + draw(st.integers(1, 3))),
            lambda: SessionEnded(session),
        ]
    else:
        makers.append(lambda: SessionMade(session, name, b"identity", draw(st.integers(0, 9))))
    member = st.builds(Member, st.integers(0, 9), st.just(session), st.sampled_from(NAMES))
    before = state.groups.get((kind, name))
    makers.append(
        lambda: GroupMet(
            kind, name, 1 + (before.generation if before else 0), tuple(draw(st.lists(member, max_size=3)))
        )
    )
    if before is not None:
        makers += [
            lambda: GroupForgotten(kind, name),
            lambda: GroupMet(kind, name, before.generation + 1, before.members),
        ]
    return draw(st.sampled_from(makers))()


@st.composite
def changes(draw, max_size: int = 40) -> list[Change]:
    """Changes that can follow upon an empty state."""
    state = State()
    given = []
    for _ in range(draw(st.integers(0, max_size))):
        change = _one(draw, state)
        apply(state, [change])
        given.append(change)
    return given
