"""One question to a multicast group, and the answers of all: `python examples/who_is_there.py`.

Nobody knows who is there: every thermometer of the network hears the question and answers after a
short random time, so that they do not all speak at once. Where all would say the same, `suppress`
lets most of them keep silent. Here three of each run on this machine.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from aerogram import Message, Request, lan

GROUP, PORT = "239.20.20.21", 20021
HERE = "127.0.0.1"


class Temperature(Message, tag=1):
    room: str
    celsius: float


class HowWarm(Request[Temperature], tag=2):
    at_least: float


class Thermometer:
    def __init__(self, room: str, celsius: float) -> None:
        self.room = room
        self.celsius = celsius

    async def answer(self, question: HowWarm, asker: object) -> Temperature | None:
        if self.celsius < question.at_least:
            return None  # says nothing
        return Temperature(self.room, self.celsius)


async def version(question: bytes, asker: object) -> bytes:
    return b"version 7"


async def main() -> None:
    rooms = {"hall": 18.5, "kitchen": 22.0, "studio": 24.0}
    async with AsyncExitStack() as answering:
        for room, celsius in rooms.items():
            handler = Thermometer(room, celsius).answer
            thermometer = lan.answer(GROUP, PORT, handler, kind=HowWarm, interface=HERE)
            await answering.enter_async_context(thermometer)
            told = lan.answer(GROUP, PORT + 1, version, suppress=1, interface=HERE)
            await answering.enter_async_context(told)
        async for answer in lan.ask(GROUP, PORT, HowWarm(20.0), deadline=1.0, interface=HERE):
            print(f"{answer.value.room} {answer.value.celsius}")
        async for said in lan.ask(GROUP, PORT + 1, b"version?", deadline=1.0, interface=HERE):
            print(said.value.decode())


if __name__ == "__main__":
    asyncio.run(main())
