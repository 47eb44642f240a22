"""A state machine that Hypothesis drives: two to four peers, whatever may happen, and the model.

The sweep tries many long worlds; this tries short ones, and when one fails, says in the fewest
steps what it takes. Each example ends with a healed network, on which all that is owed arrives.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aerogram import Config
from aerogram.lab import Link, VirtualLoop, loop
from tests.proof.broken import BROKEN
from tests.proof.world import HEALED, Peer, Talk, World

KINDS = [kind.name for kind in World.kinds]
SECONDS = st.sampled_from([0.0, 0.01, 0.1, 0.5, 2.0, 9.0])
SIZES = st.one_of(
    st.integers(0, 100),
    st.integers(0, 5000),
    st.sampled_from([1090, 1100, 1110, 16_383, 16_384, 70_000, 200_000]),
)
TINY = Config(
    channel_window_bytes=4096,
    keepalive_seconds=1.0,
    reassembly_bytes_per_endpoint=600_000,
    reassembly_bytes_per_session=200_064,
    max_record_bytes=200_064,
    send_queue_bytes=1000,
    send_queue_messages=2,
)
USUAL = Config(keepalive_seconds=1.0)
RETRYING = replace(USUAL, half_open_before_retry=0)
TURNS_AT_ONE_INSTANT_LIMIT = 20_000


class PeersMachine(RuleBasedStateMachine):
    """One server, one to three clients, and a network that only gets worse until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.turns = patch.object(loop, "TURNS_AT_ONE_INSTANT_LIMIT", TURNS_AT_ONE_INSTANT_LIMIT)
        self.turns.start()
        self.random_state = random.getstate()
        self.world: World | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        self.runner.run(work)

    def do(self, act: Callable[[], object]) -> None:
        """Call something that needs the loop to be running."""

        async def calling() -> None:
            act()

        self.run(calling())

    @initialize(
        seed=st.integers(0, 1000),
        clients=st.integers(1, 3),
        nats=st.integers(0, 7),
        config=st.sampled_from([USUAL, TINY, RETRYING]),
    )
    def begin(self, seed: int, clients: int, nats: int, config: Config) -> None:
        async def begin() -> None:
            self.world = World(
                seed,
                clients=clients,
                behind_nat=[bool(nats & 1 << number) for number in range(clients)],
                server_config=config,
                client_config=replace(config, half_open_before_retry=64),
            )
            await self.world.start()
            await asyncio.sleep(0.5)

        self.run(begin())

    def peer(self, number: int) -> Peer:
        assert self.world is not None
        return self.world.peers[number % len(self.world.peers)]

    def talk(self, number: int) -> Talk | None:
        return self.peer(number).talk

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(
        number=st.integers(0, 2),
        kind=st.sampled_from(KINDS),
        sizes=st.lists(SIZES, min_size=1, max_size=8),
        by_server=st.booleans(),
        deadline=st.sampled_from([None, None, None, 0.0, 0.1]),
    )
    def say(
        self, number: int, kind: str, sizes: list[int], by_server: bool, deadline: float | None
    ) -> None:
        talk = self.talk(number)
        world = self.world
        if talk is None or world is None:
            return

        def act() -> None:
            for size in sizes:
                world.say(talk, kind, size, by_server=by_server, deadline=deadline)

        self.do(act)

    @rule(
        loss=st.sampled_from([0.0, 0.1, 0.4]),
        duplicate=st.sampled_from([0.0, 0.3]),
        reorder=st.sampled_from([0.0, 0.3]),
        jitter=st.sampled_from([0.0, 0.05]),
        delay=st.sampled_from([0.0, 0.02, 0.4]),
        corrupt=st.sampled_from([0.0, 0.0, 0.1]),
    )
    def worsen(self, **faults: float) -> None:
        assert self.world is not None
        self.world.excuses |= {"loss"} if faults["loss"] else set()
        self.world.excuses |= {"corrupt", "loss"} if faults["corrupt"] else set()
        self.world.network.default = replace(HEALED, **faults, reorder_delay=0.05)

    @rule(lost=st.sets(st.integers(0, 30), max_size=6))
    def lose_some(self, lost: set[int]) -> None:
        """Lose the datagrams of these numbers, so that an example can be made small."""
        assert self.world is not None
        self.world.excuses.add("loss")
        self.world.network.default = Link(delay=0.005, lose_numbers=lost)

    @rule(number=st.integers(0, 2), both_ways=st.booleans())
    def partition(self, number: int, both_ways: bool) -> None:
        assert self.world is not None
        self.world.excuses.add("partition")
        self.world.network.partition(self.peer(number).host, both_ways=both_ways)

    @rule(number=st.integers(0, 2), both_ways=st.booleans())
    def hold(self, number: int, both_ways: bool) -> None:
        assert self.world is not None
        self.world.excuses.add("hold")
        self.world.network.hold(self.peer(number).host, both_ways=both_ways)

    @rule()
    def repair(self) -> None:
        assert self.world is not None
        self.do(self.world.network.repair)
        self.do(self.world.network.release)

    @rule(number=st.integers(0, 2), moves=st.booleans())
    def rebind(self, number: int, moves: bool) -> None:
        nat = self.peer(number).nat
        if nat is not None and self.world is not None:
            self.world.excuses.add("rebind")
            self.do(nat.rebind_address if moves else nat.rebind_port)

    @rule(number=st.integers(-1, 2), seconds=SECONDS)
    def pause(self, number: int, seconds: float) -> None:
        assert self.world is not None
        host = self.world.host if number < 0 else self.peer(number).host
        if not host.is_down:
            self.world.excuses.add("pause")
            host.pause()
            self.run(asyncio.sleep(seconds))
            self.do(host.resume)

    @rule(number=st.integers(0, 2))
    def hang_up(self, number: int) -> None:
        self.do(self.peer(number).hangs_up.set)

    @precondition(lambda self: self.world is not None and not self.world.host.is_down)
    @rule(number=st.integers(-1, 2), seconds=SECONDS)
    def restart(self, number: int, seconds: float) -> None:
        world = self.world
        assert world is not None
        host = world.host if number < 0 else self.peer(number).host
        world.excuses.add("crash")
        self.do(host.crash)
        self.run(asyncio.sleep(seconds))
        self.do(lambda: world.restart(host))

    @rule(count=st.sampled_from([1, 20]))
    def repeat(self, count: int) -> None:
        assert self.world is not None
        self.run(self.world.repeat(count))

    def teardown(self) -> None:
        try:
            if self.world is not None:
                self.run(self.world.settle())
                assert self.world.violations == []
        finally:
            self.runner.close()
            self.turns.stop()
            random.setstate(self.random_state)


BOUNDED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check(limits: settings) -> None:
    case = PeersMachine.TestCase
    case.settings = limits
    case().runTest()


def test_peers_keep_their_promises() -> None:
    phases = [Phase.explicit, Phase.generate, Phase.shrink]
    check(settings(BOUNDED, max_examples=60, stateful_step_count=25, phases=phases))


@pytest.mark.long
def test_peers_keep_their_promises_for_long() -> None:
    check(settings(BOUNDED, max_examples=150, stateful_step_count=50))


@pytest.mark.parametrize("name", ["announcements", "losses", "order"])
def test_a_broken_protocol_is_noticed(name: str) -> None:
    limits = settings(
        BOUNDED, max_examples=60, stateful_step_count=25, phases=[Phase.generate], print_blob=False
    )
    with BROKEN[name](), pytest.raises(AssertionError):
        check(limits)
