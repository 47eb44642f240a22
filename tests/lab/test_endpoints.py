"""The connectionless endpoint in the lab."""

from __future__ import annotations

import asyncio

from aerogram.io.opening import open_endpoint
from aerogram.lab import Link, Network, simulate


def test_an_endpoint_joins_groups_as_on_a_real_network() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.1))
        async with (
            open_endpoint("0.0.0.0", 5, network=network.host("a")) as member,
            open_endpoint("0.0.0.0", 0, network=network.host("b")) as sender,
        ):
            with member.join("239.0.0.1"):
                await sender.send(b"in", ("239.0.0.1", 5))
                datagram = await member.receive()
                assert (datagram.data, datagram.address[0]) == (b"in", network.host("b").ipv4)
            await sender.send(b"out", ("239.0.0.1", 5))
            await asyncio.sleep(1.0)
        assert network.trace.dropped == {"no listener": 1}

    simulate(main)
