"""Running a target over many inputs, and telling what came of it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tests.fuzz.corpus import Target, keep_crash, reproducing_command
from tests.fuzz.mutator import Mutator


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    target: str
    executions: int
    seconds: float
    crash: Path | None = None
    details: str = ""
    """The traceback of the crash."""

    def __str__(self) -> str:
        rate = self.executions / self.seconds if self.seconds > 0 else 0.0
        line = f"{self.target}: {self.executions} executions in {self.seconds:.1f} s, {rate:,.0f}/s"
        if self.crash is None:
            return f"{line}, no crash"
        return f"{self.details}\n{line}, a crash; again with:\n{self.command}"

    @property
    def command(self) -> str:
        """The line that reproduces the crash."""
        return "" if self.crash is None else reproducing_command(self.target, self.crash)


def endless(mutator: Mutator) -> Iterator[bytes]:
    """All that a mutator makes."""
    while True:
        yield mutator.next_input()


def run(
    name: str, target: Target, inputs: Iterable[bytes], *, executions: int | None, seconds: float
) -> Report:
    """Run inputs until there are no more, or one of the limits is reached, or one crashes."""
    started = time.perf_counter()
    count = 0
    for data in inputs:
        if count == executions or time.perf_counter() - started >= seconds:
            break
        count += 1
        try:
            target(data)
        except Exception:  # whatever a target raises is a find
            elapsed = time.perf_counter() - started
            path = keep_crash(name, data)
            return Report(name, count, elapsed, path, traceback.format_exc().rstrip())
    return Report(name, count, time.perf_counter() - started)


def mutated(inputs: list[bytes], *, seed: int, input_bytes_most: int) -> Iterator[bytes]:
    """The inputs as they are, and then without end what a mutator makes of them."""
    return chain(inputs, endless(Mutator(seed, inputs, input_bytes_most=input_bytes_most)))
