"""Sending: room, runs, fan-out, broadcast, and what each way of failing looks like."""

from __future__ import annotations

import asyncio
import errno

import pytest

from aerogram.errors import InvalidAddress, InvalidMessage, MessageTooLarge
from aerogram.io.fanout import SENDS_PER_TURN, Pacer
from aerogram.io.interfaces import Interface, InterfaceAddress, interfaces
from tests.io.endpoints import (
    EVERY_TRANSPORT,
    HOST,
    IPV6,
    LINUX,
    PATIENCE,
    Kind,
    RefusingSocket,
    opened,
    take,
    until,
)


@LINUX
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
async def test_send_waits_for_room(number: int) -> None:
    sock = RefusingSocket([number, number])
    async with opened() as witness, opened(None, socket=sock) as sender:
        await asyncio.wait_for(sender.send(b"x", witness.local_address), PATIENCE)
        assert await take(witness, 1) == [b"x"]
        assert sock.sends == 3
        assert sender.stats.no_buffers == (2 if number == errno.ENOBUFS else 0)
        assert (sender.stats.sent, sender.stats.send_full) == (1, 0)


@LINUX
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
async def test_send_nowait_gives_up_where_there_is_no_room(number: int) -> None:
    async with opened() as witness, opened(None, socket=RefusingSocket([number])) as sender:
        assert sender.send_nowait(b"lost", witness.local_address) is False
        assert sender.send_nowait(b"x", witness.local_address) is True
        assert await take(witness, 1) == [b"x"]
        assert (sender.stats.sent, sender.stats.send_full) == (1, 1)


@LINUX
async def test_what_a_firewall_refuses_is_lost_and_counted() -> None:
    async with opened() as witness, opened(None, socket=RefusingSocket([errno.EPERM])) as sender:
        await sender.send(b"lost", witness.local_address)
        await sender.send(b"x", witness.local_address)
        assert await take(witness, 1) == [b"x"]
        assert (sender.stats.sent, sender.stats.send_lost) == (1, 1)


@LINUX
async def test_an_error_of_an_earlier_datagram_does_not_displace_this_one() -> None:
    sock = RefusingSocket([errno.ECONNREFUSED])
    async with opened() as witness, opened(None, socket=sock) as sender:
        await sender.send(b"x", witness.local_address)
        assert await take(witness, 1) == [b"x"]
        assert sender.stats.sent == 1


@LINUX
async def test_an_error_that_lasts_raises_at_the_caller() -> None:
    outcomes = [errno.ENETUNREACH] * 2 + [errno.EMSGSIZE] * 2 + [errno.EINVAL]
    sock = RefusingSocket(outcomes)
    async with opened() as witness, opened(None, socket=sock) as sender:
        with pytest.raises(OSError, match="unreachable"):
            await sender.send(b"x", witness.local_address)
        with pytest.raises(MessageTooLarge):
            await sender.send(b"x", witness.local_address)
        with pytest.raises(OSError, match="Invalid"):
            sender.send_nowait(b"x", witness.local_address)
        await sender.send(b"x", witness.local_address)
        assert await take(witness, 1) == [b"x"]
        assert (sender.stats.sent, sender.stats.send_refused) == (1, 3)


@LINUX
async def test_closing_ends_a_send_that_waits() -> None:
    from aerogram.errors import EndpointClosed

    sock = RefusingSocket([errno.EAGAIN] * 1_000_000)
    async with opened(None, socket=sock) as sender:
        waiting = asyncio.create_task(sender.send(b"x", (HOST, 9)))
        await asyncio.sleep(0)
    with pytest.raises(EndpointClosed):
        await waiting


@EVERY_TRANSPORT
async def test_endless_sending_lets_other_tasks_run(kind: Kind) -> None:
    async with opened(kind=kind) as sink, opened(kind=kind) as sender:

        async def send_for_ever() -> None:
            while True:
                await sender.send(b"x", sink.local_address)

        sending = asyncio.create_task(send_for_ever())
        for _ in range(5):
            await asyncio.sleep(0)
        sending.cancel()
        assert sender.stats.sent >= 128


@EVERY_TRANSPORT
async def test_a_run_arrives_as_its_datagrams(kind: Kind) -> None:
    async with opened(kind=kind) as receiver, opened(kind=kind) as sender:
        for run in (
            [b"%04d" % number for number in range(300)],
            [bytes([number]) * 1200 for number in range(100)] + [b"short"],
            [b"alone"],
            [b"y" * 40_000] * 3,
            [],
        ):
            await sender.send_run(run, receiver.local_address)
            assert await take(receiver, len(run)) == run
        assert sender.stats.sent == receiver.stats.received == 300 + 101 + 1 + 3


@LINUX
async def test_a_run_costs_few_writes_and_few_reads() -> None:
    async with opened() as receiver, opened() as sender:
        if not sender._link.sends_runs:
            pytest.skip("no UDP_SEGMENT in this kernel")
        await sender.send_run([b"z" * 100] * 128, receiver.local_address)
        await take(receiver, 128)
        assert sender.stats.sent_runs == 2
        assert receiver.stats.received_runs == 2


@EVERY_TRANSPORT
async def test_a_run_can_be_kept_whole(kind: Kind) -> None:
    async with opened(kind=kind, keep_runs=True) as receiver, opened(kind=kind) as sender:
        run = [b"%03d" % number for number in range(150)] + [b"z"]
        await sender.send_run(run, receiver.local_address)
        await sender.send(b"alone", receiver.local_address)
        records: list[bytes] = []
        datagrams = 0
        while len(records) < 152:
            datagram = await receiver.receive(timeout=PATIENCE)
            records += datagram.records
            datagrams += 1
        assert records == [*run, b"alone"]
        assert receiver.stats.received == datagrams
        assert datagrams == (4 if sender._link.sends_runs else 152)


@EVERY_TRANSPORT
async def test_a_run_of_different_sizes_is_refused(kind: Kind) -> None:
    async with opened(kind=kind) as sender:
        for run in ([b"a", b"bb"], [b"aa", b"b", b"cc"]):
            with pytest.raises(ValueError, match="one size"):
                await sender.send_run(run, (HOST, 9))
        assert sender.stats.sent == 0


@LINUX
async def test_a_run_that_the_system_does_not_cut_goes_one_by_one() -> None:
    async with opened() as receiver, opened(None, socket=RefusingSocket([errno.EIO])) as sender:
        run = [b"a" * 50] * 10
        await sender.send_run(run, receiver.local_address)
        assert await take(receiver, 10) == run
        assert (sender.stats.sent, sender.stats.runs_refused) == (10, 1)


@EVERY_TRANSPORT
async def test_fan_out_has_an_outcome_for_each_address(kind: Kind) -> None:
    async with opened("0.0.0.0", kind=kind) as receiver, opened(kind=kind) as sender:
        port = receiver.local_address[1]
        good = [(f"127.0.{number // 100}.{1 + number % 100}", port) for number in range(1000)]
        bad = [("localhost", 5), ("127.0.0.1", 0), ("::1", 5)]
        addresses = [*good[:500], *bad, *good[500:]]
        receiving = asyncio.create_task(take(receiver, 1000))
        fan_out = await sender.send_many(b"to all", addresses)
        assert await receiving == [b"to all"] * 1000
        assert fan_out.sent == sender.stats.sent == 1000
        assert list(fan_out.addresses) == addresses
        assert [outcome is None for outcome in fan_out.outcomes].count(False) == 3
        assert [address for address, _ in fan_out.failures] == bad
        assert all(isinstance(error, InvalidAddress) for _, error in fan_out.failures)


@LINUX
async def test_fan_out_reaches_each_address_once() -> None:
    async with opened("0.0.0.0", receive_queue_datagrams=20_000) as receiver, opened() as sender:
        port = receiver.local_address[1]
        hosts = [f"127.{1 + n // 62500}.{n // 250 % 250}.{1 + n % 250}" for n in range(10_000)]
        seen: list[str | None] = []

        async def read() -> None:
            while True:
                seen.extend(each.destination for each in await receiver.receive_many())

        reading = asyncio.create_task(read())
        fan_out = await sender.send_many(b"x", [(host, port) for host in hosts], rate=100_000)
        assert fan_out.sent == 10_000
        await until(lambda: len(seen) + receiver.stats.dropped_by_kernel == 10_000)
        assert receiver.stats.dropped_by_kernel or sorted(seen) == sorted(hosts)
        assert len(set(seen)) == len(seen)
        reading.cancel()


@LINUX
async def test_fan_out_waits_for_room_and_reports_refusals() -> None:
    outcomes = [
        0,
        errno.EAGAIN,
        0,
        errno.EPERM,
        errno.ENOBUFS,
        errno.ENETUNREACH,
        errno.ENETUNREACH,
    ]
    async with opened() as witness, opened(None, socket=RefusingSocket(outcomes)) as sender:
        fan_out = await sender.send_many(b"x", [witness.local_address] * 6)
        numbers = [getattr(outcome, "errno", None) for outcome in fan_out.outcomes]
        assert numbers == [None, None, errno.EPERM, errno.ENETUNREACH, None, None]
        assert await take(witness, 4) == [b"x"] * 4
        stats = sender.stats
        assert (stats.sent, stats.send_lost, stats.send_refused, stats.no_buffers) == (4, 1, 1, 1)


async def test_fan_out_lets_other_tasks_run() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with opened() as sink, opened() as sender:
        counting = asyncio.create_task(count_turns())
        await sender.send_many(b"x", [sink.local_address] * 4 * SENDS_PER_TURN)
        counting.cancel()
    assert turns >= 3  # between the four


async def test_fan_out_refuses_what_is_wrong_for_all() -> None:
    async with opened() as sender:
        with pytest.raises(InvalidMessage):
            await sender.send_many("text", [(HOST, 9)])
        for rate in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="rate"):
                await sender.send_many(b"x", [(HOST, 9)], rate=rate)
        assert (await sender.send_many(b"x", [])).sent == 0


class StillLoop:
    """A clock that the test sets."""

    now = 10.0

    def time(self) -> float:
        return self.now


def test_a_rate_is_kept_from_the_first_datagram_on() -> None:
    loop = StillLoop()
    pacer = Pacer(loop, 1000.0)
    sent = 0
    for milliseconds in range(101):
        loop.now = 10.0 + milliseconds * 0.001 + 1e-9
        sent += pacer.allowance(sent)
        assert sent == milliseconds + 1


def test_a_rate_that_was_missed_is_not_made_up_for_in_a_burst() -> None:
    loop = StillLoop()
    pacer = Pacer(loop, 1000.0)
    assert pacer.allowance(0) == 1
    loop.now += 5.0
    assert pacer.allowance(1) == 10
    assert pacer.allowance(11) == 0
    loop.now += 0.0015
    assert pacer.allowance(11) == 1


async def test_pacing_takes_its_time() -> None:
    async with opened() as sink, opened() as sender:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await sender.send_many(b"x", [sink.local_address] * 51, rate=1000)
        assert loop.time() - began >= 0.05 - 0.01


# Interfaces and broadcast; the rest of it needs a network of its own


def test_loopback_is_an_interface() -> None:
    found = {interface.name: interface for interface in interfaces()}
    [loopback] = [each for each in found.values() if each.is_loopback]
    assert loopback.is_up
    assert loopback.index >= 1
    assert InterfaceAddress(HOST, 8) in loopback.addresses
    assert loopback.broadcasts == ()


def test_an_interface_knows_its_broadcast_addresses() -> None:
    addresses = (
        InterfaceAddress("10.0.0.1", 24, "10.0.0.255"),
        InterfaceAddress("fe80::1", 64),
        InterfaceAddress("10.1.0.1", 16, "10.1.255.255"),
    )
    assert Interface("e0", 2, addresses).broadcasts == ("10.0.0.255", "10.1.255.255")
    assert [address.is_ipv4 for address in addresses] == [True, False, True]


async def test_broadcast_needs_an_interface_that_can() -> None:
    async with opened() as endpoint:
        with pytest.raises(InvalidAddress, match="broadcast"):
            await endpoint.broadcast(b"x", 9, interface=HOST)
        for unknown in ("nonesuch0", 999_999, "203.0.113.77"):
            with pytest.raises(InvalidAddress, match="interface"):
                await endpoint.broadcast(b"x", 9, interface=unknown)
        for port in (0, 65536):
            with pytest.raises(InvalidAddress, match="port"):
                await endpoint.broadcast(b"x", port)


@pytest.mark.parametrize("number", [-1, 1 << 31, 1 << 40])
async def test_a_number_that_no_interface_can_have(number: int) -> None:
    async with opened() as endpoint:
        with pytest.raises(InvalidAddress, match="interface"):
            await endpoint.send(b"x", (HOST, 9), interface=number)


@IPV6
async def test_an_endpoint_without_ipv4_has_no_broadcast() -> None:
    async with opened("::1") as endpoint:
        with pytest.raises(InvalidAddress, match="IPv4"):
            await endpoint.broadcast(b"x", 9)
