from __future__ import annotations

import random
from itertools import pairwise

import pytest

from aerogram.lan.stream import gaps as gaps_module
from aerogram.lan.stream.gaps import Gaps
from aerogram.lan.stream.timing import TokenBucket, backoff_seconds

RTT = 0.1


def made(uniform: float = 0.5, members: int = 8) -> Gaps:
    return Gaps(RTT, members, 4.0, lambda: uniform)


def spans(gaps: Gaps) -> list[tuple[int, int]]:
    return [(gap.low, gap.high) for gap in gaps._gaps]


def test_gaps_shrink_and_split_as_packets_come() -> None:
    gaps = made()
    gaps.noticed(5, 9, 0.0)
    assert gaps.first == 5
    for sequence in (7, 5, 9):
        assert sequence in gaps
        assert gaps.filled(sequence)
        assert not gaps.filled(sequence)
    assert spans(gaps) == [(6, 6), (8, 8)]
    assert gaps.missing == 2
    assert not gaps.filled(3)


def test_gaps_agree_with_a_plain_set() -> None:
    chance = random.Random(7)
    for _ in range(50):
        gaps, missing, top = made(), set[int](), 0
        for _ in range(200):
            if chance.random() < 0.3:
                low = top + chance.randrange(1, 5)
                high = low + chance.randrange(5)
                gaps.noticed(low, high, 0.0)
                missing |= {*range(low, high + 1)}
                top = high + 1
            elif chance.random() < 0.1:
                below = chance.randrange(top + 1)
                assert gaps.given_up_below(below) == len({s for s in missing if s < below})
                missing = {s for s in missing if s >= below}
            elif chance.random() < 0.2:
                low = chance.randrange(top + 2)
                gaps.heard([(low, low + chance.randrange(10))], 0.0)
            else:
                sequence = chance.randrange(top + 2)
                assert gaps.filled(sequence) == (sequence in missing)
                missing.discard(sequence)
            assert {s for low, high in spans(gaps) for s in range(low, high + 1)} == missing
            assert gaps.first == (min(missing) if missing else None)


def test_a_gap_is_asked_for_after_its_random_time_and_not_before() -> None:
    gaps = made()
    gaps.noticed(1, 2, 0.0)
    due = backoff_seconds(4 * RTT, 8, 0.5)
    assert gaps.due == due
    assert gaps.ask(due - 0.001) == []
    assert gaps.ask(due) == [(1, 2)]
    assert gaps.ask(due) == []


def test_one_request_names_all_that_is_missing() -> None:
    gaps = made()
    gaps.noticed(1, 1, 0.0)
    gaps.noticed(5, 6, 0.2)
    due = gaps.due
    assert due is not None
    assert gaps.ask(due) == [(1, 1), (5, 6)]


def test_a_gap_that_another_asks_for_waits_for_the_repair() -> None:
    gaps = made(uniform=0.1)
    gaps.noticed(1, 9, 0.0)
    assert gaps.heard([(3, 4)], 0.01)
    due = backoff_seconds(4 * RTT, 8, 0.1)
    assert gaps.ask(due) == [(1, 2), (5, 9)]
    assert not gaps.heard([(1, 9)], due)
    assert not gaps.heard([(20, 30)], due)


def test_others_cannot_put_off_a_gap_for_ever() -> None:
    gaps = made()
    gaps.noticed(1, 1, 0.0)
    now, asked = 0.0, False
    for _ in range(200):
        now += RTT / 2
        gaps.heard([(1, 1)], now)
        asked = asked or bool(gaps.ask(now))
    assert asked


def test_without_any_repair_it_asks_again_more_and_more_patiently() -> None:
    gaps = made(uniform=0.0)
    gaps.noticed(1, 1, 0.0)
    times: list[float] = []
    now = 0.0
    while len(times) < 5:
        assert gaps.due is not None
        now = max(now, gaps.due)
        if gaps.ask(now):
            times.append(now)
    waits = [round((later - sooner) / RTT) for sooner, later in pairwise(times)]
    assert waits == [3, 6, 12, 12]


def test_a_repair_that_the_sender_has_passed_is_asked_for_again_soon() -> None:
    gaps = made(uniform=0.0)
    gaps.noticed(1, 1, 0.0)
    gaps.noticed(5, 5, 0.0)
    assert gaps.ask(0.0) == [(1, 1), (5, 5)]
    gaps.repaired(5, 1.5 * RTT)
    gaps.filled(5)
    assert gaps.ask(1.9 * RTT) == []
    gaps.ask(2.0 * RTT)
    assert gaps.ask(2.0 * RTT) == [(1, 1)]


def test_while_repairs_come_in_order_it_waits_for_its_own() -> None:
    gaps = made(uniform=0.0)
    gaps.noticed(1, 100, 0.0)
    assert gaps.ask(0.0) == [(1, 100)]
    for sequence in range(1, 100):
        now = 2 * RTT * sequence
        gaps.repaired(sequence, now)
        gaps.filled(sequence)
        assert gaps.ask(now) == []


def test_a_sender_that_has_repaired_all_is_asked_again() -> None:
    gaps = made(uniform=0.0)
    gaps.noticed(1, 1, 0.0)
    assert gaps.ask(0.0)
    gaps.all_repaired(0.5 * RTT)  # sent before the request arrived: it says nothing
    assert gaps.ask(1.2 * RTT) == []
    gaps.all_repaired(1.5 * RTT)
    gaps.ask(2.0 * RTT)
    assert gaps.ask(2.0 * RTT) == [(1, 1)]


def test_what_could_not_be_asked_for_is_tried_later() -> None:
    gaps = made(uniform=0.0)
    gaps.noticed(1, 4, 0.0)
    gaps.postpone(gaps.ask(0.0), 1.0)
    assert gaps.due is not None
    assert gaps.ask(0.9) == []
    assert gaps.ask(1.0) == [(1, 4)]


def test_gaps_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps_module, "GAPS_LIMIT", 4)
    gaps = made()
    for n in range(4):
        assert not gaps.is_full
        gaps.noticed(10 * n, 10 * n + 8, 0.0)
    assert gaps.is_full
    gaps.heard([(2, 2), (12, 12)], 0.0)  # would split
    assert len(gaps) == 4


@pytest.mark.parametrize("members", [1, 8, 1000])
def test_the_first_of_many_is_heard_before_the_others_ask(members: int) -> None:
    chance = random.Random(members)
    asked: list[int] = []
    for _ in range(30):
        times = sorted(backoff_seconds(4.0, members, chance.random()) for _ in range(members))
        assert times[0] >= 0.0 and times[-1] <= 4.0 + 1e-9
        asked.append(sum(time <= times[0] + 0.5 for time in times))  # half a round trip of 1 s
    assert sum(asked) / len(asked) < 5


def test_a_bucket_gives_its_rate_and_no_more() -> None:
    bucket = TokenBucket(10.0, 5.0, 0.0)
    assert sum(bucket.take(1.0, 0.0) for _ in range(20)) == 5
    assert bucket.ready_at(1.0, 0.0) == pytest.approx(0.1)
    assert sum(bucket.take(1.0, step / 100) for step in range(1, 1001)) == 100
    bucket.spend(20.0, 100.0)
    assert bucket.level(100.0) == -15.0
    assert bucket.ready_at(1.0, 100.0) == pytest.approx(101.6)
