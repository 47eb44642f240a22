"""Runs random worlds until the time is up: `python -m tests.sweep --minutes 1`.

Each world is a seed. A failure prints the line that runs the same world again, and what its network
did last. `--broken NAME` breaks the protocol on purpose, to see that it is noticed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import nullcontext

from tests.proof.broken import BROKEN
from tests.proof.random_world import Result, run_world

TRACE_LINES = 40
FAILURES_LIMIT = 3
"""Worlds that fail before the sweep ends early."""


class Sweep:
    """The worlds of one run, and what came of them."""

    def __init__(self, broken: str | None) -> None:
        self.broken = broken
        self.worlds = 0
        self.packets = 0
        self.seconds = 0.0
        self.failed: list[int] = []

    def run(self, seed: int) -> None:
        """Run one world."""
        self.worlds += 1
        with BROKEN[self.broken]() if self.broken else nullcontext():
            result = run_world(seed)
        self.packets += result.packets
        self.seconds += result.seconds
        if result.violations:
            self._report(seed, _describe(result))

    def _report(self, seed: int, what: str) -> None:
        self.failed.append(seed)
        broken = f" --broken {self.broken}" if self.broken else ""
        print(f"world {seed} failed: python -m tests.sweep --worlds 1 --seed {seed}{broken}")  # noqa: T201
        print(what, flush=True)  # noqa: T201

    def summary(self, wall_seconds: float) -> str:
        """Say in one line what was done."""
        return (
            f"{self.worlds} worlds, {len(self.failed)} failed; {self.packets} packets, "
            f"{self.seconds / 3600:.2f} virtual hours in {wall_seconds:.0f} s"
        )


def _describe(result: Result) -> str:
    lines = result.trace_text.splitlines()[-TRACE_LINES:]
    return "\n".join([*result.violations, "the end of its trace:", *lines])


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; the status is 1 if a world failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the next ones follow")
    parser.add_argument("--worlds", type=int, default=sys.maxsize, help="at most so many")
    parser.add_argument("--broken", choices=[*BROKEN], help="break the protocol on purpose")
    options = parser.parse_args(arguments)
    sweep = Sweep(options.broken)
    started = time.monotonic()
    seed = options.seed
    while sweep.worlds < options.worlds and len(sweep.failed) < FAILURES_LIMIT:
        if time.monotonic() >= started + 60 * options.minutes:
            break
        sweep.run(seed)
        seed += 1
    print(sweep.summary(time.monotonic() - started))  # noqa: T201
    return 1 if sweep.failed else 0


if __name__ == "__main__":
    # A world that fails leaves tasks behind, which would complain when they are collected.
    sys.unraisablehook = lambda unraisable: None
    logging.getLogger("asyncio").disabled = True
    sys.exit(main())
