"""Groups, broadcast and full queues between hosts that are network namespaces on bridges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from time import process_time
from typing import Any

import pytest

from aerogram.config import Config
from aerogram.errors import MessageTooLarge
from aerogram.io.datagram import Datagram
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.icmp import IcmpReason
from aerogram.io.interfaces import InterfaceAddress, interfaces
from aerogram.io.opening import open_endpoint
from tests.io.endpoints import PATIENCE, take
from tests.io.namespaces import CannotMake, Host, hosts, run

PORT = 5004
GROUP = "239.7.8.9"
SOURCE_GROUP = "232.7.8.9"
GROUP6 = "ff12::7:8"
OVER = b"that was all"


@pytest.fixture(scope="module")
def network() -> Generator[list[Host]]:
    """Three hosts on two networks."""
    with hosts(3, 2) as made:
        yield made


@contextlib.asynccontextmanager
async def opened(host: Host, name: str = "0.0.0.0", **how: Any) -> AsyncGenerator[DatagramEndpoint]:
    """An endpoint of that host. Nothing in opening a numeric address waits."""
    with host.entered():
        endpoint = await open_endpoint(name, PORT, **how)
    try:
        yield endpoint
    finally:
        await endpoint.close()


async def heard(
    receiver: DatagramEndpoint, sender: DatagramEndpoint, directly: Any
) -> list[Datagram]:
    """What came to `receiver` before what `sender` now sends to its own address."""
    await sender.send(OVER, directly)
    found: list[Datagram] = []
    while True:
        datagram = await receiver.receive(timeout=PATIENCE)
        if datagram.data == OVER:
            return found
        found.append(datagram)


async def test_a_group_reaches_its_members_on_other_hosts(network: list[Host]) -> None:
    one, two, three = network
    async with opened(one) as sender, opened(two) as member, opened(three) as other:
        with one.entered():
            sender.set_multicast(interface="e0")
        with two.entered():
            membership = member.join(GROUP, interface="e0")
        await sender.send(b"1", (GROUP, PORT))
        [datagram] = await heard(member, sender, (two.address(0), PORT))
        assert (datagram.data, datagram.address) == (b"1", (one.address(0), PORT))
        assert (datagram.destination, datagram.local_address) == (GROUP, None)
        with two.entered():
            assert datagram.interface == "e0"
        assert await heard(other, sender, (three.address(0), PORT)) == []
        await datagram.reply(b"answer")
        answer = await sender.receive(timeout=PATIENCE)
        assert (answer.data, answer.address) == (b"answer", (two.address(0), PORT))
        membership.leave()
        await sender.send(b"2", (GROUP, PORT))
        assert await heard(member, sender, (two.address(0), PORT)) == []


async def test_a_source_specific_member_hears_that_source_only(network: list[Host]) -> None:
    one, two, three = network
    async with opened(one) as wanted, opened(two) as member, opened(three) as other:
        with two.entered():
            member.join(SOURCE_GROUP, interface="e0", source=one.address(0))
        for host, sender in ((one, wanted), (three, other)):
            with host.entered():
                sender.set_multicast(interface="e0")
            await sender.send(b"from %d" % host.number, (SOURCE_GROUP, PORT))
        found = await heard(member, wanted, (two.address(0), PORT))
        found += await heard(member, other, (two.address(0), PORT))
        assert [datagram.data for datagram in found] == [b"from 1"]


async def test_a_member_on_several_interfaces_hears_each(network: list[Host]) -> None:
    one, two, _ = network
    async with opened(one) as sender, opened(two) as member:
        with two.entered():
            member.join(GROUP, interface=["e0", two.address(1)])
        for name in ("e0", "e1"):
            with one.entered():
                await sender.send(name.encode(), (GROUP, PORT), interface=name, ttl=5)
        found = await heard(member, sender, (two.address(1), PORT))
        with two.entered():
            seen = {(each.data, each.interface, each.address[0], each.ttl) for each in found}
            member.leave(GROUP, interface="e0")
        assert seen == {(b"e0", "e0", one.address(0), 5), (b"e1", "e1", one.address(1), 5)}
        with one.entered():
            await sender.send(b"0", (GROUP, PORT), interface="e0")
            await sender.send(b"1", (GROUP, PORT), interface="e1")
        found = await heard(member, sender, (two.address(1), PORT))
        assert [each.data for each in found] == [b"1"]


async def test_groups_and_scopes_of_ipv6(network: list[Host]) -> None:
    one, two, _ = network
    async with opened(one, "::") as sender, opened(two, "::") as member:
        with one.entered():
            sender.set_multicast(interface="e1", ttl=4)
        with two.entered():
            member.join(GROUP6, interface="e1")
        await sender.send(b"x", (GROUP6, PORT))
        datagram = await member.receive(timeout=PATIENCE)
        assert (datagram.data, datagram.destination, datagram.ttl) == (b"x", GROUP6, 4)
        scope = datagram.interface_index
        assert datagram.address == ("fe80::1", PORT, 0, scope)
        await datagram.reply(b"y")
        answer = await sender.receive(timeout=PATIENCE)
        assert (answer.data, answer.address[0]) == (b"y", "fe80::2")
        with two.entered():
            await member.send(b"z", ("fe80::1%e0", PORT))
        answer = await sender.receive(timeout=PATIENCE)
        with one.entered():
            assert (answer.data, answer.interface) == (b"z", "e0")
        assert answer.local_address == ("fe80::1", PORT, 0, answer.interface_index)
        with two.entered():
            member.leave(GROUP6, interface="e1")
            member.join(GROUP6, interface="e1", source="fe80::3")
        await sender.send(b"not from there", (GROUP6, PORT))
        assert await heard(member, sender, ("fe80::2", PORT, 0, answer.interface_index)) == []


async def test_broadcast_reaches_all_hosts_of_each_network(network: list[Host]) -> None:
    one, two, three = network
    async with opened(one) as sender, opened(two) as receiver, opened(three) as other:
        with one.entered():
            fan_out = await sender.broadcast(b"all", PORT)
        assert fan_out.sent == 2
        assert list(fan_out.addresses) == [("10.99.0.255", PORT), ("10.99.1.255", PORT)]
        for host, endpoint in ((two, receiver), (three, other)):
            found = await heard(endpoint, sender, (host.address(1), PORT))
            with host.entered():
                seen = {(each.destination, each.interface, each.address) for each in found}
            assert seen == {
                (f"10.99.{network}.255", f"e{network}", (one.address(network), PORT))
                for network in (0, 1)
            }
            await found[0].reply(b"here")
        heard_by_itself = [b"all", b"all"]
        assert await take(sender, 4) == [*heard_by_itself, b"here", b"here"]


async def test_broadcast_on_one_interface(network: list[Host]) -> None:
    one, two, _ = network
    async with opened(one) as sender, opened(two) as receiver:
        with one.entered():
            fan_out = await sender.broadcast(b"some", PORT, interface="e1")
        assert fan_out.sent == 1
        [datagram] = await heard(receiver, sender, (two.address(1), PORT))
        with two.entered():
            assert (datagram.data, datagram.interface) == (b"some", "e1")


async def test_what_this_machine_refuses_is_no_report_of_another(network: list[Host]) -> None:
    one, two, _ = network
    async with opened(one, may_fragment=False) as sender, opened(two) as receiver:
        with pytest.raises(MessageTooLarge):
            await sender.send(b"x" * 3000, (two.address(0), PORT))
        await sender.send(b"x", (two.address(0), PORT + 1))
        async with asyncio.timeout(PATIENCE):
            report = await anext(sender.errors)
        assert report.reason is IcmpReason.PORT_UNREACHABLE
        assert sender.stats.icmp_reports == 1
        assert await heard(receiver, sender, (two.address(0), PORT)) == []


async def test_without_details_broadcast_works_as_well(network: list[Host]) -> None:
    one, two, _ = network
    how = {"config": Config(transport="asyncio")}
    async with opened(one, **how) as sender, opened(two, **how) as receiver:
        with one.entered():
            await sender.broadcast(b"all", PORT)
        found = await heard(receiver, sender, (two.address(0), PORT))
        assert sorted(each.address[0] for each in found) == [one.address(0), one.address(1)]


async def test_interfaces_and_their_broadcast_addresses(network: list[Host]) -> None:
    with network[0].entered():
        found = {each.name: each for each in interfaces()}
    assert set(found) == {"lo", "e0", "e1"}
    assert found["e1"].addresses == (
        InterfaceAddress("10.99.1.1", 24, "10.99.1.255"),
        InterfaceAddress("fe80::1", 64),
    )
    assert found["e1"].can_multicast and found["e1"].can_broadcast and found["e1"].is_up


async def test_a_full_interface_queue_is_waited_for_without_spinning() -> None:
    with hosts(2, 1) as (one, two):
        limits = ("rate", "4mbit", "burst", "10k", "limit", "20000")
        try:
            run("tc", "-n", one.namespace, "qdisc", "add", "dev", "e0", "root", "tbf", *limits)
        except (CannotMake, OSError) as error:
            pytest.skip(f"no token bucket: {error}")
        async with opened(one) as sender, opened(two) as receiver:
            began = asyncio.get_running_loop().time()
            spent = process_time()
            for number in range(300):
                await sender.send(b"%04d" % number * 250, (two.address(0), PORT))
            spent = process_time() - spent
            elapsed = asyncio.get_running_loop().time() - began
            assert sender.stats.no_buffers > 0, "the queue never was full"
            assert spent < elapsed / 2
            received = await take(receiver, 300)
            assert received == [b"%04d" % number * 250 for number in range(300)]
