"""Calling policies that users wrote: whatever they do, a connection lives and its books balance.

Rules: an exception, a message that was never given or was handed over before, and an answer that
is no time are faults. A fault is counted and reported once, never raised; a message for which an
ordering raises is refused, so that its sender learns it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from aerogram.core.delivery import HoldingOrdering, Ordering, Retry, Sent
from aerogram.core.events import RefuseCode
from aerogram.core.recovery import Rtt
from aerogram.errors import DecodeError

Run = tuple[int, list[Any], int]
"""Messages handed over together: the number of the first, the messages with numbers that follow
on, and their cost in flow control."""

Item = tuple[int, Any, int]
"""A message that an ordering has been given: its number, itself, its cost."""

SOONEST_RETRY_SECONDS: Final = 0.001
"""A policy that wants to send again at once, or in the past, waits this long (RFC 9002 §6.1.2)."""


class BrokenPolicy(Exception):
    """A policy did what none may do."""


class Fault:
    """What a policy did wrong, or a message that it could not be shown."""

    __slots__ = ("code", "error", "number")

    def __init__(
        self, error: Exception, number: int = -1, code: RefuseCode = RefuseCode.HANDLER_FAILED
    ) -> None:
        self.error = error
        self.number = number
        """The message that is to be refused for it; -1 if none is."""
        self.code = code


class Guard:
    """An ordering of the user's own, held to what every ordering promises."""

    __slots__ = ("_held", "_holds", "_ordering", "_view", "faults", "held_cost")

    def __init__(self, ordering: Ordering, view: Callable[[bytes], Any] | None) -> None:
        self._ordering = ordering
        self._view = view
        self._holds = hasattr(ordering, "skipped")
        # Messages are known by identity: they need be neither hashable nor comparable. Equal small
        # values are one object, so there may be several items for one.
        self._held: dict[int, list[Item]] = {}
        self.held_cost = 0
        """Of all messages that the ordering has and was neither seen to hand over nor to drop."""
        self.faults: list[Fault] = []
        """What went wrong since the caller last emptied it."""

    def arrived(self, number: int, payload: bytes, cost: int) -> tuple[list[Run], int]:
        """Show the ordering a new message; return what is set free, and the cost of what is not."""
        try:
            message = payload if self._view is None else self._view(payload)
        except DecodeError as undecodable:  # compiled, a name has one type
            return self._refused(number, cost, Fault(undecodable, number, RefuseCode.UNDECODABLE))
        except Exception as error:  # a user's own decoding
            return self._refused(number, cost, Fault(error, number))
        self._held.setdefault(id(message), []).append((number, message, cost))
        self.held_cost += cost
        runs: list[Run] = []
        try:
            self._collect(runs, self._ordering.arrived(number, message))
        except BrokenPolicy as broken:
            self.faults.append(Fault(broken))
        except Exception as error:  # a user's ordering
            is_kept = self._take(message, number) is not None
            self.faults.append(Fault(error, number if is_kept else -1))
            return runs, cost if is_kept else 0
        if not self._holds and self._take(message, number) is not None:
            return runs, cost
        return runs, 0

    def _refused(self, number: int, cost: int, fault: Fault) -> tuple[list[Run], int]:
        """The ordering cannot be shown this message; so that it does not wait, it is told so."""
        self.faults.append(fault)
        return self.skipped(number), cost

    def skipped(self, number: int) -> list[Run]:
        """Tell the ordering that a number will never come; return what that sets free."""
        runs: list[Run] = []
        if self._holds:
            try:
                self._collect(runs, cast("HoldingOrdering", self._ordering).skipped(number))
            except Exception as error:  # a user's ordering
                self.faults.append(Fault(error))
        return runs

    def overflows(self) -> None:
        """A message was not shown to the ordering, because it holds all that it may."""
        self.faults.append(Fault(BrokenPolicy("an ordering holds more than it may")))

    def _collect(self, runs: list[Run], messages: Iterable[Any]) -> None:
        """Take what an ordering returns, up to the first that it must not. It may be a generator.

        Raises `BrokenPolicy`, and whatever the ordering raises.
        """
        for message in messages:
            item = self._take(message)
            if item is None:
                raise BrokenPolicy("an ordering handed over what it was not given, or twice")
            runs.append((item[0], [item[1]], item[2]))

    def _take(self, message: Any, number: int | None = None) -> Item | None:
        """Take out the oldest item of a message, or the one with this number."""
        items = self._held.get(id(message))
        if items is None:
            return None
        for index, item in enumerate(items):
            if number is None or item[0] == number:
                del items[index]
                if not items:
                    del self._held[id(message)]
                self.held_cost -= item[2]
                return item
        return None


def next_try(retry: Retry, sent: Sent, rtt: Rtt, now: float) -> float | None:
    """Ask a policy when a message that leaves now leaves again; see `Retry.next_try`.

    Raises `BrokenPolicy` for what is no answer; the caller leaves it to loss detection then.
    """
    try:
        due = cast("object", retry.next_try(sent, rtt))
    except Exception as error:  # a user's policy
        raise BrokenPolicy(f"a retry policy raised {type(error).__name__}: {error}") from error
    if due is None:
        return None
    if isinstance(due, bool) or not isinstance(due, int | float) or math.isnan(due):
        raise BrokenPolicy(f"a retry policy answered {due!r}, which is no time")
    return max(float(due), now + SOONEST_RETRY_SECONDS)
