"""The same API on a simulated network, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aerogram.config import Config
from aerogram.errors import EndpointClosed, InvalidAddress, InvalidMessage, MessageTooLarge
from aerogram.io.opening import open_endpoint
from aerogram.lab import Link, Network, simulate
from tests.io.endpoints import balances

PORT = 7000


def simulated(
    main: Callable[[Network], Coroutine[Any, Any, None]], link: Link | None = None
) -> None:
    async def run() -> None:
        await main(Network(link=link or Link(delay=0.25)))

    simulate(run)


def test_datagrams_are_dated_in_virtual_time() -> None:
    async def main(network: Network) -> None:
        server, client = network.host("server"), network.host("client")
        async with (
            open_endpoint("0.0.0.0", PORT, network=server) as receiver,
            open_endpoint(network=client) as sender,
        ):
            began = asyncio.get_running_loop().time()
            await sender.send(b"x", (server.ipv4, PORT))
            datagram = await receiver.receive(timeout=1)
            assert datagram.received_at == datagram.received_at_loop == pytest.approx(began + 0.25)
            assert datagram.address == (client.ipv4, sender.local_address[1])
            assert datagram.local_address is datagram.interface is datagram.ttl is None
            await datagram.reply(b"y")
            assert (await sender.receive()).address == (server.ipv4, PORT)
            assert receiver.socket is None

    simulated(main)


def test_a_name_is_bound_and_an_address_checked() -> None:
    async def main(network: Network) -> None:
        async with open_endpoint(network=network.host("a")) as endpoint:
            for wrong in (("b", 9), ("10.0.0.1", 70000), ("::1", 9)):
                with pytest.raises(InvalidAddress):
                    await endpoint.send(b"x", wrong)
            with pytest.raises(MessageTooLarge):
                await endpoint.send(bytes(65508), ("10.0.0.1", 9))
            with pytest.raises(InvalidMessage):
                await endpoint.send(b"", ("10.0.0.1", 9))
            with pytest.raises(OSError, match="cannot set"):
                await endpoint.send(b"x", ("10.0.0.1", 9), ttl=3)
        with pytest.raises(EndpointClosed):
            await endpoint.send(b"x", ("10.0.0.1", 9))

    simulated(main)


def test_the_queue_keeps_its_bounds() -> None:
    async def main(network: Network) -> None:
        server = network.host("server")
        config = Config(receive_queue_datagrams=3)
        async with (
            open_endpoint(
                "0.0.0.0", PORT, network=server, config=config, overflow="block"
            ) as receiver,
            open_endpoint(network=network.host("client")) as sender,
        ):
            await sender.send_run([b"%d" % number for number in range(8)], (server.ipv4, PORT))
            await asyncio.sleep(1)
            assert receiver.stats.dropped_newest == 5, "a transport cannot stop: the newest go"
            assert [datagram.data for datagram in await receiver.receive_many()] == [
                b"0",
                b"1",
                b"2",
            ]
            assert balances(receiver.stats)

    simulated(main)


def test_fan_out_is_paced_in_virtual_time() -> None:
    async def main(network: Network) -> None:
        hosts = [network.host(f"h{number}") for number in range(20)]
        receivers = [
            await open_endpoint("0.0.0.0", PORT, network=host, overflow="drop_newest")
            for host in hosts
        ]
        async with open_endpoint(network=network.host("sender")) as sender:
            began = asyncio.get_running_loop().time()
            fan_out = await sender.send_many(b"x", [(h.ipv4, PORT) for h in hosts], rate=10)
            assert fan_out.sent == 20
            times = [(await receiver.receive()).received_at - began for receiver in receivers]
            assert times == pytest.approx([0.25 + number / 10 for number in range(20)])
        for receiver in receivers:
            await receiver.close()

    simulated(main)


def test_groups_and_broadcast() -> None:
    async def main(network: Network) -> None:
        async with (
            open_endpoint("0.0.0.0", PORT, network=network.host("a")) as one,
            open_endpoint("0.0.0.0", PORT, network=network.host("b")) as two,
        ):
            with two.join("239.1.1.1"):
                await one.send(b"group", ("239.1.1.1", PORT))
                assert (await two.receive()).data == b"group"
            one.join("239.1.1.1")
            one.set_multicast(loop=False)
            await one.send(b"not to itself", ("239.1.1.1", PORT))
            fan_out = await two.broadcast(b"all", PORT)
            assert fan_out.sent == 1
            assert (await one.receive()).data == b"all"
            one.leave("239.1.1.1")
            with pytest.raises(InvalidAddress):
                one.join("10.0.0.1")

    simulated(main)


def test_readers_end_with_the_endpoint() -> None:
    async def main(network: Network) -> None:
        endpoint = await open_endpoint(network=network.host("a"))
        reading = asyncio.create_task(anext(endpoint.errors, None))
        await asyncio.sleep(1)
        await endpoint.close()
        assert await reading is None
        assert [datagram async for datagram in endpoint] == []

    simulated(main)
