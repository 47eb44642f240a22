"""The offset of another clock is within its bound, whatever the network and the clocks do."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerogram.core.clock import DRIFT_LIMIT, ClockFilter, Timeline


class OtherClock:
    """A clock that is off and drifts, behind a path with unequal ways."""

    def __init__(
        self, seed: int, *, offset: float, drift: float, there: float, back: float
    ) -> None:
        self.random = Random(seed)
        self.offset_at_zero = offset
        self.drift = drift
        self.there = there
        self.back = back
        self.jitter = 0.02

    def offset(self, local: float) -> float:
        return self.offset_at_zero + self.drift * local

    def exchange(self, clock: ClockFilter, t1: float) -> float:
        arrived = t1 + self.there + self.random.random() * self.jitter
        answered = arrived + self.random.random() * 0.002
        t4 = answered + self.back + self.random.random() * self.jitter
        clock.exchanged(t1, arrived + self.offset(arrived), answered + self.offset(answered), t4)
        return t4


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("drift", [0.0, 50e-6, -900e-6])
def test_the_bound_holds_on_an_unequal_path(seed: int, drift: float) -> None:
    other = OtherClock(seed, offset=1000.0 * seed - 7.0, drift=drift, there=0.010, back=0.040)
    clock = ClockFilter()
    now = 5.0
    for _ in range(60):
        now = other.exchange(clock, now)
        for later in (0.0, 1.0, 30.0):
            error = abs(clock.offset(now + later) - other.offset(now + later))
            assert error <= clock.error_bound(now + later)
        now += 1.0
    assert clock.steps == 0
    assert clock.samples_rejected == 0
    assert clock.error_bound(now) < 0.045
    assert abs(clock.drift - drift) <= clock.drift_error_bound


def test_the_bound_is_about_half_the_quickest_round_trip() -> None:
    other = OtherClock(1, offset=3.0, drift=0.0, there=0.005, back=0.005)
    clock = ClockFilter()
    for second in range(900):
        other.exchange(clock, float(second))
    assert 0.005 < clock.error_bound(900.0) < 0.02


def test_drift_is_learnt() -> None:
    other = OtherClock(2, offset=0.0, drift=400e-6, there=0.005, back=0.005)
    clock = ClockFilter()
    for second in range(0, 600, 30):
        other.exchange(clock, float(second))
    assert clock.drift == pytest.approx(400e-6, abs=100e-6)


def test_the_bound_grows_while_nothing_is_heard() -> None:
    other = OtherClock(3, offset=3.0, drift=0.0, there=0.005, back=0.005)
    clock = ClockFilter()
    other.exchange(clock, 0.0)
    assert clock.error_bound(1.0) < clock.error_bound(100.0) <= 0.05 + 101 * DRIFT_LIMIT


def test_a_step_is_detected_and_followed() -> None:
    other = OtherClock(4, offset=3.0, drift=0.0, there=0.005, back=0.005)
    clock = ClockFilter()
    for second in range(10):
        other.exchange(clock, float(second))
    other.offset_at_zero = -500.0
    for second in range(10, 13):
        other.exchange(clock, float(second))
    assert clock.steps == 1
    assert abs(clock.offset(13.0) + 500.0) <= clock.error_bound(13.0) < 0.03


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("slew", [500e-6, -1000e-6])
def test_the_bound_holds_when_a_clock_is_slewed(seed: int, slew: float) -> None:
    other = OtherClock(seed, offset=3.0, drift=0.0, there=0.0001, back=0.0003)
    other.jitter = 0.0002
    clock = ClockFilter()
    now = 0.0
    for turn in range(90):
        if turn in (30, 60):  # the rate changes, the time does not jump
            drift = slew if turn == 30 else 0.0
            other.offset_at_zero += (other.drift - drift) * now
            other.drift = drift
        now = other.exchange(clock, now)
        for later in (0.0, 2.0, 4.0):
            error = abs(clock.offset(now + later) - other.offset(now + later))
            assert error <= clock.error_bound(now + later)
        now += 4.0
    assert clock.steps == 0
    assert clock.error_bound(now) < 0.01
    assert abs(clock.offset(now) - other.offset(now)) < 0.001  # the estimate is much better


def test_one_odd_exchange_puts_in_doubt_what_was_known_until_the_next() -> None:
    other = OtherClock(7, offset=3.0, drift=0.0, there=0.005, back=0.005)
    clock = ClockFilter()
    for second in range(5):
        other.exchange(clock, float(second))
    assert not clock.is_in_doubt
    other.offset_at_zero = 8.0
    other.exchange(clock, 5.0)
    assert clock.is_in_doubt
    assert abs(clock.offset(5.1) - 3.0) < 0.03
    assert 5.0 < clock.error_bound(5.1) < 5.1  # it may be the one or the other
    other.offset_at_zero = 3.0
    other.exchange(clock, 6.0)
    assert not clock.is_in_doubt
    assert clock.error_bound(6.1) < 0.03
    assert clock.steps == 0


def test_two_steps_one_after_the_other_are_followed() -> None:
    other = OtherClock(8, offset=3.0, drift=0.0, there=0.005, back=0.005)
    clock = ClockFilter()
    for second in range(12):
        other.offset_at_zero = {5: 8.0, 6: -2.0}.get(second, other.offset_at_zero)
        other.exchange(clock, float(second))
        if second != 6:  # of the first contradiction nothing is believed
            assert abs(clock.offset(second) - other.offset_at_zero) <= clock.error_bound(second)
    assert clock.steps == 1
    assert clock.error_bound(11.0) < 0.03


def test_one_odd_exchange_is_no_step() -> None:
    other = OtherClock(5, offset=3.0, drift=0.0, there=0.005, back=0.005)
    clock = ClockFilter()
    for second in range(5):
        other.exchange(clock, float(second))
    assert not clock.exchanged(5.0, 905.0, 905.0, 5.02)
    other.exchange(clock, 6.0)
    assert (clock.steps, clock.samples_rejected) == (0, 1)
    assert abs(clock.offset(7.0) - 3.0) <= clock.error_bound(7.0)


@pytest.mark.parametrize(
    "times", [(5.0, 6.0, 6.0, 4.0), (5.0, 6.0, 5.0, 5.1), (1.0, 9.0, 9.5, 1.1)]
)
def test_an_exchange_that_cannot_be_says_nothing(times: tuple[float, float, float, float]) -> None:
    clock = ClockFilter()
    assert not clock.exchanged(*times)
    assert not clock.synchronised
    assert clock.error_bound(10.0) == float("inf")


finite = st.floats(-1e9, 1e9)


@given(st.lists(st.tuples(finite, finite, finite, finite), max_size=40), finite)
def test_nonsense_breaks_nothing(
    exchanges: list[tuple[float, float, float, float]], now: float
) -> None:
    clock = ClockFilter()
    for exchange in exchanges:
        clock.exchanged(*exchange)
    assert clock.error_bound(now) > 0
    assert clock.offset(now) == clock.offset(now)  # not NaN
    assert clock.samples_taken + clock.samples_rejected >= len(exchanges)


def test_time_never_runs_backwards() -> None:
    other = OtherClock(6, offset=3.0, drift=0.0, there=0.001, back=0.001)
    clock = ClockFilter()
    timeline = Timeline(clock)
    shown: list[float] = []
    for tick in range(400):
        local = tick / 10
        if tick % 10 == 0:
            other.offset_at_zero = 3.0 if tick < 200 else -2.0
            other.exchange(clock, local)
        shown.append(timeline.now(local + 0.09))
    assert shown == sorted(shown)
    assert shown[-1] - 39.99 == pytest.approx(-2.0, abs=0.1)


@pytest.mark.parametrize("seed", range(10))
def test_the_time_that_is_shown_is_within_the_bound_and_its_lead(seed: int) -> None:
    other = OtherClock(seed, offset=3.0, drift=300e-6, there=0.010, back=0.040)
    clock = ClockFilter()
    timeline = Timeline(clock)
    ahead = 0
    for tick in range(600):
        local = tick / 20
        if tick % 20 == 0:
            other.exchange(clock, local - 0.1)
        if tick == 300:
            other.offset_at_zero = 1.0
        if 300 <= tick <= 322:
            continue  # the step is not known yet
        true = local + other.offset(local)
        lead = timeline.lead(local)
        ahead += lead > 0
        assert abs(timeline.now(local) - true) <= clock.error_bound(local) + lead
    assert ahead > 20
