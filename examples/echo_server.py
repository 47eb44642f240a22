"""An echo server: `python examples/echo_server.py`, then `echo_client.py` with what it prints."""

from __future__ import annotations

import asyncio

from aerogram import App, Session

app = App()


@app.on(bytes)
async def echo(session: Session, data: bytes) -> None:
    await session.send(data)


if __name__ == "__main__":
    asyncio.run(app.run("127.0.0.1", 9000, started=lambda server: print(server.address)))
