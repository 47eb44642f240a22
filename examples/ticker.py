"""A question with many answers: `python examples/ticker.py` watches a price and stops at will.

The handler is an async generator. It is paused while the one who asked is busy, and closed when
that one leaves the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from aerogram import App, Message, Session, Stream, connect, serve


class Price(Message, tag=1):
    cents: int


class Watch(Stream[Price], tag=2):
    symbol: str


app = App()


@app.answers(Watch)
async def watch(session: Session, ask: Watch) -> AsyncGenerator[Price]:
    try:
        for cents in range(100, 1_000_000):
            yield Price(cents)
    finally:
        print("nobody watches any more")


async def main() -> None:
    async with serve(app) as server, connect(server.address) as session:
        async for price in session.stream(Watch("ACME")):
            print(f"ACME costs {price.cents} cents")
            if price.cents == 102:
                break
        await session.ping()


if __name__ == "__main__":
    asyncio.run(main())
