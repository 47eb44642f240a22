"""A feed to many at once: `python examples/market_data.py [serve | ADDRESS]`.

Every price is sent once, to a multicast group, however many read it; who has lost one asks the
group. Readers come over a session, which gives them the key. Without arguments it runs a feed and
three readers on this machine; `serve` prints the address that others read from.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter

from aerogram import App, Message, Session, connect, serve
from aerogram.lan import multicast
from aerogram.lan.multicast import Gap, MulticastReceiver, MulticastSender

GROUP, PORT = "239.20.20.20", 20020
SYMBOLS = ("ACME", "BOLT", "CORE")


class Price(Message, tag=1):
    symbol: str
    cents: int


app = App()


def may_read(session: Session) -> bool:
    return True  # a real feed looks at session.peer_key


async def publish(feed: MulticastSender, count: int, pause: float) -> None:
    cents = dict.fromkeys(SYMBOLS, 10_000)
    for number in range(count):
        symbol = SYMBOLS[number % len(SYMBOLS)]
        cents[symbol] += random.randint(-50, 50)
        await feed.send(Price(symbol, cents[symbol]))
        await asyncio.sleep(pause)


async def read(
    address: str, interface: str | None = None, joined: asyncio.Barrier | None = None
) -> str:
    seen: Counter[str] = Counter()
    async with (
        connect(address) as session,
        MulticastReceiver.join(session, kinds=[Price], interface=interface) as prices,
    ):
        if joined is not None:
            await joined.wait()
        async for item in prices:
            if isinstance(item, Price):
                seen[item.symbol] += 1
            elif isinstance(item, Gap):
                seen["lost"] += item.count
    return f"{seen.total() - seen['lost']} prices, {seen['lost']} lost"


async def serve_for_ever() -> None:
    feed = MulticastSender(GROUP, PORT)
    multicast.invitations(app, feed, admit=may_read)
    async with serve(app, "0.0.0.0", 9000) as server, feed:
        print(server.address, flush=True)
        await publish(feed, sys.maxsize, 0.1)


async def show(here: str = "127.0.0.1") -> None:
    feed = MulticastSender(GROUP, PORT, interface=here)
    multicast.invitations(app, feed, admit=may_read)
    joined = asyncio.Barrier(4)
    async with serve(app) as server, asyncio.TaskGroup() as tasks, feed:
        readers = [tasks.create_task(read(server.address, here, joined)) for _ in range(3)]
        await joined.wait()
        await publish(feed, 300, 0.001)
    for number, reader in enumerate(readers, 1):
        print(f"reader {number}: {reader.result()}")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve_for_ever())
    elif sys.argv[1:]:
        print(asyncio.run(read(sys.argv[1])))
    else:
        asyncio.run(show())
