"""What must be true of a session, said without the protocol: the model that proofs compare with.

A `Line` is one direction of one session on one kind of channel. Rules: what is wrong is collected,
never raised, because handlers that raise are the library's to catch; nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aerogram import Outcome, Receipt
from tests.proof.notes import KEYS, Kind, blob


@dataclass(slots=True)
class Said:
    """One note as it was said."""

    size: int
    key: int
    has_deadline: bool
    receipt: Receipt | None = None
    """None while it waits for room."""

    @property
    def outcome(self) -> Outcome | None:
        """How it ended for the one who said it."""
        return None if self.receipt is None else self.receipt.outcome


@dataclass
class Line:
    """What was said and what was heard."""

    name: str
    kind: Kind
    violations: list[str]
    said: list[Said] = field(default_factory=list)
    heard: set[int] = field(default_factory=set)
    last: int = -1
    last_of_key: dict[int, int] = field(default_factory=dict)

    def next_note(self, size: int, *, has_deadline: bool = False) -> Any:
        """Say something new."""
        number = len(self.said)
        self.said.append(Said(size, number % KEYS, has_deadline or self.kind.has_deadline))
        return self.kind.note(number, number % KEYS, blob(number, size))

    def hear(self, note: Any) -> None:
        """Compare what a handler got with what was said."""
        number = note.number
        if not 0 <= number < len(self.said):
            self._wrong(f"{number} was never said")
            return
        said = self.said[number]
        if len(note.blob) != said.size or note.blob != blob(number, said.size):
            self._wrong(f"{number} is not what was said: {len(note.blob)} of {said.size} B")
        if number in self.heard:
            self._wrong(f"{number} came twice")
        self._check_order(number, note.key)
        self.heard.add(number)

    def _check_order(self, number: int, key: int) -> None:
        order = self.kind.order
        if order == "newest of its key":
            if number < self.last_of_key.get(key, -1):
                self._wrong(f"{number} came after {self.last_of_key[key]} of its key")
            self.last_of_key[key] = number
            return
        if order != "as it arrives" and number < self.last:
            self._wrong(f"{number} came after {self.last}")
        if order == "strict":
            for between in range(self.last + 1, number):
                if not self._was_given_up(self.said[between]):
                    self._wrong(f"{number} came before {between}, which was not given up")
        self.last = max(self.last, number)

    def missing(self) -> list[int]:
        """The numbers of what has to arrive and has not."""
        if not self.kind.resends:
            return []
        numbers = self._newest() if self.kind.supersedes else range(len(self.said))
        return [
            number
            for number in numbers
            if number not in self.heard and not self._was_given_up(self.said[number])
        ]

    def _was_given_up(self, said: Said) -> bool:
        """Whether it need not be shown: its sender has given it up, or it may be too late."""
        if said.has_deadline:
            return True
        gone = (Outcome.LOST, Outcome.EXPIRED, Outcome.SUPERSEDED)
        return (self.kind.gives_up or self.kind.supersedes) and said.outcome in gone

    def _newest(self) -> list[int]:
        numbers = range(len(self.said))
        if self.kind.order == "newest":
            return [*numbers[-1:]]
        return [*{self.said[number].key: number for number in numbers}.values()]

    def check_outcomes(self, *, while_open: bool) -> None:
        """Compare receipts with what was heard; all messages have come or gone by now."""
        for number, said in enumerate(self.said):
            outcome = said.outcome
            if outcome is Outcome.REFUSED:
                self._wrong(f"{number} was refused")
            if outcome is Outcome.DELIVERED and number not in self.heard and self._shows(said):
                self._wrong(f"{number} counts as delivered and never came")
            if while_open and outcome is Outcome.LOST and not self.kind.gives_up:
                self._wrong(f"{number} counts as lost although the session lives")
            if outcome is Outcome.EXPIRED and not said.has_deadline:
                self._wrong(f"{number} has expired and had no deadline")

    def _shows(self, said: Said) -> bool:
        """Whether a handler sees all that arrives: an order may leave out, a mailbox overflow."""
        return self.kind.resends and not self.kind.supersedes and not said.has_deadline

    def _wrong(self, what: str) -> None:
        self.violations.append(f"{self.name} {self.kind.name}: {what}")
