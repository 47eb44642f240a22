"""The little language in which an input drives an endpoint: bytes that always mean something.

A step is a head, a size and a body: `head(1) size(2) body(size)`. The head's low four bits are the
kind of step, which each target reads as it likes; bit 4 picks the address that a datagram comes
from; the rest is how much time passes before. A size beyond the end takes what is left, so every
input is a list of steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

STEPS_MOST: Final = 24
"""Steps of one input that are looked at."""
WAITS_SECONDS: Final = (0.0, 0.0005, 0.006, 0.03, 0.3, 1.1, 5.0, 16.0)
"""What the three bits of the time mean: under and over each timer of the protocol."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to an endpoint."""

    kind: int
    body: bytes = b""
    from_elsewhere: bool = False
    """The datagram comes from an address that the endpoint does not know."""
    wait: int = 0
    """An index of `WAITS_SECONDS`."""

    @property
    def wait_seconds(self) -> float:
        """How much time passes before."""
        return WAITS_SECONDS[self.wait]


def read_steps(data: bytes) -> list[Step]:
    """The steps of an input, whatever it is."""
    steps: list[Step] = []
    position = 0
    while position < len(data) and len(steps) < STEPS_MOST:
        head = data[position]
        size = int.from_bytes(data[position + 1 : position + 3], "big")
        body = data[position + 3 : position + 3 + size]
        position += 3 + size
        steps.append(Step(head & 15, body, bool(head & 16), head >> 5))
    return steps


def write_steps(steps: Iterable[Step]) -> bytes:
    """The input that has these steps."""
    return b"".join(
        bytes((step.kind | step.from_elsewhere << 4 | step.wait << 5,))
        + len(step.body).to_bytes(2, "big")
        + step.body
        for step in steps
    )
