"""A client without handlers: `python examples/echo_client.py aerogram://127.0.0.1:9000/#k=...`."""

from __future__ import annotations

import asyncio
import sys

from aerogram import connect


async def main(address: str) -> None:
    async with connect(address) as session:
        await session.send(b"hello")
        print(await session.receive(bytes), f"{session.stats.rtt * 1e3:.1f} ms")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
