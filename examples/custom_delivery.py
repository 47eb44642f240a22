"""Deliveries of one's own: `python examples/custom_delivery.py` runs two over a lossy network.

A delivery is an ordering (at the receiver: what is shown, and when) and a retry policy (at the
sender: when to try again). Neither has a clock or does I/O: they are told what happens and answer
with a message or a time. Whatever they do wrong is counted and logged; the session lives.
`pytest --aerogram-policy custom_delivery:BACKOFF`, in this folder, finds out whether one keeps what
it promises, and names what it breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from aerogram import App, Channel, Message, Session, connect, serve
from aerogram.delivery import AsItArrives, Delivery, Rtt, Sent
from aerogram.lab import Link, Network, simulate
from aerogram.lab.conformance import Policy, Promises

# -- a retry policy: try again ever more slowly, and let go of what is too old


@dataclass(frozen=True, slots=True)
class Backoff:
    """Send again after a round trip, then after twice as long, until a message is too old.

    It is asked when a message has just left, for the first time or again. One object serves all
    sessions, so it keeps nothing: what it needs to know of a message, the message tells.
    """

    give_up_after_seconds: float

    def next_try(self, sent: Sent, rtt: Rtt) -> float | None:
        patience = rtt.smoothed + 4 * rtt.variation
        due = sent.last_sent_at + patience * 2 ** (sent.attempts - 1)
        return due if due < sent.first_sent_at + self.give_up_after_seconds else None


# -- an ordering: the newest for each key, where older ones are sent no more


class NewestPerKey:
    """Show a message unless a newer one with its key has been shown.

    Each session and channel gets an object of its own. A message that is not returned is dropped;
    an ordering that keeps some for later has a method `skipped` too, for those that never come.
    """

    def __init__(self) -> None:
        self._newest: dict[Hashable, int] = {}

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        if sequence > self._newest.get(message.name, -1):
            self._newest[message.name] = sequence
            yield message


class Alarm(Message, tag=1):
    text: str


class Position(Message, tag=2):
    name: str
    x: float


ALARMS = Channel("alarms", Delivery(AsItArrives, Backoff(2.0)), carries=[Alarm])
POSITIONS = Channel(
    "positions",
    # With `key=`, a newer message also takes the place of an older one at the sender.
    Delivery(NewestPerKey, key=lambda position: position.name),
    carries=[Position],
)

# -- what both promise, in words that can be checked

BACKOFF = Policy(
    ALARMS.delivery,
    Promises(gives_up_after_seconds=2.0),
    message=lambda number: Alarm(f"alarm {number}"),
)
NEWEST = Policy(
    POSITIONS.delivery,
    Promises(order="newest", reliable=True, key=lambda position: position.name),
    message=lambda number: Position(f"ship {number % 4}", float(number)),
)


async def main() -> None:
    app = App(channels=[ALARMS, POSITIONS])
    alarms: list[str] = []
    positions: dict[str, float] = {}

    @app.on(Alarm)
    async def alarm(session: Session, message: Alarm) -> None:
        alarms.append(message.text)

    @app.on(Position)
    async def move(session: Session, position: Position) -> None:
        positions[position.name] = position.x

    network = Network(seed=7, link=Link(delay=0.04, loss=0.3))
    async with (
        serve(app, "server", 9000, network=network) as server,
        connect(server.address, app=App(channels=[ALARMS, POSITIONS]), network=network) as session,
    ):
        for step in range(100):
            await session.send(Position("alice", step / 10))
            await session.send(Position("bob", -step / 10))
            if step % 10 == 0:
                await session.send(Alarm(f"alarm {step // 10}"))
            await asyncio.sleep(0.02)
        await asyncio.sleep(3.0)
        stats = session.stats
        print(f"{len(alarms)} of 10 alarms arrived, positions are {positions}")
        print(f"{stats.messages_superseded} positions were superseded, {stats.messages_lost} lost")


if __name__ == "__main__":
    simulate(main())
