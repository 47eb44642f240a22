"""Raw datagrams in and out, beside asyncio, uvloop and C: `python -m benchmarks.receive`.

Received are datagrams from 1 000 senders, from one, and from one that sends runs. `per core` is how
many are read out of a full socket buffer in a second of processor time, which other programs on the
machine cannot take away; `flood` how many a second arrive while a C program on the other core sends
all it can, `lost` the share that did not, `us` the processor time that each took. Sent is one
datagram to each of 10 000 loopback addresses; `per core` is the same there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import socket
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from time import perf_counter, process_time
from typing import Any

from benchmarks.native import NotAvailable, Program
from benchmarks.receivers import RECEIVERS, Counter, bound_socket

MESSAGE_BYTES = 64
RUN_DATAGRAMS = 50
ROUND_DATAGRAMS = 4000
"""Of a backlog: the buffer of a socket holds about 5 000 small ones."""

FAN_OUT = "fan-out"
FAN_OUT_ADDRESSES = 10_000
WORKS = ("many", "one", "runs", FAN_OUT)
QUIET_SECONDS = 0.3
ROW_SECONDS_MAX = 60.0


@dataclass(slots=True)
class Row:
    """One line of the result."""

    work: str
    peer: str
    status: str = "ok"
    per_core: float | None = None
    """Datagrams out of a full buffer, or sent to many addresses, in a second of processor time."""

    flood: float | None = None
    lost: float | None = None
    cpu_microseconds: float | None = None
    rounds: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Load:
    """How the datagrams come."""

    work: str
    senders: int
    segments: int = 1

    def program(self, port: int, core: int | None) -> Program:
        arguments = (port, self.senders, MESSAGE_BYTES, self.segments)
        flood = Program("flood", *arguments, core=core, replacement="benchmarks.flood")
        flood.hear()
        return flood


# Receiving


async def received(peer: str, load: Load, seconds: float, core: int | None) -> Row:
    """Measure one receiver in Python."""
    row, counter, sock = Row(load.work, peer), Counter(), bound_socket()
    port = sock.getsockname()[1]
    async with RECEIVERS[peer].opened(sock, counter):
        with load.program(port, core) as flood:
            until = perf_counter() + seconds
            while perf_counter() < until:
                row.rounds.append(await one_backlog(flood, counter))
            row.per_core = statistics.median(row.rounds)
            await one_flood(flood, counter, seconds, row)
    return row


async def one_backlog(flood: Program, counter: Counter) -> float:
    """Fill the buffer while nothing is read, then read it all."""
    flood.tell(f"fill {ROUND_DATAGRAMS}")
    filled = int(flood.hear()[0])
    busy = process_time()
    await asyncio.wait_for(counter.until(counter.count + filled), ROW_SECONDS_MAX)
    return filled / (process_time() - busy)


async def one_flood(flood: Program, counter: Counter, seconds: float, row: Row) -> None:
    before, busy = counter.count, process_time()
    flood.tell(f"flood {seconds}")
    await asyncio.sleep(seconds)
    row.flood = (counter.count - before) / seconds
    seen = -1
    while seen != counter.count:
        seen = counter.count
        await asyncio.sleep(QUIET_SECONDS)
    busy = process_time() - busy
    sent = int(flood.hear()[0])
    row.lost = 1 - (counter.count - before) / sent
    row.cpu_microseconds = busy / max(1, counter.count - before) * 1e6


def received_in_c(load: Load, seconds: float, cores: tuple[int | None, int | None]) -> Row:
    """The same with recvmmsg in C."""
    row = Row(load.work, "c-recvmmsg")
    with Program("drain", core=cores[0]) as drain:
        port = int(drain.hear()[0])
        with load.program(port, cores[1]) as flood:
            until = perf_counter() + seconds
            while perf_counter() < until:
                flood.tell(f"fill {ROUND_DATAGRAMS}")
                filled = flood.hear()[0]
                drain.tell(f"read {filled}")
                count, _, busy = map(float, drain.hear())
                row.rounds.append(count / busy)
            row.per_core = statistics.median(row.rounds)
            drain.tell("idle")
            flood.tell(f"flood {seconds}")
            sent = int(flood.hear()[0])
            count, elapsed, busy = map(float, drain.hear())
            row.flood = count / elapsed
            row.lost = 1 - count / sent
            row.cpu_microseconds = busy / count * 1e6
    return row


# Fan-out


def sink() -> socket.socket:
    """Takes all addresses of 127/8, and drops what comes: nobody reads it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    sock.bind(("0.0.0.0", 0))  # noqa: S104  loopback addresses only are sent to
    return sock


def fan_out_hosts() -> list[str]:
    return [
        f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"
        for number in range(FAN_OUT_ADDRESSES)
    ]


async def fanned_out(peer: str, seconds: float) -> Row:
    from aerogram.io.opening import open_endpoint  # noqa: PLC0415  see receivers.py

    row = Row(FAN_OUT, peer)
    data = bytes(MESSAGE_BYTES)
    with sink() as receiver:
        port = receiver.getsockname()[1]
        addresses = [(host, port) for host in fan_out_hosts()]
        async with open_endpoint("127.0.0.1") as endpoint:
            until = perf_counter() + seconds
            while perf_counter() < until:
                busy = process_time()
                fan_out = await endpoint.send_many(data, addresses)
                row.rounds.append(fan_out.sent / (process_time() - busy))
    row.per_core = statistics.median(row.rounds)
    return row


def fanned_out_in_c(seconds: float, core: int | None) -> Row:
    row = Row(FAN_OUT, "c-sendto")
    with sink() as receiver:
        port = receiver.getsockname()[1]
        with Program("fanout", port, FAN_OUT_ADDRESSES, MESSAGE_BYTES, core=core) as fan_out:
            fan_out.hear()
            until = perf_counter() + seconds
            while perf_counter() < until:
                fan_out.tell("go")
                sent, busy = map(float, fan_out.hear())
                row.rounds.append(sent / busy)
    row.per_core = statistics.median(row.rounds)
    return row


# Running


def in_process(
    loop: str, core: int | None, work: Callable[..., Any], *arguments: Any, row: Row
) -> Row:
    """Run a coroutine function in a fresh process on its core, and return its row."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_child, args=(theirs, loop, core, work, arguments))
    process.start()
    theirs.close()
    answer: object = "it took too long"
    try:
        if ours.poll(ROW_SECONDS_MAX):
            answer = ours.recv()
    except EOFError:
        answer = "it ended early"
    finally:
        process.kill()
        process.join()
    if isinstance(answer, Row):
        return answer
    row.status = f"failed: {answer}"
    return row


def run_child(
    pipe: Connection, loop: str, core: int | None, work: Callable[..., Any], arguments: Any
) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            pipe.send(runner.run(work(*arguments)))
    except Exception as error:
        pipe.send(repr(error))


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop  # noqa: PLC0415  only where it is installed

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def in_c(work: Callable[..., Row], *arguments: Any, row: Row) -> Row:
    try:
        return work(*arguments)
    except NotAvailable as error:
        row.status = f"not available: {error}"
        return row


def two_cores() -> tuple[int | None, int | None]:
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def measured(options: argparse.Namespace) -> list[Row]:
    cores = two_cores()
    loads = {
        "many": Load(f"{options.senders} senders", options.senders),
        "one": Load("one sender", 1),
        "runs": Load("one sender, runs", 1, RUN_DATAGRAMS),
    }
    rows: list[Row] = []
    for work in options.work:
        if work == FAN_OUT:
            rows += fan_out_rows(options.seconds, cores[0])
        else:
            rows += receive_rows(loads[work], options.peers, options.seconds, cores)
    return rows


def receive_rows(
    load: Load, peers: list[str], seconds: float, cores: tuple[int | None, int | None]
) -> Iterator[Row]:
    for peer in peers:
        arguments = (peer, load, seconds, cores[1])
        failed = Row(load.work, peer)
        yield in_process(RECEIVERS[peer].loop, cores[0], received, *arguments, row=failed)
    yield in_c(received_in_c, load, seconds, cores, row=Row(load.work, "c-recvmmsg"))


def fan_out_rows(seconds: float, core: int | None) -> Iterator[Row]:
    for peer, loop in (("aerogram", "uvloop"), ("aerogram-asyncio", "asyncio")):
        yield in_process(loop, core, fanned_out, peer, seconds, row=Row(FAN_OUT, peer))
    yield in_c(fanned_out_in_c, seconds, core, row=Row(FAN_OUT, "c-sendto"))


# Printing


def ratio(row: Row, rows: list[Row], to: str) -> float | None:
    """How many times the rate of another peer at the same work."""
    for other in rows:
        if (other.work, other.peer) == (row.work, to) and other.per_core and row.per_core:
            return row.per_core / other.per_core
    return None


def as_json(rows: list[Row]) -> str:
    results = [{**asdict(row), "ratio_to_uvloop": ratio(row, rows, "uvloop")} for row in rows]
    machine = {"python": platform.python_version(), "system": platform.platform()}
    document = {"message_bytes": MESSAGE_BYTES, "machine": machine, "results": results}
    return json.dumps(document, indent=2)


def as_table(rows: list[Row]) -> str:
    header = ("work", "peer", "per core", "x uvloop", "x C", "flood/s", "lost", "us", "status")
    lines = [header]
    for row in rows:
        floor = "c-sendto" if row.work == FAN_OUT else "c-recvmmsg"
        lines.append(
            (
                row.work,
                row.peer,
                number(row.per_core, ",.0f"),
                number(ratio(row, rows, "uvloop"), ".2f"),
                number(ratio(row, rows, floor), ".2f"),
                number(row.flood, ",.0f"),
                number(row.lost, ".1%"),
                number(row.cpu_microseconds, ".2f"),
                row.status,
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 2 <= column <= 7 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.receive", description=__doc__)
    parser.add_argument("--work", action="append", choices=WORKS, help="repeatable")
    parser.add_argument("--senders", type=int, default=1000, help="how many are many")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--peers", default=",".join(RECEIVERS), help="names, with commas between")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    options.work = options.work or WORKS
    options.peers = [name for name in options.peers.split(",") if name]
    if unknown := set(options.peers) - set(RECEIVERS):
        parser.error(
            f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(RECEIVERS)}"
        )
    rows = measured(options)
    print(as_json(rows) if options.json else as_table(rows))
    return 1 if any(row.status.startswith("failed") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
