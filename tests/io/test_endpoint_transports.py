"""Endpoints on transports of their own kind, and what becomes of them when something breaks."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from aerogram.config import Config
from aerogram.errors import EndpointClosed, InvalidAddress
from aerogram.io import addresses
from aerogram.io.addresses import AddressBook
from aerogram.io.network import SocketNetwork
from aerogram.io.opening import open_endpoint
from aerogram.io.readers import Read
from tests.io.endpoints import HOST, LINUX, PATIENCE, opened, take, until

PEER = ("192.0.2.1", 9)


class SlowTransport(asyncio.DatagramTransport):
    """Holds what it is given until the test lets it go; may report an error instead."""

    def __init__(self, protocol: asyncio.DatagramProtocol) -> None:
        super().__init__({"sockname": ("192.0.2.9", 4)})
        self.protocol = protocol
        self.held: list[bytes] = []
        self.error = 0
        self.ended = ""
        protocol.connection_made(self)

    def sendto(self, data: Any, addr: Any = None) -> None:
        if self.error:
            self.protocol.error_received(OSError(self.error, os.strerror(self.error)))
        else:
            self.held.append(data)

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.held))

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, how: str) -> None:
        self.ended = how
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class SlowNetwork(SocketNetwork):
    """Makes one `SlowTransport`."""

    transport: SlowTransport

    async def create_datagram_endpoint(
        self, protocol_factory: Callable[[], asyncio.DatagramProtocol], *, local_address: Any
    ) -> Any:
        self.transport = SlowTransport(protocol_factory())
        return self.transport, self.transport.protocol


async def test_a_transport_that_holds_much_makes_senders_wait() -> None:
    network = SlowNetwork()
    config = Config(transport_buffer_bytes=1000)
    async with open_endpoint(network=network, config=config) as endpoint:
        await endpoint.send(bytes(600), PEER)
        assert endpoint.send_nowait(bytes(600), PEER) is False
        waiting = asyncio.create_task(endpoint.send(bytes(600), PEER))
        many = asyncio.create_task(endpoint.send_many(bytes(500), [PEER] * 3))
        await asyncio.sleep(0.01)
        assert not waiting.done() and not many.done()
        assert endpoint.stats.sent == 1
        while not (waiting.done() and many.done()):
            network.transport.held.clear()
            await asyncio.sleep(0.001)
        assert (await many).sent == 3
        assert (endpoint.stats.sent, endpoint.stats.send_full) == (5, 1)
        network.transport.held.clear()
    assert network.transport.ended == "closed"


async def test_what_a_transport_still_holds_is_lost_at_the_end() -> None:
    network = SlowNetwork()
    async with open_endpoint(network=network) as endpoint:
        await endpoint.send(b"x", PEER)
    assert network.transport.ended == "aborted"


async def test_an_error_that_a_transport_reports_is_that_of_the_send() -> None:
    network = SlowNetwork()
    async with open_endpoint(network=network) as endpoint:
        network.transport.error = errno.ENETUNREACH
        with pytest.raises(OSError, match="unreachable"):
            await endpoint.send(b"x", PEER)
        fan_out = await endpoint.send_many(b"x", [PEER, PEER])
        assert [getattr(error, "errno", 0) for error in fan_out.outcomes] == [errno.ENETUNREACH] * 2
        network.transport.error = 0
        network.transport.protocol.error_received(OSError(errno.ECONNREFUSED, "later"))
        await endpoint.send(b"x", PEER)
        assert endpoint.stats.sent == 1
        assert endpoint.stats.send_refused == 3
        assert endpoint.stats.read_errors == 4


async def test_a_transport_that_is_lost_ends_the_readers_with_its_error() -> None:
    network = SlowNetwork()
    async with open_endpoint(network=network) as endpoint:
        reading = asyncio.create_task(endpoint.receive())
        await asyncio.sleep(0)
        network.transport.protocol.connection_lost(OSError(errno.EIO, "cable cut"))
        with pytest.raises(EndpointClosed) as caught:
            await reading
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(EndpointClosed):
            await anext(endpoint)
        with pytest.raises(EndpointClosed):
            await endpoint.send(b"x", PEER)


async def test_a_network_without_groups_says_so() -> None:
    async with open_endpoint(network=SlowNetwork()) as endpoint:
        for attempt in (
            lambda: endpoint.join("239.0.0.1"),
            lambda: endpoint.leave("239.0.0.1"),
            lambda: endpoint.set_multicast(loop=True),
        ):
            with pytest.raises(OSError, match="no multicast"):
                attempt()


@LINUX
async def test_a_socket_that_breaks_ends_the_readers_with_its_error() -> None:
    async with opened() as endpoint, opened() as sender:

        def broken(limit: int) -> Read:
            raise OSError(errno.EBADF, "broken")

        endpoint._link._reader = type("Broken", (), {"read": staticmethod(broken)})()
        await sender.send(b"x", endpoint.local_address)
        with pytest.raises(EndpointClosed) as caught:
            await endpoint.receive(timeout=PATIENCE)
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(EndpointClosed):
            async for _ in endpoint:
                pass


@LINUX
async def test_an_error_of_one_read_is_counted_and_the_next_reads_on() -> None:
    async with opened() as endpoint, opened() as sender:
        reader = endpoint._link._reader
        failures = [OSError(errno.ENOMEM, "no memory"), OSError(errno.EIO, "odd")]

        class Failing:
            def read(self, limit: int) -> Read:
                if failures:
                    raise failures.pop()
                return reader.read(limit)

        endpoint._link._reader = Failing()
        await sender.send(b"x", endpoint.local_address)
        assert await take(endpoint, 1) == [b"x"]
        assert endpoint.stats.read_errors == 2


@LINUX
async def test_the_batched_transport_can_be_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from aerogram.io import opening

    async with open_endpoint(HOST, config=Config(transport="batch")) as endpoint:
        assert endpoint._link.knows_details
    monkeypatch.setattr(opening, "probe_batch", lambda loop: False)
    with pytest.raises(OSError, match="batched"):
        await open_endpoint(HOST, config=Config(transport="batch"))
    async with open_endpoint(HOST) as endpoint:
        assert not endpoint._link.knows_details


@LINUX
async def test_many_senders_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "KNOWN_ADDRESSES_LIMIT", 8)
    async with opened("0.0.0.0") as receiver:
        for number in range(50):
            async with opened() as sender:
                await sender.send(b"x", (HOST, receiver.local_address[1]))
                datagram = await receiver.receive(timeout=PATIENCE)
                assert datagram.address == sender.local_address
                await datagram.reply(b"%d" % number)
                assert await take(sender, 1) == [b"%d" % number]
        assert len(receiver._book._from_kernel) <= 8
        assert len(receiver._book._to_kernel) <= 8


def test_equal_addresses_of_other_types_are_what_was_checked() -> None:
    import socket

    book = AddressBook(socket.AF_INET)
    assert book.for_socket((HOST, 1)) == (HOST, 1)
    assert type(book.for_socket((HOST, True))[1]) is int
    with pytest.raises(InvalidAddress):
        AddressBook(socket.AF_INET).for_socket((HOST, True))


async def test_a_fall_back_socket_takes_a_burst_of_sends() -> None:
    async with opened(kind="asyncio") as receiver, opened(kind="asyncio") as sender:
        for number in range(1000):
            await sender.send(b"%d" % number, receiver.local_address)
        await until(lambda: receiver.stats.received + receiver.stats.dropped_by_kernel == 1000)
