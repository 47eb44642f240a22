"""Which link joins which two nodes of a simulated network, and whether anything passes.

Links, partitions and holds are rules about pairs of node names, or about one node and everybody,
including those that come later. A `Direction` is what the rules make of one pair. Rules: no clock
and no I/O; what a direction does depends on the seed and the two names alone, so that one more node
changes nothing for the others.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from aerogram.lab.link import Link, LinkState

Pair = tuple[str | None, str | None]
"""From and to; None is everybody."""

_RuleT = TypeVar("_RuleT")
_HeldT = TypeVar("_HeldT")


class Direction(Generic[_HeldT]):
    """The way from one node to another. `state` is None within a node, where nothing is lost."""

    __slots__ = ("held", "is_cut", "is_open", "own_state", "source", "state", "target")

    def __init__(self, source: str, target: str, state: LinkState | None) -> None:
        self.source = source
        self.target = target
        self.own_state = state
        self.state = state
        self.is_cut = False
        self.held: deque[_HeldT] | None = None
        """What waits for a release, in order; None while nothing is held."""
        self.is_open = True
        """Neither cut nor held."""


class _LinkRule(NamedTuple):
    link: Link
    shared: LinkState | None
    """The one state of all pairs of the rule, if they share a link."""


class _Rules(Generic[_RuleT]):
    """What was said about pairs. A rule for a pair goes before one for a node and everybody."""

    def __init__(self) -> None:
        self._rules: dict[Pair, _RuleT] = {}

    def set(self, pair: Pair, rule: _RuleT) -> None:
        self._rules[pair] = rule

    def discard(self, pair: Pair) -> None:
        """Forget what was said about a pair; with None in it, about all such pairs."""
        source, target = pair
        for known in [*self._rules]:
            if source in (None, known[0]) and target in (None, known[1]):
                del self._rules[known]

    def find(self, source: str, target: str) -> _RuleT | None:
        rules = self._rules
        if not rules:
            return None
        pairs: tuple[Pair, ...] = ((source, target), (source, None), (None, target), (None, None))
        for pair in pairs:
            if pair in rules:
                return rules[pair]
        return None


class Topology(Generic[_HeldT]):
    """The directions between all nodes, made when they are first used."""

    def __init__(self, seed: int, default: Link) -> None:
        self._seed = seed
        self._default = default
        self._links: _Rules[_LinkRule] = _Rules()
        self._cuts: _Rules[bool] = _Rules()
        self._holds: _Rules[bool] = _Rules()
        self._directions: dict[tuple[str, str], Direction[_HeldT]] = {}

    @property
    def default(self) -> Link:
        """The link of all pairs that have none of their own."""
        return self._default

    @default.setter
    def default(self, link: Link) -> None:
        self._default = link
        self._apply_links()

    def direction(self, source: str, target: str) -> Direction[_HeldT]:
        """Return the way from one node to another."""
        direction = self._directions.get((source, target))
        if direction is None:
            state = None if source == target else self._new_state(f"{source}>{target}")
            direction = self._directions[source, target] = Direction(source, target, state)
            self._apply_link(direction)
            self._apply_stops(direction)
        return direction

    # Changing the rules

    def set_link(self, pairs: Iterable[Pair], link: Link, *, shared: bool) -> None:
        """Join pairs by links of their own, or all by one that is shared."""
        pairs = [*pairs]
        state = self._new_state(f"shared {pairs}") if shared else None
        for pair in pairs:
            self._links.set(pair, _LinkRule(link, state))
        self._apply_links()

    def cut(self, pairs: Iterable[Pair]) -> None:
        """Let nothing pass."""
        for pair in pairs:
            self._cuts.set(pair, True)
        self._apply_all_stops()

    def mend(self, pairs: Iterable[Pair]) -> None:
        """Undo cuts."""
        for pair in pairs:
            self._cuts.discard(pair)
        self._apply_all_stops()

    def hold(self, pairs: Iterable[Pair]) -> None:
        """Let datagrams wait."""
        for pair in pairs:
            self._holds.set(pair, True)
        self._apply_all_stops()

    def release(self, pairs: Iterable[Pair]) -> list[_HeldT]:
        """Undo holds. Returns what has waited, in order for each direction."""
        for pair in pairs:
            self._holds.discard(pair)
        return self._apply_all_stops()

    # Applying them

    def _new_state(self, name: str) -> LinkState:
        # A text seeds by SHA-512 of it, the same in every Python and process.
        return LinkState(self._default, random.Random(f"{self._seed} {name}"))

    def _apply_links(self) -> None:
        for direction in self._directions.values():
            self._apply_link(direction)

    def _apply_link(self, direction: Direction[_HeldT]) -> None:
        if direction.own_state is None:
            return
        rule = self._links.find(direction.source, direction.target)
        shared = None if rule is None else rule.shared
        state = direction.state = shared or direction.own_state
        link = self._default if rule is None else rule.link
        if state.link != link:
            state.link = link

    def _apply_all_stops(self) -> list[_HeldT]:
        released: list[_HeldT] = []
        for direction in self._directions.values():
            released += self._apply_stops(direction)
        return released

    def _apply_stops(self, direction: Direction[_HeldT]) -> Iterable[_HeldT]:
        """Set whether a direction is cut or held. Returns what is let go."""
        if direction.state is None:
            return ()
        direction.is_cut = bool(self._cuts.find(direction.source, direction.target))
        is_held = bool(self._holds.find(direction.source, direction.target))
        released: Iterable[_HeldT] = ()
        if is_held and direction.held is None:
            direction.held = deque()
        elif not is_held and direction.held is not None:
            released, direction.held = direction.held, None
        direction.is_open = not direction.is_cut and not is_held
        return released
