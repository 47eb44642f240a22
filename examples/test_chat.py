"""The chat on a network that loses every fifth datagram: `pytest examples/test_chat.py`.

The app is the real one; the network and the time are not, so minutes of it take a moment. More
worlds: `--aerogram-seeds 100`. A test that fails names the seed that repeats it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from chat import Join, Line, app

from aerogram import Session, connect, serve
from aerogram.lab import Host, Link, Network

pytestmark = pytest.mark.aerogram(limit=300.0)  # runs `async def` tests, in virtual seconds


@pytest.fixture
def network(network: Network) -> Network:
    network.default = Link(delay=0.08, jitter=0.04, loss=0.2, duplicate=0.05)
    return network


@asynccontextmanager
async def guest(address: str, name: str, room: str, at: Network | Host) -> AsyncGenerator[Session]:
    async with connect(address, network=at) as session:
        await session.deliver(Join(name, room))
        yield session


async def test_every_line_arrives_once_and_in_order(network: Network) -> None:
    async with (
        serve(app, "server", 9000, network=network) as server,
        guest(server.address, "ada", "hall", network) as ada,
        guest(server.address, "ben", "hall", network) as ben,
    ):
        said = [Line(str(number), "ada") for number in range(200)]
        for line in said:
            await ada.send(line)
        assert [await ben.receive(Line) for _ in said] == said


async def test_who_was_cut_off_misses_nothing(network: Network) -> None:
    async with (
        serve(app, "server", 9000, network=network) as server,
        guest(server.address, "ada", "hall", network) as ada,
        guest(server.address, "ben", "hall", network.host("ben")) as ben,
    ):
        network.partition("ben")
        await ada.send(Line("are you there?"))
        await asyncio.sleep(10.0)
        network.repair("ben")
        assert await ben.receive(Line) == Line("are you there?", "ada")
