"""A terminal for `chat.py`: lines typed go to the room, lines of others are printed."""

from __future__ import annotations

import asyncio
import sys

from chat import Join, Line

from aerogram import App, Session, connect

app = App()


@app.on(Line)
async def show(session: Session, line: Line) -> None:
    print(f"{line.author}: {line.text}", flush=True)


async def main(address: str, name: str, room: str) -> None:
    async with connect(address, app=app) as session:
        await session.deliver(Join(name, room))
        print(f"you are in {room}")
        loop = asyncio.get_running_loop()
        while text := await loop.run_in_executor(None, sys.stdin.readline):
            await session.send(Line(text.rstrip()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
