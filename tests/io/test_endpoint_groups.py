"""Multicast on the loopback interface; between hosts: test_endpoint_namespaces.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aerogram.errors import InvalidAddress
from aerogram.io.endpoint import DatagramEndpoint
from tests.io.endpoints import EVERY_TRANSPORT, HOST, IPV6, LINUX, PATIENCE, Kind, opened, take

GROUP = "239.1.2.3"
GROUP6 = "ff11::1:2:3"


async def hears(receiver: DatagramEndpoint, sender: DatagramEndpoint, group: str = GROUP) -> bool:
    """Whether `receiver` gets what `sender` sends to a group; what it sends directly it does."""
    port = receiver.local_address[1]
    await sender.send(b"to the group", (group, port))
    await sender.send(b"directly", ("::1" if ":" in group else HOST, port))
    first = await receiver.receive(timeout=PATIENCE)
    if first.data == b"directly":
        return False
    assert await take(receiver, 1) == [b"directly"]
    return True


def on_loopback(sender: DatagramEndpoint) -> DatagramEndpoint:
    sender.set_multicast(interface=HOST)
    return sender


@LINUX
@EVERY_TRANSPORT
async def test_members_hear_the_group_until_they_leave(kind: Kind) -> None:
    async with opened("0.0.0.0", kind=kind) as receiver, opened("0.0.0.0", kind=kind) as sender:
        on_loopback(sender)
        assert not await hears(receiver, sender)
        membership = receiver.join(GROUP, interface=HOST)
        assert await hears(receiver, sender)
        membership.leave()
        assert not await hears(receiver, sender)
        with pytest.raises(OSError, match="Cannot assign"):
            membership.leave()
        with receiver.join(GROUP, interface="lo"):
            assert await hears(receiver, sender)
        assert not await hears(receiver, sender)
        receiver.join(GROUP, interface=1)
        receiver.leave(GROUP, interface=1)
        assert not await hears(receiver, sender)


@LINUX
async def test_one_interface_by_several_names_is_joined_once() -> None:
    async with opened("0.0.0.0") as receiver, opened("0.0.0.0") as sender:
        on_loopback(sender)
        with receiver.join(GROUP, interface=["lo", HOST, 1]) as membership:
            assert membership.interfaces == (1,)
            assert await hears(receiver, sender)
        assert not await hears(receiver, sender)


@LINUX
async def test_a_member_hears_only_its_own_groups() -> None:
    async with opened("0.0.0.0") as one, opened("0.0.0.0") as two, opened("0.0.0.0") as sender:
        on_loopback(sender)
        one.join(GROUP, interface=HOST)
        two.join("239.1.2.4", interface=HOST)
        assert await hears(one, sender)
        assert not await hears(two, sender), "Linux lets all sockets hear what any of them joined"
        assert await hears(two, sender, "239.1.2.4")


@LINUX
async def test_source_specific_members_hear_one_sender() -> None:
    async with (
        opened("0.0.0.0") as receiver,
        opened("127.0.0.1") as wanted,
        opened("127.0.0.2") as other,
    ):
        receiver.join("232.1.2.3", interface=HOST, source="127.0.0.1")
        assert await hears(receiver, on_loopback(wanted), "232.1.2.3")
        assert not await hears(receiver, on_loopback(other), "232.1.2.3")
        receiver.leave("232.1.2.3", interface=HOST, source="127.0.0.1")
        assert not await hears(receiver, wanted, "232.1.2.3")


@LINUX
async def test_a_datagram_to_a_group_says_so_and_can_be_answered() -> None:
    async with opened("0.0.0.0") as receiver, opened("127.0.0.1") as sender:
        receiver.join(GROUP, interface=HOST)
        await sender.send(b"x", (GROUP, receiver.local_address[1]), interface="lo", ttl=3)
        datagram = await receiver.receive(timeout=PATIENCE)
        assert (datagram.destination, datagram.interface, datagram.ttl) == (GROUP, "lo", 3)
        assert datagram.local_address is None, "nobody can answer from a group"
        await datagram.reply(b"y")
        answer = await sender.receive(timeout=PATIENCE)
        assert (answer.data, answer.address) == (b"y", (HOST, receiver.local_address[1]))


@LINUX
async def test_ttl_and_loop_of_groups_are_set() -> None:
    async with opened("0.0.0.0") as receiver, opened("0.0.0.0") as sender:
        receiver.join(GROUP, interface=HOST)
        on_loopback(sender).set_multicast(ttl=7)
        await sender.send(b"x", (GROUP, receiver.local_address[1]))
        assert (await receiver.receive(timeout=PATIENCE)).ttl == 7
        sock = sender.socket
        assert sock is not None
        sender.set_multicast(loop=False)
        assert sock.getsockopt(0, 34) == 0  # IP_MULTICAST_LOOP
        sender.set_multicast(loop=True)
        assert sock.getsockopt(0, 34) == 1
        for ttl in (-1, 256, True):
            with pytest.raises(ValueError, match="ttl"):
                sender.set_multicast(ttl=ttl)
        with pytest.raises(ValueError, match="loop"):
            sender.set_multicast(loop="no")  # type: ignore[arg-type]


@LINUX
@IPV6
async def test_a_dual_stack_socket_joins_groups_of_both_versions() -> None:
    async with opened("::", dual_stack=True) as receiver, opened("0.0.0.0") as sender:
        receiver.join(GROUP6, interface="lo")
        receiver.join(GROUP, interface="lo")
        await on_loopback(sender).send(b"x", (GROUP, receiver.local_address[1]))
        datagram = await receiver.receive(timeout=PATIENCE)
        assert (datagram.data, datagram.destination) == (b"x", f"::ffff:{GROUP}")


WRONG: list[tuple[Any, dict[str, Any]]] = [
    ("10.0.0.1", {}),
    ("", {}),
    ("all-systems", {}),
    (5, {}),
    (None, {}),
    (GROUP6, {}),
    (GROUP, {"interface": "nonesuch0"}),
    (GROUP, {"interface": 999_999}),
    (GROUP, {"interface": "203.0.113.77"}),
    (GROUP, {"interface": []}),
    (GROUP, {"interface": -1}),
    (GROUP, {"interface": ["lo", "nonesuch0"]}),
    (GROUP, {"source": "nobody"}),
    (GROUP, {"source": "239.0.0.1"}),
    (GROUP, {"source": "::1"}),
]


@EVERY_TRANSPORT
async def test_what_is_no_group_source_or_interface_raises_at_the_caller(kind: Kind) -> None:
    async with opened("0.0.0.0", kind=kind) as endpoint:
        for group, how in WRONG:
            with pytest.raises(InvalidAddress):
                endpoint.join(group, **how)
            with pytest.raises(InvalidAddress):
                endpoint.leave(group, **how)


@LINUX
async def test_a_join_of_several_interfaces_is_all_or_nothing() -> None:
    from aerogram.io.interfaces import interfaces

    names = [each.name for each in interfaces() if each.is_up]
    async with opened("0.0.0.0") as endpoint:
        endpoint.join(GROUP, interface=names[-1:])
        if len(names) > 1:
            with pytest.raises(OSError, match="in use"):
                endpoint.join(GROUP, interface=names)
            endpoint.join(GROUP, interface=names[:-1])  # those were undone
        endpoint.leave(GROUP, interface=names)


@LINUX
async def test_a_membership_ends_with_the_endpoint() -> None:
    async with opened("0.0.0.0") as endpoint:
        with endpoint.join(GROUP, interface=HOST):
            await endpoint.close()
    await asyncio.sleep(0)
