from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aerogram.lab import Link, Network, simulate
from tests.lab.recorder import open_at

SERVER = ("10.0.0.1", 1)


async def world() -> tuple[Network, Any, Any, Any]:
    """A server that echoes, and a host behind a NAT."""
    network = Network(link=Link(delay=0.1))
    server = await open_at(network.host("server"), SERVER, echo=True)
    home = network.host("home")
    nat = network.nat(home, mapping_timeout=30.0)
    return network, server, await open_at(home, (home.ipv4, 7)), nat


def test_the_server_sees_the_nats_address_and_its_answers_get_in() -> None:
    async def main() -> None:
        network, (_, heard), (client, answers), nat = await world()
        client.sendto(b"1", SERVER)
        client.sendto(b"2", SERVER)
        await asyncio.sleep(1.0)
        assert heard.sources == [(nat.address, 1024)] * 2
        assert answers.data == [b"1", b"2"]
        assert answers.times == [0.2] * 2
        assert network.trace.entries[0].source == (nat.address, 1024)

    simulate(main)


def test_a_new_port_or_address_is_seen_with_the_next_datagram() -> None:
    async def main() -> None:
        network, (server, heard), (client, answers), nat = await world()
        client.sendto(b"1", SERVER)
        await asyncio.sleep(1.0)
        nat.rebind_port()
        server.sendto(b"to the old port", (nat.address, 1024))
        await asyncio.sleep(1.0)
        client.sendto(b"2", SERVER)
        await asyncio.sleep(1.0)
        old_address = nat.address
        nat.rebind_address()
        server.sendto(b"to the old address", (old_address, 1025))
        client.sendto(b"3", SERVER)
        await asyncio.sleep(1.0)
        nat.rebind_address("203.0.113.9")
        client.sendto(b"4", SERVER)
        await asyncio.sleep(1.0)
        ports = [source[1] for source in heard.sources]
        assert len(set(ports)) == 4
        assert [source[0] for source in heard.sources] == [
            "198.18.0.1",
            "198.18.0.1",
            "198.18.0.2",
            "203.0.113.9",
        ]
        assert answers.data == [b"1", b"2", b"3", b"4"]
        assert network.trace.dropped == {"nat: no mapping": 1, "no such address": 1}
        with pytest.raises(ValueError, match="is the address of server"):
            nat.rebind_address("10.0.0.1")

    simulate(main)


def test_an_address_that_changes_under_way_is_too_late() -> None:
    async def main() -> None:
        network, _, (client, answers), nat = await world()
        client.sendto(b"1", SERVER)
        await asyncio.sleep(0.15)
        nat.rebind_address()
        await asyncio.sleep(1.0)
        assert answers.data == []
        assert network.trace.dropped == {"nat: no mapping": 1}

    simulate(main)


def test_nobody_gets_in_unasked() -> None:
    async def main() -> None:
        network, _, (client, answers), nat = await world()
        stranger, _ = await open_at(network)
        client.sendto(b"1", SERVER)
        await asyncio.sleep(1.0)
        stranger.sendto(b"x", (nat.address, 1024))
        stranger.sendto(b"x", (nat.address, 1025))
        stranger.sendto(b"x", (network.host("home").ipv4, 7))
        await asyncio.sleep(1.0)
        assert answers.data == [b"1"]
        assert network.trace.dropped == {
            "nat: unsolicited": 1,
            "nat: no mapping": 1,
            "private address": 1,
        }

    simulate(main)


def test_a_mapping_lives_as_long_as_the_inside_sends() -> None:
    async def main() -> None:
        network, (server, heard), (client, answers), nat = await world()
        for _ in range(3):
            client.sendto(b"keep", SERVER)
            await asyncio.sleep(29.0)
        assert heard.sources == [(nat.address, 1024)] * 3
        server.sendto(b"in time", (nat.address, 1024))
        await asyncio.sleep(5.0)
        server.sendto(b"late", (nat.address, 1024))
        await asyncio.sleep(1.0)
        client.sendto(b"new", SERVER)
        await asyncio.sleep(1.0)
        assert heard.sources[-1] == (nat.address, 1025)
        assert answers.data == [b"keep"] * 3 + [b"in time", b"new"]
        assert network.trace.dropped == {"nat: no mapping": 1}

    simulate(main)


def test_hosts_behind_one_nat_reach_each_other_inside_and_outside() -> None:
    async def main() -> None:
        network = Network()
        await open_at(network.host("server"), SERVER, echo=True)
        a, b = network.host("a"), network.host("b")
        nat = network.nat([a, "b"])
        from_a, _ = await open_at(a, (a.ipv4, 1))
        from_b, heard_b = await open_at(b, (b.ipv4, 1))
        from_a.sendto(b"inside", (b.ipv4, 1))
        await asyncio.sleep(1.0)
        assert heard_b.sources == [(a.ipv4, 1)]
        from_a.sendto(b"", SERVER)
        from_b.sendto(b"", SERVER)
        from_b.sendto(b"punch", (nat.address, 1024))
        from_a.sendto(b"hairpin", (nat.address, 1025))
        await asyncio.sleep(1.0)
        assert (b"hairpin", (nat.address, 1024)) in [(d, s) for _, d, s in heard_b.received]
        with pytest.raises(ValueError, match="one NAT at most"):
            network.nat("a")

    simulate(main)


def test_the_link_is_that_of_the_host_behind_the_nat() -> None:
    async def main() -> None:
        network, _, (client, answers), _ = await world()
        network.link("server", "home", Link(delay=0.5), both_ways=False)
        client.sendto(b"1", SERVER)
        await asyncio.sleep(1.0)
        assert answers.times == [0.6]
        network.partition("home")
        client.sendto(b"1", SERVER)
        await asyncio.sleep(1.0)
        assert network.trace.dropped == {"partition": 1}

    simulate(main)


def test_ipv6_is_not_translated() -> None:
    async def main() -> None:
        network, _, _, _ = await world()
        server, home = network.host("server"), network.host("home")
        _, heard = await open_at(server, (server.ipv6, 1))
        client, _ = await open_at(home, ("::", 0))
        client.sendto(b"6", (server.ipv6, 1))
        await asyncio.sleep(1.0)
        assert heard.sources == [(home.ipv6, 49152, 0, 0)]

    simulate(main)


def test_a_nat_takes_the_port_of_the_oldest_when_all_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aerogram.lab.nat._PORTS", 3)

    async def main() -> None:
        network = Network()
        _, heard = await open_at(network.host("server"), SERVER)
        home = network.host("home")
        network.nat(home)
        for _ in range(5):
            client, _ = await open_at(home)
            client.sendto(b"x", SERVER)
            await asyncio.sleep(1.0)
        assert [source[1] for source in heard.sources] == [1024, 1025, 1026, 1024, 1025]

    simulate(main)
