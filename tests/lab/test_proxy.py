"""The fault proxy between real sockets: what passes, what does not, and that all is counted."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aerogram.lab.proxy as proxy_module
from aerogram.config import Config
from aerogram.errors import InvalidAddress
from aerogram.lab.direction import DirectionStats
from aerogram.lab.link import Burst, Link
from aerogram.lab.proxy import FaultProxy

PATIENCE_SECONDS = 10.0


class Peer(asyncio.DatagramProtocol):
    """A socket that keeps what it receives, and may answer."""

    def __init__(self, answer: Callable[[bytes], bytes] | None = None) -> None:
        self.received: list[bytes] = []
        self.senders: list[Any] = []
        self._answer = answer
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.address = transport.get_extra_info("sockname")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append(data)
        self.senders.append(addr)
        if self._answer is not None:
            self.send(self._answer(data), addr)

    def send(self, data: bytes, address: Any) -> None:
        assert self._transport is not None
        self._transport.sendto(data, address)

    async def has(self, count: int) -> list[bytes]:
        await until(lambda: len(self.received) >= count)
        return self.received

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 -- a counter has no event
            await asyncio.sleep(0.001)


@asynccontextmanager
async def peer(
    answer: Callable[[bytes], bytes] | None = None, address: Any = ("127.0.0.1", 0)
) -> AsyncIterator[Peer]:
    loop = asyncio.get_running_loop()
    _, opened = await loop.create_datagram_endpoint(lambda: Peer(answer), local_addr=address)
    try:
        yield opened
    finally:
        opened.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def path(
    answer: Callable[[bytes], bytes] | None = None, **options: Any
) -> AsyncIterator[tuple[Peer, FaultProxy, Peer]]:
    """A client, a proxy with these options, and the server it relays to."""
    async with (
        peer() as client,
        peer(answer) as server,
        FaultProxy(server.address, **options) as proxy,
    ):
        yield client, proxy, server


def assert_balanced(stats: DirectionStats) -> None:
    ended = stats.forwarded + stats.dropped + stats.in_flight
    assert stats.received + stats.duplicated == ended


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


# What passes


@pytest.mark.parametrize("transport", ["auto", "asyncio"])
async def test_datagrams_pass_both_ways_with_their_boundaries(
    monkeypatch: pytest.MonkeyPatch, transport: Any
) -> None:
    monkeypatch.setattr(proxy_module, "_CONFIG", Config(transport=transport))
    sizes = [Random(1).randrange(1, 1400) for _ in range(640)]
    sent = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    async with path(lambda data: data[::-1] + b"!") as (client, proxy, server):
        for start in range(0, len(sent), 32):
            for data in sent[start : start + 32]:
                client.send(data, proxy.address)
            await client.has(start + 32)
        assert server.received == sent
        assert client.received == [data[::-1] + b"!" for data in sent]
        stats = proxy.stats
        assert stats.there.received == stats.there.forwarded == len(sent)
        assert stats.there.bytes_received == stats.there.bytes_forwarded == sum(sizes)
        assert stats.back.bytes_forwarded == sum(sizes) + len(sent)
        assert not stats.there.dropped and not stats.back.dropped
        assert set(client.senders) == {proxy.address}


async def test_each_client_is_a_peer_of_its_own_for_the_server() -> None:
    async with path(lambda data: data) as (first, proxy, server), peer() as second:
        for turn in range(3):
            first.send(b"first %d" % turn, proxy.address)
            second.send(b"second %d" % turn, proxy.address)
        await first.has(3)
        await second.has(3)
        assert first.received == [b"first 0", b"first 1", b"first 2"]
        assert second.received == [b"second 0", b"second 1", b"second 2"]
        assert len(set(server.senders)) == 2
        assert set(proxy.clients) == {first.address, second.address}
        assert proxy.stats.clients == 2


async def test_ipv6_passes() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with (
        peer(address=("::1", 0)) as client,
        peer(lambda data: data, address=("::1", 0)) as server,
        FaultProxy(server.address, listen=("::1", 0)) as proxy,
    ):
        client.send(b"six", proxy.address)
        assert await client.has(1) == [b"six"]


async def test_ipv4_clients_reach_an_ipv6_server() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with (
        peer() as client,
        peer(lambda data: data, address=("::1", 0)) as server,
        FaultProxy(server.address) as proxy,
    ):
        client.send(b"four", proxy.address)
        assert await client.has(1) == [b"four"]


# What does not pass as it was


async def test_each_direction_has_its_own_link() -> None:
    there, back = Link(lose_numbers={1, 3}), Link(lose_numbers={0})
    async with path(lambda data: data, there=there, back=back) as (client, proxy, server):
        for data in numbered(5):
            client.send(data, proxy.address)
        assert await client.has(2) == [b"2", b"4"]
        assert server.received == [b"0", b"2", b"4"]
        assert proxy.stats.there.lost == {"listed": 2}
        assert proxy.stats.back.lost == {"listed": 1}


async def test_a_delay_passes_before_a_datagram_does() -> None:
    async with path(there=Link(delay=0.05)) as (client, proxy, server):
        sent_at = time.monotonic()
        for data in numbered(10):
            client.send(data, proxy.address)
        assert await server.has(10) == numbered(10)
        assert time.monotonic() - sent_at >= 0.05 - 0.003  # loops count milliseconds


async def test_later_datagrams_overtake_one_that_is_held_back() -> None:
    async with path(there=Link(reorder=1.0, reorder_delay=60.0)) as (client, proxy, server):
        client.send(b"slow", proxy.address)
        await until(lambda: proxy.stats.there.in_flight == 1)
        proxy.there.link = Link()
        client.send(b"quick", proxy.address)
        assert await server.has(1) == [b"quick"]
        assert proxy.stats.there.reordered == 1
        assert proxy.stats.there.in_flight == 1
        await proxy.close()
        assert proxy.stats.there.lost == {"closed": 1}
        assert_balanced(proxy.stats.there)


async def test_duplicates_and_flipped_bits_are_made_and_counted() -> None:
    async with path(there=Link(duplicate=1.0, corrupt=1.0)) as (client, proxy, server):
        client.send(b"0123456789", proxy.address)
        copies = await server.has(2)
        assert all(len(copy) == 10 and copy != b"0123456789" for copy in copies)
        assert (proxy.stats.there.duplicated, proxy.stats.there.corrupted) == (1, 2)
        assert_balanced(proxy.stats.there)


async def test_a_rate_has_a_queue_and_what_overflows_is_lost() -> None:
    slow = Link(rate_bytes_per_second=10_000, queue_bytes=1024)
    async with path(there=slow) as (client, proxy, server):
        for _ in range(20):
            client.send(bytes(100), proxy.address)
        await until(lambda: proxy.stats.there.received == 20)
        await until(lambda: proxy.stats.there.in_flight == 0)
        assert proxy.stats.there.lost["queue"] >= 5
        await server.has(20 - proxy.stats.there.lost["queue"])


async def test_a_seed_decides_what_is_lost() -> None:
    async def survivors(seed: int) -> list[bytes]:
        link = Link(loss=0.3, burst=Burst(enter=0.1, leave=0.3))
        async with path(there=link, seed=seed) as (client, proxy, server):
            for count, data in enumerate(numbered(100), 1):
                client.send(data, proxy.address)
                await until(lambda count=count: proxy.stats.there.received == count)
            return list(await server.has(proxy.stats.there.forwarded))

    assert await survivors(1) == await survivors(1) != await survivors(2)


async def test_every_datagram_is_accounted_for_on_a_bad_network() -> None:
    bad = Link(
        delay=0.002,
        jitter=0.004,
        loss=0.1,
        duplicate=0.2,
        reorder=0.2,
        corrupt=0.1,
        mtu_bytes=600,
    )
    rounds = 250
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(peer()) for _ in range(8)]
        server = await stack.enter_async_context(peer(lambda data: data))
        proxy = FaultProxy(server.address, there=bad, back=bad, seed=3)
        stats = (await stack.enter_async_context(proxy)).stats

        def caught_up(sent: int) -> bool:
            """Whether no socket holds anything: the kernel's buffers are small."""
            return (
                stats.there.received == sent
                and len(server.received) == stats.back.received == stats.there.forwarded
                and sum(len(client.received) for client in clients) == stats.back.forwarded
            )

        for number in range(rounds):
            for client in clients:
                client.send(bytes(1 + number * 3), proxy.address)
            await until(partial(caught_up, len(clients) * (number + 1)))
        await until(lambda: stats.there.in_flight == 0)
        await until(lambda: stats.back.in_flight == 0)
        await until(partial(caught_up, len(clients) * rounds))
    for way in (stats.there, stats.back):
        assert way.lost.keys() <= {"loss", "mtu"}
        assert way.duplicated and way.reordered and way.corrupted
        assert_balanced(way)
    too_large = sum(1 + number * 3 + 28 > 600 for number in range(rounds))
    assert stats.there.lost["mtu"] == len(clients) * too_large


# Changes while it runs


async def test_a_partition_loses_one_way_until_it_is_repaired() -> None:
    async with path(lambda data: data) as (client, proxy, server):
        proxy.back.partition()
        client.send(b"lost on the way back", proxy.address)
        await until(lambda: proxy.stats.back.dropped == 1)
        assert server.received == [b"lost on the way back"]
        proxy.back.repair()
        client.send(b"answered", proxy.address)
        assert await client.has(1) == [b"answered"]
        assert proxy.stats.back.lost == {"partition": 1}


async def test_a_hold_keeps_datagrams_and_release_lets_them_go_in_order() -> None:
    async with path() as (client, proxy, server):
        proxy.there.hold()
        for data in numbered(20):
            client.send(data, proxy.address)
        await until(lambda: proxy.stats.there.received == 20)
        assert server.received == []
        assert proxy.stats.there.in_flight == 20
        proxy.there.release()
        assert await server.has(20) == numbered(20)
        assert_balanced(proxy.stats.there)


async def test_releasing_one_way_leaves_the_other_held() -> None:
    async with path(lambda data: data) as (client, proxy, server):
        proxy.there.hold()
        proxy.back.hold()
        client.send(b"x", proxy.address)
        await until(lambda: proxy.stats.there.in_flight == 1)
        proxy.there.release()
        await until(lambda: proxy.stats.back.in_flight == 1)
        assert server.received == [b"x"] and client.received == []
        proxy.back.release()
        assert await client.has(1) == [b"x"]


async def test_rebinding_gives_a_client_another_port_and_the_old_one_is_dead() -> None:
    async with path() as (client, proxy, server):
        client.send(b"before", proxy.address)
        await server.has(1)
        assert await proxy.rebind() == 1
        client.send(b"after", proxy.address)
        await server.has(2)
        old, new = server.senders
        assert old != new
        server.send(b"to the old port", old)
        server.send(b"to the new port", new)
        assert await client.has(1) == [b"to the new port"]
        assert proxy.stats.rebinds == 1


async def test_rebinding_one_client_leaves_the_others_alone() -> None:
    async with path() as (first, proxy, server), peer() as second:
        for round_number in range(2):
            first.send(b"first", proxy.address)
            await server.has(2 * round_number + 1)
            second.send(b"second", proxy.address)
            await server.has(2 * round_number + 2)
            if round_number == 0:
                assert await proxy.rebind(first.address) == 1
        assert server.senders[0] != server.senders[2]
        assert server.senders[1] == server.senders[3]
        assert await proxy.rebind(("127.0.0.1", 1)) == 0


# Limits, strangers and dead servers


async def test_clients_beyond_the_limit_are_refused_until_one_expires() -> None:
    async with (
        path(clients_limit=1, idle_timeout_seconds=0.05) as (first, proxy, server),
        peer() as second,
    ):
        proxy.there.hold()  # while something is in flight no client expires
        first.send(b"first", proxy.address)
        await until(lambda: proxy.stats.there.in_flight == 1)
        second.send(b"too many", proxy.address)
        await until(lambda: proxy.stats.there.lost.get("clients") == 1)
        proxy.there.release()
        await until(lambda: proxy.clients == ())
        assert (proxy.stats.clients, proxy.stats.clients_expired) == (0, 1)
        second.send(b"second", proxy.address)
        assert await server.has(2) == [b"first", b"second"]
        assert_balanced(proxy.stats.there)


async def test_a_client_with_datagrams_in_flight_does_not_expire() -> None:
    async with path(idle_timeout_seconds=0.02, there=Link(delay=0.2)) as (client, proxy, server):
        client.send(b"x", proxy.address)
        await server.has(1)
        assert proxy.stats.there.lost == {}
        await until(lambda: proxy.stats.clients_expired == 1)


async def test_a_client_for_whom_there_is_no_socket_gets_one_when_it_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with path(lambda data: data) as (client, proxy, _):

        async def refuse(*args: Any, **options: Any) -> Any:
            raise OSError(errno.EMFILE, "too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(proxy._network, "create_datagram_endpoint", refuse)
            client.send(b"lost", proxy.address)
            await until(lambda: proxy.stats.there.lost == {"unsent": 1})
        assert (proxy.stats.errors, proxy.clients) == (1, ())
        client.send(b"passes", proxy.address)
        assert await client.has(1) == [b"passes"]
        assert_balanced(proxy.stats.there)


async def test_too_many_datagrams_in_flight_are_lost_and_counted() -> None:
    async with path(in_flight_limit=10) as (client, proxy, server):
        proxy.there.hold()
        for data in numbered(25):
            client.send(data, proxy.address)
        await until(lambda: proxy.stats.there.received == 25)
        assert proxy.stats.there.lost == {"overload": 15}
        proxy.there.release()
        assert await server.has(10) == numbered(10)
        assert_balanced(proxy.stats.there)


async def test_a_stranger_cannot_send_to_a_client_through_its_port() -> None:
    async with path(lambda data: data) as (client, proxy, server), peer() as stranger:
        client.send(b"x", proxy.address)
        await client.has(1)
        stranger.send(b"forged", server.senders[0])
        await until(lambda: proxy.stats.strangers == 1)
        client.send(b"y", proxy.address)
        assert await client.has(2) == [b"x", b"y"]


async def test_a_server_that_is_away_for_a_while_ends_nothing() -> None:
    async with peer() as client, peer() as server:
        address = server.address
        server.close()
        await asyncio.sleep(0)
        async with FaultProxy(address) as proxy:
            for _ in range(50):
                client.send(b"nobody is there", proxy.address)
            await until(lambda: proxy.stats.there.forwarded == 50)
            async with peer(lambda data: data, address) as again:
                client.send(b"somebody", proxy.address)
                assert await client.has(1) == [b"somebody"]
                assert again.received == [b"somebody"]


async def test_a_client_that_has_gone_ends_nothing() -> None:
    async with (
        path(lambda data: data, back=Link(delay=0.02)) as (gone, proxy, server),
        peer() as other,
    ):
        for data in numbered(20):
            gone.send(data, proxy.address)
        await server.has(20)
        gone.close()
        await until(lambda: proxy.stats.back.in_flight == 0)
        other.send(b"still there", proxy.address)
        assert await other.has(1) == [b"still there"]


# Opening and closing


@pytest.mark.parametrize("to", [("127.0.0.1", 0), ("127.0.0.1", 65536), ("no host", 1)])
async def test_a_bad_target_is_refused(to: Any) -> None:
    with pytest.raises(InvalidAddress):
        await FaultProxy(to).__aenter__()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_proxy_to_itself_is_refused(host: str) -> None:
    async with peer() as unused:
        port = unused.address[1]
    with pytest.raises(InvalidAddress, match="relay to itself"):
        await FaultProxy(("127.0.0.1", port), listen=(host, port)).__aenter__()
    async with peer(address=(host, port)):
        pass


async def test_nothing_is_left_after_closing() -> None:
    async with path(there=Link(delay=60.0)) as (client, proxy, _):
        client.send(b"x", proxy.address)
        await until(lambda: proxy.stats.there.in_flight == 1)
        await proxy.close()
        await proxy.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert proxy.clients == ()
        proxy.there.release()
        async with peer(address=proxy.address):
            pass


async def test_closing_at_once_after_the_first_datagram_leaves_no_socket_half_open() -> None:
    async with path() as (client, proxy, _):
        client.send(b"x", proxy.address)
        await until(lambda: proxy.stats.there.received == 1)
        await proxy.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert_balanced(proxy.stats.there)


async def test_a_proxy_is_entered_once() -> None:
    async with path() as (_, proxy, _):
        with pytest.raises(RuntimeError, match="once"):
            await proxy.__aenter__()


@given(st.lists(st.integers(1, 5)))
def test_runs_hold_every_packet_in_order_and_suit_the_kernel(sizes: list[int]) -> None:
    packets = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    runs = list(proxy_module._runs(packets))
    assert [packet for run in runs for packet in run] == packets
    for run in runs:
        assert {len(packet) for packet in run[:-1]} <= {len(run[0])}
        assert len(run[-1]) <= len(run[0])
