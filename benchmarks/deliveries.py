"""`python -m benchmarks.deliveries`: what each delivery promises, and what is seen on bad paths.

Every preset meets every condition in virtual time: a client sends numbered 64-byte messages about
`KEYS` things, 2 000 a second, to a server whose handler keeps the books. `--overhead` prints the
bytes that each preset adds to a message, `--memory` what a session costs that holds many.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from aerogram import App, Channel, Config, Message, Session, connect, delivery, serve
from aerogram.delivery import Delivery
from aerogram.lab import Burst, Link, Nat, Network, simulate

KEYS: Final = 16
PADDING: Final = bytes(58)
FIRST_NUMBER: Final = 256
SHORTER_PADDING: Final = bytes(57)
"""With numbers of FIRST_NUMBER to 65535, which take three bytes, exactly 64."""
PER_SECOND: Final = 2000
BATCH: Final = 20
SETTLE_SECONDS: Final = 15.0
PATH: Final = Link(delay=0.02, jitter=0.005)
CLIENT: Final = "client-1"


class Sample(Message, tag=1):
    """About 64 bytes when encoded."""

    number: int
    padding: bytes = PADDING


def thing_of(sample: Sample) -> int:
    return sample.number % KEYS


PRESETS: Final[dict[str, Callable[[], Delivery]]] = {
    "unreliable": delivery.unreliable,
    "sequenced": delivery.sequenced,
    "reliable": delivery.reliable,
    "ordered": delivery.ordered,
    "reliable_sequenced": delivery.reliable_sequenced,
    "latest": lambda: delivery.latest(key=thing_of),
}
PROMISES: Final = {
    "unreliable": "none twice",
    "sequenced": "none twice, none older than the newest",
    "reliable": "all, once",
    "ordered": "all, once, in order",
    "reliable_sequenced": "none older than the newest; the last one",
    "latest": "for each key none older than the newest; the last one",
}


@dataclass(slots=True)
class Books:
    """What a handler has seen."""

    by_key: bool
    seen: int = 0
    twice: int = 0
    out_of_order: int = 0
    newest: dict[int, int] = field(default_factory=dict[int, int])
    numbers: set[int] = field(default_factory=set[int])

    def take(self, number: int) -> None:
        if number in self.numbers:
            self.twice += 1
            return
        self.numbers.add(number)
        self.seen += 1
        key = number % KEYS if self.by_key else 0
        if number < self.newest.get(key, -1):
            self.out_of_order += 1
        else:
            self.newest[key] = number


Trouble = Callable[[Network, Nat | None], Awaitable[None]]


async def no_trouble(network: Network, nat: Nat | None) -> None:
    """The path stays as it is."""


async def black_out(network: Network, nat: Nat | None) -> None:
    """For two seconds nothing passes."""
    network.partition(CLIENT, "server")
    await asyncio.sleep(2.0)
    network.repair(CLIENT, "server")


async def rebind(network: Network, nat: Nat | None) -> None:
    """The client's packets come from another port."""
    assert nat is not None
    nat.rebind_port()


CONDITIONS: Final[dict[str, tuple[Link, Trouble]]] = {
    "no loss": (PATH, no_trouble),
    "5 % loss": (Link(delay=0.02, jitter=0.005, loss=0.05), no_trouble),
    "20 % loss": (Link(delay=0.02, jitter=0.005, loss=0.20), no_trouble),
    "bursts": (Link(delay=0.02, burst=Burst(enter=0.01, leave=0.2)), no_trouble),
    "20 % duplicates": (Link(delay=0.02, jitter=0.005, duplicate=0.20), no_trouble),
    "late by 200 packets": (Link(delay=0.02, reorder=0.02, reorder_delay=2.0), no_trouble),
    "2 s black-out": (PATH, black_out),
    "rebind": (PATH, rebind),
}


@dataclass(slots=True)
class Cell:
    """What one preset did in one condition."""

    books: Books
    sent: int
    lost: int
    superseded: int
    balanced: bool

    def kept(self, preset: str) -> bool:
        """True if what was promised is what was seen."""
        books = self.books
        if books.twice or not self.balanced:
            return False
        if preset in {"reliable", "ordered"} and books.seen != self.sent:
            return False
        if preset in {"reliable_sequenced", "latest"} and not self._last_ones_seen():
            return False
        return preset in {"unreliable", "reliable"} or books.out_of_order == 0

    def _last_ones_seen(self) -> bool:
        last = range(max(self.sent - KEYS, 0), self.sent) if self.books.by_key else [self.sent - 1]
        return all(number in self.books.numbers for number in last)


async def run(preset: str, condition: str, count: int) -> Cell:
    channel = Channel("samples", PRESETS[preset](), carries=[Sample])
    books = Books(by_key=preset == "latest")
    app: App[None, None] = App(channels=[channel])

    @app.on(Sample)
    async def see(session: Session[None], sample: Sample) -> None:
        books.take(sample.number)

    link, trouble = CONDITIONS[condition]
    network = Network(seed=1, link=link)
    nat = network.nat(CLIENT) if trouble is rebind else None
    async with (
        serve(app, "server", 1, network=network) as server,
        connect(
            server.address, app=App(channels=[channel]), network=network, timeout=20.0
        ) as session,
    ):
        await _send(session, count, lambda: trouble(network, nat))
        await asyncio.sleep(SETTLE_SECONDS)
        stats = session.stats
        return Cell(books, count, stats.messages_lost, stats.messages_superseded, stats.balanced)


async def _send(session: Session[None], count: int, trouble: Callable[[], Awaitable[None]]) -> None:
    troubled: asyncio.Task[None] | None = None
    for number in range(count):
        await session.send(Sample(number))
        if number == count // 2:
            troubled = asyncio.ensure_future(_whole(trouble))
        if number % BATCH == BATCH - 1:
            await asyncio.sleep(BATCH / PER_SECOND)
    if troubled is not None:
        await troubled


async def _whole(trouble: Callable[[], Awaitable[None]]) -> None:
    await trouble()


TABLE_HEAD: Final = (
    "| delivery | promised | path | seen | lost | superseded | twice | out of order | kept |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def cells(count: int, presets: list[str], conditions: list[str]) -> Iterator[tuple[str, str, Cell]]:
    """What each of these presets did in each of these conditions, one after another."""
    for preset in presets:
        for condition in conditions:
            yield preset, condition, simulate(run(preset, condition, count), limit=1e5, seed=1)


def row(preset: str, condition: str, cell: Cell) -> str:
    """A cell as a line of the table in Markdown."""
    books = cell.books
    return (
        f"| {preset} | {PROMISES[preset]} | {condition} | {books.seen} | {cell.lost} | "
        f"{cell.superseded} | {books.twice} | {books.out_of_order} | "
        f"{'yes' if cell.kept(preset) else 'NO'} |"
    )


def print_table(count: int, presets: list[str], conditions: list[str]) -> bool:
    """Print a line as soon as it is known; return whether every promise was kept."""
    print(TABLE_HEAD, flush=True)
    all_kept = True
    for preset, condition, cell in cells(count, presets, conditions):
        print(row(preset, condition, cell), flush=True)
        all_kept = all_kept and cell.kept(preset)
    return all_kept


async def _overhead(preset: str, count: int) -> float:
    """Bytes beyond the 64 of a message, packets' tags and headers aside, when many are sent."""
    channel = Channel("samples", PRESETS[preset](), carries=[Sample])
    app: App[None, None] = App(channels=[channel])
    network = Network(seed=1, link=Link(delay=0.001))
    config = Config(send_queue_messages=count)

    @app.on(Sample)
    async def see(session: Session[None], sample: Sample) -> None:
        """Be there."""

    async with (
        serve(app, "server", 1, network=network, config=config) as server,
        connect(
            server.address, app=App(channels=[channel]), network=network, config=config
        ) as session,
    ):
        await session.send(Sample(0))
        await asyncio.sleep(1.0)
        before = session.stats
        # A packet's worth at a time, about as many things: what is newer supersedes what waits, so
        # `reliable_sequenced` has one message in each packet.
        for number in range(1, count):
            await session.send(Sample(FIRST_NUMBER + number, SHORTER_PADDING))
            if number % 16 == 0:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
        after = session.stats
    packets = after.packets_sent - before.packets_sent
    outside = packets * (17 + 16)
    delivered = after.messages_delivered - before.messages_delivered
    return (after.bytes_sent - before.bytes_sent - outside) / max(delivered, 1) - 64


def overhead(count: int) -> str:
    lines = ["| delivery | bytes beside each 64-byte message |", "|---|---|"]
    for preset in PRESETS:
        extra = simulate(_overhead(preset, count), limit=1e4, seed=1)
        lines.append(f"| {preset} | {extra:.2f} |")
    return "\n".join(lines)


async def _memory(count: int) -> tuple[int, int, int]:
    """Bytes of a client's session: fresh, holding `count` unacknowledged messages, and drained."""
    app: App[None, None] = App()
    network = Network(
        seed=1, link=Link(delay=0.01), trace_entries=0
    )  # the lab's memory is not ours
    config = Config(
        send_queue_messages=count + 1,
        send_queue_bytes=1 << 30,
        channel_window_bytes=1 << 26,
        congestion_window_bytes=1 << 26,
    )

    @app.on(Sample)
    async def see(session: Session[None], sample: Sample) -> None:
        """Be there."""

    async with (
        serve(app, "server", 1, network=network, config=config) as server,
        connect(server.address, network=network, config=config) as session,
    ):
        await session.deliver(Sample(0))
        gc.collect()
        fresh = tracemalloc.get_traced_memory()[0]
        network.hold("server", CLIENT)
        for number in range(count):
            await session.send(Sample(number))
        await asyncio.sleep(0.001)
        gc.collect()
        full = tracemalloc.get_traced_memory()[0]
        network.release("server", CLIENT)
        await session.deliver(Sample(count))
        await asyncio.sleep(1.0)
        gc.collect()
        return fresh, full, tracemalloc.get_traced_memory()[0]


def memory(count: int) -> str:
    tracemalloc.start()
    fresh, full, drained = simulate(_memory(count), limit=1e4, seed=1)
    tracemalloc.stop()
    held, left = full - fresh, drained - fresh
    return (
        f"{count} unacknowledged 64-byte messages hold {held / 1024:.0f} KiB, "
        f"{held / count:.0f} bytes each; after they drained {left / 1024:.0f} KiB are left"
    )


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.deliveries", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument(
        "--preset", action="append", choices=PRESETS, help="repeatable; all if not given"
    )
    parser.add_argument(
        "--path", action="append", choices=CONDITIONS, help="repeatable; all if not given"
    )
    parser.add_argument("--overhead", action="store_true", help="bytes that each preset adds")
    parser.add_argument("--memory", action="store_true", help="of a session that holds them all")
    options = parser.parse_args()
    if options.overhead:
        print(overhead(min(options.messages, 60_000)))
        return 0
    if options.memory:
        print(memory(options.messages))
        return 0
    presets, conditions = options.preset or [*PRESETS], options.path or [*CONDITIONS]
    return 0 if print_table(options.messages, presets, conditions) else 1


if __name__ == "__main__":
    sys.exit(main())
