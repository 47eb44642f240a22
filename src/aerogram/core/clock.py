"""Another clock, seen through a network: its offset, its drift, and a bound on the error of both.

One exchange has four times (RFC 5905 §8): our request leaves at t1 and arrives there at t2, the
answer leaves there at t3 and arrives here at t4. No datagram arrives before it was sent, so the
offset of the other clock lies between t3 - t4 and t2 - t1, however unequal the two ways are. Every
exchange gives such an interval; carried forward at the rates that the clocks may drift apart, all
of them hold at once, and their intersection is what is known. If it is empty, a clock has stepped.

Rules: pure arithmetic on seconds. The bound follows from what is certain, the drift limit; how the
drift has been so far moves the estimate within the bound only, because a clock that is slewed may
change its rate at any time. What contradicts the past widens the bound until it is understood.
"""

from __future__ import annotations

from typing import Final

DRIFT_LIMIT: Final = 1.1e-3
"""Seconds a second by which two clocks may drift apart: ten times what cheap crystals are sold
with, and twice what kernels slew a clock by."""
SAMPLES_LIMIT: Final = 24
"""Exchanges that are remembered; the work of an update grows with their square."""
STEPS_IN_A_ROW: Final = 2
"""Exchanges that must contradict the others, and not each other, before a step is believed."""


class Sample:
    """What one exchange says: at local time `at`, the offset was from `low` to `high`."""

    __slots__ = ("at", "high", "low")

    def __init__(self, at: float, low: float, high: float) -> None:
        self.at = at
        self.low = low
        self.high = high


class Certainty:
    """Where an offset is, from all exchanges, whatever the drift does within its limit.

    Two lines say it all, one below and one above, which part as time passes.
    """

    __slots__ = ("_above", "_below", "_drift_limit")

    def __init__(self, drift_limit: float) -> None:
        self._drift_limit = drift_limit
        self._below = float("-inf")
        self._above = float("inf")

    def take(self, sample: Sample) -> None:
        """Add what an exchange says."""
        self._below = max(self._below, sample.low + sample.at * self._drift_limit)
        self._above = min(self._above, sample.high - sample.at * self._drift_limit)

    def interval(self, now: float) -> tuple[float, float]:
        """The lowest and the highest offset that can be at local time `now`."""
        low, high = self._below - now * self._drift_limit, self._above + now * self._drift_limit
        # Exchanges may miss each other by the granularity of the clocks: both ends are possible.
        return (low, high) if low <= high else (high, low)

    def agrees(self, sample: Sample) -> bool:
        """True if an exchange does not contradict the others."""
        low, high = self.interval(sample.at)
        return sample.low <= high and low <= sample.high


class ClockFilter:
    """The offset of another clock: other time = local time + offset."""

    __slots__ = (
        "_certain",
        "_contradictions",
        "_doubt",
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
        self._certain = Certainty(drift_limit)
        self._contradictions: list[Sample] = []
        self._doubt = Certainty(drift_limit)
        """What would be certain if the contradictions were right."""
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
    def is_in_doubt(self) -> bool:
        """True after an exchange that contradicts the others: the next one will tell."""
        return bool(self._contradictions)

    @property
    def drift(self) -> float:
        """Seconds that the other clock has gained in each of ours; the middle of what can be."""
        return (self._drift_low + self._drift_high) / 2

    @property
    def drift_error_bound(self) -> float:
        """How far the drift can have been from `drift`, if it was even."""
        return (self._drift_high - self._drift_low) / 2

    def offset(self, now: float) -> float:
        """What to add to local time `now`; 0 before the first exchange."""
        if not self._samples:
            return 0.0
        certain_low, certain_high = self._certain.interval(now)
        return min(max(self._expected(now), certain_low), certain_high)

    def error_bound(self, now: float) -> float:
        """How far the true offset can be from `offset(now)`; infinite before the first exchange."""
        if not self._samples:
            return float("inf")
        offset = self.offset(now)
        low, high = self._certain.interval(now)
        if self._contradictions:
            other_low, other_high = self._doubt.interval(now)
            low, high = min(low, other_low), max(high, other_high)
        return max(high - offset, offset - low, self._granularity)

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
        if not self._certain.agrees(sample):
            return self._contradicted(sample)
        self._contradictions.clear()
        self._take(sample)
        return True

    def _contradicted(self, sample: Sample) -> bool:
        """One odd exchange is dropped; several that agree with each other are a step."""
        if not self._contradictions or not self._doubt.agrees(sample):
            self._contradictions.clear()  # those were odd, or there was one more step
            self._doubt = Certainty(self._drift_limit)
        self._contradictions.append(sample)
        self._doubt.take(sample)
        if len(self._contradictions) < STEPS_IN_A_ROW:
            self.samples_rejected += 1
            return False
        self.steps += 1
        self._samples.clear()
        self._certain = Certainty(self._drift_limit)
        recent, self._contradictions = self._contradictions, []
        for each in recent:
            self._take(each)
        return True

    def _take(self, sample: Sample) -> None:
        self.samples_taken += 1
        self._certain.take(sample)
        self._samples.append(sample)
        if len(self._samples) > SAMPLES_LIMIT:
            del self._samples[self._least_useful()]
        while not self._learn_drift():
            del self._samples[0]

    def _least_useful(self) -> int:
        """The exchange with the nearest neighbours: what is left spans the longest time."""
        samples = self._samples
        gaps = [
            (samples[index + 1].at - samples[index - 1].at, index)
            for index in range(1, len(samples) - 1)
        ]
        return min(gaps)[1]

    def _learn_drift(self) -> bool:
        """Find the rates at which a straight line passes through all intervals. False: none."""
        low, high = -self._drift_limit, self._drift_limit
        samples = self._samples
        for index, older in enumerate(samples):
            for newer in samples[index + 1 :]:
                elapsed = newer.at - older.at
                if elapsed <= 0.0:
                    continue
                high = min(high, (newer.high - older.low) / elapsed)
                low = max(low, (newer.low - older.high) / elapsed)
        if low > high and len(samples) > 1:
            return False
        self._drift_low, self._drift_high = low, high
        return True

    def _expected(self, now: float) -> float:
        """Where the offset is if the drift has not changed since it was measured."""
        low, high = float("-inf"), float("inf")
        for sample in self._samples:
            age = max(now - sample.at, 0.0)
            low = max(low, sample.low + age * self._drift_low)
            high = min(high, sample.high + age * self._drift_high)
        return (low + high) / 2


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
        self._shown = local + self._filter.offset(local) + self.lead(local)
        self._shown_at = local
        return self._shown

    def lead(self, local: float) -> float:
        """How far `now` is ahead of the estimate, in seconds."""
        estimate = local + self._filter.offset(local)
        least = self._shown + max(local - self._shown_at, 0.0) / 2
        return max(least - estimate, 0.0)
