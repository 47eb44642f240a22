"""What a link does to datagrams: statistics by seed, laws that hold for every link, queues."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerogram.lab.link import CODEL_TARGET_SECONDS, HEADER_BYTES, Burst, Copy, Link, LinkState

PAYLOAD = bytes(range(100))
WIRE_BYTES = len(PAYLOAD) + HEADER_BYTES


def plans(
    link: Link, count: int, *, interval: float = 0.001, seed: int = 1, data: bytes = PAYLOAD
) -> list[list[Copy]]:
    state = LinkState(link, Random(seed))
    return [state.plan(data, number * interval) for number in range(count)]


def firsts(link: Link, count: int, *, interval: float = 0.001) -> list[Copy]:
    """The first copy of each datagram."""
    return [copies[0] for copies in plans(link, count, interval=interval)]


def reasons(copies: Iterable[Copy]) -> Counter[str]:
    return Counter(copy.reason for copy in copies if copy.fate == "dropped")


def delays(link: Link, count: int = 20_000) -> list[float]:
    return [copy.at - n * 0.001 for n, copy in enumerate(firsts(link, count))]


def lost_runs(copies: Iterable[Copy]) -> list[int]:
    """How many were lost in each unbroken row of lost ones."""
    groups = itertools.groupby(copy.fate == "dropped" for copy in copies)
    return [len(list(group)) for is_lost, group in groups if is_lost]


# Nothing, delay and jitter


def test_a_perfect_link_delivers_each_datagram_once_and_at_once() -> None:
    assert plans(Link(), 3) == [[Copy(n * 0.001, PAYLOAD, "delivered", "")] for n in range(3)]


def test_a_delay_is_added_to_each() -> None:
    assert {round(delay, 9) for delay in delays(Link(delay=0.04), 100)} == {0.04}


@pytest.mark.parametrize("distribution", ["constant", "uniform", "skewed", "correlated"])
def test_jitter_adds_half_of_itself_in_the_mean_and_never_less_than_nothing(
    distribution: Any,
) -> None:
    found = delays(Link(delay=0.05, jitter=0.02, distribution=distribution))
    assert statistics.fmean(found) == pytest.approx(0.06, abs=0.001)
    assert min(found) >= 0.05 - 1e-9


def test_uniform_and_correlated_jitter_have_a_bound_and_a_like_spread() -> None:
    spreads = []
    for distribution in ("uniform", "correlated"):
        found = delays(Link(jitter=0.02, distribution=distribution))
        assert max(found) <= 0.02 + 1e-9
        spreads.append(statistics.stdev(found))
    assert spreads[0] == pytest.approx(0.02 / 12**0.5, rel=0.02)
    assert spreads[1] == pytest.approx(spreads[0], rel=0.2)


def test_skewed_jitter_is_mostly_small_and_at_times_large() -> None:
    found = delays(Link(jitter=0.02, distribution="skewed"))
    assert statistics.median(found) < 0.7 * statistics.fmean(found)
    assert max(found) > 4 * 0.02


def test_correlated_jitter_is_alike_among_neighbours() -> None:
    def correlation(distribution: Any) -> float:
        found = delays(Link(jitter=0.02, distribution=distribution))
        return statistics.correlation(found[:-1], found[1:])

    assert correlation("correlated") > 0.85
    assert abs(correlation("uniform")) < 0.05


def test_jitter_reorders_unless_order_is_kept() -> None:
    def overtakes(**options: Any) -> int:
        arrivals = [copy.at for copy in firsts(Link(jitter=0.02, **options), 2000)]
        return sum(later < earlier for earlier, later in itertools.pairwise(arrivals))

    assert overtakes() > 500
    assert overtakes(distribution="correlated") < overtakes() / 1.5
    assert overtakes(keep_order=True) == 0


# Loss


def test_uniform_loss_has_its_rate() -> None:
    assert reasons(firsts(Link(loss=0.2), 10_000))["loss"] == pytest.approx(2000, abs=120)


def test_no_loss_loses_none_and_full_loss_all() -> None:
    assert not reasons(firsts(Link(loss=0.0, jitter=0.001), 1000))
    assert reasons(firsts(Link(loss=1.0, jitter=0.001), 1000))["loss"] == 1000


def test_bursts_have_their_length_and_their_share() -> None:
    copies = firsts(Link(burst=Burst(enter=0.02, leave=0.25)), 50_000)
    runs = lost_runs(copies)
    assert reasons(copies).keys() == {"burst"}
    assert statistics.fmean(runs) == pytest.approx(4.0, rel=0.1)
    assert sum(runs) / len(copies) == pytest.approx(0.02 / 0.27, rel=0.1)


def test_a_burst_that_loses_half_loses_half() -> None:
    copies = firsts(Link(burst=Burst(enter=1.0, leave=0.0, loss=0.5)), 10_000)
    assert reasons(copies)["burst"] == pytest.approx(5000, abs=200)


def test_a_row_of_losses_has_the_longest_length_that_is_allowed() -> None:
    runs = lost_runs(firsts(Link(loss=0.5, longest_loss=3), 10_000))
    assert max(runs) == 3
    assert max(lost_runs(firsts(Link(loss=0.5), 10_000))) > 6


@pytest.mark.parametrize(("every", "lost"), [(0, []), (1, list(range(9))), (3, [2, 5, 8])])
def test_every_nth_is_lost(every: int, lost: list[int]) -> None:
    copies = firsts(Link(lose_every=every), 9)
    assert [n for n, copy in enumerate(copies) if copy.reason == "every"] == lost


def test_listed_numbers_are_lost_and_no_other() -> None:
    copies = firsts(Link(lose_numbers=[0, 4, 4, 77]), 10)
    assert [n for n, copy in enumerate(copies) if copy.reason == "listed"] == [0, 4]


# Duplicates, reordering, corruption


def test_duplicates_are_second_copies_of_the_same_bytes() -> None:
    found = plans(Link(duplicate=0.3, jitter=0.001), 10_000)
    doubled = [copies for copies in found if len(copies) == 2]
    assert len(doubled) == pytest.approx(3000, abs=150)
    assert all(second.reason == "duplicate" for _, second in doubled)
    assert all(copy.data == PAYLOAD for copies in doubled for copy in copies)


def test_what_is_held_back_is_overtaken_by_exactly_those_sent_meanwhile() -> None:
    copies = firsts(Link(reorder=0.1, reorder_delay=0.0035), 2000)
    held = [n for n, copy in enumerate(copies) if copy.reason == "reordered"]
    assert len(held) == pytest.approx(200, abs=50)
    for number in held[:-1]:
        overtaking = [n for n in range(number + 1, number + 10) if n < 2000 and n not in held]
        earlier = [n for n in overtaking if copies[n].at < copies[number].at]
        assert earlier == [n for n in overtaking if n <= number + 3]


def test_a_held_back_datagram_does_not_hold_back_those_behind_it_where_order_is_kept() -> None:
    link = Link(reorder=0.1, reorder_delay=1.0, keep_order=True)
    copies = firsts(link, 1000)
    assert all(
        copy.at == pytest.approx(n * 0.001) for n, copy in enumerate(copies) if not copy.reason
    )


def test_corruption_flips_one_to_three_bits() -> None:
    flipped = Counter[int]()
    for copy in firsts(Link(corrupt=0.5), 2000):
        bits = (int.from_bytes(copy.data) ^ int.from_bytes(PAYLOAD)).bit_count()
        assert (bits > 0) == (copy.reason == "corrupt")
        flipped[bits] += 1
    assert flipped.keys() == {0, 1, 2, 3}
    assert flipped[0] == pytest.approx(1000, abs=100)


# Rate and queue


def test_a_rate_spaces_datagrams_and_delays_those_that_wait() -> None:
    link = Link(rate_bytes_per_second=WIRE_BYTES * 1000, queue_bytes=10**6, delay=0.5)
    arrivals = [copy.at for copy in firsts(link, 100, interval=0.0)]
    assert arrivals == pytest.approx([0.5 + 0.001 * (n + 1) for n in range(100)])


def test_a_queue_drops_what_has_no_room_and_recovers() -> None:
    link = Link(rate_bytes_per_second=WIRE_BYTES * 1000, queue_bytes=10 * WIRE_BYTES)
    state = LinkState(link, Random(1))
    burst = [state.plan(PAYLOAD, 0.0)[0] for _ in range(25)]
    assert [copy.fate for copy in burst] == ["delivered"] * 10 + ["dropped"] * 15
    assert reasons(burst) == {"queue": 15}
    assert state.plan(PAYLOAD, 0.0011)[0].fate == "delivered"
    assert state.plan(PAYLOAD, 0.0011)[0].fate == "dropped"


def test_a_datagram_larger_than_the_queue_passes_when_nothing_waits() -> None:
    state = LinkState(Link(rate_bytes_per_second=1000, queue_bytes=1), Random(1))
    assert [state.plan(PAYLOAD, now)[0].fate for now in (0.0, 0.0, 1.0)] == [
        "delivered",
        "dropped",
        "delivered",
    ]


def overload(queue: Any, *, seconds: float = 20.0) -> list[tuple[float, Copy]]:
    """Datagrams sent a little faster than the link is, each with its time of sending."""
    data = bytes(1000)
    link = Link(rate_bytes_per_second=1e6, queue_bytes=200_000, queue=queue)
    interval = (len(data) + HEADER_BYTES) / 1e6 / 1.05
    found = plans(link, round(seconds / interval), interval=interval, data=data)
    return [(n * interval, copies[0]) for n, copies in enumerate(found)]


def test_codel_drops_ever_more_often_while_the_queue_stands() -> None:
    dropped = [sent for sent, copy in overload("codel", seconds=3.0) if copy.reason == "codel"]
    assert CODEL_TARGET_SECONDS + 0.1 <= dropped[0] < 0.3
    gaps = [later - earlier for earlier, later in itertools.pairwise(dropped[:6])]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] == pytest.approx(0.1, rel=0.5)


def test_codel_keeps_the_wait_shorter_than_a_full_drop_tail_queue() -> None:
    def wait(queue: Any) -> float:
        second_half = overload(queue)[10_000:]
        return statistics.fmean(
            copy.at - sent for sent, copy in second_half if copy.fate == "delivered"
        )

    assert wait("drop-tail") == pytest.approx(0.2, rel=0.05)
    assert wait("codel") < 0.25 * wait("drop-tail")


def test_codel_leaves_a_queue_alone_that_a_burst_made_and_time_clears() -> None:
    link = Link(rate_bytes_per_second=WIRE_BYTES * 1000, queue_bytes=10**6, queue="codel")
    state = LinkState(link, Random(1))
    copies = [state.plan(PAYLOAD, start)[0] for start in range(20) for _ in range(60)]
    assert not reasons(copies)
    assert max(copy.at - n // 60 for n, copy in enumerate(copies)) > 5 * CODEL_TARGET_SECONDS


def test_codel_calms_down_when_the_load_does() -> None:
    link = Link(rate_bytes_per_second=WIRE_BYTES * 1000, queue_bytes=10**6, queue="codel")
    state = LinkState(link, Random(1))
    busy = [state.plan(PAYLOAD, n * 0.0005)[0] for n in range(4000)]
    calm = [state.plan(PAYLOAD, 10 + n * 0.002)[0] for n in range(2000)]
    assert reasons(busy)["codel"] > 10
    assert not reasons(calm)


# MTU


@pytest.mark.parametrize(("size", "fate"), [(1472, "delivered"), (1473, "dropped")])
def test_the_mtu_counts_the_headers(size: int, fate: str) -> None:
    link = Link(mtu_bytes=1500)
    assert LinkState(link, Random(1)).plan(bytes(size), 0.0)[0].fate == fate
    longer = LinkState(link, Random(1), header_bytes=48)
    assert longer.plan(bytes(size - 20), 0.0)[0].fate == fate


# Replay, change, and laws


EVERYTHING = Link(
    delay=0.02,
    jitter=0.01,
    distribution="skewed",
    loss=0.05,
    burst=Burst(enter=0.01, leave=0.3),
    duplicate=0.05,
    reorder=0.1,
    corrupt=0.05,
    rate_bytes_per_second=500_000,
    queue="codel",
)


def test_the_same_seed_gives_the_same_plans_and_another_seed_others() -> None:
    assert plans(EVERYTHING, 2000) == plans(EVERYTHING, 2000)
    assert plans(EVERYTHING, 2000) != plans(EVERYTHING, 2000, seed=2)


def test_a_seed_gives_the_plans_it_always_gave() -> None:
    """The figures of this very seed, so that a change of Python or of a draw is seen."""
    copies = list(itertools.chain.from_iterable(plans(EVERYTHING, 1000)))
    notes = Counter(copy.reason for copy in copies)
    assert (notes["loss"], notes["burst"], notes["duplicate"]) == (61, 50, 33)
    assert f"{sum(copy.at for copy in copies):.9f}" == "540.994569696"


def test_a_link_can_be_replaced_while_running() -> None:
    state = LinkState(Link(), Random(1))
    before = state.plan(PAYLOAD, 0.0)
    state.link = Link(loss=1.0)
    during = state.plan(PAYLOAD, 0.1)
    state.link = Link(delay=0.5, lose_numbers={3})
    after = [state.plan(PAYLOAD, 0.2)[0], state.plan(PAYLOAD, 0.2)[0]]
    assert before[0].fate == "delivered"
    assert during[0].reason == "loss"
    assert (after[0].at, after[1].reason) == (0.7, "listed")


probabilities = st.floats(0, 1)
times = st.floats(0, 0.2)
links = st.builds(
    Link,
    delay=times,
    jitter=times,
    distribution=st.sampled_from(["constant", "uniform", "skewed", "correlated"]),
    keep_order=st.booleans(),
    loss=probabilities,
    burst=st.none()
    | st.builds(Burst, enter=probabilities, leave=probabilities, loss=probabilities),
    longest_loss=st.none() | st.integers(1, 4),
    lose_every=st.integers(0, 5),
    lose_numbers=st.sets(st.integers(0, 30)),
    duplicate=probabilities,
    reorder=probabilities,
    reorder_delay=times,
    corrupt=probabilities,
    rate_bytes_per_second=st.none() | st.floats(1e3, 1e6),
    queue_bytes=st.integers(1, 10_000),
    queue=st.sampled_from(["drop-tail", "codel"]),
    mtu_bytes=st.none() | st.integers(1, 1000),
)
sendings = st.lists(st.tuples(st.binary(max_size=1200), times), max_size=40)


@given(link=links, sent=sendings, seed=st.integers(0, 2**32))
def test_each_datagram_ends_in_drops_or_copies_and_keeps_its_bytes(
    link: Link, sent: list[tuple[bytes, float]], seed: int
) -> None:
    state = LinkState(link, Random(seed))
    now = 0.0
    for data, pause in sent:
        now += pause
        copies = state.plan(data, now)
        assert len(copies) in (1, 2)
        for copy in copies:
            assert_lawful(copy, data, now, link)
        if copies[0].fate == "dropped":
            assert len(copies) == 1
    assert state.number == len(sent)


def assert_lawful(copy: Copy, data: bytes, now: float, link: Link) -> None:
    notes = set(copy.reason.split(",")) - {""}
    if copy.fate == "dropped":
        assert copy.at == now and copy.data == data
        assert notes <= {"mtu", "listed", "every", "burst", "loss", "queue", "codel"} and notes
        return
    assert notes <= {"duplicate", "reordered", "corrupt"}
    assert (copy.data != data) == ("corrupt" in notes)
    assert len(copy.data) == len(data)
    assert copy.at >= now + link.delay


@given(sent=sendings, rate=st.floats(1e3, 1e6), limit=st.integers(1, 10_000))
def test_nothing_waits_longer_than_a_full_queue_takes(
    sent: list[tuple[bytes, float]], rate: float, limit: int
) -> None:
    state = LinkState(Link(rate_bytes_per_second=rate, queue_bytes=limit), Random(1))
    now = 0.0
    for data, pause in sent:
        now += pause
        [copy] = state.plan(data, now)
        size = len(data) + HEADER_BYTES
        assert copy.at - now <= max(limit, size) / rate * (1 + 1e-6)


# Mistakes


@pytest.mark.parametrize("name", ["loss", "duplicate", "reorder", "corrupt"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is a probability from 0 to 1"):
        Link(**{name: value})


@pytest.mark.parametrize("name", ["delay", "jitter", "reorder_delay"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_what_is_no_time_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is a time of 0 or more seconds"):
        Link(**{name: value})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lose_every": -1}, "lose_every is 0 or more"),
        ({"lose_numbers": [-1]}, "lose_numbers counts datagrams from 0"),
        ({"longest_loss": 0}, "longest_loss is 1 or more"),
        ({"queue_bytes": 0}, "queue_bytes is 1 or more"),
        ({"mtu_bytes": 0}, "mtu_bytes is 1 or more"),
        ({"rate_bytes_per_second": 0}, "rate_bytes_per_second is above 0"),
        ({"rate_bytes_per_second": float("inf")}, "rate_bytes_per_second is above 0"),
        ({"distribution": "normal"}, "distribution is one of constant, uniform"),
        ({"queue": "red"}, "queue is one of drop-tail, codel"),
    ],
)
def test_other_mistakes_are_refused_with_what_is_allowed(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Link(**options)


@pytest.mark.parametrize("name", ["enter", "leave", "loss"])
def test_a_burst_is_made_of_probabilities(name: str) -> None:
    with pytest.raises(ValueError, match=f"burst {name} is a probability"):
        Burst(**{"enter": 0.1, "leave": 0.1, name: 2.0})
