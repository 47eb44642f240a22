"""What a receiver lacks, and when it asks for it.

Each gap waits its random time before it is asked for. If somebody else asks first, or after it was
asked for, it waits for the repair instead. It starts over when the sender's repairs have passed it,
or when none come at all, and then each time more patiently. One NACK names all that waits to be
asked for: its time has nearly come, too.

Rules: gaps are disjoint and ascending; time and chance are arguments. A gap is put off by others a
few times at most, so that nobody can keep a receiver from asking.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

from aerogram.lan.stream.timing import backoff_seconds
from aerogram.lan.stream.wire import NACK_RANGES_LIMIT, NUMBERS_LIMIT

GAPS_LIMIT: Final = 8192
"""Gaps at once; a packet that would leave one more behind counts as lost."""
REPAIR_ROUND_TRIPS: Final = 3.0
"""A repair takes one, the sender's collecting of NACKs half of one, its queue the rest."""
PASSED_ROUND_TRIPS: Final = 0.5
"""What the network may reorder: a repair that comes so much later than a higher one was lost."""
PATIENCE_DOUBLINGS: Final = 2
"""Waits for a repair grow up to fourfold while the sender does not repair at all."""
PUT_OFF_LIMIT: Final = 4
"""Times in a row that other receivers' NACKs put off this one's."""


class _Gap:
    """Sequences `low` to `high`, all missing; at `due` it is asked for, or asked for again."""

    __slots__ = ("asked_at", "attempts", "due", "high", "low", "put_off")

    def __init__(self, low: int, high: int, due: float) -> None:
        self.low = low
        self.high = high
        self.due = due
        self.asked_at: float | None = None
        """When this receiver or another asked, so that a repair is on its way."""
        self.attempts = 0
        self.put_off = 0

    def part(self, low: int, high: int) -> _Gap:
        """The same for a part of it."""
        part = _Gap(low, high, self.due)
        part.asked_at, part.attempts, part.put_off = self.asked_at, self.attempts, self.put_off
        return part


_low: Final = attrgetter("low")
_high: Final = attrgetter("high")


class Gaps:
    """Missing sequences with their timers. `uniform` returns random numbers from 0 to 1."""

    __slots__ = (
        "_factor",
        "_gaps",
        "_next_due",
        "_repaired",
        "_repaired_at",
        "_uniform",
        "members",
        "rtt",
    )

    def __init__(self, rtt: float, members: int, factor: float, uniform: Callable[[], float]):
        self.rtt = rtt
        """The round trip of the group in seconds."""
        self.members = members
        self._factor = factor
        self._uniform = uniform
        self._gaps: list[_Gap] = []
        self._next_due: float | None = None
        self._repaired = -1
        self._repaired_at = float("-inf")

    def __len__(self) -> int:
        return len(self._gaps)

    def __contains__(self, sequence: int) -> bool:
        return self._find(sequence) is not None

    @property
    def first(self) -> int | None:
        """The first missing sequence."""
        return self._gaps[0].low if self._gaps else None

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another gap."""
        return len(self._gaps) >= GAPS_LIMIT

    @property
    def missing(self) -> int:
        """How many sequences are missing."""
        return sum(gap.high - gap.low + 1 for gap in self._gaps)

    @property
    def due(self) -> float | None:
        """When `ask` has something to do; not later than that."""
        return self._next_due

    # What happens to gaps

    def noticed(self, low: int, high: int, now: float) -> None:
        """These are missing; all of them are above every other that was."""
        assert low <= high and (not self._gaps or low > self._gaps[-1].high)
        self._append(self._gaps, _Gap(low, high, now + self._backoff()))

    def filled(self, sequence: int) -> bool:
        """This one has come. False if it was not missing."""
        index = self._find(sequence)
        if index is None:
            return False
        gap = self._gaps[index]
        if gap.low == gap.high:
            del self._gaps[index]
        elif sequence == gap.low:
            gap.low += 1
        elif sequence == gap.high:
            gap.high -= 1
        else:
            self._gaps.insert(index + 1, gap.part(sequence + 1, gap.high))
            gap.high = sequence - 1
        return True

    def given_up_below(self, sequence: int) -> int:
        """Nothing below this will come any more. Returns how many were missing of it."""
        end = bisect_left(self._gaps, sequence, key=_high)
        count = sum(gap.high - gap.low + 1 for gap in self._gaps[:end])
        del self._gaps[:end]
        if self._gaps and self._gaps[0].low < sequence:
            count += sequence - self._gaps[0].low
            self._gaps[0].low = sequence
        return count

    def repaired(self, sequence: int, now: float) -> None:
        """The sender repairs, in ascending order: what was asked for is above this, or was lost."""
        self._repaired = sequence
        self._repaired_at = now
        self._sooner(now + PASSED_ROUND_TRIPS * self.rtt)

    def all_repaired(self, now: float) -> None:
        """The sender has sent again whatever it was asked for."""
        self.repaired(NUMBERS_LIMIT, now)

    def heard(self, ranges: Sequence[tuple[int, int]], now: float) -> bool:
        """Another receiver has asked for these. True if this one was about to."""
        was_waiting = False
        for low, high in ranges:
            start = bisect_left(self._gaps, low, key=_high)
            end = bisect_right(self._gaps, high, key=_low)
            if start < end and self._put_off(start, end, low, high, now):
                was_waiting = True
        return was_waiting

    def _put_off(self, start: int, end: int, low: int, high: int, now: float) -> bool:
        """Let the parts from `low` to `high` of gaps `start` to `end` wait for a repair."""
        changed: list[_Gap] = []
        was_waiting = False
        for gap in self._gaps[start:end]:
            if gap.asked_at is not None or gap.put_off >= PUT_OFF_LIMIT:
                changed.append(gap)
                continue
            was_waiting = True
            if gap.low < low:
                changed.append(gap.part(gap.low, low - 1))
            middle = gap.part(max(gap.low, low), min(gap.high, high))
            middle.put_off += 1
            self._await_repair(middle, now)
            self._append(changed, middle)
            if gap.high > high:
                changed.append(gap.part(high + 1, gap.high))
        if len(self._gaps) + len(changed) - (end - start) <= GAPS_LIMIT:
            self._gaps[start:end] = changed
        return was_waiting

    # Asking

    def ask(self, now: float) -> list[tuple[int, int]]:
        """What to ask for now, lowest first: nothing before the first gap's time has come."""
        if self._next_due is None or now < self._next_due:
            return []
        is_time = False
        for gap in self._gaps:
            if gap.asked_at is None:
                is_time = is_time or now >= gap.due
            elif now >= self._patient_until(gap):
                gap.attempts = 0 if self._is_answered(gap) else gap.attempts + 1
                gap.asked_at = None
                gap.due = now + self._backoff()
        asked = self._ask_for_all(now) if is_time else []
        self._next_due = min(map(self._acts_at, self._gaps), default=None)
        return asked

    def _ask_for_all(self, now: float) -> list[tuple[int, int]]:
        chosen = [gap for gap in self._gaps if gap.asked_at is None][:NACK_RANGES_LIMIT]
        for gap in chosen:
            gap.put_off = 0
            self._await_repair(gap, now)
        return [(gap.low, gap.high) for gap in chosen]

    def postpone(self, ranges: Sequence[tuple[int, int]], until: float) -> None:
        """These could not be asked for after all."""
        for low, _ in ranges:
            index = self._find(low)
            if index is not None:
                self._gaps[index].asked_at = None
                self._gaps[index].due = until
        self._sooner(until)

    def _await_repair(self, gap: _Gap, now: float) -> None:
        gap.asked_at = now
        patience = 1 << min(gap.attempts, PATIENCE_DOUBLINGS)
        gap.due = now + REPAIR_ROUND_TRIPS * self.rtt * patience
        self._sooner(gap.due)

    def _is_answered(self, gap: _Gap) -> bool:
        """Whether the sender has repaired something since a gap was asked for."""
        return gap.asked_at is not None and self._repaired_at >= gap.asked_at + self.rtt

    def _patient_until(self, gap: _Gap) -> float:
        """When to stop waiting for a repair."""
        if not self._is_answered(gap):
            return gap.due
        is_passed = gap.low <= self._repaired
        return self._repaired_at + self.rtt * (
            PASSED_ROUND_TRIPS if is_passed else REPAIR_ROUND_TRIPS
        )

    def _acts_at(self, gap: _Gap) -> float:
        return gap.due if gap.asked_at is None else self._patient_until(gap)

    def _backoff(self) -> float:
        return backoff_seconds(self._factor * self.rtt, self.members, self._uniform())

    # The list

    def _append(self, gaps: list[_Gap], gap: _Gap) -> None:
        gaps.append(gap)
        self._sooner(gap.due)

    def _sooner(self, due: float) -> None:
        if self._next_due is None or due < self._next_due:
            self._next_due = due

    def _find(self, sequence: int) -> int | None:
        index = bisect_right(self._gaps, sequence, key=_low) - 1
        return index if index >= 0 and sequence <= self._gaps[index].high else None
