"""A host of the tests between network namespaces: `asker GROUP PORT` or `responder GROUP PORT`."""

from __future__ import annotations

import asyncio
import json
import sys

from aerogram import lan
from aerogram.io.sockets import Address
from benchmarks.namespaces import INTERFACE


async def main(part: str, group: str, port: int) -> None:
    if part == "asker":
        asked = lan.ask(group, port, b"who?", deadline=20.0, limit=3, interface=INTERFACE)
        answers = [[a.value.decode(), a.address[0]] async for a in asked]
        print(json.dumps(answers), flush=True)  # noqa: T201
        return

    async def answer(question: bytes, asker: Address) -> bytes:
        return question + str(asker[0]).encode()

    async with lan.answer(group, port, answer, interface=INTERFACE):
        print("ready", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
