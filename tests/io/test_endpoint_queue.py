"""The bounded queue between socket and program: what is dropped by which policy, and counted."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import sys
from pathlib import Path

import pytest

from aerogram.io.arrivals import Arrivals, Overflow
from aerogram.io.datagram import Datagram, DatagramStats
from tests.io.endpoints import (
    EVERY_TRANSPORT,
    HOST,
    LINUX,
    PATIENCE,
    Kind,
    balances,
    opened,
    take,
    until,
)


async def arrivals(overflow: Overflow, limit: int = 4, limit_bytes: int = 100) -> Arrivals:
    loop = asyncio.get_running_loop()
    stats = DatagramStats()
    return Arrivals(loop, stats, limit=limit, limit_bytes=limit_bytes, overflow=overflow)


def datagrams(*records: bytes) -> tuple[list[Datagram], int]:
    return [Datagram(record, (HOST, 1)) for record in records], sum(map(len, records))


def records(queue: Arrivals) -> list[bytes]:
    return [datagram.data for datagram in queue.items]


async def test_up_to_the_limit_nothing_is_dropped() -> None:
    for overflow in ("drop_oldest", "drop_newest"):
        queue = await arrivals(overflow)
        queue.put(*datagrams(b"0", b"1"))
        queue.put(*datagrams(b"2", b"3"))
        assert records(queue) == [b"0", b"1", b"2", b"3"]


async def test_the_oldest_or_the_newest_goes() -> None:
    oldest, newest = await arrivals("drop_oldest"), await arrivals("drop_newest")
    for queue in (oldest, newest):
        queue.put(*datagrams(*(b"%d" % number for number in range(6))))
        queue.put(*datagrams(b"6"))
    assert records(oldest) == [b"3", b"4", b"5", b"6"]
    assert records(newest) == [b"0", b"1", b"2", b"3"]


async def test_bytes_are_bounded_too() -> None:
    oldest, newest = await arrivals("drop_oldest"), await arrivals("drop_newest")
    for queue in (oldest, newest):
        for number in range(4):
            queue.put(*datagrams(b"%d" % number * 40))
    assert records(oldest) == [b"2" * 40, b"3" * 40]
    assert records(newest) == [b"0" * 40, b"1" * 40]


async def test_bytes_that_were_taken_make_room() -> None:
    queue = await arrivals("drop_newest")
    queue.put(*datagrams(b"0" * 50, b"1" * 50))
    queue.items.popleft()
    queue.put(*datagrams(b"2" * 50))
    assert records(queue) == [b"1" * 50, b"2" * 50]


async def test_one_datagram_fits_however_large() -> None:
    for overflow in ("drop_oldest", "drop_newest"):
        queue = await arrivals(overflow)
        queue.put(*datagrams(bytes(500)))
        assert records(queue) == [bytes(500)]


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", range(7, 10)), ("drop_newest", range(3))]
)
@EVERY_TRANSPORT
async def test_the_endpoint_drops_by_its_policy(
    kind: Kind, overflow: Overflow, kept: range
) -> None:
    limits = {"receive_queue_datagrams": 3}
    async with opened(kind=kind, overflow=overflow, **limits) as receiver, opened() as sender:
        for number in range(10):
            await sender.send(b"%d" % number, receiver.local_address)
        await until(lambda: receiver.stats.received == 10)
        assert receiver.stats.queued == 3
        assert await take(receiver, 3) == [b"%d" % number for number in kept]
        assert receiver.stats.dropped_oldest + receiver.stats.dropped_newest == 7
        assert balances(receiver.stats)


@LINUX
async def test_blocking_leaves_the_rest_to_the_kernel() -> None:
    async with (
        opened(overflow="block", receive_queue_datagrams=8) as receiver,
        opened() as sender,
    ):
        for number in range(500):
            await sender.send(b"%d" % number, receiver.local_address)
        await until(lambda: receiver.stats.received >= 8)
        for _ in range(20):
            await asyncio.sleep(0)
        assert receiver.stats.received <= 8 + 64, "it went on reading"
        assert await take(receiver, 500) == [b"%d" % number for number in range(500)]
        assert receiver.stats.dropped_oldest == receiver.stats.dropped_newest == 0
        assert balances(receiver.stats)


@LINUX
async def test_what_the_kernel_drops_is_counted() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.bind((HOST, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        for _ in range(100):
            flood.sendto(b"before", sock.getsockname())
        async with opened(None, socket=sock) as receiver:
            await until(lambda: receiver.stats.received)
            early = receiver.stats.received
            assert receiver.stats.dropped_by_kernel == 0, "lost before it was opened"
            for _ in range(100):
                flood.sendto(b"x", receiver.local_address)
            await until(lambda: receiver.stats.received > early)
            await asyncio.sleep(0.01)
            stats = receiver.stats
            assert stats.received - early + stats.dropped_by_kernel == 100
            assert stats.dropped_by_kernel > 50
        assert receiver.stats.dropped_by_kernel == stats.dropped_by_kernel


@LINUX
async def test_a_truncated_datagram_is_counted_and_never_handed_on(tmp_path: Path) -> None:
    for kind in ("auto", "asyncio"):
        if kind == "asyncio" and "uvloop" in type(asyncio.get_running_loop()).__module__:
            continue
        async with opened(None, kind=kind, path=tmp_path / kind) as receiver:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plain:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                plain.sendto(bytes(65537), str(tmp_path / kind))
                plain.sendto(b"y" * 65536, str(tmp_path / kind))
            assert await take(receiver, 1) == [b"y" * 65536]
            assert receiver.stats.truncated == 1
            assert receiver.stats.received == 1


@EVERY_TRANSPORT
async def test_a_flood_does_not_keep_timers_waiting(kind: Kind) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with opened(kind=kind) as receiver:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            for _ in range(2000):
                plain.sendto(b"x", receiver.local_address)
        counting = asyncio.create_task(count_turns())
        await until(lambda: receiver.stats.received >= 2000)
        counting.cancel()
    assert turns >= 2000 // 256


@pytest.mark.skipif(sys.platform == "win32", reason="no recvmsg")
async def test_systems_without_recvmmsg_read_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    from aerogram.io import readers

    monkeypatch.setattr(readers, "_load_recvmmsg", lambda: None)
    async with opened() as receiver, opened() as sender:
        assert isinstance(receiver._link._reader, readers.RecvmsgReader)
        for number in range(500):
            await sender.send(b"%d" % number, receiver.local_address, ttl=5)
        await sender.send_run([b"r" * 50] * 9 + [b"s"], receiver.local_address)
        for number in range(500):
            datagram = await receiver.receive(timeout=PATIENCE)
            assert (datagram.data, datagram.ttl) == (b"%d" % number, 5)
        assert await take(receiver, 10) == [b"r" * 50] * 9 + [b"s"]
        assert balances(receiver.stats)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process")
async def test_a_forked_process_reads_into_memory_of_its_own() -> None:
    async with opened() as receiver, opened() as sender:
        await sender.send(b"first", receiver.local_address)
        assert await take(receiver, 1) == [b"first"]
        reader = receiver._link._reader
        child = os.fork()
        if child == 0:
            reader._buffers.memory[0] = b"X"
            os._exit(0)
        os.waitpid(child, 0)  # noqa: ASYNC222  it exits at once
        assert reader._buffers.memory[0] == b"f"


@LINUX
async def test_sizes_and_senders_may_alternate_within_one_read() -> None:
    async with opened("0.0.0.0") as receiver, opened() as one, opened() as two:
        port = receiver.local_address[1]
        sent: list[tuple[bytes, tuple[str, int]]] = []
        for number in range(120):
            sender = (one, two)[number % 3 == 0]
            await sender.send(b"z" * number, (f"127.0.0.{1 + number % 5}", port))
            sent.append((b"z" * number, sender.local_address))
        await one.send_run([b"run"] * 20 + [b"r"], (HOST, port))
        sent += [(b"run", one.local_address)] * 20 + [(b"r", one.local_address)]
        seen = []
        while len(seen) < len(sent):
            batch = await receiver.receive_many(timeout=PATIENCE)
            assert all(datagram.local_address is not None for datagram in batch)
            seen += [(datagram.data, datagram.address) for datagram in batch]
        assert seen == sent


@pytest.mark.parametrize("timeout", [-1.0, math.nan, math.inf])
async def test_a_timeout_that_cannot_be_is_refused(timeout: float) -> None:
    async with opened() as endpoint:
        for receive in (endpoint.receive, endpoint.receive_many):
            with pytest.raises(ValueError, match="timeout"):
                await receive(timeout=timeout)
