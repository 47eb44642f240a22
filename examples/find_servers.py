"""Find servers on the local network: `python examples/find_servers.py`.

It announces an echo server, finds it by name as another program would, and talks to it: the record
carries the server's key, so that nobody else can answer in its place. Needs "aerogram[discovery]".
"""

from __future__ import annotations

import asyncio

from aerogram import App, Session, connect, serve
from aerogram.lan.discovery import announce, browse

app = App()
LOOPBACK = ["127.0.0.1"]


@app.on(str)
async def echo(session: Session, text: str) -> None:
    await session.send(text.upper())


async def main() -> None:
    async with serve(app) as server, announce(server, "Loud", {"room": "1"}, interfaces=LOOPBACK):
        async for service in browse(interfaces=LOOPBACK):
            if service.name == "Loud":
                print(f"found {service.name} {dict(service.properties)}")
                async with connect(service) as session:
                    await session.send("hello")
                    print(await session.receive(str))
                return


if __name__ == "__main__":
    asyncio.run(main())
