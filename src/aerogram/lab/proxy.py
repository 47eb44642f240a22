"""A fault proxy: a bad network between real programs, whatever they are written in.

It relays UDP between clients and one target in user space, and does to the datagrams of each
direction what a `Link` says. Each client gets a socket of its own towards the target, so that the
target sees as many peers as there are. Rules: one heap of deadlines and one loop timer, whatever
is in flight; nothing that the network or a peer does ends it; clients, datagrams and bytes have
limits, and what is beyond them is counted. A proxy cannot send ICMP, so `Link.icmp` does nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from types import TracebackType
from typing import Final, Self

from aerogram.config import Config
from aerogram.errors import InvalidAddress
from aerogram.io.network import SocketNetwork
from aerogram.io.protocol import PacketProtocol
from aerogram.io.sockets import Address, as_address, checked_address, is_loopback
from aerogram.lab.direction import Direction, DirectionStats
from aerogram.lab.link import Link

CLIENTS_LIMIT: Final = 1024
"""Each has a socket, and systems give a process 1024 by default; see `clients_limit`."""

IDLE_TIMEOUT_SECONDS: Final = 120.0
"""A client's socket is closed after this without a datagram (RFC 4787 REQ-5)."""

IN_FLIGHT_LIMIT: Final = 200_000
IN_FLIGHT_BYTES_LIMIT: Final = 256 * 1024 * 1024

_TIMER_GRAIN_SECONDS: Final = 0.0005
"""The loops' timers have a grain of a millisecond: what is due within half of it goes now."""

_CONFIG: Final = Config(transport_buffer_bytes=4 * 1024 * 1024)
_PERFECT: Final = Link()


@dataclass(slots=True)
class ProxyStats:
    """What a proxy has counted. The same object all along, so it can be watched."""

    there: DirectionStats
    """From clients to the target."""
    back: DirectionStats
    clients: int = 0
    """Those that have a socket now."""
    clients_expired: int = 0
    rebinds: int = 0
    strangers: int = 0
    """Datagrams that came to a client's socket from elsewhere than the target; not relayed."""
    errors: int = 0
    """ICMP messages, refused sends and sockets that could not be had."""


class FaultProxy:
    """Relays between clients and the target `to`, badly: `there` and `back` say how.

    An asynchronous context manager: it listens at `address` inside, and nothing is left after. The
    same `seed` makes the same decisions for the same datagrams in the same order. Entering it
    raises `InvalidAddress`, or the `OSError` of the resolver or the bind.
    """

    def __init__(
        self,
        to: Address,
        *,
        listen: Address = ("127.0.0.1", 0),
        there: Link = _PERFECT,
        back: Link = _PERFECT,
        seed: int = 0,
        clients_limit: int = CLIENTS_LIMIT,
        idle_timeout_seconds: float = IDLE_TIMEOUT_SECONDS,
        in_flight_limit: int = IN_FLIGHT_LIMIT,
    ) -> None:
        self.address = listen
        """Where clients send to, known once it is entered."""
        self.there = Direction(there, Random(f"{seed} there"), self._release_held)
        """From clients to the target. `link` may be replaced; it can be partitioned and held."""
        self.back = Direction(back, Random(f"{seed} back"), self._release_held)
        self.stats = ProxyStats(self.there.stats, self.back.stats)
        self._to = to
        self._target = to
        self._clients_limit = clients_limit
        self._idle_timeout_seconds = idle_timeout_seconds
        self._in_flight_limit = in_flight_limit
        self._network = SocketNetwork(_CONFIG)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener = self._protocol(self._receive_there)
        self._transport: asyncio.DatagramTransport | None = None
        self._clients: OrderedDict[Address, _Client] = OrderedDict()
        self._opening: set[asyncio.Task[None]] = set()
        self._flight: list[tuple[float, int, _Outlet, bytes]] = []
        self._order = 0
        self._bytes_in_flight = 0
        self._held: list[tuple[_Outlet, bytes]] = []
        self._ready: dict[_Outlet, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # Opening and closing

    async def __aenter__(self) -> Self:
        """Resolve the target and listen."""
        if self._loop is not None:
            raise RuntimeError("a FaultProxy is entered once")
        self._loop = asyncio.get_running_loop()
        checked_address(*self._to[:2])
        self._target = (await self._network.resolve(*self._to[:2]))[0]
        local = (await self._network.resolve(*self.address[:2]))[0]
        self._transport = await self._bind(self._listener, local)
        self.address = as_address(self._transport.get_extra_info("sockname"))
        if self._targets_itself():
            await self.close()
            raise InvalidAddress(f"the proxy at {self.address} would relay to itself")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Close all sockets; what is in flight is lost. More calls do nothing."""
        if self._transport is None:
            return
        self._transport.abort()
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for client in list(self._clients.values()):
            self._forget(client)
        self._lose_flight()
        await asyncio.sleep(0)  # transports tell their protocols in the next turn

    def _protocol(self, take: Callable[[bytes, Address], None]) -> PacketProtocol:
        return PacketProtocol(_Receiver(take, self._flush, self.stats), _CONFIG)

    async def _bind(self, protocol: PacketProtocol, local: Address) -> asyncio.DatagramTransport:
        transport, _ = await self._network.create_datagram_endpoint(
            lambda: protocol, local_address=local
        )
        return transport

    def _targets_itself(self) -> bool:
        host, port = self._target[:2]
        is_own_host = host == self.address[0] or (
            is_loopback(host) and self.address[0] in ("0.0.0.0", "::")  # noqa: S104
        )
        return is_own_host and port == self.address[1]

    def _lose_flight(self) -> None:
        for direction in (self.there, self.back):
            if direction.stats.in_flight:
                direction.stats.lose("closed", direction.stats.in_flight)
                direction.stats.in_flight = 0
        self._flight.clear()
        self._held.clear()
        self._ready.clear()
        self._bytes_in_flight = 0

    # Clients

    @property
    def clients(self) -> tuple[Address, ...]:
        """The addresses of the clients that have a socket, those longest quiet first."""
        return tuple(self._clients)

    async def rebind(self, client: Address | None = None) -> int:
        """Give one client, or all, another port towards the target, as a NAT may do at any time.

        What the target still sends to the old port is lost. Returns how many clients have a new
        port. Raises the `OSError` of the bind.
        """
        chosen = [
            known
            for known in self._clients.values()
            if known.transport is not None and client in (None, known.address)
        ]
        for known in chosen:
            await self._connect(known)
            self.stats.rebinds += 1
        return len(chosen)

    def _new_client(self, address: Address) -> _Client | None:
        """Return a client whose socket is being opened, or None if there are too many."""
        if self._loop is None or len(self._clients) >= self._clients_limit:
            return None
        client = _Client(
            address,
            there=_Outlet(self.there, self._target),
            back=_Outlet(self.back, address, self._listener),
        )
        self._clients[address] = client
        self.stats.clients = len(self._clients)
        task = self._loop.create_task(self._open(client))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return client

    async def _open(self, client: _Client) -> None:
        try:
            await self._connect(client)
        except OSError:
            self.stats.errors += 1
            if self._clients.get(client.address) is client:
                self._forget(client)
        self._ready[client.there] = None
        self._flush()

    async def _connect(self, client: _Client) -> None:
        """Give a client a socket towards the target, instead of the one it may have."""
        protocol = self._protocol(partial(self._receive_back, client))
        anywhere = "::" if ":" in self._target[0] else "0.0.0.0"  # noqa: S104
        transport = await self._bind(protocol, (anywhere, 0))
        if self._clients.get(client.address) is not client:
            transport.abort()
            return
        if client.transport is not None:
            client.transport.close()
        client.transport = transport
        client.there.protocol = protocol

    def _forget(self, client: _Client) -> None:
        """Close a client's socket; what still comes for it is counted as unsent."""
        del self._clients[client.address]
        self.stats.clients = len(self._clients)
        if client.transport is not None:
            client.transport.close()
        elif client.there.protocol is None:
            client.there.protocol = self._protocol(self._receive_there)

    def _expire_clients(self, now: float) -> None:
        while self._clients:
            client = next(iter(self._clients.values()))
            if now < client.last_used + self._idle_timeout_seconds:
                return
            if client.there.in_flight or client.back.in_flight:
                client.last_used = now
                self._clients.move_to_end(client.address)
            else:
                self._forget(client)
                self.stats.clients_expired += 1

    # The way of a datagram

    def _receive_there(self, data: bytes, address: Address) -> None:
        client = self._clients.get(address)
        if client is None:
            client = self._new_client(address)
            if client is None:
                self.there.refuse(data, "clients")
                return
        self._relay(client, client.there, data)

    def _receive_back(self, client: _Client, data: bytes, address: Address) -> None:
        if address == self._target:
            self._relay(client, client.back, data)
        else:
            self.stats.strangers += 1

    def _relay(self, client: _Client, outlet: _Outlet, data: bytes) -> None:
        """Put the copies of a datagram on their way."""
        assert self._loop is not None, "a datagram before it was entered"
        now = self._loop.time()
        client.last_used = now
        if client.address in self._clients:
            self._clients.move_to_end(client.address)
        stats = outlet.direction.stats
        for copy in outlet.direction.plan(data, now):
            size = len(copy.data)
            if (
                self.there.stats.in_flight + self.back.stats.in_flight > self._in_flight_limit
                or self._bytes_in_flight + size > IN_FLIGHT_BYTES_LIMIT
            ):
                stats.in_flight -= 1
                stats.lose("overload")
                continue
            self._order += 1
            self._bytes_in_flight += size
            outlet.in_flight += 1
            heapq.heappush(self._flight, (copy.at, self._order, outlet, copy.data))

    def _flush(self) -> None:
        """Send what is due, then set the timer for what is not."""
        if self._transport is None or self._loop is None:
            return
        now = self._loop.time()
        flight = self._flight
        while flight and flight[0][0] <= now + _TIMER_GRAIN_SECONDS:
            _, _, outlet, data = heapq.heappop(flight)
            if outlet.direction.is_held:
                self._held.append((outlet, data))
            else:
                outlet.packets.append(data)
                self._ready[outlet] = None
        ready, self._ready = self._ready, {}
        for outlet in ready:
            self._bytes_in_flight -= outlet.send()
        self._arm()

    def _release_held(self) -> None:
        """Let go what a direction has held and holds no more."""
        held, self._held = self._held, []
        for outlet, data in held:
            if outlet.direction.is_held:
                self._held.append((outlet, data))
            else:
                outlet.packets.append(data)
                self._ready[outlet] = None
        self._flush()

    # Time

    def _arm(self) -> None:
        """See that the timer fires no later than the next deadline; early does no harm."""
        assert self._loop is not None
        deadline = self._flight[0][0] if self._flight else math.inf
        if self._clients:
            oldest = next(iter(self._clients.values()))
            deadline = min(deadline, oldest.last_used + self._idle_timeout_seconds)
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline < math.inf:
            self._timer = self._loop.call_at(deadline, self._on_timer)
            self._timer_at = deadline

    def _on_timer(self) -> None:
        assert self._loop is not None
        self._timer = None
        self._expire_clients(self._loop.time() + _TIMER_GRAIN_SECONDS)
        self._flush()


class _Outlet:
    """Where copies leave the proxy: one destination behind one socket."""

    __slots__ = ("address", "direction", "in_flight", "packets", "protocol")

    def __init__(
        self, direction: Direction, address: Address, protocol: PacketProtocol | None = None
    ) -> None:
        self.direction = direction
        self.address = address
        self.protocol = protocol
        """None while the socket is being opened."""
        self.packets: list[bytes] = []
        """Those that are due."""
        self.in_flight = 0

    def send(self) -> int:
        """Send what is due, if the socket is open. Returns the bytes that left."""
        protocol = self.protocol
        if protocol is None:
            return 0
        packets, self.packets = self.packets, []
        size = sum(map(len, packets))
        unsent = -_unsent(protocol)
        for run in _runs(packets):
            protocol.send_run(run, self.address)
        unsent += _unsent(protocol)
        self.in_flight -= len(packets)
        stats = self.direction.stats
        stats.in_flight -= len(packets)
        stats.forwarded += len(packets) - unsent
        stats.bytes_forwarded += size
        if unsent:
            stats.lose("unsent", unsent)
        return size


@dataclass(slots=True)
class _Client:
    """One client, and its socket towards the target."""

    address: Address
    there: _Outlet
    back: _Outlet
    transport: asyncio.DatagramTransport | None = None
    last_used: float = 0.0


class _Receiver:
    """Takes what one socket receives."""

    __slots__ = ("_flush", "_stats", "_take")

    def __init__(
        self,
        take: Callable[[bytes, Address], None],
        flush: Callable[[], None],
        stats: ProxyStats,
    ) -> None:
        self._take = take
        self._flush = flush
        self._stats = stats

    def receive_datagram(self, data: bytes, address: Address) -> None:
        """Relay it."""
        self._take(data, address)

    def receive_run(self, data: bytes, segment_bytes: int, address: Address) -> None:
        """Take a run apart: a link decides for each datagram."""
        for start in range(0, len(data), segment_bytes):
            self._take(data[start : start + segment_bytes], address)

    def read_complete(self) -> None:
        """Send on what is due at once."""
        self._flush()

    def transport_lost(self, error: Exception | None) -> None:
        """Let the client's idle timeout clear up after a socket that broke."""

    def send_error(self, error: OSError, address: Address | None) -> None:
        """Count it; a relay has nobody to tell."""
        self._stats.errors += 1


def _unsent(protocol: PacketProtocol) -> int:
    return protocol.stats.send_errors + protocol.stats.send_dropped


def _runs(packets: list[bytes]) -> Iterator[list[bytes]]:
    """Cut packets into runs as `send_run` takes them: of equal size, the last may be shorter."""
    start = 0
    for end in range(1, len(packets)):
        full = len(packets[start])
        if len(packets[end]) > full or len(packets[end - 1]) < full:
            yield packets[start:end]
            start = end
    if packets:
        yield packets[start:]
