"""Sessions that say nothing live, and those that end say why: as a program sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aerogram import App, ClosedByPeer, Config, IdleTimeout, Session, connect, serve
from aerogram.lab import Link, Network, simulate

HOUR_SECONDS = 3600.0
HASTY = Config(idle_timeout_seconds=4.0, keepalive_seconds=0.0)


@pytest.mark.parametrize("hasty_server", [True, False])
def test_a_session_outlives_an_idle_hour_with_a_more_impatient_peer(hasty_server: bool) -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.02))
        configs = (HASTY, Config()) if hasty_server else (Config(), HASTY)
        async with (
            serve(App(), "server", 1, network=network, config=configs[0]) as server,
            connect(server.address, network=network, config=configs[1]) as session,
        ):
            await session.ping(timeout=5)
            [peer] = server.sessions
            await asyncio.sleep(HOUR_SECONDS)
            assert not session.closed
            assert not peer.closed
            await session.ping(timeout=5)

    simulate(main, limit=2 * HOUR_SECONDS)


def test_with_keepalive_off_the_more_impatient_side_rules() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.02))
        patient = Config(keepalive_seconds=0.0)
        async with (
            serve(App(), "server", 1, network=network, config=HASTY) as server,
            connect(server.address, network=network, config=patient) as session,
        ):
            [peer] = await _opened(server)
            await asyncio.sleep(HASTY.idle_timeout_seconds + 0.5)
            assert isinstance(session.error, IdleTimeout)
            assert isinstance(peer.error, IdleTimeout)

    simulate(main)


async def _opened(server: Any) -> list[Session[Any]]:
    await asyncio.sleep(0.1)
    sessions: list[Session[Any]] = server.sessions
    return sessions


@pytest.mark.parametrize("by_client", [True, False])
async def test_the_peer_is_told_the_code_and_the_reason(by_client: bool, config: Config) -> None:
    opened = asyncio.Event()
    app: App[None, None] = App()

    @app.on_open
    async def on_open(session: Session[None]) -> None:
        opened.set()

    async with (
        serve(app, config=config) as server,
        connect(server.address, config=config) as session,
    ):
        await asyncio.wait_for(opened.wait(), 10)
        [peer] = server.sessions
        closes, told = (session, peer) if by_client else (peer, session)
        await closes.close("that is enough", code=300)
        await asyncio.wait_for(told.wait_closed(), 10)
        assert isinstance(told.error, ClosedByPeer)
        assert (told.error.code, told.error.reason) == (300, "that is enough")
