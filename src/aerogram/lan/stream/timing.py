"""Waiting by chance and waiting by rate: what keeps a group from talking all at once."""

from __future__ import annotations

import math
from typing import Final


def backoff_seconds(longest: float, members: int, uniform: float) -> float:
    """How long a receiver waits before it asks, if nobody else has asked by then.

    A truncated exponential (RFC 5401 §3.2.2.1): of `members` receivers that miss the same packet
    most wait nearly `longest` and few a short time, so that the first to ask is heard by the others
    in time. `uniform` is a random number from 0 to 1.
    """
    rate = math.log(max(members, 1)) + 1.0
    return longest / rate * math.log1p(uniform * math.expm1(rate))


ROUNDING: Final = 1e-6
"""What a bucket may lack when it says that it has enough: times and rates are rounded."""


class TokenBucket:
    """So much a second in the long run, and at most `burst` at once.

    It starts full. `spend` may overdraw, after which nothing is to be had until it is paid back.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def level(self, now: float) -> float:
        """What is there."""
        if now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
            self._at = now
        return self._level

    def spend(self, amount: float, now: float) -> None:
        """Take, whether it is there or not."""
        self._level = self.level(now) - amount

    def take(self, amount: float, now: float) -> bool:
        """Take if it is there."""
        if self.level(now) < amount - ROUNDING:
            return False
        self._level -= amount
        return True

    def ready_at(self, amount: float, now: float) -> float:
        """When so much will be there."""
        missing = amount - self.level(now)
        return now if missing <= 0 else now + missing / self._rate
