"""Many addresses in one system call: each gets its datagram, and errors keep their place."""

from __future__ import annotations

import ctypes
import errno
import socket

import pytest

from aerogram.errors import EndpointClosed
from aerogram.io import ancillary, writers
from aerogram.io.addresses import AddressBook
from aerogram.io.writers import ADDRESSES_PER_CALL, Writer, make_writer
from tests.io.endpoints import HOST, IPV6, LINUX, PATIENCE, RefusingSocket, opened, take

pytestmark = LINUX


@pytest.mark.parametrize(
    ("family", "target"),
    [
        (socket.AF_INET, ("192.0.2.1", 65535)),
        (socket.AF_INET6, ("2001:db8::1", 1, 0, 0)),
        (socket.AF_INET6, ("::ffff:192.0.2.1", 514, 0, 0)),
        (socket.AF_INET6, ("fe80::1", 514, 7, 3)),
    ],
)
def test_an_address_is_packed_as_the_kernel_writes_it(family: int, target: tuple[str, int]) -> None:
    book = AddressBook(family, dual_stack=True)
    [packed] = book.packed([target])
    assert book.learn(packed) == target
    assert book.packed([target] * 3) == [packed] * 3


def test_control_messages_are_packed_as_the_kernel_writes_them() -> None:
    control = [(0, 8, b"twelve bytes"), (0, 2, b"four"), (1, 35, b"sixteen bytes...")]
    assert [*ancillary.unpacked(ancillary.packed(control))] == control


async def test_more_addresses_than_fit_in_a_call_all_get_theirs() -> None:
    count = 2 * ADDRESSES_PER_CALL + 3
    async with opened() as sender, opened() as first, opened() as second:
        targets = [first.local_address, second.local_address] * count
        fan_out = await sender.send_many(b"x", targets)
        assert fan_out.sent == 2 * count
        assert await take(first, count) == await take(second, count) == [b"x"] * count
        assert (sender.stats.sent, sender.stats.sent_bytes) == (2 * count, 2 * count)
        assert first.stats.received == count


async def test_options_are_those_of_each_datagram_and_not_of_the_next_call() -> None:
    async with opened("0.0.0.0") as sender, opened() as receiver:
        targets = [receiver.local_address] * 2
        await sender.send_many(b"with", targets, ttl=7, tos=0x22, source="127.0.0.9")
        await sender.send_many(b"without", targets)
        got = [await receiver.receive(timeout=PATIENCE) for _ in range(4)]
        assert [(each.data, each.ttl, each.tos) for each in got] == [
            (b"with", 7, 0x22), (b"with", 7, 0x22), (b"without", 64, 0), (b"without", 64, 0),
        ]  # fmt: skip
        assert [each.address[0] for each in got] == ["127.0.0.9", "127.0.0.9", HOST, HOST]


@IPV6
async def test_the_same_over_ipv6_and_on_a_dual_stack_socket() -> None:
    async with (
        opened("::", dual_stack=True) as sender,
        opened("::1") as six,
        opened() as four,
    ):
        fan_out = await sender.send_many(b"x", [six.local_address, four.local_address] * 3)
        assert fan_out.sent == 6
        assert await take(six, 3) == await take(four, 3) == [b"x"] * 3


async def test_an_address_that_the_system_refuses_has_its_error_and_stops_no_other() -> None:
    async with opened() as sender, opened() as receiver:
        away = ("203.0.113.7", 9)  # which a socket bound to loopback cannot reach
        targets = [receiver.local_address, away, receiver.local_address, away]
        fan_out = await sender.send_many(b"x", targets)
        assert [outcome is None for outcome in fan_out.outcomes] == [True, False, True, False]
        assert {address for address, _ in fan_out.failures} == {away}
        assert await take(receiver, 2) == [b"x", b"x"]
        assert (sender.stats.sent, sender.stats.send_refused) == (2, 2)


async def test_an_icmp_error_of_an_earlier_datagram_displaces_none_of_them() -> None:
    async with opened() as sender, opened() as receiver:
        async with opened() as gone:
            nobody = gone.local_address
        for _ in range(20):
            targets = [nobody, receiver.local_address, nobody, receiver.local_address]
            assert (await sender.send_many(b"x", targets)).sent == 4
        assert await take(receiver, 40) == [b"x"] * 40


def test_a_call_that_stops_in_the_middle_is_continued_until_it_says_why() -> None:
    outcomes = [(2, 0), (1, 0), (-1, errno.EAGAIN)]
    asked: list[int] = []

    def sendmmsg(descriptor: int, headers: int, count: int, flags: int) -> int:
        asked.append(count)
        done, number = outcomes.pop(0)
        ctypes.set_errno(number)
        return done

    writer = Writer(lambda: 3, 16, sendmmsg)
    names = AddressBook(socket.AF_INET).packed([(HOST, 9)] * 5)
    sent, error = writer.send(b"x", names, None)
    assert asked == [5, 3, 2]
    assert sent == 3
    assert error is not None
    assert error.errno == errno.EAGAIN


def test_systems_and_sockets_without_it_send_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with RefusingSocket() as own, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local:
        assert make_writer(own) is None
        assert make_writer(local) is None
    monkeypatch.setattr(writers, "_load_sendmmsg", lambda: None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        assert make_writer(udp) is None


async def test_a_closed_endpoint_sends_by_no_other_socket() -> None:
    sender = await opened()
    async with opened() as receiver:
        assert sender.socket is not None
        sender.socket.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):  # mostly takes its number
            with pytest.raises(EndpointClosed):
                await sender.send_many(b"x", [receiver.local_address])
            await sender.close()
            with pytest.raises(EndpointClosed):
                await sender.send_many(b"x", [receiver.local_address])
        assert receiver.stats.received == 0


async def test_without_it_fan_out_works_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "_load_sendmmsg", lambda: None)
    async with opened() as sender, opened() as receiver:
        away = ("203.0.113.7", 9)
        fan_out = await sender.send_many(b"x", [receiver.local_address, away] * 2, ttl=3)
        assert [outcome is None for outcome in fan_out.outcomes] == [True, False, True, False]
        got = [await receiver.receive(timeout=PATIENCE) for _ in range(2)]
        assert [each.ttl for each in got] == [3, 3]
