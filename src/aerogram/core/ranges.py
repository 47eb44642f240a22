"""A set of whole numbers kept as sorted, disjoint, inclusive ranges.

Numbers of packets and messages arrive nearly in order, so the set is a handful of ranges however
many numbers it holds, and the common operation, extending the last range by one, is O(1).
"""

from __future__ import annotations

from bisect import bisect_right


class RangeSet:
    """Whole numbers as inclusive ranges, ascending."""

    __slots__ = ("_highs", "_lows")

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []

    def __len__(self) -> int:
        """The count of ranges, not of numbers."""
        return len(self._lows)

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._lows, number) - 1
        return index >= 0 and number <= self._highs[index]

    @property
    def largest(self) -> int:
        """The largest number, or -1 if the set is empty."""
        return self._highs[-1] if self._highs else -1

    def ends_at(self, number: int) -> bool:
        """True if the set is all numbers from 0 to `number`, and no others; -1 is none at all."""
        if not self._highs:
            return number == -1
        return self._highs[0] == number and self._lows[0] == 0 and len(self._highs) == 1

    def descending(self) -> list[tuple[int, int]]:
        """The ranges as (low, high), the largest first."""
        return [*zip(reversed(self._lows), reversed(self._highs), strict=True)]

    def add(self, low: int, high: int) -> bool:
        """Add `low` to `high` inclusive. True if at least one of them is new."""
        highs = self._highs
        if highs:
            last = highs[-1]
            if low == last + 1:
                highs[-1] = high
                return True
            if low > last:
                self._lows.append(low)
                highs.append(high)
                return True
        else:
            self._lows.append(low)
            highs.append(high)
            return True
        return self._merge(low, high)

    def _merge(self, low: int, high: int) -> bool:
        lows, highs = self._lows, self._highs
        first = bisect_right(highs, low - 2) if low > 1 else 0
        end = bisect_right(lows, high + 1)
        if first < end and lows[first] <= low and high <= highs[first]:
            return False
        if first == end:
            lows.insert(first, low)
            highs.insert(first, high)
            return True
        lows[first:end] = [min(low, lows[first])]
        highs[first:end] = [max(high, highs[end - 1])]
        return True

    def overlaps(self, low: int, high: int) -> bool:
        """True if at least one number from `low` to `high` inclusive is in the set."""
        index = bisect_right(self._lows, high) - 1
        return index >= 0 and self._highs[index] >= low

    def covers(self, low: int, high: int) -> bool:
        """True if every number from `low` to `high` inclusive is in the set."""
        index = bisect_right(self._lows, low) - 1
        return index >= 0 and self._highs[index] >= high

    def after(self, number: int) -> int:
        """The lowest number that is not in the set, from `number` on."""
        index = bisect_right(self._lows, number) - 1
        if index >= 0 and self._highs[index] >= number:
            return self._highs[index] + 1
        return number

    def keep_newest(self, count: int) -> None:
        """Forget all but the `count` largest ranges."""
        excess = len(self._lows) - count
        if excess > 0:
            del self._lows[:excess]
            del self._highs[:excess]

    def forget_below(self, number: int) -> None:
        """Forget every range that ends below `number`."""
        end = bisect_right(self._highs, number - 1)
        if end:
            del self._lows[:end]
            del self._highs[:end]
