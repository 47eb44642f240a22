"""The batched transport: bounded reads, bounded waiting, errors that end nothing."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from aerogram.config import Config
from aerogram.errors import InvalidAddress
from aerogram.io.batch import (
    _BACK_OFF_SECONDS,
    READ_BYTES_PER_TURN,
    READS_PER_TURN,
    BatchTransport,
    probe_batch,
)
from aerogram.io.protocol import PacketProtocol
from tests.io.fakes import LOOPBACK, FakeLoop, Recorder, RefusingSocket, batch_on, descriptors

NOWHERE = ("127.0.0.1", 9)
ENOUGH_BYTES = 4 * 1024 * 1024

MakeTransport = Callable[..., tuple[BatchTransport, RefusingSocket]]


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def made(loop: FakeLoop) -> Iterator[MakeTransport]:
    """Make transports on the fake loop, whose writes end as told."""
    transports: list[BatchTransport] = []

    def make(
        outcomes: tuple[int, ...] | list[int] = (),
        *,
        always: int = 0,
        receiver: Recorder | None = None,
        **options: Any,
    ) -> tuple[BatchTransport, RefusingSocket]:
        udp = RefusingSocket(outcomes, always=always)
        transport = batch_on(loop, udp, receiver, **options)
        transports.append(transport)
        return transport, udp

    yield make
    loop.closed = False
    for transport in transports:
        transport.abort()


# Reading: a turn is bounded


def fill(udp: socket.socket, count: int, size: int = 1) -> None:
    """Let so many datagrams wait in a socket, each from another peer so that none is a run."""
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ENOUGH_BYTES)
    for start in range(0, count, 100):
        peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for number in range(min(100, count - start)):
            peers[number % 2].sendto(bytes(size), udp.getsockname())
        for peer in peers:
            peer.close()


@pytest.mark.parametrize("gather_runs", [True, False])
def test_a_flood_gets_a_bounded_number_of_reads_in_a_turn(
    loop: FakeLoop, made: MakeTransport, gather_runs: bool
) -> None:
    receiver = Recorder()
    transport, udp = made(receiver=receiver, gather_runs=gather_runs)
    fill(udp, 1000)
    read = loop.readers[udp.fileno()]
    for _ in range(1000):
        if len(receiver.packets) == 1000:
            break
        before = len(receiver.packets)
        read()
        assert 0 < len(receiver.packets) - before <= READS_PER_TURN
        assert receiver.turns[-1] == len(receiver.packets)
    assert len(receiver.packets) == 1000
    assert transport.stats.read_turns == len(receiver.turns)
    read()
    assert transport.stats.read_turns == len(receiver.turns)


def test_a_flood_of_large_datagrams_is_bounded_by_its_bytes(
    loop: FakeLoop, made: MakeTransport
) -> None:
    receiver = Recorder()
    transport, udp = made(receiver=receiver)
    size = 60_000
    fill(udp, 20, size)
    read = loop.readers[udp.fileno()]
    while (got := len(receiver.packets)) < 20:
        read()
        read_bytes = (len(receiver.packets) - got) * size
        assert 0 < read_bytes < READ_BYTES_PER_TURN + size
    assert transport.stats.bytes_received == 20 * size


async def test_timers_and_callbacks_run_while_a_flood_is_read() -> None:
    receiver = Recorder()
    udp = RefusingSocket()
    transport = batch_on(loop := asyncio.get_running_loop(), udp, receiver)
    fill(udp, 1000)
    seen: list[int] = []

    def look() -> None:
        seen.append(len(receiver.packets))
        if seen[-1] < 1000:
            loop.call_soon(look)

    loop.call_soon(look)
    await receiver.has(1000)
    await asyncio.sleep(0)
    steps = [after - before for before, after in pairwise(seen)]
    assert max(steps) <= READS_PER_TURN
    transport.close()
    await receiver.until(lambda it: it.lost)


def test_a_socket_with_one_datagram_at_a_time_is_asked_once(
    loop: FakeLoop, made: MakeTransport
) -> None:
    class CountingSocket(RefusingSocket):
        reads = 0

        def recvmsg(self, *arguments: Any) -> Any:
            self.reads += 1
            return super().recvmsg(*arguments)

    udp = CountingSocket()
    receiver = Recorder()
    transport = batch_on(loop, udp, receiver, gather_runs=True)
    transport.receives_runs = True  # reads by recvmsg, whatever the kernel has
    for _ in range(8):
        fill(udp, 1)
        loop.readers[udp.fileno()]()
    assert (len(receiver.packets), udp.reads) == (8, 8)
    for _ in range(100):
        fill(udp, 1)
        loop.readers[udp.fileno()]()
    assert udp.reads <= 108 + 108 // 8
    transport.abort()


def test_a_receiver_that_closes_gets_nothing_more(loop: FakeLoop, made: MakeTransport) -> None:
    receiver = Recorder()
    transport, udp = made(receiver=receiver)
    fill(udp, 5)
    transport._crowded = True
    receiver.receive_datagram = lambda *_: (receiver.packets.append(b""), transport.close())  # type: ignore[method-assign,assignment,func-returns-value]
    loop.readers[udp.fileno()]()
    assert len(receiver.packets) == 1
    assert loop.readers == {}


@pytest.mark.parametrize("size", [99, 100, 101])
def test_a_truncated_datagram_is_counted_and_never_handed_on(
    loop: FakeLoop, made: MakeTransport, size: int
) -> None:
    receiver = Recorder()
    transport, udp = made(receiver=receiver, read_bytes=100)
    fill(udp, 1, size)
    loop.readers[udp.fileno()]()
    assert len(receiver.packets) == (size <= 100)
    assert transport.stats.truncated == (size > 100)
    assert transport.stats.datagrams_received == (size <= 100)


def test_a_read_error_is_counted_and_a_broken_socket_ends_the_transport(
    loop: FakeLoop, made: MakeTransport
) -> None:
    class FailingSocket(RefusingSocket):
        number = errno.ECONNREFUSED

        def recvmsg(self, *_: Any) -> Any:
            raise OSError(self.number, "as told")

        recvfrom = recvmsg

    receiver = Recorder()
    udp = FailingSocket()
    transport = batch_on(loop, udp, receiver)
    read = loop.readers[udp.fileno()]
    read()
    loop.turn()
    assert receiver.errors == [(errno.ECONNREFUSED, None)]
    assert transport.stats.icmp_errors == 1
    assert not transport.is_closing()
    udp.number = errno.EBADF
    read()
    loop.turn()
    assert [error.errno for error in receiver.lost] == [errno.EBADF]  # type: ignore[union-attr]
    assert transport.is_closing()
    assert loop.readers == {}


# Sending: what the system does not take waits, within bounds


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_the_queue_holds_the_bytes_that_it_may_and_no_more(made: MakeTransport, spare: int) -> None:
    transport, _ = made(always=errno.EAGAIN, buffer_bytes=1000 + spare)
    for _ in range(20):
        transport.send_run([bytes(50)] * 2, NOWHERE)
    kept = 20 if spare >= 0 else 19
    assert transport.get_write_buffer_size() == kept * 50
    assert transport.stats.send_dropped == 40 - kept
    assert transport.stats.datagrams_sent == 0


def test_what_waits_goes_out_in_order_once_there_is_room(
    loop: FakeLoop, made: MakeTransport
) -> None:
    transport, udp = made([0, errno.EAGAIN, 0, errno.EAGAIN])
    packets = [bytes([number]) * (number + 1) for number in range(8)]
    for packet in packets:
        transport.sendto(packet, NOWHERE)
    assert transport.get_protocol().writing_paused
    assert udp.fileno() in loop.writers
    loop.writable()
    assert loop.writers, "the second EAGAIN waits again"
    loop.writable()
    assert loop.writers == {}
    assert not transport.get_protocol().writing_paused
    assert transport.get_write_buffer_size() == 0
    went = [data for data, _ in udp.writes]
    assert went == [packets[0], packets[1], packets[1], packets[2], *packets[2:]]
    assert transport.stats.datagrams_sent == 8
    assert transport.stats.send_waits == 2


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_a_full_device_queue_is_tried_again_after_a_pause(
    loop: FakeLoop, made: MakeTransport, number: int
) -> None:
    transport, udp = made([number] * 3)
    transport.sendto(b"x", NOWHERE)
    transport.sendto(b"y", NOWHERE)
    assert loop.writers == {}, "such a socket polls as writable"
    for tries in (1, 2, 3):
        assert (len(udp.writes), loop.armed) == (tries, 1)
        loop.advance(_BACK_OFF_SECONDS / 2)
        assert len(udp.writes) == tries
        loop.advance(_BACK_OFF_SECONDS / 2)
    assert [data for data, _ in udp.writes[3:]] == [b"x", b"y"]
    assert loop.armed == 0
    assert transport.stats.send_waits == 3


def test_a_socket_that_is_writable_and_takes_nothing_does_not_spin(
    loop: FakeLoop, made: MakeTransport
) -> None:
    transport, udp = made(always=errno.EAGAIN)
    transport.sendto(b"x", NOWHERE)
    loop.writable()
    assert loop.writers == {}
    assert loop.armed == 1
    for _ in range(5):
        loop.advance(_BACK_OFF_SECONDS)
        assert loop.armed == 1
    assert len(udp.writes) == 7
    udp.always = 0
    loop.advance(_BACK_OFF_SECONDS)
    assert transport.stats.datagrams_sent == 1


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
def test_waiting_arms_one_timer_however_much_is_sent(
    loop: FakeLoop, made: MakeTransport, number: int
) -> None:
    transport, _ = made(always=number, buffer_bytes=10)
    for _ in range(100):
        transport.sendto(bytes(20), NOWHERE)
    assert transport.get_write_buffer_size() == 0
    assert transport.stats.send_dropped == 100
    assert loop.armed + len(loop.writers) == 1


def test_an_error_of_one_packet_stops_no_other(loop: FakeLoop, made: MakeTransport) -> None:
    receiver = Recorder()
    transport, udp = made([errno.EPERM, 0], receiver=receiver)
    transport.sendto(b"one", NOWHERE)
    transport.sendto(b"two", NOWHERE)
    loop.turn()
    assert [data for data, _ in udp.writes] == [b"one", b"two"]
    assert receiver.errors == [(errno.EPERM, NOWHERE)]
    assert (transport.stats.send_errors, transport.stats.datagrams_sent) == (1, 1)
    assert loop.armed == len(loop.writers) == 0


# ICMP


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EMSGSIZE])
def test_an_earlier_packets_error_costs_no_packet(
    loop: FakeLoop, made: MakeTransport, number: int
) -> None:
    receiver = Recorder()
    transport, udp = made([number, 0], receiver=receiver)
    transport.sendto(b"x", NOWHERE)
    loop.turn()
    assert [data for data, _ in udp.writes] == [b"x", b"x"]
    assert transport.stats.datagrams_sent == transport.stats.icmp_errors == 1
    assert transport.stats.send_errors == 0
    assert receiver.errors == [(number, NOWHERE)]


def test_an_error_that_stays_is_this_packets_own(loop: FakeLoop, made: MakeTransport) -> None:
    transport, udp = made(always=errno.ENETUNREACH)
    transport.sendto(b"x", NOWHERE)
    assert len(udp.writes) == 2
    assert (transport.stats.send_errors, transport.stats.icmp_errors) == (1, 0)


def test_an_earlier_packets_error_may_hide_that_there_is_no_room(
    loop: FakeLoop, made: MakeTransport
) -> None:
    transport, _ = made([errno.ECONNREFUSED, errno.EAGAIN, 0])
    transport.sendto(b"x", NOWHERE)
    assert transport.stats.icmp_errors == 1
    assert transport.get_write_buffer_size() == 1
    loop.writable()
    assert transport.stats.datagrams_sent == 1


async def test_a_port_that_opens_again_misses_nothing_after_the_refusal() -> None:
    """The kernel's own answer: after an ICMP "port unreachable" it refuses one send."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(LOOPBACK)
        address = peer.getsockname()
    udp = RefusingSocket()
    udp.connect(address)
    receiver = Recorder()
    transport = batch_on(asyncio.get_running_loop(), udp, receiver)
    transport.sendto(b"to nobody")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.setblocking(False)
        peer.bind(address)
        transport.sendto(b"to somebody")
        assert peer.recv(100) == b"to somebody"
    assert transport.stats.datagrams_sent == 2
    assert transport.stats.icmp_errors == 1
    assert transport.get_extra_info("peername") == address
    transport.sendto(b"to nobody")
    await receiver.until(lambda it: len(it.errors) == 2)
    assert {number for number, _ in receiver.errors} == {errno.ECONNREFUSED}
    assert receiver.lost == []
    transport.close()
    await receiver.until(lambda it: it.lost)


# What it refuses


@pytest.mark.parametrize("data", [5, "text", None, [1, 2], (b"x",), object()], ids=repr)
def test_only_bytes_are_sent(made: MakeTransport, data: Any) -> None:
    transport, udp = made()
    with pytest.raises(TypeError):
        transport.sendto(data, NOWHERE)
    assert udp.writes == []


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")], ids=repr)
def test_what_waits_is_a_copy(loop: FakeLoop, made: MakeTransport, data: Any) -> None:
    transport, udp = made([errno.EAGAIN])
    transport.sendto(data, NOWHERE)
    if isinstance(data, bytearray):
        data[:] = b"xyz"
    loop.writable()
    assert udp.packets[-1] == b"abc"


def test_a_socket_without_a_peer_needs_an_address(made: MakeTransport) -> None:
    transport, udp = made()
    with pytest.raises(InvalidAddress, match="not connected"):
        transport.sendto(b"x")
    assert udp.writes == []


def test_a_name_is_not_looked_up(made: MakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    transport, udp = made()
    for host in ("localhost", "example.com", "127.1", ""):
        with pytest.raises(InvalidAddress):
            transport.sendto(b"x", (host, 9))
    assert udp.writes == []


def test_packets_that_are_no_bytes_do_not_wait(loop: FakeLoop, made: MakeTransport) -> None:
    transport, _ = made([errno.EAGAIN])
    transport.sendto(b"x", NOWHERE)
    with pytest.raises(TypeError):
        transport.send_run(["abc"], NOWHERE)  # type: ignore[list-item]
    loop.writable()
    assert transport.stats.datagrams_sent == 1
    assert transport.get_write_buffer_size() == 0


# The end


def test_closing_tries_what_waits_once_and_counts_the_rest(
    loop: FakeLoop, made: MakeTransport
) -> None:
    receiver = Recorder()
    transport, udp = made([errno.EAGAIN, 0, 0, errno.EAGAIN], receiver=receiver)
    for _ in range(5):
        transport.sendto(b"x", NOWHERE)
    transport.close()
    assert (transport.stats.datagrams_sent, transport.stats.send_dropped) == (2, 3)
    assert (loop.readers, loop.writers, loop.armed) == ({}, {}, 0)
    assert udp.fileno() == -1
    transport.close()
    transport.abort()
    loop.turn()
    assert receiver.lost == [None]
    transport.sendto(b"x", NOWHERE)
    transport.send_run([b"x"] * 3, NOWHERE)
    assert transport.stats.send_dropped == 7


def test_closing_after_the_loop_raises_nothing(loop: FakeLoop, made: MakeTransport) -> None:
    transport, udp = made(always=errno.EAGAIN)
    transport.sendto(b"x", NOWHERE)
    loop.closed = True
    transport.close()
    assert udp.fileno() == -1
    assert transport.stats.send_dropped == 1


async def test_nothing_stays_open_when_the_loop_ends_in_the_turn_of_close() -> None:
    before = descriptors()
    transport = batch_on(asyncio.get_running_loop(), RefusingSocket())
    transport.close()
    assert descriptors() == before


def test_a_loop_without_readers_is_found_out() -> None:
    class ProactorLike(FakeLoop):
        add_reader = asyncio.AbstractEventLoop.add_reader  # type: ignore[assignment]

    before = descriptors()
    assert not probe_batch(ProactorLike())  # type: ignore[arg-type]
    assert probe_batch(FakeLoop())  # type: ignore[arg-type]
    assert descriptors() == before


def test_a_system_without_recvmsg_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket", type("Socket", (), {}))
    assert not probe_batch(FakeLoop())  # type: ignore[arg-type]


async def test_it_shows_what_a_transport_shows() -> None:
    udp = RefusingSocket()
    protocol = PacketProtocol(Recorder())
    transport = BatchTransport(asyncio.get_running_loop(), udp, protocol, Config())
    transport.start()
    assert transport.get_extra_info("sockname") == udp.getsockname()
    assert transport.get_extra_info("socket") is udp
    assert transport.get_extra_info("peername") is None
    assert transport.get_protocol() is protocol
    assert not transport.is_closing()
    transport.abort()
    assert transport.is_closing()
    await asyncio.sleep(0)
