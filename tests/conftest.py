"""What every test shares: each async test runs once on asyncio and once on uvloop.

A test that needs one loop says `@pytest.mark.asyncio(loop_factories=["asyncio"])`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec

import pytest

from aerogram import Config
from tests.echo import TRANSPORTS

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

pytest_plugins = ["pytester"]  # for the tests of our own plug-in


def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """The loops of pytest-asyncio; uvloop where the platform has it."""
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if find_spec("uvloop") is not None:
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(params=TRANSPORTS)
def config(request: pytest.FixtureRequest) -> Config:
    """What a test runs with on each kind of transport."""
    return Config(transport=request.param)


@pytest.fixture
def complaints() -> Iterator[list[logging.LogRecord]]:
    """What the loops log: each is an exception that got out of a callback."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign]
    logging.getLogger("asyncio").addHandler(handler)
    yield found
    logging.getLogger("asyncio").removeHandler(handler)
