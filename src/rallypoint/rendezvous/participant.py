"""One node's hold on the shared state: look, ask the rules, change, swap; and what it has heard of its round.

This is the driver of ``decide``, ``tend`` and ``judge``: it has the clock, the dice and the backend, and no rule of its
own. Every look goes the same way::

    backend.get_state -> decode -> view.observe -> rules -> change -> encode -> backend.set_state
                                       |                                            | lost: pause at random, look again
                                       +-> judge: news, told to those who wait for it
"""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.errors import RendezvousTimeoutError
from rallypoint.events import emit
from rallypoint.rendezvous.backend import RendezvousBackend, Token
from rallypoint.rendezvous.change import Action, Beat, Hear, Leave, change
from rallypoint.rendezvous.contact import Contact
from rallypoint.rendezvous.decide import Decision, Enter, Rules, Seat, Stop, Wait, decide, tend
from rallypoint.rendezvous.pace import GAP_MIN_S, crowd_pause_s, gap_after_s, loss_pause_max_s
from rallypoint.rendezvous.state import Card, State, decode_state, encode_state, new_state
from rallypoint.rendezvous.verdict import Verdict, VerdictKind, judge
from rallypoint.rendezvous.view import View
from rallypoint.types import Timeout

__all__ = ["Participant", "Seen"]


class Seen(NamedTuple):
    """A state and the version it has in the backend.

    Attributes:
        state: what was read.
        token: the backend's name for the version; ``None`` if nothing is stored yet.
    """

    state: State
    token: Token | None


class Participant:
    """One node of a run.

    Args:
        backend: where the state is.
        rules: the numbers.
        card: how the node introduces itself.
        run_id: the run, for events.
        clock: what all times are measured on.

    Threads: ``advance`` and ``pause`` belong to the thread that joins, ``keep_place`` to the one that keeps the node's
    place; everything else is safe from any thread. No lock is held while the backend is asked.
    """

    def __init__(
        self, backend: RendezvousBackend, rules: Rules, card: Card, run_id: str, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.node_id = secrets.token_hex(16)
        self.rules = rules
        self._backend = backend
        self._run_id = run_id
        self._clock = clock
        self._dice = random.Random()  # noqa: S311 - spreads load, hides nothing
        self._changed = threading.Condition()  # guards all that follows
        self._seat = Seat(self.node_id, card)
        self._view = View()
        self._is_joining = False
        self._verdict: Verdict | None = None
        self._contact = Contact(backend.where, min(rules.answer_s, rules.dead_after_s), clock)
        self._is_done = False
        self._beaten_at = clock.now()
        self._why = ""
        self._losses = 0  # swaps lost in a row

    # --- joining -------------------------------------------------------------------------------------------

    @property
    def is_joining(self) -> bool:
        """Whether this node wants in and is not."""
        return self._is_joining

    @property
    def label(self) -> str:
        """This node for people, as ``label_of`` gives it."""
        return f"{self._seat.card.host}#{self.node_id[:6]}"

    @property
    def entered(self) -> int | None:
        """The round that this node was admitted to last, and has not left."""
        return self._seat.entered

    def begin_to_join(self) -> None:
        """Want in, from now on."""
        with self._changed:
            self._is_joining = True
            self._seat = replace(self._seat, joining_since=self._clock.now())
            self._changed.notify_all()

    def advance(self, seen: Seen | None, prepare: Callable[[Action, State], Action]) -> tuple[Decision, Seen, bool]:
        """Take one step towards a round.

        Args:
            seen: what the last step left behind; ``None`` looks anew.
            prepare: may complete an action with what only the driver has, such as a server's address.

        Returns:
            The decision, the state that it was made on or that it led to, and whether to go on from there without
            waiting.

        Raises:
            RendezvousError: if the backend cannot be reached, or holds no state of ours.
        """
        if seen is None:
            seen = self.look()
        with self._changed:
            decision = decide(seen.state, self._seat, self._view, self.rules, self._clock.now())
        self._tell(decision)
        action = decision.action
        if isinstance(action, Enter):
            self._enter(seen.state)
            return decision, seen, False
        if isinstance(action, (Wait, Stop)):
            return decision, seen, False
        after = self._swap(seen, prepare(action, seen.state))
        return decision, after, not isinstance(action, Beat)

    def stop_joining(self) -> None:
        """Want in no more; the node's place in the state is another matter (``make`` a Leave)."""
        with self._changed:
            self._is_joining = False
            self._changed.notify_all()

    def pause(self, seen: Seen, gap_s: float) -> float:
        """Wait for a change of the state, at most ``gap_s`` seconds; give the length of the next pause."""
        nodes = len(seen.state.nodes)
        if pause_s := crowd_pause_s(nodes):
            self._clock.sleep(pause_s)
        self._backend.wait_for_change(seen.token, gap_s)
        return gap_after_s(gap_s, nodes)

    # --- at any time ---------------------------------------------------------------------------------------

    def look(self) -> Seen:
        """Read the state; what it says of this node's round becomes news.

        Raises:
            RendezvousError: if the backend cannot be reached, or holds no state of ours.
        """
        with self._asking():
            stored = self._backend.get_state()
        if stored is None:
            fresh = new_state(secrets.token_hex(16), self.rules.min_nodes, self.rules.max_nodes)
            return self._note(Seen(fresh, None))
        return self._note(Seen(decode_state(stored[0]), stored[1]))

    def make(self, action: Action, timeout: Timeout) -> State:
        """Make a change that no rule decides: a report, a departure, the closing.

        Args:
            action: the change.
            timeout: how long to try.

        Returns:
            The state with the change in it, or the state to which it does not apply.

        Raises:
            RendezvousTimeoutError: if every swap was lost.
            RendezvousError: if the backend cannot be reached, or holds no state of ours.
        """
        deadline = Deadline(timeout, self._clock)
        seen = self.look()
        while True:
            desired = change(seen.state, action, self.node_id)
            if desired is seen.state:
                return desired
            seen = self._swap_once(seen, desired)
            if seen.state is desired:
                return desired
            if deadline.has_passed():
                raise RendezvousTimeoutError(
                    f"{type(action).__name__.lower()} could not be stored within {deadline.timeout_s:g} s: "
                    f"{self._losses} swaps in a row were lost to other nodes",
                    waited_s=deadline.waited_s(),
                )
            seen = self._after_loss(seen)

    def depart(self, why: str, timeout: Timeout) -> State:
        """Give up this node's place, or note that the run is closed; want in no more.

        Raises:
            RendezvousError: as ``make``.
        """
        self.stop_joining()
        is_closed = self.look().state.closure is not None
        if not is_closed:
            with self._changed:  # what becomes of a round that this node leaves is no news to it
                self._seat, self._verdict = replace(self._seat, entered=None), None
        return self.make(Hear() if is_closed else Leave(why), timeout)

    def linger(self, timeout: Timeout) -> None:
        """Wait until every node has heard that the run is closed, or the time is up.

        Raises:
            RendezvousError: if the backend cannot be reached, or holds no state of ours.
        """
        deadline, gap_s = Deadline(timeout, self._clock), GAP_MIN_S
        seen = self.look()
        while seen.state.unaware and not deadline.has_passed():
            gap_s = self.pause(seen, min(gap_s, deadline.remaining_s()))
            seen = self.look()

    def keep_place(self) -> Seen:
        """Look once, beat if a beat is due, and drop who is gone.

        Raises:
            RendezvousError: if the backend cannot be reached, or holds no state of ours.
        """
        seen = self.look()
        with self._changed:
            decision = tend(seen.state, self._seat, self._view, self.rules, self._clock.now())
        action = decision.action
        if isinstance(action, (Wait, Enter, Stop)):
            return seen
        if not isinstance(action, Beat):
            emit(f"rendezvous.{type(action).__name__.lower()}", decision.why, run_id=self._run_id, node=self.node_id)
        return self._swap(seen, action)

    # --- news ----------------------------------------------------------------------------------------------

    def news(self) -> Verdict:
        """Say what has become of this node's round, as of the last look.

        Raises:
            RendezvousError: if the last look failed, or the present one has been without an answer for too long.
        """
        with self._changed:
            verdict = self._news()
            trouble = self._contact.trouble()
        if verdict.kind is not VerdictKind.CURRENT or trouble is None:
            return verdict
        raise trouble

    def wait_for_news(self, timeout_s: float) -> Verdict:
        """Wait until this node's round no longer goes on, looking fails, or the time is up.

        Raises:
            RendezvousError: as ``news``.
        """
        deadline, contact = Deadline(timeout_s, self._clock), self._contact
        with self._changed:
            while self._news().kind is VerdictKind.CURRENT and not contact.trouble() and not deadline.has_passed():
                # Silence makes news too, at a time that nobody notifies us of.
                silence_left_s = self.rules.dead_after_s - (self._clock.now() - self._beaten_at)
                left_s = max(min(silence_left_s, contact.until_trouble_s()), GAP_MIN_S)
                self._changed.wait(min(deadline.remaining_s(), left_s))
        return self.news()

    def note_trouble(self, trouble: Exception | None) -> None:
        """Note that a look failed, or that looking goes well again."""
        with self._changed:
            if (trouble is None) is not (self._contact.trouble() is None):
                self._changed.notify_all()
            self._contact.fail(trouble)

    def wait_while_joining(self, timeout_s: float, is_stopping: Callable[[], bool]) -> None:
        """Wait while this node wants in, at most ``timeout_s`` seconds.

        Args:
            timeout_s: the longest wait.
            is_stopping: ends the wait too; call ``wake`` after what it looks at has changed.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_joining or is_stopping(), timeout_s)

    def wake(self) -> None:
        """Let those who wait look again whether they should."""
        with self._changed:
            self._changed.notify_all()

    def _news(self) -> Verdict:
        if self._verdict is None:
            return Verdict(VerdictKind.CURRENT, "this node is in no round")
        silent_s = self._clock.now() - self._beaten_at
        if self._verdict.kind is VerdictKind.CURRENT and not self._is_done and silent_s > self.rules.dead_after_s:
            if self._contact.trouble() is not None:  # otherwise it was this node that slept
                return Verdict(
                    VerdictKind.CUT_OFF,
                    f"{self._contact.silence()}, so this node stops: it cannot know whether the others go on",
                )
            return Verdict(
                VerdictKind.FENCED,
                f"no beat of this node was stored for {silent_s:.1f} s, so the others may have taken it for gone",
            )
        return self._verdict

    # --- the rest ------------------------------------------------------------------------------------------

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._changed:
            self._contact.ask()
        try:
            yield
        finally:
            with self._changed:
                self._contact.end()

    def _enter(self, state: State) -> None:
        with self._changed:
            self._is_joining = False
            self._seat = replace(self._seat, entered=state.round)
            self._judge(state)
            self._changed.notify_all()

    def _note(self, seen: Seen) -> Seen:
        state = seen.state
        with self._changed:
            self._contact.answer()
            is_other_life = self._view.version >= 0 and self._view.born != state.born
            if is_other_life and self._is_joining:
                self._seat = replace(self._seat, entered=None)
            if is_other_life or state.version >= self._view.version:
                self._judge(state)
            self._view = self._view.observe(state, self.node_id, self.rules.keep_alive_interval_s, self._clock.now())
        return seen

    def _judge(self, state: State) -> None:
        """Turn a look into news; called with the lock held."""
        entered = self._seat.entered
        if entered is None:
            return
        verdict = judge(state, self.node_id, entered)
        before, self._verdict = self._verdict, verdict
        self._is_done = self.node_id in state.done and state.round == entered
        if before is None or before.kind is not verdict.kind:
            self._changed.notify_all()
            if not self._is_joining and verdict.kind is not VerdictKind.CURRENT:
                emit(
                    f"rendezvous.{verdict.kind.value}",
                    verdict.why,
                    run_id=self._run_id,
                    node=self.node_id,
                    round=entered,
                    outcome=verdict.outcome,
                )

    def _swap(self, seen: Seen, action: Action) -> Seen:
        """Try to make a change once; pause if the swap was lost."""
        desired = change(seen.state, action, self.node_id)
        if desired is seen.state:
            return seen
        after = self._swap_once(seen, desired)
        return after if after.state is desired else self._after_loss(after)

    def _swap_once(self, seen: Seen, desired: State) -> Seen:
        """Try to store a state; give what is stored now, which is ``desired`` itself if the swap was won."""
        started = self._clock.now()
        with self._asking():
            answer = self._backend.set_state(encode_state(desired), seen.token)
        data, token, has_won = answer if answer is not None else (b"", None, False)
        if not has_won:
            self._losses += 1
            return self.look() if answer is None else self._note(Seen(decode_state(data), token))
        self._losses = 0
        with self._changed:
            if self.node_id in desired.nodes:
                self._beaten_at = started  # when it was asked for: others saw the beat later, if at all
        return self._note(Seen(desired, token))

    def _after_loss(self, seen: Seen) -> Seen:
        """Give the state to try again on; the longer the row of losses, the longer the pause before it is read."""
        if self._losses <= 1:
            return seen
        self._clock.sleep(self._dice.uniform(0.0, loss_pause_max_s(self._losses)))
        return self.look()

    def _tell(self, decision: Decision) -> None:
        if decision.why == self._why or not self._is_joining:
            return
        self._why = decision.why
        name = "wait" if isinstance(decision.action, Beat) else type(decision.action).__name__.lower()
        emit(f"rendezvous.{name}", decision.why, run_id=self._run_id, node=self.node_id)
