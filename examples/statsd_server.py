"""A StatsD server that counts, gauges and times: `python examples/statsd_server.py [PORT]`.

Every second it prints what it has heard. Several metrics in one datagram are one record, and a
metric that cannot be read is counted and harms no other.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from aerogram import open_endpoint

NAMES_LIMIT = 1000
TIMES_LIMIT = SET_LIMIT = 10_000


@dataclass(slots=True)
class Metrics:
    counters: Counter[str] = field(default_factory=Counter[str])
    gauges: dict[str, float] = field(default_factory=dict[str, float])
    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sets: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    names: set[str] = field(default_factory=set[str])
    unreadable: int = 0

    def take(self, datagram: bytes) -> None:
        for line in datagram.decode("utf-8", "replace").splitlines():
            try:
                self._take_metric(line)
            except (ValueError, IndexError, ArithmeticError):
                self.unreadable += 1

    def _take_metric(self, line: str) -> None:
        name, _, rest = line.partition(":")
        value, kind, *options = rest.split("|")
        rate = float(options[0].removeprefix("@")) if options else 1.0
        if name not in self.names and len(self.names) >= NAMES_LIMIT:
            raise ValueError("too many names")
        self.names.add(name)
        if kind == "c":
            self.counters[name] += round(float(value) / rate)
        elif kind == "g":
            start = self.gauges.get(name, 0.0) if value[0] in "+-" else 0.0
            self.gauges[name] = start + float(value)
        elif kind == "ms":
            milliseconds = float(value)
            if len(self.times[name]) < TIMES_LIMIT:
                self.times[name].append(milliseconds)
        elif kind == "s":
            if len(self.sets[name]) < SET_LIMIT:
                self.sets[name].add(value)
        else:
            raise ValueError(f"no kind of metric: {kind}")

    def lines(self) -> list[str]:
        return [
            *(f"{name} = {count}" for name, count in sorted(self.counters.items())),
            *(f"{name} is {value:g}" for name, value in sorted(self.gauges.items())),
            *(f"{name} ~ {statistics.median(t):g} ms" for name, t in sorted(self.times.items())),
            *(f"{name} has {len(values)}" for name, values in sorted(self.sets.items())),
        ]


async def report(metrics: Metrics, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        print("; ".join(metrics.lines()) or "nothing yet", flush=True)


async def main(port: int, interval: float = 1.0) -> None:
    metrics = Metrics()
    async with open_endpoint("127.0.0.1", port) as endpoint, asyncio.TaskGroup() as tasks:
        print(f"listening on port {endpoint.local_address[1]}", flush=True)
        tasks.create_task(report(metrics, interval))
        async for datagram in endpoint:
            metrics.take(datagram.data)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8125))
