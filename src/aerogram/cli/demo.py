"""`aerogram demo`: a chat of several clients over real sockets, through a bad network.

A server, its clients and a fault proxy run in this process and talk over loopback. Every client
says its lines, the server passes each on to all others in the room, and everybody checks what it
hears: each line of each author once, and in order. The status is 0 only if that held, nothing was
lost, and the ledger of every session balances.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from aerogram import App, Message, Request, Server, Session, connect, serve
from aerogram.address import parse_server_address
from aerogram.cli.common import (
    FAILED,
    WRONG_USAGE,
    add_loop_option,
    complain,
    ended_by_closed_pipes,
    run_command,
)
from aerogram.lab.link import Link
from aerogram.lab.proxy import FaultProxy

NAMES: Final = ("ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hana")
SHOWN_LINES: Final = 6
"""Lines of the chat that are printed, so that a person sees it talk."""
PROGRESS_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 30.0
"""The demo fails if nobody hears anything for this long."""
CONNECT_SECONDS: Final = 20.0
"""A handshake may take so long; the network is bad."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Describe the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo", help="watch a chat through a bad network", description=__doc__
    )
    parser.add_argument("--clients", type=int, default=4, help="how many talk (2 to 64)")
    parser.add_argument("--messages", type=int, default=250, help="lines that each client says")
    parser.add_argument("--loss", type=float, default=0.10, help="of datagrams, each way")
    parser.add_argument("--duplicate", type=float, default=0.05, help="of datagrams, each way")
    parser.add_argument("--reorder", type=float, default=0.05, help="of datagrams, each way")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds, each way")
    parser.add_argument("--jitter", type=float, default=0.005, help="seconds, each way")
    parser.add_argument("--seed", type=int, default=7, help="of the network's faults")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    add_loop_option(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the demo and print what came of it."""
    if not 2 <= options.clients <= 64 or options.messages < 1:
        complain("demo", "a chat takes 2 to 64 clients and a message")
        return WRONG_USAGE
    if options.loss >= 1:
        complain("demo", "nothing arrives where all is lost: --loss is below 1")
        return WRONG_USAGE
    try:
        link = Link(
            delay=options.delay,
            jitter=options.jitter,
            loss=options.loss,
            duplicate=options.duplicate,
            reorder=options.reorder,
        )
    except ValueError as error:
        complain("demo", error)
        return WRONG_USAGE
    with ended_by_closed_pipes():
        return run_command("demo", _demo(options, link), options.loop)


class Join(Request[int]):
    """Enter the room; the answer is how many are in it."""

    name: str


class Line(Message):
    """Something said."""

    author: str
    number: int
    text: str


@dataclass(slots=True)
class Hearer:
    """What one client has heard, and what was wrong with it."""

    name: str
    next_number: dict[str, int] = field(default_factory=dict[str, int])
    heard: int = 0
    twice: int = 0
    out_of_order: int = 0

    def hear(self, author: str, number: int) -> None:
        """Take a line; numbers of an author start at 1 and follow on."""
        expected = self.next_number.get(author, 1)
        if number == expected:
            self.heard += 1
            self.next_number[author] = number + 1
        elif number < expected:
            self.twice += 1
        else:
            self.out_of_order += 1


@dataclass(slots=True)
class Outcome:
    """The figures of a run."""

    loop: str
    seconds: float
    said: int
    expected: int
    heard: int
    lost: int
    twice: int
    out_of_order: int
    datagrams: int
    datagrams_lost: int
    datagrams_doubled: int
    datagrams_reordered: int
    messages_resent: int
    rtt_milliseconds: float
    ledger_balanced: bool

    @property
    def good(self) -> bool:
        """True if every promise was kept."""
        broken = self.lost or self.twice or self.out_of_order
        return not broken and self.ledger_balanced


async def _demo(options: argparse.Namespace, link: Link) -> int:
    chat = Chat(options.clients, options.messages, quiet=options.json)
    outcome = await chat.run(link, options.seed)
    if options.json:
        print(json.dumps({**asdict(outcome), "good": outcome.good}, indent=2))
    else:
        print(_table(outcome))
    return 0 if outcome.good else FAILED


class Chat:
    """One run of the demo."""

    def __init__(self, clients: int, messages: int, *, quiet: bool) -> None:
        self._names = [f"{NAMES[n % len(NAMES)]}{n // len(NAMES) or ''}" for n in range(clients)]
        self._messages = messages
        self._quiet = quiet
        self._hearers = [Hearer(name) for name in self._names]
        self._changed = asyncio.Event()
        self._expected = clients * (clients - 1) * messages
        self._shown = 0

    async def run(self, link: Link, seed: int) -> Outcome:
        """Open everything, let all talk, and count."""
        started = time.perf_counter()
        async with (
            serve(_chat_app()) as server,
            FaultProxy(server.local_address, there=link, back=link, seed=seed) as proxy,
        ):
            host, port = proxy.address[:2]
            key = _key_of(server)
            self._say(f"a chat of {len(self._names)} at {server.address}")
            self._say(f"through a network with {_described(link)}")
            clients = [
                connect(
                    host,
                    port,
                    server_key=key,
                    app=self._client_app(hearer),
                    timeout=CONNECT_SECONDS,
                )
                for hearer in self._hearers
            ]
            async with _all_open(clients) as sessions:
                await self._talk(sessions, proxy)
                await _settle([*sessions, *server.sessions])
                return self._outcome(time.perf_counter() - started, sessions, server, proxy)

    async def _talk(self, sessions: list[Session[Any]], proxy: FaultProxy) -> None:
        for session, name in zip(sessions, self._names, strict=True):
            await session.request(Join(name), timeout=PATIENCE_SECONDS)
        talking = [
            asyncio.create_task(self._talk_as(session, name))
            for session, name in zip(sessions, self._names, strict=True)
        ]
        talking.append(asyncio.create_task(self._show_progress(proxy)))
        try:
            await self._wait_for_all()
        finally:
            for task in talking:
                task.cancel()
            ended = await asyncio.gather(*talking, return_exceptions=True)
        _raise_first(ended)
        self._progress(proxy)
        self._say("")

    async def _talk_as(self, session: Session[Any], name: str) -> None:
        for number in range(1, self._messages + 1):
            await session.send(Line(name, number, f"line {number} of {name}"))
            if number % 64 == 0:
                await asyncio.sleep(0)

    async def _wait_for_all(self) -> None:
        heard = -1
        while (now_heard := self._heard()) < self._expected and now_heard > heard:
            heard = now_heard
            self._changed.clear()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _heard(self) -> int:
        return sum(hearer.heard for hearer in self._hearers)

    def _client_app(self, hearer: Hearer) -> App[None, None]:
        app = App()

        @app.on(Line)
        async def hear(session: Session[None], line: Line) -> None:
            hearer.hear(line.author, line.number)
            if self._shown < SHOWN_LINES and hearer is self._hearers[0]:
                self._shown += 1
                self._say(f"  {hearer.name} hears {line.author}: {line.text}")
            self._changed.set()

        return app

    # -- what a person sees

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    async def _show_progress(self, proxy: FaultProxy) -> None:
        while True:
            self._progress(proxy)
            await asyncio.sleep(PROGRESS_SECONDS)

    def _progress(self, proxy: FaultProxy) -> None:
        if self._quiet or not sys.stdout.isatty():
            return
        heard = self._heard()
        share = heard / self._expected
        bar = "#" * int(30 * share)
        lost = proxy.stats.there.dropped + proxy.stats.back.dropped
        print(
            f"\r[{bar:<30}] {share:4.0%}  heard {heard} of {self._expected}, "
            f"{lost} datagrams lost on the way",
            end="",
            flush=True,
        )

    def _outcome(
        self, seconds: float, sessions: list[Session[Any]], server: Server, proxy: FaultProxy
    ) -> Outcome:
        both = [proxy.stats.there, proxy.stats.back]
        stats = [session.stats for session in [*sessions, *server.sessions]]
        heard = self._heard()
        return Outcome(
            loop=type(asyncio.get_running_loop()).__module__.partition(".")[0],
            seconds=seconds,
            said=len(sessions) * self._messages,
            expected=self._expected,
            heard=heard,
            lost=self._expected - heard,
            twice=sum(hearer.twice for hearer in self._hearers),
            out_of_order=sum(hearer.out_of_order for hearer in self._hearers),
            datagrams=sum(way.received for way in both),
            datagrams_lost=sum(way.dropped for way in both),
            datagrams_doubled=sum(way.duplicated for way in both),
            datagrams_reordered=sum(way.reordered for way in both),
            messages_resent=sum(each.messages_resent for each in stats),
            rtt_milliseconds=1000 * sum(each.rtt for each in stats) / len(stats),
            ledger_balanced=all(each.balanced and not each.messages_in_flight for each in stats),
        )


def _chat_app() -> App[None, None]:
    """The server: a room, and lines that are passed on to all others in it."""
    app = App()
    room = app.group("room")

    @app.answers(Join)
    async def join(session: Session[None], wish: Join) -> int:
        room.add(session)
        return len(room)

    @app.on(Line)
    async def line(session: Session[None], said: Line) -> None:
        await room.send(said, exclude=session)

    return app


@asynccontextmanager
async def _all_open(clients: Sequence[connect[None]]) -> AsyncGenerator[list[Session[None]]]:
    """The sessions of all clients, opened at once. Raises the first error of any."""
    opened = await asyncio.gather(*(c.__aenter__() for c in clients), return_exceptions=True)
    try:
        _raise_first(opened)
        yield [session for session in opened if not isinstance(session, BaseException)]
    finally:
        await asyncio.gather(*(client.__aexit__(None, None, None) for client in clients))


def _raise_first(results: Sequence[object]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _settle(sessions: list[Session[Any]]) -> None:
    """Let the last acknowledgements arrive, so that the ledger can be read."""
    for _ in range(200):
        if not any(session.stats.messages_in_flight for session in sessions):
            return
        await asyncio.sleep(0.05)


def _key_of(server: Server) -> bytes | None:
    return parse_server_address(server.address).key


def _described(link: Link) -> str:
    return (
        f"{link.loss:.0%} loss, {link.duplicate:.0%} duplicates, {link.reorder:.0%} held back, "
        f"{2000 * link.delay:.0f} ms round trip"
    )


def _table(outcome: Outcome) -> str:
    rows = (
        ("lines said", f"{outcome.said}"),
        ("lines to be heard", f"{outcome.expected}"),
        ("heard once, in order", f"{outcome.heard}"),
        ("lost", f"{outcome.lost}"),
        ("heard twice", f"{outcome.twice}"),
        ("heard out of order", f"{outcome.out_of_order}"),
        ("datagrams", f"{outcome.datagrams}"),
        ("  lost on the way", f"{outcome.datagrams_lost}"),
        ("  doubled on the way", f"{outcome.datagrams_doubled}"),
        ("  held back on the way", f"{outcome.datagrams_reordered}"),
        ("messages sent again", f"{outcome.messages_resent}"),
        ("round trip", f"{outcome.rtt_milliseconds:.1f} ms"),
        ("ledger balanced", "yes" if outcome.ledger_balanced else "NO"),
        ("time", f"{outcome.seconds:.1f} s on {outcome.loop}"),
    )
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value:>12}" for name, value in rows]
    verdict = "every line arrived once and in order" if outcome.good else "A PROMISE WAS BROKEN"
    return "\n".join([*lines, verdict])
