"""The ledger: what became of every message, sent or received, and whether the sums are right.

Rules: a message that was sent has one outcome or is in flight, and those in flight are counted one
by one; a message that was received has been handled, was refused, was dropped for a reason that
has a name, or waits, and those that wait are counted one by one. Nothing is derived from the sum
that it is to be checked against.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from aerogram.core.stats import ConnectionStats


@dataclass(slots=True)
class Ledger(ConnectionStats):
    """Counters of the messages and packets of one session, or of many."""

    messages_in_flight: int = 0
    """Sent, and without an outcome."""

    messages_handled: int = 0
    """Received, and their handler has run to its end or raised, or `receive` has returned them."""
    messages_dropped_late: int = 0
    """Their deadline had passed before a handler could take them."""
    messages_dropped_cancelled: int = 0
    """Requests for whose answer nobody waited any more before a handler could take them."""
    messages_dropped_closed: int = 0
    """The session had ended, and the time that its handlers are given."""
    messages_waiting: int = 0
    """Received, and with a handler now or waiting for one."""

    handlers_expired: int = 0
    """Handlers that were cancelled because the deadline of their message passed."""
    handlers_cancelled: int = 0
    """Handlers that were cancelled because nobody waited for their answer any more."""

    @property
    def balanced(self) -> bool:
        """True if every message, sent or received, is accounted for exactly once."""
        return not self.imbalances

    @property
    def imbalances(self) -> list[str]:
        """What does not add up, in words; empty if all does."""
        return [
            f"{getattr(self, total)} messages {_word(total)}, but "
            + ", ".join(f"{getattr(self, part)} {_word(part)}" for part in parts)
            for total, parts in _SUMS.items()
            if getattr(self, total) != self._sum(parts)
        ]

    def _sum(self, parts: Iterable[str]) -> int:
        return sum([getattr(self, part) for part in parts])

    def add(self, other: ConnectionStats) -> None:
        """Count what another has counted as well."""
        for counter in fields(Ledger if isinstance(other, Ledger) else ConnectionStats):
            name = counter.name
            setattr(self, name, getattr(self, name) + getattr(other, name))


def _word(counter: str) -> str:
    return counter.removeprefix("messages_").replace("_", " ")


_OUTCOMES: Final = (
    "messages_delivered",
    "messages_lost",
    "messages_expired",
    "messages_superseded",
    "messages_refused",
)
_SUMS: Final = {
    "messages_sent": (*_OUTCOMES, "messages_in_flight"),
    "messages_received": (
        "messages_handled",
        "messages_received_refused",
        "messages_dropped_late",
        "messages_dropped_cancelled",
        "messages_dropped_closed",
        "messages_dropped_mailbox",
        "messages_waiting",
    ),
}


@dataclass(slots=True)
class SessionStats(Ledger):
    """A snapshot of what a session has counted, with its round-trip time in seconds."""

    rtt: float = 0.0
    rtt_variation: float = 0.0
