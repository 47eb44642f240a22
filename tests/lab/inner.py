"""Runs a test file inside a test, for the tests of the pytest plug-in."""

from __future__ import annotations

import textwrap

# Here, so that the inner runs, which forget what they import, find them in memory.
import hypothesis.strategies  # noqa: F401
import pytest

import aerogram.lab.plugin  # noqa: F401

HEAD = """
import asyncio
import pytest
from aerogram import App, Config, Message, connect, delivery, open_endpoint, serve
from aerogram.lab import Burst, Link, Network, VirtualLoop

app = App()

class Tick(Message, tag=1, delivery=delivery.unreliable()):
    data: bytes

@app.on(bytes)
async def echo(session, data):
    await session.send(data)

@app.on(Tick)
async def slow(session, tick):
    await asyncio.sleep(1.0)

@app.on(str)
async def broken(session, text):
    raise KeyError(text)

async def talk(network, count=20, pause=0.0):
    async with (
        serve(app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        for number in range(count):
            await session.send(b"%d" % number)
            assert await session.receive(bytes) == b"%d" % number
            await asyncio.sleep(pause)
"""

OPTIONS = """
[pytest]
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = function
addopts = --strict-markers
filterwarnings = error
"""


def run_inner(
    pytester: pytest.Pytester, code: str, *arguments: str, mode: str = "auto"
) -> pytest.RunResult:
    """Run a file with this test code, after HEAD, and return what came of it."""
    pytester.makeini(OPTIONS.format(mode=mode))
    pytester.makepyfile(test_it=HEAD + textwrap.dedent(code))
    return pytester.runpytest(*arguments)
