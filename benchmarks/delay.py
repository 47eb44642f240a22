"""`python -m benchmarks.delay`: how old an update is when a handler sees it, on a bad path.

One process sends a 64-byte update 60 times a second on each of four ways at once, `sequenced`,
`latest`, `ordered` and TCP, to one other process; both ends are network namespaces joined by a wire
that loses packets of all alike. An update carries the time at which it was sent, by the clock that
both processes share. Needs root and /dev/net/tun.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import struct
import subprocess
import sys
import time
from typing import Any, Final

from aerogram import App, Channel, Message, Session, connect, delivery, serve
from aerogram.lab.link import Link
from benchmarks import namespaces
from benchmarks.wire import FAR, BadWire

MESSAGE_BYTES: Final = 64
RATE_HZ: Final = 60
PORT: Final = 9000
TCP_PORT: Final = 9001
PSK: Final = bytes(range(32))
SETTLE_SECONDS: Final = 3.0
WAYS: Final = ("sequenced", "latest", "ordered", "tcp")
_STAMP: Final = struct.Struct("!d")


class Update(Message, tag=1):
    """64 bytes when encoded, with its channel's few."""

    entity: int
    sent_at: float
    padding: bytes = bytes(MESSAGE_BYTES - 16)


def entity_of(update: Update) -> int:
    return update.entity


CHANNELS: Final = {
    "sequenced": Channel("sequenced", delivery.sequenced()),
    "latest": Channel("latest", delivery.latest(key=entity_of)),
    "ordered": Channel("ordered", delivery.ordered()),
}
ENTITIES: Final = {name: number for number, name in enumerate(CHANNELS)}


async def receive(seconds: float) -> None:
    """The far end: print what each way took."""
    ages: dict[str, list[float]] = {way: [] for way in WAYS}
    names = list(CHANNELS)
    app: App[None, None] = App(channels=CHANNELS.values())

    @app.on(Update)
    async def see(session: Session[None], update: Update) -> None:
        ages[names[update.entity]].append(time.monotonic() - update.sent_at)

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled at the end: the wire may have lost that the stream is closed.
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError
        ):
            while True:
                data = await reader.readexactly(MESSAGE_BYTES)
                ages["tcp"].append(time.monotonic() - _STAMP.unpack_from(data)[0])
        writer.close()

    async with serve(app, FAR, PORT, psk=PSK), await asyncio.start_server(read, FAR, TCP_PORT):
        print("ready", flush=True)
        await asyncio.sleep(seconds + SETTLE_SECONDS + 2.0)
    print(json.dumps(ages), flush=True)


async def send(seconds: float) -> None:
    """The near end."""
    app: App[None, None] = App(channels=CHANNELS.values())
    reader, writer = await asyncio.open_connection(FAR, TCP_PORT)
    stream: Any = writer.get_extra_info("socket")
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    async with connect(FAR, PORT, psk=PSK, app=app, timeout=20.0) as session:
        started = time.monotonic()
        for tick in range(int(seconds * RATE_HZ)):
            for name, channel in CHANNELS.items():
                await session.send(Update(ENTITIES[name], time.monotonic()), via=channel)
            writer.write(_STAMP.pack(time.monotonic()).ljust(MESSAGE_BYTES, b"\0"))
            await asyncio.sleep(max(started + (tick + 1) / RATE_HZ - time.monotonic(), 0.0))
        await asyncio.sleep(SETTLE_SECONDS)
    writer.close()
    del reader


def measured(link: Link, seconds: float, seed: int) -> tuple[dict[str, list[float]], str]:
    """The ages of all updates seen, by way, in seconds; and what the wire did."""
    with BadWire(link, seed) as wire:
        module = ("benchmarks.delay", "--seconds", str(seconds), "--role")
        receiver = subprocess.Popen(
            wire.command(wire.far, *module, "receive"), stdout=subprocess.PIPE, text=True
        )
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        subprocess.run(wire.command(wire.near, *module, "send"), check=True)
        ages: dict[str, list[float]] = json.loads(receiver.communicate()[0])
        return ages, f"{wire.packets} packets, {wire.lost} lost"


def table(ages: dict[str, list[float]], sent: int) -> str:
    lines = ["| way | seen | p50 ms | p95 ms | p99 ms | max ms |", "|---|---|---|---|---|---|"]
    for way in WAYS:
        found = sorted(1000 * age for age in ages[way])
        cuts = statistics.quantiles(found, n=100) if len(found) > 1 else [float("nan")] * 99
        figures = " | ".join(f"{value:.1f}" for value in (cuts[49], cuts[94], cuts[98], found[-1]))
        lines.append(f"| {way} | {len(found)} of {sent} | {figures} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.delay", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--loss", type=float, default=0.10)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds, each way")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", choices=("both", "receive", "send"), default="both")
    options = parser.parse_args()
    if options.role != "both":
        asyncio.run({"receive": receive, "send": send}[options.role](options.seconds))
        return 0
    if reason := namespaces.unavailable():
        print(f"not measured: {reason}", file=sys.stderr)
        return 0
    link = Link(loss=options.loss, delay=options.delay)
    ages, wire = measured(link, options.seconds, options.seed)
    if options.json:
        print(json.dumps(ages))
    else:
        print(table(ages, int(options.seconds * RATE_HZ)))
        print(f"\n{options.loss:.0%} loss and {1000 * options.delay:g} ms each way: {wire}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
