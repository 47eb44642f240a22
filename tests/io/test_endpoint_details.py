"""What the kernel knows beside the bytes: whom a datagram was for, when it came, what failed."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time

import pytest

from aerogram.errors import InvalidAddress
from aerogram.io import ancillary
from aerogram.io.datagram import Clocks, Datagram
from aerogram.io.icmp import REPORTS_LIMIT, IcmpReason, IcmpReport
from aerogram.io.sockets import SOL_UDP, UDP_GRO
from tests.io.endpoints import HOST, IPV6, LINUX, PATIENCE, opened, take, until

CLOSED_PORT = 9
"""Nobody listens at discard on this host."""


@LINUX
async def test_an_answer_comes_from_the_address_that_was_asked() -> None:
    async with opened("0.0.0.0") as server, opened() as client:
        port = server.local_address[1]
        for asked in ("127.0.0.1", "127.0.0.2", "127.200.3.4"):
            await client.send(b"q", (asked, port))
            question = await server.receive(timeout=PATIENCE)
            assert question.local_address == (asked, port)
            assert question.destination == asked
            await question.reply(b"a")
            answer = await client.receive(timeout=PATIENCE)
            assert answer.address == (asked, port)


@LINUX
async def test_a_source_can_be_chosen() -> None:
    async with opened("0.0.0.0") as sender, opened() as receiver:
        await sender.send(b"x", receiver.local_address, source="127.9.9.9")
        assert (await receiver.receive(timeout=PATIENCE)).address[0] == "127.9.9.9"
        for wrong in ("somewhere", "::1", 5):
            with pytest.raises(InvalidAddress):
                await sender.send(b"x", receiver.local_address, source=wrong)
        with pytest.raises(OSError, match=r"Cannot assign|unreachable|Invalid argument"):
            await sender.send(b"x", receiver.local_address, source="203.0.113.9")
        with pytest.raises(InvalidAddress):
            await sender.send(b"x", receiver.local_address, interface="nonesuch0")


@LINUX
async def test_the_interface_is_known() -> None:
    async with opened() as receiver, opened() as sender:
        await sender.send(b"x", receiver.local_address)
        datagram = await receiver.receive(timeout=PATIENCE)
        assert datagram.interface == "lo"
        assert datagram.interface_index == socket.if_nametoindex("lo")


@LINUX
@pytest.mark.parametrize(("ttl", "tos"), [(1, 0), (33, 0xB8 | 1), (255, 3), (64, 255)])
async def test_ttl_and_tos_arrive_as_they_were_sent(ttl: int, tos: int) -> None:
    async with opened() as receiver, opened() as sender:
        await sender.send(b"x", receiver.local_address, ttl=ttl, tos=tos)
        datagram = await receiver.receive(timeout=PATIENCE)
        assert (datagram.ttl, datagram.tos) == (ttl, tos)
        assert (datagram.dscp, datagram.ecn) == (tos >> 2, tos & 3)
        await datagram.reply(b"y", ttl=ttl, tos=tos)
        answer = await sender.receive(timeout=PATIENCE)
        assert (answer.ttl, answer.tos) == (ttl, tos)


@LINUX
async def test_a_run_can_have_ttl_and_tos() -> None:
    async with opened() as receiver, opened() as sender:
        await sender.send_run([b"a" * 100] * 5, receiver.local_address, ttl=7, tos=2)
        for _ in range(5):
            datagram = await receiver.receive(timeout=PATIENCE)
            assert (datagram.data, datagram.ttl, datagram.ecn) == (b"a" * 100, 7, 2)


@LINUX
async def test_a_ttl_or_tos_out_of_range_raises_at_the_caller() -> None:
    async with opened() as endpoint:
        for ttl in (0, 256, -1, "5"):
            with pytest.raises(ValueError, match="ttl"):
                await endpoint.send(b"x", (HOST, 9), ttl=ttl)
        for tos in (-1, 256, 1.5):
            with pytest.raises(ValueError, match="tos"):
                await endpoint.send(b"x", (HOST, 9), tos=tos)
        with pytest.raises(InvalidAddress, match="interface"):
            await endpoint.send(b"x", (HOST, 9), interface=1.5)
        with pytest.raises(TypeError, match="colour"):
            await endpoint.send(b"x", (HOST, 9), colour="red")
        assert endpoint.stats.sent == 0


@IPV6
@LINUX
async def test_the_same_over_ipv6() -> None:
    async with opened("::") as server, opened("::1") as client:
        await client.send(b"x", ("::1", server.local_address[1]), ttl=9, tos=0x2E << 2 | 2)
        datagram = await server.receive(timeout=PATIENCE)
        assert datagram.local_address == ("::1", server.local_address[1], 0, 0)
        assert (datagram.ttl, datagram.dscp, datagram.ecn) == (9, 0x2E, 2)
        assert datagram.interface == "lo"
        assert abs(datagram.received_at - time.time()) < 60
        await datagram.reply(b"y", ttl=3)
        assert (await client.receive(timeout=PATIENCE)).ttl == 3


@IPV6
@LINUX
async def test_the_same_for_ipv4_on_a_dual_stack_socket() -> None:
    async with opened("::", dual_stack=True) as server, opened() as client:
        port = server.local_address[1]
        await client.send(b"x", ("127.0.0.3", port), ttl=9, tos=5)
        datagram = await server.receive(timeout=PATIENCE)
        assert datagram.local_address == ("::ffff:127.0.0.3", port, 0, 0)
        assert (datagram.ttl, datagram.tos, datagram.interface) == (9, 5, "lo")
        await datagram.reply(b"y", ttl=4, tos=6)
        answer = await client.receive(timeout=PATIENCE)
        assert (answer.ttl, answer.tos, answer.address) == (4, 6, ("127.0.0.3", port))


@LINUX
async def test_the_kernel_dates_the_arrival_and_not_the_read() -> None:
    async with opened() as receiver, opened() as sender:
        before, before_loop = time.time(), asyncio.get_running_loop().time()
        await sender.send(b"x", receiver.local_address)
        sent, sent_loop = time.time(), asyncio.get_running_loop().time()
        time.sleep(0.05)  # noqa: ASYNC251  the loop is busy, so that it reads late
        datagram = await receiver.receive(timeout=PATIENCE)
        assert datagram.read_at.wall >= sent + 0.05
        assert before <= datagram.received_at <= sent
        assert before_loop - 0.005 <= datagram.received_at_loop <= sent_loop + 0.005


def test_a_wall_clock_that_was_set_back_dates_nothing_into_the_future() -> None:
    stamp = struct.pack("=qq", 2_000_000_000, 500_000_000)
    control = [(socket.SOL_SOCKET, ancillary.SO_TIMESTAMPNS, stamp)]
    datagram = Datagram(b"", (HOST, 1), control, Clocks(wall=1_000_000_000.0, loop=50.0))
    assert datagram.received_at == 2_000_000_000.5
    assert datagram.received_at_loop == 50.0


async def test_the_fall_back_knows_less_and_says_so() -> None:
    async with opened(kind="asyncio") as receiver, opened(kind="asyncio") as sender:
        await sender.send(b"x", receiver.local_address)
        datagram = await receiver.receive(timeout=PATIENCE)
        assert datagram.local_address is datagram.destination is datagram.interface is None
        assert datagram.ttl is datagram.tos is datagram.dscp is datagram.ecn is None
        assert abs(datagram.received_at - time.time()) < 60
        assert datagram.received_at_loop <= asyncio.get_running_loop().time()
        with pytest.raises(OSError, match="cannot set"):
            await sender.send(b"x", receiver.local_address, ttl=3)


async def test_without_details_a_datagram_has_none() -> None:
    async with opened(details=False) as receiver, opened() as sender:
        await sender.send(b"x", receiver.local_address)
        datagram = await receiver.receive(timeout=PATIENCE)
        assert (datagram.data, datagram.ttl, datagram.local_address) == (b"x", None, None)
        await datagram.reply(b"y")
        assert await take(sender, 1) == [b"y"]


async def test_a_datagram_of_no_endpoint_cannot_be_answered() -> None:
    with pytest.raises(ValueError, match="no endpoint"):
        await Datagram(b"x", (HOST, 9)).reply(b"y")


@LINUX
async def test_an_icmp_error_names_the_peer() -> None:
    async with opened() as endpoint:
        await endpoint.send(b"who is there?", ("127.0.0.5", CLOSED_PORT))
        async with asyncio.timeout(PATIENCE):
            report = await anext(endpoint.errors)
        assert report.address == ("127.0.0.5", CLOSED_PORT)
        assert report.reason is IcmpReason.PORT_UNREACHABLE
        assert isinstance(report.error, ConnectionRefusedError)
        assert report.reporter == "127.0.0.5"
        assert (report.icmp_type, report.icmp_code) == (3, 3)
        assert report.data == b"who is there?"
        assert report.mtu is None


@IPV6
@LINUX
async def test_an_icmpv6_error_names_the_peer() -> None:
    async with opened("::1") as endpoint:
        await endpoint.send(b"x", ("::1", CLOSED_PORT))
        async with asyncio.timeout(PATIENCE):
            report = await anext(endpoint.errors)
        assert report.address[:2] == ("::1", CLOSED_PORT)
        assert report.reason is IcmpReason.PORT_UNREACHABLE
        assert report.reporter == "::1"


@IPV6
@LINUX
async def test_icmp_errors_of_both_versions_reach_a_dual_stack_socket() -> None:
    async with opened("::", dual_stack=True) as endpoint:
        for host in (HOST, "::1"):
            await endpoint.send(b"x", (host, CLOSED_PORT))
            async with asyncio.timeout(PATIENCE):
                report = await anext(endpoint.errors)
            assert report.address[0] in ("::ffff:127.0.0.1", "::1")
            assert report.reason is IcmpReason.PORT_UNREACHABLE


@LINUX
async def test_an_icmp_error_displaces_no_send() -> None:
    async with opened() as endpoint, opened() as witness:
        for number in range(200):
            await endpoint.send(b"lost", (HOST, CLOSED_PORT))
            await endpoint.send(b"%d" % number, witness.local_address)
        assert await take(witness, 200) == [b"%d" % number for number in range(200)]
        await until(lambda: endpoint.stats.icmp_reports > 0)


@LINUX
async def test_reports_that_nobody_fetches_are_bounded_and_counted() -> None:
    async with opened() as endpoint:
        wanted = 6 * 51
        assert wanted == REPORTS_LIMIT + 50
        for sent in range(0, wanted, 51):
            for _ in range(51):
                await endpoint.send(b"x", (HOST, CLOSED_PORT))
            await until(lambda sent=sent: endpoint.stats.icmp_reports == sent + 51)
        assert endpoint.stats.icmp_reports_dropped == 50
    assert len([report async for report in endpoint.errors]) == REPORTS_LIMIT


@LINUX
async def test_a_callback_gets_icmp_errors_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    reports: list[IcmpReport] = []

    def take_report(report: IcmpReport) -> None:
        reports.append(report)
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "aerogram"):
        async with opened(on_error=take_report) as endpoint:
            for port in (7, 9, 13):
                await endpoint.send(b"x", (HOST, port))
                await until(lambda port=port: reports and reports[-1].address == (HOST, port))
            assert endpoint.stats.callback_errors == 3
            await endpoint.send(b"x", endpoint.local_address)
            assert await take(endpoint, 1) == [b"x"]
    assert 1 <= len(caplog.records) <= 3


def test_control_messages_that_make_no_sense_are_not_known() -> None:
    good = struct.pack("@Nii", 20, socket.IPPROTO_IP, ancillary.IP_TTL) + struct.pack("=i4x", 64)
    assert ancillary.hops_left(good) == 64
    for junk in (
        b"",
        b"\0" * 3,
        b"\0" * 64,
        b"\xff" * 64,
        good[:10],
        struct.pack("@Nii", 2**40, 0, 2),
        struct.pack("@Nii", 16, socket.IPPROTO_IP, ancillary.IP_PKTINFO),
        struct.pack("@Nii", 16, socket.IPPROTO_IPV6, ancillary.IPV6_PKTINFO),
        struct.pack("@Nii", 16, socket.SOL_SOCKET, ancillary.SO_TIMESTAMPNS),
    ):
        datagram = Datagram(b"", (HOST, 1), junk)
        assert datagram.local_address is datagram.destination is datagram.interface is None
        assert datagram.ttl is datagram.tos is None
        assert datagram.received_at == datagram.received_at_loop == 0.0


def test_a_value_that_looks_like_the_mark_of_a_run_is_none() -> None:
    size = (SOL_UDP, UDP_GRO, struct.pack("=i", 2))
    lookalike = (socket.SOL_SOCKET, ancillary.SO_TIMESTAMPNS, struct.pack("@ii", *size[:2]) * 2)
    for control, records in (
        ([lookalike], (b"abcd",)),
        ([lookalike, size], (b"ab", b"cd")),
        ([size], (b"ab", b"cd")),
    ):
        datagram = Datagram(b"abcd", (HOST, 1), ancillary.packed(control))
        assert tuple(datagram.records) == records


def test_an_ipv6_group_is_no_address_to_answer_from() -> None:
    info = socket.inet_pton(socket.AF_INET6, "ff02::1") + struct.pack("=I", 7)
    control = [(socket.IPPROTO_IPV6, ancillary.IPV6_PKTINFO, info)]
    datagram = Datagram(b"", ("fe80::2", 1, 0, 7), control)
    assert datagram.local_address is None
    assert (datagram.destination, datagram.interface_index) == ("ff02::1", 7)


def test_a_link_local_address_has_its_scope() -> None:
    info = socket.inet_pton(socket.AF_INET6, "fe80::1") + struct.pack("=I", 7)
    control = [(socket.IPPROTO_IPV6, ancillary.IPV6_PKTINFO, info)]
    assert Datagram(b"", ("fe80::2", 1, 0, 7), control).local_address == ("fe80::1", 0, 0, 7)
