"""Multicast sessions where hosts crash, or are many, or have IPv6."""

from __future__ import annotations

import asyncio

import pytest

from aerogram import App, Identity, SessionClosed, connect, serve
from aerogram.lab import Burst, Link, Network
from aerogram.lan import multicast
from aerogram.lan.multicast import MulticastConfig, MulticastReceiver, MulticastSender, StreamLost
from tests.lan.streams import DELAY, GROUP, PORT, Receiver, Tick, lossy, receiving, streaming, ticks


@pytest.mark.aerogram(limit=60.0)
async def test_a_group_may_be_ipv6(network: Network) -> None:
    network.default = Link(delay=DELAY)
    host = network.host("server")
    sender = MulticastSender("ff15::77", PORT, network=host)
    app = App()
    multicast.invitations(app, sender, admit=lambda session: True)
    async with serve(app, "server", 9000, network=host) as server, sender:
        receivers = [Receiver(network, f"r{n}", server) for n in range(2)]
        async with receiving(*receivers):
            for receiver in receivers:
                lossy(network, receiver, 0.2)
            for tick in ticks(50):
                await sender.send(tick)
            await sender.drain(timeout=10)
            for receiver in receivers:
                receiver.stop.set()
        assert all(receiver.numbers == [*range(50)] for receiver in receivers)


@pytest.mark.aerogram(limit=120.0)
@pytest.mark.parametrize("order", ["ordered", "as it arrives"])
async def test_a_terrible_network_delays_and_loses_nothing(network: Network, order: str) -> None:
    network.default = Link(delay=0.02)
    async with streaming(network) as (server, sender):
        receivers = [Receiver(network, f"r{n}", server, order=order) for n in range(5)]
        async with receiving(*receivers):
            network.default = Link(
                delay=0.02,
                jitter=0.02,
                burst=Burst(enter=0.02, leave=0.3),
                duplicate=0.05,
                reorder=0.05,
                corrupt=0.01,
            )
            for number, tick in enumerate(ticks(300)):
                await sender.send(Tick(tick.number, bytes(20 * (number % 200))))
            await sender.drain(timeout=60)
            for receiver in receivers:
                receiver.stop.set()
        for receiver in receivers:
            assert sorted(receiver.numbers) == [*range(300)]
            assert order != "ordered" or receiver.numbers == [*range(300)]
            assert receiver.gaps == []


@pytest.mark.aerogram(limit=120.0, expect=["left over"])
async def test_a_sender_that_crashes_is_missed(network: Network) -> None:
    network.default = Link(delay=DELAY)
    host = network.host("server")
    addresses: asyncio.Queue[str] = asyncio.Queue()
    sender = MulticastSender(GROUP, PORT, network=host)
    app = App()
    multicast.invitations(app, sender, admit=lambda session: True)
    identity = Identity.from_private_bytes(bytes(range(32)))

    async def program() -> None:
        async with serve(app, "server", 9000, identity=identity, network=host) as server, sender:
            addresses.put_nowait(server.address)
            for number in range(1_000_000):
                await sender.send(Tick(number))
                await asyncio.sleep(0.1)

    host.run(program)
    address = await addresses.get()
    here = network.host("r")
    async with (
        connect(address, network=here) as session,
        MulticastReceiver.join(session, kinds=[Tick], network=here) as stream,
    ):
        while await anext(stream) != Tick(10):
            pass
        host.crash()
        with pytest.raises((StreamLost, SessionClosed)):
            await anext(stream)
    host.restart()
    address = await addresses.get()
    async with (
        connect(address, network=here) as session,
        MulticastReceiver.join(session, kinds=[Tick], network=here) as stream,
    ):
        first = await anext(stream)
        assert isinstance(first, Tick)
        assert await anext(stream) == Tick(first.number + 1)
    host.crash()


@pytest.mark.aerogram(limit=60.0)
@pytest.mark.parametrize("members", [60, pytest.param(1000, marks=pytest.mark.long)])
async def test_many_that_lose_the_same_packet_ask_a_few_times(
    network: Network, members: int
) -> None:
    network.default = Link(delay=0.01)
    config = MulticastConfig(heartbeat_seconds_max=5.0, report_seconds=30.0)
    async with streaming(network, config=config) as (server, sender):
        receivers = [Receiver(network, f"r{n}", server, config=config) for n in range(members)]
        async with receiving(*receivers):
            await asyncio.sleep(1.0)
            for number in range(3):
                before = sender.stats.nacks_received
                network.link("server", None, Link(delay=0.01, loss=1.0), both_ways=False)
                await sender.send(Tick(number))
                await asyncio.sleep(0.005)
                network.link("server", None, Link(delay=0.01), both_ways=False)
                await asyncio.sleep(1.0)
                assert 1 <= sender.stats.nacks_received - before <= 10
            assert sender.stats.packets_repaired == 3
            assert sender.stats.nacks_received <= 15
            for receiver in receivers:
                receiver.stop.set()
        assert all(receiver.numbers == [0, 1, 2] for receiver in receivers)
