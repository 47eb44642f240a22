"""When one side asks the other for its time, and how it answers: TIME and TIME_ANSWER frames.

Only a side that wants to know asks, often at first and seldom later, but soon again if there was no
answer, or one that contradicts those before it. Rules: a frame is not sent again if it is lost; a
side has one question open and answers the newest of its peer's, in a packet that is built as it
leaves, so that the times in it are true.
"""

from __future__ import annotations

from typing import Final

from aerogram.core import wire
from aerogram.core.clock import ClockFilter

QUICK_QUESTIONS: Final = 8
QUICK_INTERVAL_SECONDS: Final = 0.1
"""A second after it began to ask, a side knows the offset to within a good round trip."""
INTERVAL_SECONDS: Final = 4.0
"""Later: often enough that drift adds no more than the round trip does, and that a step is found
soon."""
ANSWER_SECONDS: Final = 0.5
"""So long an answer is waited for, and each further time twice as long, up to the interval."""
MICROSECOND: Final = 1e-6


class Timing:
    """The questions of one side, and its answers to the other's."""

    __slots__ = ("_asked_at", "_next_at", "_patience", "_pending", "_questions", "clock")

    def __init__(self) -> None:
        self.clock = ClockFilter(granularity=2 * MICROSECOND)
        self._next_at: float | None = None
        self._questions = 0
        self._patience = ANSWER_SECONDS
        self._asked_at = -1
        self._pending: tuple[int, float] | None = None

    @property
    def is_asking(self) -> bool:
        """True once `start` was called."""
        return self._next_at is not None

    def start(self, now: float) -> None:
        """Begin to ask; harmless if that has begun."""
        if self._next_at is None:
            self._next_at = now

    def deadline(self) -> float | None:
        """When the next question is due; None if none will be."""
        return self._next_at

    def question(self, frame: wire.Time, now: float) -> None:
        """The peer wants to know the time."""
        self._pending = (frame.sent_at, now)

    def answer(self, frame: wire.TimeAnswer, now: float) -> None:
        """The peer has told the time. An answer to another question than the last says nothing."""
        if frame.asked_at != self._asked_at:
            return
        self._asked_at = -1
        self._patience = ANSWER_SECONDS
        steps = self.clock.steps
        self.clock.exchanged(
            frame.asked_at * MICROSECOND,
            frame.received_at * MICROSECOND,
            frame.sent_at * MICROSECOND,
            now,
        )
        if self.clock.steps != steps:
            self._questions = 0  # what was known is worth nothing
        quick = self._questions < QUICK_QUESTIONS or self.clock.is_in_doubt
        self._next_at = now + (QUICK_INTERVAL_SECONDS if quick else INTERVAL_SECONDS)

    def frames(self, now: float) -> list[bytes]:
        """The frames that are to leave now, each in a packet of its own."""
        frames: list[bytes] = []
        if self._pending is not None:
            asked_at, arrived_at = self._pending
            self._pending = None
            received_at, sent_at = _microseconds(arrived_at), _microseconds(now)
            frames.append(wire.encode_time_answer(asked_at, received_at, sent_at))
        if self._next_at is not None and now >= self._next_at:
            self._questions += 1
            self._next_at = now + self._patience
            self._patience = min(2 * self._patience, INTERVAL_SECONDS)
            self._asked_at = _microseconds(now)
            frames.append(wire.encode_time(self._asked_at))
        return frames


def _microseconds(seconds: float) -> int:
    return max(round(seconds / MICROSECOND), 0)
