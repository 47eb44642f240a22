from __future__ import annotations

import asyncio

import pytest

from aerogram.errors import InvalidAddress
from aerogram.lab import Link, Network, simulate
from tests.lab.recorder import open_at


@pytest.mark.parametrize("address", ["255.255.255.255", "192.168.1.255"])
def test_a_broadcast_reaches_the_subnet_and_no_further(address: str) -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.1))
        names = {"a": "192.168.1.1/24", "b": "192.168.1.2/24", "other": "192.168.2.1/24"}
        hosts = {name: network.host(name, address=ip) for name, ip in names.items()}
        heard = {name: (await open_at(host, ("0.0.0.0", 9)))[1] for name, host in hosts.items()}
        _, specific = await open_at(network.host("c", address="192.168.1.3"), ("192.168.1.3", 9))
        _, elsewhere = await open_at(hosts["b"], ("0.0.0.0", 10))
        sender, _ = await open_at(hosts["a"], allow_broadcast=True)
        sender.sendto(b"all", (address, 9))
        await asyncio.sleep(1.0)
        assert heard["b"].received == [(0.1, b"all", ("192.168.1.1", 49152))]
        assert heard["a"].times == [0.0]
        assert heard["other"].data == specific.data == elsewhere.data == []
        sender.sendto(b"nobody", (address, 11))
        assert network.trace.dropped == {"no listener": 1}

    simulate(main)


def test_a_broadcast_has_to_be_allowed() -> None:
    async def main() -> None:
        network = Network()
        _, heard = await open_at(network, ("0.0.0.0", 9))
        sender, told = await open_at(network)
        sender.sendto(b"x", ("255.255.255.255", 9))
        await asyncio.sleep(1.0)
        assert heard.data == []
        assert [type(error) for error in told.errors] == [PermissionError]

    simulate(main)


def test_a_broadcast_stays_on_its_side_of_a_nat() -> None:
    async def main() -> None:
        network = Network()
        outside, inside = network.host("outside"), network.host("inside")
        _, heard = await open_at(inside, ("0.0.0.0", 9))
        sender, _ = await open_at(outside, allow_broadcast=True)
        sender.sendto(b"before", ("255.255.255.255", 9))
        network.nat(inside)
        sender.sendto(b"after", ("255.255.255.255", 9))
        await asyncio.sleep(1.0)
        assert heard.data == [b"before"]

    simulate(main)


@pytest.mark.parametrize(("group", "wildcard"), [("239.1.2.3", "0.0.0.0"), ("ff02::1:3", "::")])
def test_a_group_is_heard_by_those_who_joined_it(group: str, wildcard: str) -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.1))
        member, heard = await open_at(network, (wildcard, 0))
        port = member.port
        joined, also_heard = await open_at(network.host("b"), (group, port))
        stranger, unheard = await open_at(network.host("c"), (wildcard, port))
        elsewhere, other_port = await open_at(network.host("d"), (wildcard, port + 1))
        for transport in (member, joined, elsewhere):
            transport.join_group(group)
        sender, _ = await open_at(network.host("e"), (wildcard, port))
        sender.sendto(b"1", (group, port))
        await asyncio.sleep(1.0)
        assert heard.data == also_heard.data == [b"1"]
        assert heard.times == [0.1]
        assert unheard.data == other_port.data == []
        member.leave_group(group)
        sender.sendto(b"2", (group, port))
        await asyncio.sleep(1.0)
        assert heard.data == [b"1"]
        assert also_heard.data == [b"1", b"2"]
        with pytest.raises(OSError, match="assign"):
            member.leave_group(group)
        assert not stranger.hears(group)

    simulate(main)


def test_sockets_of_one_host_share_a_groups_port_and_each_gets_a_copy() -> None:
    async def main() -> None:
        network = Network()
        host = network.host("a")
        sockets = [await open_at(host, ("0.0.0.0", 5), reuse_port=True) for _ in range(2)]
        for transport, _ in sockets:
            transport.join_group("239.0.0.1")
        sockets[0][0].sendto(b"1", ("239.0.0.1", 5))
        await asyncio.sleep(1.0)
        assert [heard.data for _, heard in sockets] == [[b"1"], [b"1"]]
        sockets[0][0].multicast_loop = False
        sockets[0][0].sendto(b"2", ("239.0.0.1", 5))
        await asyncio.sleep(1.0)
        assert [heard.data for _, heard in sockets] == [[b"1"], [b"1"]]

    simulate(main)


def test_each_receiver_of_a_group_has_a_link_of_its_own() -> None:
    async def main() -> None:
        network = Network()
        members = [await open_at(network.host(name), ("0.0.0.0", 5)) for name in "ab"]
        for transport, _ in members:
            transport.join_group("239.0.0.1")
        network.link("sender", "a", Link(loss=1.0))
        sender, _ = await open_at(network.host("sender"))
        sender.sendto(b"x", ("239.0.0.1", 5))
        members[1][0].leave_group("239.0.0.1")
        await asyncio.sleep(1.0)
        assert [heard.data for _, heard in members] == [[], []]
        assert network.trace.dropped == {"loss": 1, "no listener": 1}

    simulate(main)


def test_a_group_may_be_joined_for_one_source() -> None:
    async def main() -> None:
        network = Network()
        wanted, unwanted = network.host("wanted"), network.host("unwanted")
        member, heard = await open_at(network.host("member"), ("0.0.0.0", 5))
        member.join_group("232.0.0.1", None, wanted.ipv4)
        for host in (wanted, unwanted):
            sender, _ = await open_at(host)
            sender.sendto(host.name.encode(), ("232.0.0.1", 5))
        await asyncio.sleep(1.0)
        assert heard.data == [b"wanted"]
        member.join_group("232.0.0.1")
        sender.sendto(b"any", ("232.0.0.1", 5))
        await asyncio.sleep(1.0)
        assert heard.data == [b"wanted", b"any"]

    simulate(main)


@pytest.mark.parametrize("group", ["10.0.0.1", "ff02::1", "nonsense"])
def test_only_groups_of_the_sockets_family_are_joined(group: str) -> None:
    async def main() -> None:
        transport, _ = await open_at(Network())
        with pytest.raises(InvalidAddress):
            transport.join_group(group)

    simulate(main)
