"""What every test shares: each async test runs once on asyncio and once on uvloop.

A test that needs one loop says `@pytest.mark.asyncio(loop_factories=["asyncio"])`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib.util import find_spec

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

pytest_plugins = ["pytester"]  # for the tests of our own plug-in


def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """The loops of pytest-asyncio; uvloop where the platform has it."""
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if find_spec("uvloop") is not None:
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories
