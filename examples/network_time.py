"""Serve the time and ask for it: `python examples/network_time.py [HOST PORT]`.

Without arguments it serves the time of this machine on a free port and asks itself.
"""

from __future__ import annotations

import asyncio
import sys

from aerogram.clock.sntp import query, serve_time


async def ask(host: str, port: int) -> None:
    found = await query(host, port)
    print(f"{host} is {found.offset:+.6f} s off, give or take {found.error_bound:.6f} s")


async def main(arguments: list[str]) -> None:
    if arguments:
        await ask(arguments[0], int(arguments[1]))
        return
    async with serve_time("127.0.0.1", 0) as server:
        host, port = server.address[:2]
        await ask(host, port)
        print(f"questions answered: {server.stats.answered}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
