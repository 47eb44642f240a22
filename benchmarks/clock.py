"""How far `session.clock` is off, and whether its bound holds: `python -m benchmarks.clock`.

`virtual` are the two ends of a session with wrong clocks in virtual time, over many seeds;
`faketime` is a client process on real sockets whose clocks libfaketime makes wrong, behind a fault
proxy. The path takes 10 ms there and 40 ms back, each with 10 ms of jitter and 5 % loss. A step is
known from the next answer on, so the looks before it are `blind` and counted by themselves. Last,
what chronyd says of the time that our SNTP server tells.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from aerogram import App, serve
from aerogram.clock import sntp
from aerogram.lab.proxy import FaultProxy
from benchmarks.clocks import BACK, THERE, ClockWorld, FalseClock

ROOT = Path(__file__).parents[1]
FAKETIME_LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")
BLIND_SECONDS = 6.0
"""So long after a step, a question is asked and answered, even if the first one is lost."""

CLIENT_SECONDS_MAX = 60.0
CHRONYD_SHIFT_SECONDS = 1234.5

UPTIME = 1000.0
VIRTUAL = {
    "true": FalseClock(UPTIME),
    "+30 s, +1000 ppm": FalseClock(UPTIME + 30, 1e-3),
    "-30 s, -1000 ppm": FalseClock(UPTIME - 30, -1e-3),
    "slewed by 500 ppm": FalseClock(UPTIME, 20e-6, drifts={60.0: 520e-6, 120.0: -480e-6}),
    "step of 5 s": FalseClock(UPTIME, 50e-6, steps={100.0: 5.0}),
    "step of -5 s": FalseClock(UPTIME, 50e-6, steps={100.0: -5.0}),
}
"""Clocks of the server; a step of one side looks to the other like one of its own."""

STEP_AT = {name: 100.0 for name in VIRTUAL if name.startswith("step")}


class Missing(Exception):
    """A program is not installed, or does not work here."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a client's clocks are wrong, as libfaketime has it."""

    name: str
    before: str
    after: str | None = None
    """From the middle of the run on."""
    only_wall_clock: bool = False

    @property
    def environment(self) -> dict[str, str]:
        return {"FAKETIME_DONT_FAKE_MONOTONIC": "1"} if self.only_wall_clock else {}


FAKETIME = [
    Setting("+30 s, x1.001", "+30s x1.001"),
    Setting("-1 h, x0.999", "-1h x0.999"),
    Setting("wall-clock step of 1 h", "+30s", "+3630s", only_wall_clock=True),
    Setting("step of 5 s", "+30s x1.001", "+35s x1.001"),
]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a clock, in seconds."""

    at: float
    error: float
    bound: float
    steps: int
    took: float = 0.0
    """The true time is known no better than half of this."""

    @property
    def held(self) -> bool:
        return abs(self.error) <= self.bound + self.took / 2


@dataclass(slots=True)
class Row:
    """One line of the result. Times are in milliseconds."""

    where: str
    clocks: str
    status: str = "ok"
    looks: int = 0
    blind: int = 0
    """Looks after a step and before the next answer."""
    held: float | None = None
    """The share of the others at which the bound held."""
    error_p50: float | None = None
    error_max: float | None = None
    bound_p50: float | None = None
    steps: int = 0


def row_of(where: str, clocks: str, looks: Iterable[Look], step_at: float | None = None) -> Row:
    """Count. After a step, looks are blind until the bound holds again or it must."""
    seen: list[Look] = []
    blind = 0
    steps = 0
    for look in looks:
        steps = look.steps
        since = -1.0 if step_at is None else look.at - step_at
        if not look.held and 0.0 <= since <= BLIND_SECONDS:
            blind += 1
        else:
            seen.append(look)
    return Row(
        where,
        clocks,
        looks=len(seen) + blind,
        blind=blind,
        held=sum(look.held for look in seen) / len(seen),
        error_p50=1000 * statistics.median(abs(look.error) for look in seen),
        error_max=1000 * max(abs(look.error) for look in seen),
        bound_p50=1000 * statistics.median(look.bound for look in seen),
        steps=steps,
    )


# In virtual time


def virtual(name: str, seeds: int, seconds: float) -> Row:
    looks: list[Look] = []
    for seed in range(seeds):
        world = ClockWorld(FalseClock(UPTIME), VIRTUAL[name], seed=seed)
        samples = world.run(seconds)
        looks += [Look(each.at, each.error, each.bound, each.steps) for each in samples]
    return row_of("virtual", name, looks, STEP_AT.get(name))


# On real sockets


async def faketime(setting: Setting, seconds: float) -> Row:
    """Raises `Missing`."""
    library = faketime_library()
    app = App()
    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder) / "faketime"
        stamp.write_text(setting.before + "\n", encoding="ascii")
        environment = {
            **os.environ,
            **setting.environment,
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(stamp),
            "FAKETIME_NO_CACHE": "1",
        }
        async with (
            serve(app, "127.0.0.1", 0) as server,
            FaultProxy(server.local_address, there=THERE, back=BACK) as proxy,
        ):
            here, there = server.local_address[1], proxy.address[1]
            address = str(server.address).replace(f":{here}", f":{there}")
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.clock_client", address, "--seconds", f"{seconds}",
                env=environment, cwd=ROOT, stdout=subprocess.PIPE,
            )  # fmt: skip
            try:
                return await looked(client, setting, stamp, seconds)
            finally:
                if client.returncode is None:
                    client.kill()
                    await client.wait()


async def looked(
    client: asyncio.subprocess.Process, setting: Setting, stamp: Path, seconds: float
) -> Row:
    assert client.stdout is not None
    looks: list[Look] = []
    step_at: float | None = None
    async with asyncio.timeout(seconds + CLIENT_SECONDS_MAX):
        async for line in client.stdout:
            looks.append(Look(**json.loads(line)))
            if setting.after and step_at is None and looks[-1].at > looks[0].at + seconds / 2:
                step_at = time.monotonic()
                stamp.write_text(setting.after + "\n", encoding="ascii")  # noqa: ASYNC240
        if await client.wait() != 0 or not looks:
            raise Missing("the client did not run under libfaketime")
    return row_of("faketime", setting.name, looks, None if setting.only_wall_clock else step_at)


def faketime_library() -> str:
    """Where libfaketime is. Raises `Missing`."""
    for pattern in FAKETIME_LIBRARIES:
        for found in sorted(Path("/").glob(pattern[1:])):
            return str(found)
    raise Missing("libfaketime is not installed")


# chronyd


async def chronyd_error() -> float:
    """How far chronyd takes our server to be off, less what it is, in seconds. Raises `Missing`."""
    if shutil.which("chronyd") is None:
        raise Missing("chronyd is not installed")
    async with sntp.serve_time("127.0.0.1", 0, clock=shifted, limit=None) as server:
        with tempfile.TemporaryDirectory() as folder:
            chronyd = await asyncio.create_subprocess_exec(
                "chronyd", "-Q", "-t", "15", "-U",
                f"server 127.0.0.1 port {server.address[1]} iburst maxdelay 1", "cmdport 0",
                f"pidfile {folder}/chronyd.pid",
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            output, _ = await asyncio.wait_for(chronyd.communicate(), CLIENT_SECONDS_MAX)
    found = re.search(r"System clock wrong by (-?[0-9.]+) seconds", output.decode())
    if found is None:
        raise Missing(output.decode().strip().splitlines()[-1])
    return float(found.group(1)) - CHRONYD_SHIFT_SECONDS


def shifted() -> float:
    return time.time() + CHRONYD_SHIFT_SECONDS


# All


async def measured(options: argparse.Namespace) -> tuple[list[Row], str | float]:
    rows = [virtual(name, options.seeds, options.virtual_seconds) for name in VIRTUAL]
    for setting in FAKETIME:
        try:
            rows.append(await faketime(setting, options.seconds))
        except Missing as error:
            rows.append(Row("faketime", setting.name, f"skipped: {error}"))
    try:
        return rows, await chronyd_error()
    except Missing as error:
        return rows, f"skipped: {error}"


def as_json(rows: list[Row], chronyd: str | float) -> str:
    machine = {"python": platform.python_version(), "system": platform.platform()}
    results = [asdict(row) for row in rows]
    return json.dumps({"machine": machine, "results": results, "chronyd_error_seconds": chronyd})


def as_table(rows: list[Row], chronyd: str | float) -> str:
    form = "{:<9} {:<23} {:>7} {:>6} {:>8} {:>10} {:>10} {:>10} {:>6}  {}"
    names = ("looks", "blind", "held", "error p50", "error max", "bound p50", "steps", "status")
    lines = [form.format("where", "clocks", *names)]
    for row in rows:
        held = "-" if row.held is None else f"{row.held:.2%}"
        times = [
            "-" if value is None else f"{value:.1f} ms"
            for value in (row.error_p50, row.error_max, row.bound_p50)
        ]
        cells = (row.where, row.clocks, row.looks, row.blind, held, *times, row.steps, row.status)
        lines.append(form.format(*cells))
    said = chronyd if isinstance(chronyd, str) else f"off by {chronyd * 1e6:.0f} us"
    return "\n".join([*lines, f"chronyd says of our SNTP server: {said}"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.clock", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="worlds of each virtual row")
    parser.add_argument("--virtual-seconds", type=float, default=300.0, help="of each world")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each real row")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    rows, chronyd = asyncio.run(measured(options))
    print(as_json(rows, chronyd) if options.json else as_table(rows, chronyd))
    return 0 if all(row.held in (None, 1.0) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
