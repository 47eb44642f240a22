"""Random worlds: what a seed decides about peers, links, messages, limits and faults.

The sweep runs many of these. A run is two halves: faults over time, during which nothing wrong may
happen, and then a healed network, on which all that is owed has to happen soon.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

from aerogram import Config
from aerogram.lab import Burst, Link, loop, simulate
from tests.proof.seams import (
    COST_STARTS,
    LAST_PACKETS,
    MESSAGE_STARTS,
    PACKET_STARTS,
    Seams,
    started_at,
)
from tests.proof.world import Peer, World

LIMIT_SECONDS = 7200.0
"""Virtual time after which a world is taken to hang."""
TURNS_AT_ONE_INSTANT_LIMIT = 20_000
"""Turns of the loop in which no time passes after which a world is taken to spin."""
SLOW_REKEY_PACKETS = 10_000
"""With fewer packets to a key, one that comes late may find that its key is gone."""
SIZES = (0, 1, 15, 63, 64, 200, 500, 1000, 1090, 1130, 1200, 3000, 16_383, 16_384, 20_000)
TRACEBACK_LINES = 4
_TURNS = "TURNS_AT_ONE_INSTANT_LIMIT"
LARGEST_BYTES = 200_064
"""The largest note, encoded."""
LARGE_SIZES = (70_000, 131_072, 200_000)


@dataclass(frozen=True)
class Result:
    """What came of a world."""

    violations: list[str]
    packets: int
    seconds: float
    trace_text: str
    trace_hash: str


def run_world(seed: int) -> Result:
    """Run the world of a seed, whatever comes of it."""
    rng = random.Random(f"world {seed}")
    seams = _seams(rng)
    worlds: list[World] = []
    violations: list[str] = []
    with started_at(seams), patch.object(loop, _TURNS, TURNS_AT_ONE_INSTANT_LIMIT):
        try:
            simulate(partial(_live, seed, rng, seams, worlds), limit=LIMIT_SECONDS, seed=seed)
        except Exception:
            violations.append(traceback.format_exc(limit=-TRACEBACK_LINES))
    [world] = worlds
    trace = world.network.trace
    return Result(
        violations + world.violations, trace.sent, world.ended_at, trace.as_text(), trace.hash
    )


async def _live(seed: int, rng: random.Random, seams: Seams, worlds: list[World]) -> None:
    world = _world(seed, rng)
    worlds.append(world)
    if seams.packet_number == LAST_PACKETS:
        world.excuses.add("last numbers")
    if seams.rekey_packets < SLOW_REKEY_PACKETS:
        world.excuses.add("rekey")
    await world.start()
    await asyncio.sleep(rng.choice([0.0, 0.05, 1.0]))
    until = world.network.now() + rng.choice([1.0, 4.0, 10.0, 20.0])
    speaking = asyncio.ensure_future(_speak(world, rng, until))
    breaking = asyncio.ensure_future(_break(world, rng, until))
    await asyncio.gather(speaking, breaking)
    if rng.random() < 0.1:
        await asyncio.sleep(rng.choice([40.0, 600.0]))
    await world.settle()


# What a world is made of


def _seams(rng: random.Random) -> Seams:
    if rng.random() < 0.5:
        return Seams(rekey_packets=rng.choice([3, 50, 1 << 20]))
    starts = [*PACKET_STARTS, LAST_PACKETS]
    return Seams(
        packet_number=rng.choice(starts),
        message_number=rng.choice(MESSAGE_STARTS),
        cost=rng.choice(COST_STARTS),
        rekey_packets=rng.choice([3, 50, 1 << 20]),
    )


def _world(seed: int, rng: random.Random) -> World:
    clients = rng.choice([1, 1, 2, 3])
    world = World(
        seed,
        clients=clients,
        behind_nat=[rng.random() < 0.5 for _ in range(clients)],
        server_config=_config(rng),
        client_config=_config(rng),
        psk=rng.randbytes(32) if rng.random() < 0.3 else None,
        handler_seconds=rng.choice([0.0, 0.0, 0.0, 0.005]),
    )
    _set_link(world, rng)
    return world


def _config(rng: random.Random) -> Config:
    """Usual limits, or some that are as small as they can be."""
    odd: dict[str, list[Any]] = {
        "datagram_bytes": [1200, 1400, 9000, 65_507],
        "channel_window_bytes": [4096, 8192, 65_536],
        "reassembly_bytes_per_session": [LARGEST_BYTES, 500_000],
        "reassembly_bytes_per_endpoint": [600_000],
        "reassembly_timeout_seconds": [0.5],
        "send_queue_messages": [1, 2, 100],
        "send_queue_bytes": [1, 1000, 100_000],
        "congestion_window_bytes": [66_000, 200_000],
        "initial_rtt_seconds": [0.001, 0.333, 2.0],
        "max_ack_delay_seconds": [0.0, 0.025, 0.5],
        "half_open_before_retry": [0],
        "mailbox_bytes": [500],
        "idle_timeout_seconds": [8.0],
        "grace_seconds": [0.1],
    }
    share = rng.choice([0.0, 0.2, 0.6])
    changes = {name: rng.choice(odd[name]) for name in odd if rng.random() < share}
    return Config(
        keepalive_seconds=rng.choice([1.0, 3.0]), max_record_bytes=LARGEST_BYTES, **changes
    )


def _link(rng: random.Random) -> tuple[Link, set[str]]:
    """A link, and what it may do to datagrams."""
    faults: dict[str, Any] = {
        "delay": rng.choice([0.0, 0.001, 0.015, 0.05, 0.3]),
        "jitter": rng.choice([0.0, 0.0, 0.01, 0.2]),
        "distribution": rng.choice(["constant", "uniform", "skewed", "correlated"]),
        "keep_order": rng.random() < 0.3,
    }
    excuses: set[str] = set()
    if rng.random() < 0.5:
        faults["loss"] = rng.choice([0.01, 0.1, 0.3])
        excuses.add("loss")
    if rng.random() < 0.2:
        faults["burst"] = Burst(enter=0.05, leave=rng.choice([0.1, 0.5]))
        excuses.add("loss")
    if rng.random() < 0.3:
        faults["duplicate"] = rng.choice([0.05, 0.5])
    if rng.random() < 0.3:
        faults["reorder"] = rng.choice([0.05, 0.5])
        faults["reorder_delay"] = rng.choice([0.005, 0.1])
    if rng.random() < 0.15:
        faults["corrupt"] = rng.choice([0.02, 0.3])
        excuses |= {"corrupt", "loss"}
    if rng.random() < 0.15:
        faults["rate_bytes_per_second"] = rng.choice([60_000, 1_250_000])
        faults["queue"] = rng.choice(["drop-tail", "codel"])
        faults["queue_bytes"] = 37_500
        excuses |= {"rate", "loss"}
    return Link(**faults), excuses


def _set_link(world: World, rng: random.Random) -> None:
    link, excuses = _link(rng)
    world.network.default = link
    world.excuses |= excuses


# What happens in it


async def _speak(world: World, rng: random.Random, until: float) -> None:
    """Let everybody talk, each on some kinds of channels, until it is time."""
    kinds = rng.sample([kind.name for kind in world.kinds], rng.randint(1, 4))
    budget_bytes = 400_000
    pause = rng.choice([0.0, 0.01, 0.2])
    large = rng.random() < 0.15
    hurried = rng.choice([0.0, 0.0, 0.1, 0.7])
    while world.network.now() < until:
        for _ in range(rng.choice([1, 1, 10, 40])):
            if not world.talks or budget_bytes < 0:
                break
            talk = rng.choice([peer.talk for peer in world.peers if peer.talk] or world.talks)
            size = rng.choice(SIZES) if rng.random() < 0.3 else rng.randint(0, 100)
            if large and rng.random() < 0.02:
                size = rng.choice(LARGE_SIZES)
            budget_bytes -= size + 50
            world.say(
                talk,
                rng.choice(kinds),
                size,
                by_server=rng.random() < 0.5,
                deadline=rng.choice([0.0, 0.05, 1.0]) if rng.random() < hurried else None,
            )
        await asyncio.sleep(pause + 0.3 * rng.random())


async def _break(world: World, rng: random.Random, until: float) -> None:
    """Do something bad from time to time, or nothing at all."""
    if rng.random() < 0.2:
        return
    faults = rng.sample(FAULTS, rng.randint(1, len(FAULTS)))
    mean = rng.choice([0.3, 1.0, 5.0])
    while True:
        await asyncio.sleep(2 * mean * rng.random())
        if world.network.now() >= until:
            return
        rng.choice(faults)(world, rng, rng.choice(world.peers))


def _later(world: World, rng: random.Random, undo: Callable[[], Any]) -> None:
    """Undo a fault after a while, unless the world heals before."""
    world.undo_after(rng.choice([0.05, 0.5, 3.0, 12.0]), undo)


def _new_link(world: World, rng: random.Random, peer: Peer) -> None:
    _set_link(world, rng)


def _lopsided_link(world: World, rng: random.Random, peer: Peer) -> None:
    link, excuses = _link(rng)
    world.excuses |= excuses
    world.network.link(peer.host, None, link, both_ways=False)


def _partition(world: World, rng: random.Random, peer: Peer) -> None:
    world.excuses.add("partition")
    world.network.partition(peer.host, both_ways=rng.random() < 0.5)
    _later(world, rng, world.network.repair)


def _hold(world: World, rng: random.Random, peer: Peer) -> None:
    world.excuses.add("hold")
    world.network.hold(peer.host, both_ways=rng.random() < 0.5)
    _later(world, rng, world.network.release)


def _pause(world: World, rng: random.Random, peer: Peer) -> None:
    world.excuses.add("pause")
    host = rng.choice([peer.host, world.host])
    if not host.is_down:
        host.pause()
        _later(world, rng, host.resume)


def _rebind_port(world: World, rng: random.Random, peer: Peer) -> None:
    if peer.nat is not None:
        world.excuses.add("rebind")
        peer.nat.rebind_port()


def _rebind_address(world: World, rng: random.Random, peer: Peer) -> None:
    if peer.nat is not None:
        world.excuses.add("rebind")
        peer.nat.rebind_address()


def _crash_server(world: World, rng: random.Random, peer: Peer) -> None:
    world.crash_server()
    _later(world, rng, partial(world.restart, world.host))


def _crash_client(world: World, rng: random.Random, peer: Peer) -> None:
    world.excuses.add("crash")
    peer.host.crash()
    _later(world, rng, partial(world.restart, peer.host))


def _hang_up(world: World, rng: random.Random, peer: Peer) -> None:
    peer.hangs_up.set()


def _close_at_server(world: World, rng: random.Random, peer: Peer) -> None:
    talk = peer.talk
    if talk is not None and talk.server is not None:
        world.soon(talk.server.session.close("enough"))


def _repeat(world: World, rng: random.Random, peer: Peer) -> None:
    world.soon(world.repeat(rng.choice([1, 20, 200])))


FAULTS: list[Callable[[World, random.Random, Peer], None]] = [
    _new_link,
    _lopsided_link,
    _partition,
    _hold,
    _pause,
    _rebind_port,
    _rebind_address,
    _crash_server,
    _crash_client,
    _hang_up,
    _close_at_server,
    _repeat,
]
