"""Ten lines a second at most, however often something fails, and none is forgotten."""

from __future__ import annotations

from itertools import pairwise

from aerogram.loglimit import LINES_PER_SECOND, LogLimit


def test_a_burst_is_cut_and_counted() -> None:
    limit = LogLimit()
    assert [limit.allows(5.0) for _ in range(13)] == [True] * LINES_PER_SECOND + [False] * 3
    assert not limit.allows(5.999)
    assert limit.allows(6.0)
    assert limit.take_held_back() == 4
    assert limit.take_held_back() == 0


def test_a_new_second_begins_with_a_line() -> None:
    limit = LogLimit()
    written = [now / 100 for now in range(500) if limit.allows(now / 100)]
    assert len(written) == 5 * LINES_PER_SECOND
    seconds = written[::LINES_PER_SECOND]
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(seconds))
    assert LINES_PER_SECOND == 10
