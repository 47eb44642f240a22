"""Random worlds: whatever is done to a network, its books balance and its seed replays it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from aerogram.lab import Burst, Host, Link, Nat, Network, simulate
from tests.lab.recorder import open_at

PORT = 5


class World:
    """Hosts that send to each other while everything is done to them."""

    def __init__(self) -> None:
        self.network = Network()
        self.hosts: list[Host] = []
        self.nats: list[Nat] = []
        self.draw = random.Random(f"world {self.network.seed}")

    async def build(self) -> None:
        for number in range(6):
            self.hosts.append(self.network.host(f"host-{number}"))
        self.nats.append(self.network.nat(self.hosts[:2], mapping_timeout=2.0))
        for host in self.hosts:
            await self.open(host)

    async def open(self, host: Host) -> None:
        if not host.is_down and not host.transports:
            for ip in (host.ipv4, host.ipv6):
                await open_at(host, (ip, PORT), receive_buffer_bytes=2000)

    def some(self) -> list[Host]:
        return self.draw.sample(self.hosts, self.draw.randrange(1, 4))

    def any_link(self) -> Link:
        draw = self.draw
        return Link(
            delay=draw.choice([0.0, 0.01, 0.5]),
            jitter=draw.choice([0.0, 0.2]),
            loss=draw.choice([0.0, 0.3, 1.0]),
            burst=draw.choice([None, Burst(enter=0.1, leave=0.5)]),
            duplicate=draw.choice([0.0, 0.3]),
            corrupt=draw.choice([0.0, 0.3]),
            mtu_bytes=draw.choice([None, 60]),
            icmp=draw.random() < 0.5,
            rate_bytes_per_second=draw.choice([None, 5_000.0]),
            queue_bytes=500,
            queue=draw.choice(["drop-tail", "codel"]),
        )

    def send(self) -> None:
        for host in self.hosts:
            for transport in host.transports:
                target = self.draw.choice([*self.hosts, *self.nats])
                is_ipv6 = ":" in transport.ip and isinstance(target, Host)
                if ":" in transport.ip and not is_ipv6:
                    continue
                ip = target.ipv6 if is_ipv6 and isinstance(target, Host) else None
                if ip is None:
                    ip = target.address if isinstance(target, Nat) else target.ipv4
                port = PORT if isinstance(target, Host) else self.draw.randrange(1024, 1030)
                transport.sendto(host.random_bytes(self.draw.randrange(50)), (ip, port))

    async def disturb(self) -> None:
        network, draw = self.network, self.draw
        one_way = draw.random() < 0.5
        host = draw.choice(self.hosts)
        ways: list[Callable[[], object]] = [
            lambda: network.partition(self.some(), self.some(), both_ways=one_way),
            lambda: network.partition(host),
            lambda: network.repair(host),
            network.repair,
            lambda: network.hold(self.some(), self.some(), both_ways=one_way),
            lambda: network.release(host),
            network.release,
            lambda: network.link(self.some(), host, self.any_link(), both_ways=one_way),
            lambda: network.link(self.some(), None, self.any_link(), shared=True),
            lambda: setattr(network, "default", self.any_link()),
            self.nats[0].rebind_port,
            self.nats[0].rebind_address,
            host.pause,
            host.resume,
            host.restart if host.is_down else host.crash,
        ]
        draw.choice(ways)()

    def check(self) -> None:
        trace, network = self.network.trace, self.network
        ended = trace.delivered + sum(trace.dropped.values())
        assert trace.sent + trace.duplicated == ended + network.in_flight + network.held


async def live() -> tuple[str, dict[str, int]]:
    world = World()
    await world.build()
    for _ in range(300):
        world.send()
        if world.draw.random() < 0.3:
            await world.disturb()
        await asyncio.sleep(world.draw.random() * 0.05)
        for host in world.hosts:
            await world.open(host)
        world.check()
    return world.network.trace.hash, world.network.trace.dropped


@pytest.mark.parametrize("seed", range(12))
def test_the_books_balance_and_the_seed_replays(seed: int) -> None:
    first, dropped = simulate(live, seed=seed)
    again, _ = simulate(live, seed=seed)
    assert first == again
    assert len(dropped) > 3


def test_the_worlds_together_have_every_kind_of_loss() -> None:
    seen: set[str] = set()
    for seed in range(12):
        seen.update(simulate(live, seed=seed)[1])
    assert seen >= {
        "burst",
        "host down",
        "loss",
        "mtu",
        "nat: no mapping",
        "nat: unsolicited",
        "partition",
        "port closed",
        "private address",
        "queue",
        "receive buffer",
    }
