"""A message to a group, on real sockets: `python -m benchmarks.groups`.

One process serves, another holds the sessions, each with a socket of its own; every message is 64
bytes, reliable, ordered and encrypted, and counts when it reaches the handler of its session. In a
`flood`, some senders send as fast as back-pressure allows; `lone` is one message now and then, and
its rate leaves out the pauses: it is over the time from each call until the last has the message.
The delay of a delivery is from the call of `group.send` to the handler; `all` is that of the last
one of a message. `one by one` is what a group spares: a `session.send` for each member.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from time import monotonic, process_time
from typing import Any

import uvloop

from aerogram import App, Config, Group, Message, Session, connect, serve
from aerogram import messages as codec

MESSAGE_BYTES = 64
CONNECTS_AT_ONCE = 32
QUEUE_MESSAGES = 32
"""Of each member: back-pressure sets in early, so that a flood measures no queues of a second."""
QUIET_SECONDS = 0.5
CHILD_SECONDS_MAX = 120.0
SPARE_DESCRIPTORS = 100


class Tick(Message, tag=1):
    """64 bytes when encoded; `sent_at` is by a clock that both processes read."""

    sent_at: float
    padding: bytes = b""


PADDING = bytes(MESSAGE_BYTES - len(codec.encode(Tick(1.5))))


def tick() -> Tick:
    return Tick(monotonic(), PADDING)


@dataclass(slots=True)
class Heard:
    """What the clients' handlers took."""

    count: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    delays: list[float] = field(default_factory=list[float])
    complete: dict[float, float] = field(default_factory=dict[float, float])
    """The longest delay of each message, by when it was sent."""
    processor_seconds: float = 0.0

    def take(self, sent_at: float) -> None:
        now = monotonic()
        if self.count == 0:
            self.first_at = sent_at
        self.count += 1
        self.last_at = now
        self.delays.append(now - sent_at)
        self.complete[sent_at] = now - sent_at


@dataclass(slots=True)
class Row:
    """One line of the result. Times are in milliseconds."""

    work: str
    way: str
    sessions: int
    sent: int
    handled: int
    deliveries_per_second: float
    server_microseconds: float
    """Processor time of the serving process for each delivery."""
    clients_microseconds: float
    p50: float
    p99: float
    all_p50: float
    all_p99: float


Send = Callable[[Group[Any], Tick], Awaitable[object]]


async def by_group(group: Group[Any], message: Tick) -> None:
    await group.send(message, patience=None)


async def one_by_one(group: Group[Any], message: Tick) -> None:
    for session in group.sessions:
        await session.send(message)


WAYS: dict[str, Send] = {"group": by_group, "one by one": one_by_one}


# The clients, in a process of their own


def hold_sessions(address: str, count: int, core: int | None, pipe: Connection) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    allow_descriptors(count)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_hold_sessions(address, count, pipe))


async def _hold_sessions(address: str, count: int, pipe: Connection) -> None:
    app, heard = App(), Heard()

    @app.on(Tick)
    async def take(session: Session[Any], message: Tick) -> None:
        heard.take(message.sent_at)

    async with AsyncExitStack() as stack:

        async def join() -> None:
            await stack.enter_async_context(connect(address, app=app))

        for start in range(0, count, CONNECTS_AT_ONCE):
            await asyncio.gather(*(join() for _ in range(min(CONNECTS_AT_ONCE, count - start))))
        pipe.send(count)
        began = process_time()
        while await asyncio.to_thread(pipe.recv):
            last = -1
            while heard.count != last:  # until nothing more comes
                last = heard.count
                await asyncio.sleep(QUIET_SECONDS)
            heard.processor_seconds = process_time() - began
            pipe.send(heard)
            heard, began = Heard(), process_time()


def allow_descriptors(count: int) -> None:
    """Raise the limit of open files as far as it is needed. Raises `ValueError` if it cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_DESCRIPTORS
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))


# The server


async def measured(options: argparse.Namespace, cores: tuple[int | None, int | None]) -> list[Row]:
    app = App()
    group: Group[Any] = app.group("all")

    @app.on_open
    async def join(session: Session[Any]) -> None:
        group.add(session)

    config = Config(send_queue_messages=QUEUE_MESSAGES)
    async with serve(app, "127.0.0.1", 0, config=config) as server:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (server.address, options.sessions, cores[1], theirs)
        process = context.Process(target=hold_sessions, args=arguments, daemon=True)
        process.start()
        theirs.close()
        try:
            await heard_from(ours)
            return [
                await one_row(group, work, way, options, ours) for work in WORKS for way in WAYS
            ]
        finally:
            process.kill()
            process.join()


async def one_row(
    group: Group[Any], work: str, way: str, options: argparse.Namespace, pipe: Connection
) -> Row:
    await WAYS[way](group, tick())  # opens the channels
    await asyncio.sleep(QUIET_SECONDS)
    pipe.send(True)
    await heard_from(pipe)
    used = process_time()
    sent = await WORKS[work](group, WAYS[way], options)
    pipe.send(True)
    heard: Heard = await heard_from(pipe)
    used = process_time() - used
    longest = sorted(heard.complete.values())
    busy = sum(longest) if work == "lone" else heard.last_at - heard.first_at
    delays = sorted(heard.delays)
    return Row(
        work,
        way,
        len(group),
        sent * len(group),
        heard.count,
        heard.count / busy,
        used / heard.count * 1e6,
        heard.processor_seconds / heard.count * 1e6,
        *(1000 * part(times, share) for times in (delays, longest) for share in (0.5, 0.99)),
    )


async def flood(group: Group[Any], send: Send, options: argparse.Namespace) -> int:
    until, sent = monotonic() + options.seconds, 0

    async def send_on() -> None:
        nonlocal sent
        while monotonic() < until:
            sent += 1
            await send(group, tick())

    await asyncio.gather(*(send_on() for _ in range(options.senders)))
    return sent


async def lone(group: Group[Any], send: Send, options: argparse.Namespace) -> int:
    for _ in range(options.messages):
        await send(group, tick())
        await asyncio.sleep(options.interval)
    return int(options.messages)


WORKS: dict[str, Callable[[Group[Any], Send, argparse.Namespace], Awaitable[int]]] = {
    "flood": flood,
    "lone": lone,
}


async def heard_from(pipe: Connection) -> Any:
    if not await asyncio.to_thread(pipe.poll, CHILD_SECONDS_MAX):
        raise TimeoutError("the clients do not answer")
    return pipe.recv()


def part(times: list[float], share: float) -> float:
    return times[int(len(times) * share)]


# Printing


def as_json(rows: list[Row]) -> str:
    machine = {"python": platform.python_version(), "system": platform.platform()}
    results = [asdict(row) for row in rows]
    return json.dumps({"message_bytes": MESSAGE_BYTES, "machine": machine, "results": results})


def as_table(rows: list[Row]) -> str:
    form = "{:<6} {:<10} {:>8} {:>9} {:>9} {:>12} {:>9} {:>10} {:>8} {:>8} {:>9} {:>9}"
    names = ("sessions", "sent", "handled", "deliveries/s", "server us", "clients us")
    lines = [form.format("work", "way", *names, "p50 ms", "p99 ms", "all p50", "all p99")]
    for row in rows:
        used = (f"{row.server_microseconds:.1f}", f"{row.clients_microseconds:.1f}")
        rates = (f"{row.deliveries_per_second:,.0f}", *used)
        times = [f"{value:.1f}" for value in (row.p50, row.p99, row.all_p50, row.all_p99)]
        lines.append(
            form.format(row.work, row.way, row.sessions, row.sent, row.handled, *rates, *times)
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.groups", description=__doc__)
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a flood")
    parser.add_argument("--senders", type=int, default=16, help="of a flood")
    parser.add_argument("--messages", type=int, default=8, help="that are sent alone")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between them")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    cores: tuple[int | None, int | None] = (None, None)
    if hasattr(os, "sched_getaffinity") and len(available := sorted(os.sched_getaffinity(0))) > 1:
        cores = (available[0], available[1])
        os.sched_setaffinity(0, {available[0]})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(measured(options, cores))
    print(as_json(rows) if options.json else as_table(rows))
    return 0 if all(row.handled == row.sent for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
