"""A chat with rooms: `python examples/chat.py`, then `chat_client.py ADDRESS NAME ROOM`.

Each room is a group; a line is encoded once, however many are in the room. A session leaves its
groups by itself when it closes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aerogram import App, Message, Session


@dataclass
class Guest:
    name: str = "anonymous"
    room: str = "lobby"


class Join(Message, tag=1):
    name: str
    room: str


class Line(Message, tag=2):
    text: str
    author: str = ""


app = App(session_state=Guest)


@app.on(Join)
async def join(session: Session[Guest], wish: Join) -> None:
    app.group(session.state.room).discard(session)
    session.state = Guest(wish.name, wish.room)
    app.group(wish.room).add(session)


@app.on(Line)
async def line(session: Session[Guest], said: Line) -> None:
    room = app.group(session.state.room)
    await room.send(Line(said.text, session.state.name), exclude=session)


if __name__ == "__main__":
    asyncio.run(app.run("127.0.0.1", 9000, started=lambda server: print(server.address)))
