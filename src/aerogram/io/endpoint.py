"""`DatagramEndpoint`: the connectionless API. A datagram socket in asyncio's terms, no more.

No session, no protocol of ours on the wire: records go out as they are given and come in as they
were sent, to and from anybody. Rules: a user's mistake raises at its caller; nothing that a peer,
the network or a user's code does ends the endpoint; every datagram ends in one counter of `stats`.
`open_endpoint` makes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self, TypedDict, Unpack

from aerogram.config import check_timeout
from aerogram.errors import EndpointClosed, InvalidAddress
from aerogram.io import ancillary, multicast
from aerogram.io.addresses import checked_source, is_ipv4
from aerogram.io.ancillary import ControlList
from aerogram.io.datagram import Datagram, DatagramStats
from aerogram.io.fanout import FanOut, Sender
from aerogram.io.interfaces import interface_index, interfaces
from aerogram.io.links import IP_FAMILIES, Link, Payload, Workings, send_refused
from aerogram.io.multicast import InterfaceName, Membership
from aerogram.io.sockets import Address, checked_address

SENDS_PER_TURN: Final = 128
"""A task that sends without end lets the loop go on after so many."""

UNANSWERABLE_ERRORS: Final = frozenset(
    {
        errno.EACCES,
        errno.EADDRNOTAVAIL,
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINVAL,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOENT,
    }
)
"""What a sender's address can bring about: forged, unreachable, or of an AF_UNIX socket gone."""

ANY_IPV4: Final = "0.0.0.0"  # noqa: S104  compared, not bound
LIMITED_BROADCAST: Final = "255.255.255.255"


class SendOptions(TypedDict, total=False):
    """What can be said about a single datagram; it needs the batched transport, on Linux."""

    source: str
    """A host of this machine to send from."""

    interface: InterfaceName
    """What to send by: for groups and broadcast, which the routing table does not know."""

    ttl: int
    """1 to 255; for IPv6 the hop limit."""

    tos: int
    """DSCP in the upper six bits, ECN in the lower two; for IPv6 the traffic class."""


class DatagramEndpoint:
    """A datagram socket. `async for datagram in endpoint`, `await endpoint.send(data, address)`.

    Several tasks may receive and send at once; each datagram goes to one of them. Its methods raise
    `EndpointClosed` after it has been closed.
    """

    def __init__(self, workings: Workings) -> None:
        self.errors = workings.errors
        """ICMP errors of what was sent, with the peer named. Information only: it can be forged."""
        self._workings = workings
        self._book = workings.book
        self._arrivals = workings.arrivals
        self._items = workings.arrivals.items
        self._stats = workings.stats
        self._sends_left = SENDS_PER_TURN
        self._closed = False
        self._on_close: Callable[[], None] | None = None
        self._link: Link
        self._sender: Sender
        self._local_address: Address = ("", 0)
        self._bound_ipv4: str | None = None
        self._dropped_before = 0

    def attach(self, link: Link, on_close: Callable[[], None] | None = None) -> None:
        """Use this link from now on; `open_endpoint` calls it once."""
        self._link = link
        self._sender = Sender(self._workings, link)
        self._on_close = on_close
        self._local_address = self._book.from_python(link.local_address)
        host = self._local_address[0]
        if self._workings.family == socket.AF_INET and host != ANY_IPV4:
            self._bound_ipv4 = host
        if link.sock is not None:
            self._dropped_before = ancillary.dropped_by_kernel(link.sock)
        link.start()

    # What it is

    @property
    def local_address(self) -> Address:
        """The address that the socket is bound to, with the port that it got."""
        return self._local_address

    @property
    def socket(self) -> socket.socket | None:
        """The socket, for options that have no name here; None in a simulated network."""
        return self._link.sock

    @property
    def stats(self) -> DatagramStats:
        """The counters; the same object each time, brought up to date."""
        stats = self._stats
        stats.queued = len(self._items)
        # Each hand-over would else pay for its own count.
        dropped = stats.dropped_oldest + stats.dropped_newest + stats.dropped_at_close
        stats.handed_over = stats.received - stats.queued - dropped
        if self._link.sock is not None and not self._closed:
            self._stats.dropped_by_kernel = (
                ancillary.dropped_by_kernel(self._link.sock) - self._dropped_before
            )
        return stats

    async def resolve(self, host: str, port: int) -> Address:
        """Return the first address of a host that this endpoint can send to.

        Raises `InvalidAddress` for what is no host or port, or has no such address; `OSError` where
        the name is unknown.
        """
        for address in await self._workings.network.resolve(host, port):
            with contextlib.suppress(InvalidAddress):
                self._book.for_socket(address)
                return address
        raise InvalidAddress(f"{host!r} has no address that this endpoint can send to")

    # Receiving

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Datagram:
        if not self._items:
            await self._wait_or_stop()
        return self._items.popleft()

    async def _wait_or_stop(self) -> None:
        try:
            await self._arrivals.wait()
        except EndpointClosed:
            if self._arrivals.broken_by is None:
                raise StopAsyncIteration from None
            raise

    async def receive(self, *, timeout: float | None = None) -> Datagram:
        """Return the next datagram. Raises `TimeoutError` after `timeout` seconds.

        Raises `ValueError` or `TypeError` for a timeout that is none.
        """
        if timeout is not None:
            check_timeout(timeout)
        if not self._items:
            async with asyncio.timeout(timeout):
                await self._arrivals.wait()
        return self._items.popleft()

    async def receive_many(self, *, timeout: float | None = None) -> list[Datagram]:
        """Return all datagrams that are there, at least one: less work for each than one by one.

        Raises as `receive`.
        """
        if timeout is not None:
            check_timeout(timeout)
        if not self._items:
            async with asyncio.timeout(timeout):
                await self._arrivals.wait()
        taken = list(self._items)
        self._items.clear()
        return taken

    # Sending

    async def send(
        self,
        data: Payload,
        address: Address | str,
        **options: Unpack[SendOptions],
    ) -> None:
        """Send one datagram to a numeric address (AF_UNIX: a path), when there is room for it.

        A datagram that a firewall of this machine refuses (EPERM) is lost and counted, as on any
        other. An empty one is sent, but not by the fall-back transport.

        Raises `InvalidAddress`, `InvalidMessage` for what is not bytes, `MessageTooLarge`,
        `ValueError` for a ttl or tos out of range, `TypeError` for an unknown option, or the
        system's `OSError`: no route, EOPNOTSUPP for options on another transport than the batched
        one.
        """
        target = self._book.for_socket(address)
        control = self._control(target, options) if options else None
        try:
            while not self._link.transmit(data, target, control, 1):
                await self._link.wait_for_room()
        except OSError as error:
            self._raise_refused(error, data)
        self._sends_left -= 1
        if self._sends_left <= 0:
            self._sends_left = SENDS_PER_TURN
            await asyncio.sleep(0)

    async def answer(self, data: Payload, address: Address, **options: Unpack[SendOptions]) -> None:
        """As `send`, to where a datagram came from: what cannot reach it is lost and counted."""
        try:
            self._book.for_socket(address)
        except InvalidAddress:  # port 0, or an AF_UNIX socket without a name
            self._stats.send_refused += 1
            if self._workings.tracer is not None:
                self._workings.tracer.not_sent((bytes(data),), address, "nowhere to answer to")
            return
        try:
            await self.send(data, address, **options)
        except OSError as error:
            if error.errno not in UNANSWERABLE_ERRORS:
                raise

    def send_nowait(
        self,
        data: Payload,
        address: Address | str,
        **options: Unpack[SendOptions],
    ) -> bool:
        """As `send`, but where there is no room return False: the datagram is lost and counted."""
        target = self._book.for_socket(address)
        control = self._control(target, options) if options else None
        try:
            if self._link.transmit(data, target, control, 1):
                return True
        except OSError as error:
            self._raise_refused(error, data)
            return True
        self._stats.send_full += 1
        if self._workings.tracer is not None:
            peer = self._book.from_python(target)
            self._workings.tracer.not_sent((bytes(data),), peer, "no room")
        return False

    def _raise_refused(self, error: OSError, data: Payload) -> None:
        refused = send_refused(error, len(data), self._stats)
        if error.errno != errno.EPERM:
            raise refused

    async def send_run(
        self,
        datagrams: Sequence[Payload],
        address: Address | str,
        **options: Unpack[SendOptions],
    ) -> None:
        """Send datagrams of equal size to one address with few system calls (UDP_SEGMENT).

        Only the last may be shorter. Where the system cannot cut runs they go one by one. Raises as
        `send`, and `ValueError` for sizes that differ.
        """
        target = self._book.for_socket(address)
        control = self._control(target, options) if options else None
        await self._sender.send_run(datagrams, target, control)

    async def send_many(
        self,
        data: Payload,
        addresses: Iterable[Address | str],
        *,
        rate: float | None = None,
        **options: Unpack[SendOptions],
    ) -> FanOut:
        """Send one datagram to each address and return what became of each.

        `rate` is in datagrams a second; without it they go as fast as there is room. The loop goes
        on in between. An address that fails is an outcome and not an error. All addresses are of
        one version of IP if there are options. Raises `InvalidMessage` for what is not bytes,
        `InvalidAddress` for a bad source or interface, `ValueError` for a rate, ttl or tos out of
        range.
        """
        listed = list(addresses)
        control = None
        if options and listed:
            control = self._control(self._book.for_socket(listed[0]), options)
        return await self._sender.send_many(data, listed, control, rate)

    async def broadcast(
        self, data: Payload, port: int, *, interface: InterfaceName | None = None
    ) -> FanOut:
        """Send one datagram to the broadcast address of each interface, or of `interface` only.

        The outcome has one entry for each broadcast address. Raises `InvalidAddress` for what is no
        port, where there is no such interface, or none that can broadcast, and for an endpoint
        without IPv4.
        """
        sock = self._open_link().sock
        checked_address(LIMITED_BROADCAST, port)
        if sock is not None and not multicast.carries(sock, 4):
            raise InvalidAddress("only IPv4 has broadcast addresses")
        if sock is None:
            multicast.allow_broadcast(self._link.transport)
            return await self._sender.send_many(data, [(LIMITED_BROADCAST, port)], None, None)
        wanted = None if interface is None else interface_index(interface)
        found = [
            (host, each.index)
            for each in interfaces()
            if wanted in (None, each.index)
            for host in each.broadcasts
        ]
        if not found:
            raise InvalidAddress("no interface that can broadcast")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        outcomes: list[Exception | None] = []
        for host, index in found:
            control = None
            if self._link.knows_details:
                control = self._control((host, port), {"interface": index})
            fan_out = await self._sender.send_many(data, [(host, port)], control, None)
            outcomes += fan_out.outcomes
        return FanOut([(host, port) for host, _ in found], outcomes)

    def _control(self, target: Any, options: SendOptions) -> ControlList:
        """Return the control messages for one send."""
        if not options.keys() <= SendOptions.__optional_keys__:
            unknown = sorted(options.keys() - SendOptions.__optional_keys__)
            raise TypeError(f"a datagram has no option {', '.join(unknown)}")
        if self._workings.family not in IP_FAMILIES:
            raise OSError(errno.EOPNOTSUPP, "only IP has source, interface, TTL and TOS")
        if not self._link.knows_details:
            raise OSError(errno.EOPNOTSUPP, "this transport cannot set source, TTL or TOS")
        source, interface = options.get("source"), options.get("interface") or 0
        if not isinstance(interface, str | int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidAddress(f"no such interface: {interface!r}")
        if source is None and interface:
            source = self._bound_ipv4  # IP_PKTINFO would else replace it by any other
        return ancillary.sending_control(
            self._workings.family,
            to_ipv4=is_ipv4(target[0]),
            source=None if source is None else checked_source(source),
            # A number goes as it is: to look it up costs as much as the send.
            interface=interface_index(interface) if isinstance(interface, str) else interface,
            ttl=options.get("ttl"),
            tos=options.get("tos"),
        )

    # Groups

    def join(
        self,
        group: str,
        *,
        interface: InterfaceName | Iterable[InterfaceName] | None = None,
        source: str | None = None,
    ) -> Membership:
        """Receive what is sent to a multicast group, from `source` only if given (RFC 4607).

        `interface` is one or several, each by name, number or one of its addresses; by default the
        system chooses one. The membership ends with `leave`, its `with` block, or the endpoint.
        Only groups that were joined are received, whatever other programs have joined. Linux
        carries no IPv6 groups on its loopback interface (a send raises ENETUNREACH): within one
        machine, use another interface with a link-local address for them.

        Raises `InvalidAddress` for what is no group, source or interface, and the system's
        `OSError`, as for a group joined already or too many of them.
        """
        link = self._open_link()
        if link.sock is None:
            return multicast.join_by_transport(link.transport, group, interface, source)
        return multicast.join(link.sock, group, interface, source)

    def leave(
        self,
        group: str,
        *,
        interface: InterfaceName | Iterable[InterfaceName] | None = None,
        source: str | None = None,
    ) -> None:
        """Undo a `join` with the same arguments. Raises as `join`, `OSError` for no member."""
        link = self._open_link()
        if link.sock is None:
            multicast.leave_by_transport(link.transport, group, interface, source)
            return
        multicast.check_group(link.sock, group, source)
        multicast.leave(link.sock, group, multicast.interface_indexes(interface), source)

    def set_multicast(
        self,
        *,
        interface: InterfaceName | None = None,
        ttl: int | None = None,
        loop: bool | None = None,
    ) -> None:
        """Set how datagrams to groups are sent; what is None stays as it is.

        `interface` is what they go out by, unless a send says otherwise; `ttl` how many networks
        they cross (the system's default 1 is the local one); `loop` whether members on this machine
        get them. A simulated network heeds `loop` only. Raises `InvalidAddress`, `ValueError`,
        `OSError`.
        """
        link = self._open_link()
        if link.sock is None:
            multicast.set_loop_of_transport(link.transport, loop)
            return
        multicast.set_outgoing(link.sock, interface=interface, ttl=ttl, loop=loop)

    def _open_link(self) -> Link:
        sock = self._link.sock
        if self._closed or (sock is not None and sock.fileno() < 0):
            raise EndpointClosed("the endpoint is closed")
        return self._link

    # Ending

    async def close(self) -> None:
        """Close the socket at once; tasks that wait on the endpoint learn it. More do nothing."""
        if self._closed:
            return
        stats = self.stats  # the last look at the socket's own counter
        self._closed = True
        if self._workings.tracer is not None:
            self._workings.tracer.closed(stats)
        self._arrivals.close()
        self.errors.close()
        if self._on_close is not None:
            self._on_close()
        await self._link.close()
