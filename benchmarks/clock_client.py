"""A client that looks at `session.clock` and at the true time: `python -m benchmarks.clock_client`.

It runs under faketime, so the true time is asked of the kernel itself. One line of JSON is printed
for each look.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import platform
import sys
from typing import Any

from aerogram import Session, connect

CLOCK_MONOTONIC = 1
SYSTEM_CALLS = {"x86_64": 228, "aarch64": 113}
"""clock_gettime of the Linux system call tables."""

EVERY_SECONDS = 0.05
LOOKS = 5
"""At a time, of which the quickest counts: the process may be put aside in the middle of one."""


class _TimeSpec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class TrueTime:
    """The system's monotonic clock, past any library that wraps it. Raises `OSError`."""

    def __init__(self) -> None:
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._number = SYSTEM_CALLS.get(platform.machine(), -1)

    def __call__(self) -> float:
        spec = _TimeSpec()
        if self._call(self._number, CLOCK_MONOTONIC, ctypes.byref(spec)) != 0:
            raise OSError(ctypes.get_errno(), "clock_gettime")
        return float(spec.seconds + spec.nanoseconds * 1e-9)


def look(session: Session[Any], true_time: TrueTime) -> dict[str, float]:
    """The shared time as the client believes it, between two looks at the true one."""
    clock = session.clock
    looks: list[tuple[float, float, float]] = []
    for _ in range(LOOKS):
        before = true_time()
        shown = clock.now()
        looks.append((true_time() - before, before, shown))
    took, before, shown = min(looks)
    return {
        "at": before,
        "took": took,
        "error": shown - before - took / 2,
        "bound": clock.error_bound,
        "steps": clock.steps,
    }


async def run(address: str, seconds: float) -> None:
    true_time = TrueTime()
    async with connect(address) as session:
        await session.clock.synchronised(timeout=30)
        until = true_time() + seconds
        while true_time() < until:
            print(json.dumps(look(session, true_time)))
            await asyncio.sleep(EVERY_SECONDS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.clock_client", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args(arguments)
    asyncio.run(run(options.address, options.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
