"""Another clock, seen through a network: its offset, its drift, and a bound on the error of both.

One exchange has four times (RFC 5905 §8): our request leaves at t1 and arrives there at t2, the
answer leaves there at t3 and arrives here at t4. No datagram arrives before it was sent, so the
offset of the other clock lies between t3 - t4 and t2 - t1, however unequal the two ways are. Every
exchange gives such an interval; carried forward at the rates that the clocks may drift apart, all
of them hold at once, and their intersection is what is known. If it is empty, a clock has stepped.

Rules: pure arithmetic on seconds; the bound is never narrower than what follows from `drift_limit`.
"""

from __future__ import annotations

from typing import Final

DRIFT_LIMIT: Final = 1e-3
"""Seconds a second by which two clocks may drift apart: ten times what cheap crystals are sold
with."""
WANDER: Final = 20e-6
"""Seconds a second by which a drift may differ from what it was while it was measured."""
SAMPLES_LIMIT: Final = 24
"""Exchanges that are remembered; the work of an update grows with their square."""
STEPS_IN_A_ROW: Final = 2
"""Exchanges that must contradict the others alike before a step is believed."""


class Sample:
    """What one exchange says: at local time `at`, the offset was from `low` to `high`."""

    __slots__ = ("at", "high", "low")

    def __init__(self, at: float, low: float, high: float) -> None:
        self.at = at
        self.low = low
        self.high = high


class ClockFilter:
    """The offset of another clock: other time = local time + offset."""

    __slots__ = (
        "_contradictions",
        "_drift_high",
        "_drift_limit",
        "_drift_low",
        "_granularity",
        "_samples",
        "samples_rejected",
        "samples_taken",
        "steps",
    )

    def __init__(self, *, granularity: float = 1e-6, drift_limit: float = DRIFT_LIMIT) -> None:
        self._granularity = granularity
        self._drift_limit = drift_limit
        self._samples: list[Sample] = []
        self._contradictions: list[Sample] = []
        self._drift_low = -drift_limit
        self._drift_high = drift_limit
        self.samples_taken = 0
        self.samples_rejected = 0
        """Exchanges that cannot be: an answer before its question, or one against all others."""
        self.steps = 0
        """How often one of the clocks was set while it ran."""

    @property
    def synchronised(self) -> bool:
        """True once there was an exchange."""
        return bool(self._samples)

    @property
    def drift(self) -> float:
        """Seconds that the other clock gains in each of ours; the middle of what it can be."""
        return (self._drift_low + self._drift_high) / 2

    @property
    def drift_error_bound(self) -> float:
        """How far the true drift can be from `drift`."""
        return (self._drift_high - self._drift_low) / 2

    def offset(self, now: float) -> float:
        """What to add to local time `now`; 0 before the first exchange."""
        low, high = self._interval(now)
        return (low + high) / 2 if self._samples else 0.0

    def error_bound(self, now: float) -> float:
        """How far the true offset can be from `offset(now)`; infinite before the first exchange."""
        if not self._samples:
            return float("inf")
        low, high = self._interval(now)
        return max((high - low) / 2, self._granularity)

    def exchanged(self, t1: float, t2: float, t3: float, t4: float) -> bool:
        """Take an exchange: t1 and t4 by the local clock, t2 and t3 by the other one.

        False if it says nothing, because it cannot have been, or contradicts all others.
        """
        edge = self._granularity
        sample = Sample(t4, t3 - t4 - edge, t2 - t1 + edge)
        # The request left at t1: what it says of the offset then is carried to t4.
        sample.high += (t4 - t1) * self._drift_limit
        if t4 < t1 or t3 < t2 - edge or sample.high < sample.low:
            self.samples_rejected += 1
            return False
        if self._samples and not self._agrees(sample):
            return self._contradicted(sample)
        self._contradictions.clear()
        self._take(sample)
        return True

    def _agrees(self, sample: Sample) -> bool:
        low, high = self._interval(sample.at)
        return sample.low <= high and low <= sample.high

    def _contradicted(self, sample: Sample) -> bool:
        """One odd exchange is dropped; several that agree with each other are a step."""
        self._contradictions.append(sample)
        if len(self._contradictions) < STEPS_IN_A_ROW:
            self.samples_rejected += 1
            return False
        self.steps += 1
        recent = self._contradictions
        self._contradictions = []
        self._samples.clear()
        for each in recent:
            if not self._samples or self._agrees(each):
                self._take(each)
        return True

    def _take(self, sample: Sample) -> None:
        self.samples_taken += 1
        self._samples.append(sample)
        if len(self._samples) > SAMPLES_LIMIT:
            del self._samples[self._least_useful()]
        self._learn_drift()

    def _least_useful(self) -> int:
        """The exchange with the nearest neighbours: what is left spans the longest time."""
        samples = self._samples
        gaps = [
            (samples[index + 1].at - samples[index - 1].at, index)
            for index in range(1, len(samples) - 1)
        ]
        return min(gaps)[1]

    def _learn_drift(self) -> None:
        """The rates at which a straight line passes through all intervals."""
        low, high = -self._drift_limit, self._drift_limit
        samples = self._samples
        for index, older in enumerate(samples):
            for newer in samples[index + 1 :]:
                elapsed = newer.at - older.at
                if elapsed <= 0.0:
                    continue
                high = min(high, (newer.high - older.low) / elapsed + WANDER)
                low = max(low, (newer.low - older.high) / elapsed - WANDER)
        if low > high:  # it drifted unevenly: only the limit is certain
            low, high = -self._drift_limit, self._drift_limit
        self._drift_low, self._drift_high = low, high

    def _interval(self, now: float) -> tuple[float, float]:
        """Where the offset is at local time `now`, from all exchanges together."""
        low, high = float("-inf"), float("inf")
        for sample in self._samples:
            age = now - sample.at
            slow, fast = self._drift_low - WANDER, self._drift_high + WANDER
            if age < 0.0:
                slow, fast = fast, slow
            low = max(low, sample.low + age * slow)
            high = min(high, sample.high + age * fast)
        if low > high:  # within what the drift may have wandered: both ends are possible
            low, high = high, low
        return low, high


class Timeline:
    """Time by the other clock that never runs backwards, whatever is learnt of the offset."""

    __slots__ = ("_filter", "_shown", "_shown_at")

    def __init__(self, clock: ClockFilter) -> None:
        self._filter = clock
        self._shown = float("-inf")
        self._shown_at = 0.0

    def now(self, local: float) -> float:
        """The other clock's time at local time `local`.

        Where the estimate falls behind what was shown already, time runs at half its pace until
        it fits again; where it jumps ahead, so does time.
        """
        estimate = local + self._filter.offset(local)
        least = self._shown + max(local - self._shown_at, 0.0) / 2
        self._shown = max(estimate, least)
        self._shown_at = local
        return self._shown
