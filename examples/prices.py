"""Request and response: `python examples/prices.py` starts a server and asks it."""

from __future__ import annotations

import asyncio

from aerogram import App, Message, Rejected, Request, Session, connect, serve


class Price(Message, tag=1):
    cents: int


class Quote(Request[Price], tag=2):
    symbol: str


app = App()


@app.answers(Quote)
async def quote(session: Session, ask: Quote) -> Price:
    if not ask.symbol.isalpha():
        raise Rejected(f"no such symbol: {ask.symbol}")
    return Price(cents=len(ask.symbol) * 100)


async def main() -> None:
    async with serve(app) as server, connect(server.address) as session:
        price = await session.request(Quote("ACME"), timeout=1.0)
        print(f"ACME costs {price.cents} cents")
        try:
            await session.request(Quote("4CME"), timeout=1.0)
        except Rejected as refusal:
            print(f"refused: {refusal.reason}")


if __name__ == "__main__":
    asyncio.run(main())
