"""Runs of packets in one system call: what the kernel takes, gives, and what is done without it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aerogram.config import Config
from aerogram.io.batch import (
    _REFUSAL_SECONDS,
    _REFUSALS_LIMIT,
    SEGMENTS_PER_RUN,
    BatchTransport,
)
from aerogram.io.network import SocketNetwork
from aerogram.io.protocol import PacketProtocol
from aerogram.io.sockets import LARGEST_PAYLOAD_BYTES
from tests.io.fakes import (
    LOOPBACK,
    RECEIVES_RUNS,
    SENDS_RUNS,
    FakeLoop,
    Recorder,
    RefusingSocket,
    batch_on,
)

sends_runs = pytest.mark.skipif(not SENDS_RUNS, reason="the kernel has no UDP_SEGMENT")
receives_runs = pytest.mark.skipif(not RECEIVES_RUNS, reason="the kernel has no UDP_GRO")

NOWHERE = ("127.0.0.1", 9)
OTHER = ("127.0.0.2", 9)
FULL = SEGMENTS_PER_RUN


def packets_of(*sizes: int) -> list[bytes]:
    """Packets of these sizes, each with bytes of its own."""
    return [bytes([number % 256]) * size for number, size in enumerate(sizes)]


@asynccontextmanager
async def pair(
    host: str = "127.0.0.1",
) -> AsyncIterator[tuple[PacketProtocol, PacketProtocol, Recorder, Any]]:
    """A sender, a receiver's protocol, what that recorded, and its address."""
    network, receiver = SocketNetwork(Config(transport="batch")), Recorder()
    protocols = PacketProtocol(Recorder()), PacketProtocol(receiver)
    transports = [
        (
            await network.create_datagram_endpoint(
                lambda protocol=protocol: protocol,  # type: ignore[misc]
                local_address=(host, 0),
            )
        )[0]
        for protocol in protocols
    ]
    yield *protocols, receiver, transports[1].get_extra_info("sockname")
    for transport in transports:
        transport.close()
    await asyncio.sleep(0)


# With the kernel


@sends_runs
@receives_runs
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_run_is_sent_in_one_call_and_received_in_one(host: str) -> None:
    sent = packets_of(*[1000] * 40, 7)
    async with pair(host) as (sender, protocol, receiver, address):
        sender.send_run(sent, address)
        assert await receiver.has(41) == sent
        assert receiver.runs == [(40_007, 1000)]
        assert (sender.stats.runs_sent, sender.stats.datagrams_sent) == (1, 41)
        assert (protocol.stats.runs_received, protocol.stats.datagrams_received) == (1, 41)
        assert sender.stats.bytes_sent == protocol.stats.bytes_received == 40_007


@pytest.mark.parametrize(
    "sizes",
    [
        [5],
        [5, 5],
        [5, 4],
        [4, 5],
        [5, 5, 4, 4, 5],
        [1, 2, 3, 4],
        [4, 3, 2, 1],
        [100, 50, 150],
        [100, 0, 100],
        [1] * 200,
        [1200] * 150,
        [30_000] * 5,
        [65_507, 65_507, 1],
        [65_507, 65_507],
        [32_754, 32_754],
    ],
    ids=str,
)
async def test_packets_of_any_sizes_arrive_as_they_are(sizes: list[int]) -> None:
    sent = packets_of(*sizes)
    expected = [packet for packet in sent if packet]
    async with pair() as (sender, _, receiver, address):
        sender.send_run(sent, address)
        assert await receiver.has(len(expected)) == expected
        assert sender.stats.datagrams_sent == len(expected)
        assert sender.stats.send_errors == sender.stats.gso_fallbacks == 0


@pytest.mark.parametrize("size", [65_506, 65_507, 65_508])
async def test_the_largest_payload(size: int) -> None:
    fits = size <= LARGEST_PAYLOAD_BYTES
    async with pair() as (sender, _, receiver, address):
        sender.send_run([bytes(size)] * 2, address)
        sender.send_run([b"after"], address)
        assert (await receiver.has(1 + 2 * fits))[-1] == b"after"
        assert sender.stats.send_errors == 2 * (not fits)
        assert sender.stats.datagrams_sent == 1 + 2 * fits


@receives_runs
async def test_a_truncated_run_is_counted_and_never_handed_on() -> None:
    receiver, loop = Recorder(), asyncio.get_running_loop()
    transport = batch_on(loop, udp := RefusingSocket(), receiver, read_bytes=1000)
    sender = batch_on(loop, RefusingSocket())
    address = udp.getsockname()
    sender.send_run([bytes(500)] * 3, address)
    sender.send_run([b"whole"], address)
    await receiver.until(lambda it: it.packets and it.packets[-1] == b"whole")
    if sender.sends_runs:
        assert receiver.packets == [b"whole"]
        assert transport.stats.truncated == 1
    for each in (sender, transport):
        each.close()
    await asyncio.sleep(0)


async def test_a_transport_that_gathers_nothing_gets_the_same_packets() -> None:
    receiver, loop = Recorder(), asyncio.get_running_loop()
    transport = batch_on(loop, udp := RefusingSocket(), receiver, gather_runs=False)
    sender = batch_on(loop, RefusingSocket())
    sent = packets_of(*[100] * 10, 1)
    sender.send_run(sent, udp.getsockname())
    assert await receiver.has(11) == sent
    assert receiver.runs == []
    assert transport.stats.datagrams_received == 11
    for each in (sender, transport):
        each.close()
    await asyncio.sleep(0)


# Without: what the transport asks of the kernel

Made = tuple[BatchTransport, RefusingSocket]
Make = Callable[..., Made]


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def made(loop: FakeLoop) -> Iterator[Make]:
    transports: list[BatchTransport] = []

    def make(outcomes: list[int] | None = None, receiver: Recorder | None = None) -> Made:
        udp = RefusingSocket(outcomes or [])
        transports.append(transport := batch_on(loop, udp, receiver))
        transport.sends_runs = True
        return transport, udp

    yield make
    for transport in transports:
        transport.abort()


def calls(udp: RefusingSocket) -> list[tuple[int, int]]:
    """Bytes and segment size of each write since the last look."""
    seen = [(len(data), size) for data, size in udp.writes]
    udp.writes.clear()
    return seen


@sends_runs
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(100, 0)]),
        (2, [(200, 100)]),
        (FULL - 1, [(6300, 100)]),
        (FULL, [(6400, 100)]),
        (FULL + 1, [(6400, 100), (100, 0)]),
        (2 * FULL + 2, [(6400, 100), (6400, 100), (200, 100)]),
    ],
)
def test_a_run_has_no_more_segments_than_the_kernel_takes(
    made: Make, count: int, expected: list[tuple[int, int]]
) -> None:
    transport, udp = made()
    transport.send_run([bytes(100)] * count, NOWHERE)
    assert calls(udp) == expected
    assert transport.stats.datagrams_sent == count


@sends_runs
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([32_753, 32_753], [(65_506, 32_753)]),
        ([32_754, 32_753], [(32_754, 0), (32_753, 0)]),
        ([32_754, 32_754], [(32_754, 0), (32_754, 0)]),
        ([21_835] * 3, [(65_505, 21_835)]),
        ([21_836] * 3, [(43_672, 21_836), (21_836, 0)]),
        ([65_507, 1], [(65_507, 0), (1, 0)]),
    ],
)
def test_a_run_has_no_more_bytes_than_a_datagram(
    made: Make, sizes: list[int], expected: list[tuple[int, int]]
) -> None:
    transport, udp = made()
    transport.send_run(packets_of(*sizes), NOWHERE)
    assert calls(udp) == expected


@sends_runs
@given(sizes=st.lists(st.integers(0, 4) | st.integers(0, 70_000), max_size=150))
@example(sizes=[100, 50, 150])
@example(sizes=[1] * FULL + [0])
def test_what_the_kernel_cuts_up_is_what_was_given(sizes: list[int]) -> None:
    udp = RefusingSocket(always=errno.EPERM)
    transport = batch_on(FakeLoop(), udp)
    sent = packets_of(*sizes)
    transport.send_run(sent, NOWHERE)
    expected = [packet for packet in sent if packet]
    assert udp.packets == expected
    for data, size in udp.writes:
        assert len(data) <= LARGEST_PAYLOAD_BYTES or not size
        assert not size or len(data) <= size * FULL
    assert transport.stats.send_errors == len(expected)
    assert transport.stats.send_dropped == len(sent) - len(expected)
    transport.abort()


@pytest.mark.parametrize(
    "number",
    [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.EMSGSIZE],
    ids=errno.errorcode.get,
)
@sends_runs
def test_a_destination_that_refuses_runs_gets_the_packets_one_by_one(
    loop: FakeLoop, made: Make, number: int
) -> None:
    tries = 2 if number == errno.EMSGSIZE else 1  # which may be an earlier packet's
    receiver = Recorder()
    transport, udp = made([number] * tries, receiver)
    transport.send_run([bytes(100)] * 3, NOWHERE)
    assert calls(udp) == [(300, 100)] * tries + [(100, 0)] * 3
    transport.send_run([bytes(100)] * 3, NOWHERE)
    assert calls(udp) == [(100, 0)] * 3
    transport.send_run([bytes(100)] * 3, OTHER)
    assert calls(udp) == [(300, 100)], "others are not concerned"
    assert transport.stats.gso_fallbacks == 1
    assert transport.stats.send_errors == 0
    loop.turn()
    assert receiver.errors == []


@sends_runs
def test_a_refusal_is_tried_again_after_a_while(loop: FakeLoop, made: Make) -> None:
    transport, udp = made([errno.EIO])
    transport.send_run([bytes(100)] * 2, NOWHERE)
    calls(udp)
    loop.advance(_REFUSAL_SECONDS - 0.001)
    transport.send_run([bytes(100)] * 2, NOWHERE)
    assert calls(udp) == [(100, 0)] * 2
    loop.advance(0.001)
    transport.send_run([bytes(100)] * 2, NOWHERE)
    assert calls(udp) == [(200, 100)]
    assert transport._refusals == {}


@sends_runs
def test_refusals_do_not_fill_memory(made: Make) -> None:
    transport, udp = made()
    for number in range(_REFUSALS_LIMIT + 5):
        udp.outcomes.append(errno.EIO)
        udp.outcomes.extend([0, 0])
        transport.send_run([b"ab", b"cd"], ("127.0.0.1", 1 + number))
    assert len(transport._refusals) == _REFUSALS_LIMIT
    assert ("127.0.0.1", 1) not in transport._refusals


@sends_runs
@pytest.mark.parametrize("number", [errno.EPERM, errno.ECONNREFUSED, errno.ENETUNREACH])
def test_a_run_that_is_lost_is_counted_in_packets(made: Make, number: int) -> None:
    transport, _ = made([number] * 2)
    transport.send_run([bytes(10)] * 5, NOWHERE)
    assert transport.stats.send_errors == 5
    assert transport.stats.datagrams_sent == transport.stats.gso_fallbacks == 0


@sends_runs
def test_a_run_for_which_there_is_no_room_waits_as_a_run(loop: FakeLoop, made: Make) -> None:
    transport, udp = made([0, errno.EAGAIN])
    transport.send_run([bytes(100)] * (FULL + 10), NOWHERE)
    assert calls(udp) == [(6400, 100), (1000, 100)]
    assert transport.get_write_buffer_size() == 1000
    loop.writable()
    assert calls(udp) == [(1000, 100)]
    assert transport.stats.datagrams_sent == FULL + 10


def test_a_kernel_without_runs_gets_packets(made: Make) -> None:
    transport, udp = made()
    transport.sends_runs = False
    transport.send_run([bytes(100)] * 3, NOWHERE)
    assert calls(udp) == [(100, 0)] * 3
    assert transport.stats.runs_sent == 0
    assert udp.getsockname()[0] == LOOPBACK[0]
