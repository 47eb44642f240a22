"""What random worlds have found, each as the few lines that it takes.

The names say what must be so; each of these was once not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from unittest.mock import patch

import pytest

from aerogram import Config, Outcome
from aerogram.lab import Link, loop, simulate
from tests.proof.model import Line
from tests.proof.world import HEALED, Talk, World

DEFAULTS = Config()
TURNS_AT_ONE_INSTANT = 2000
"""More means that a timer fires and there is nothing to do, over and over."""


def run(
    scenario: Callable[[World, Talk], Awaitable[None]],
    *excuses: str,
    link: Link = HEALED,
    config: Config = DEFAULTS,
    behind_nat: bool = False,
) -> World:
    async def main() -> World:
        world = World(1, link=link, behind_nat=[behind_nat], server_config=config)
        world.excuses.update(excuses)
        await world.start()
        while world.unsettled():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await scenario(world, world.talks[0])
        await world.settle()
        return world

    with patch.object(loop, "TURNS_AT_ONE_INSTANT_LIMIT", TURNS_AT_ONE_INSTANT):
        world = simulate(main)
    assert world.violations == []
    return world


def line(talk: Talk, kind: str) -> Line:
    return talk.client.lanes[kind].line


def test_a_keepalive_that_is_due_behind_a_full_window_lets_time_pass() -> None:
    async def scenario(world: World, talk: Talk) -> None:
        world.network.partition(world.host)
        for _ in range(400):
            world.say(talk, "unreliable", 1000)
        await asyncio.sleep(8.0)

    run(scenario, "partition", config=Config(keepalive_seconds=0.3))


def test_a_record_of_which_pieces_are_missing_expires_at_any_time() -> None:
    async def scenario(world: World, talk: Talk) -> None:
        world.network.default = replace(HEALED, loss=0.5)
        for step in range(30):
            world.say(talk, "unreliable", 5000)
            await asyncio.sleep(0.1 + step / 7)

    world = run(scenario, "loss", config=Config(reassembly_timeout_seconds=0.7))
    assert world.network.trace.dropped["loss"] > 0


@pytest.mark.parametrize("size", [1900, 2048, 3000, 4100, 8000])
@pytest.mark.parametrize("kind", ["ordered", "reliable_sequenced"])
def test_what_fits_a_packet_and_no_window_still_arrives(kind: str, size: int) -> None:
    async def scenario(world: World, talk: Talk) -> None:
        for _ in range(30):
            world.say(talk, kind, size)
        await asyncio.sleep(1.0)

    run(scenario, config=Config(datagram_bytes=9000, channel_window_bytes=4096))


@pytest.mark.parametrize("first", range(1976, 2000, 4))
def test_a_record_of_half_a_window_finds_credit_whatever_came_before(first: int) -> None:
    async def scenario(world: World, talk: Talk) -> None:
        world.say(talk, "ordered", first)
        await asyncio.sleep(0.2)
        world.say(talk, "ordered", 2016)
        await asyncio.sleep(0.2)

    run(scenario, config=Config(channel_window_bytes=4096))


@pytest.mark.parametrize("size", range(1050, 1130, 4))
def test_a_message_with_a_deadline_leaves_whatever_its_size(size: int) -> None:
    async def scenario(world: World, talk: Talk) -> None:
        world.say(talk, "ordered", size, deadline=1.0)
        await asyncio.sleep(0.1)
        assert line(talk, "ordered").heard == {0}

    run(scenario)


def test_a_message_sent_as_its_session_ends_is_lost_and_not_forgotten() -> None:
    async def scenario(world: World, talk: Talk) -> None:
        session = talk.client.session
        connection = session._inner.connection
        note = line(talk, "ordered").next_note(10)
        connection.end_silently(4, "gone", world.network.now())
        receipt = await session.send(note)
        line(talk, "ordered").said[0].receipt = receipt
        assert await asyncio.wait_for(receipt, 1.0) is Outcome.LOST
        await asyncio.sleep(0.1)

    run(scenario, "crash")


def test_a_peer_that_moves_is_followed_on_a_path_slower_than_first_assumed() -> None:
    """The server has sent nothing that would tell it the round-trip time."""

    async def scenario(world: World, talk: Talk) -> None:
        nat = world.peers[0].nat
        assert nat is not None and talk.server is not None
        nat.rebind_port()
        for _ in range(60):
            world.say(talk, "ordered", 100)
            await asyncio.sleep(0.1)
        assert talk.server.session.stats.path_changes == 1

    run(scenario, "rebind", link=Link(delay=0.7), behind_nat=True)


def test_a_peer_that_moves_while_challenges_are_lost_is_followed_soon() -> None:
    async def scenario(world: World, talk: Talk) -> None:
        peer = world.peers[0]
        assert peer.nat is not None and talk.server is not None
        peer.nat.rebind_port()
        world.network.link(world.host, peer.host, Link(loss=1.0), both_ways=False)
        world.say(talk, "ordered", 100)
        await asyncio.sleep(0.5)
        world.network.link(world.host, peer.host, HEALED, both_ways=False)
        for _ in range(20):
            world.say(talk, "ordered", 100)
            await asyncio.sleep(0.1)
        assert talk.server.session.stats.path_changes == 1

    run(scenario, "rebind", "loss", behind_nat=True, config=Config(initial_rtt_seconds=2.0))


def test_packets_that_were_held_for_long_delay_no_later_repair() -> None:
    async def scenario(world: World, talk: Talk) -> None:
        world.network.hold(world.host, both_ways=False)  # so acknowledgements come late, one by one
        world.say(talk, "ordered", 100)
        await asyncio.sleep(12.0)
        world.network.release()
        await asyncio.sleep(0.1)
        world.network.default = Link(loss=1.0)
        world.say(talk, "ordered", 100)
        await asyncio.sleep(1.0)

    run(scenario, "hold", "loss")
