"""A machine of a simulated network: addresses, ports, programs, a clock, and the chance to crash.

A `Host` takes the place of the real network: `serve(app, host, port, network=host)`. Rules: all
that a host does is drawn from the seed and its name; a crash tells nobody; its clock is for its
programs, while the event loop's clock, by which the network moves, is right for all.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import random
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack

from aerogram.errors import InvalidAddress
from aerogram.io.network import TransportAndProtocol
from aerogram.io.sockets import Address, checked_address, checked_socket_address, is_numeric
from aerogram.lab.routing import LOOPBACK, Key, socket_address
from aerogram.lab.trace import EPOCH
from aerogram.lab.transport import RECEIVE_BUFFER_BYTES, SimulatedTransport

if TYPE_CHECKING:
    from aerogram.lab.nat import Nat
    from aerogram.lab.network import Network

_ResultT = TypeVar("_ResultT")
_Program = Callable[[], Coroutine[Any, Any, Any]]

_FIRST_FREE_PORT: Final = 49_152
_FREE_PORTS: Final = 65_536 - _FIRST_FREE_PORT
# RFC 6335 §6: the dynamic ports.


class EndpointOptions(TypedDict, total=False):
    """What an endpoint can be made with, beside what `aerogram.io.network.Network` has."""

    remote_address: Address | None
    """Connect the socket: it sends to, and receives from, this address alone, and is told with
    ECONNREFUSED when nothing listens there."""

    allow_broadcast: bool
    """SO_BROADCAST; without it a broadcast gives EACCES."""

    reuse_port: bool
    """Share the port with others that do; each sender goes to one of them, groups to all."""

    receive_buffer_bytes: int
    """What arrives and finds more than this waiting is dropped."""


class Host:
    """A machine with one IPv4 and one IPv6 address. `Network.host` makes it."""

    def __init__(
        self,
        network: Network,
        name: str,
        subnet: ipaddress.IPv4Interface,
        ipv6: ipaddress.IPv6Interface,
        *,
        resolves_to: list[str],
    ) -> None:
        self.network = network
        self.name = name
        self.ipv4 = str(subnet.ip)
        self.ipv6 = str(ipv6.ip)
        self.broadcast_address = subnet.network.broadcast_address
        self.subnets = {4: str(subnet.network), 6: str(ipv6.network)}
        self.resolves_to = resolves_to
        """What other hosts get for this host's name."""
        self.is_guest = False
        """Made by a shared `Network` for one endpoint. It has no loopback of its own: a loopback
        address leads to whoever is bound to it on that network."""
        self.nat: Nat | None = None
        self.is_down = False
        self.is_paused = False
        self.bound: dict[Key, list[SimulatedTransport]] = {}
        """The sockets at each local address and port: several only if they reuse the port."""
        self._transports: dict[SimulatedTransport, tuple[Key, ...]] = {}
        self._ports_used = 0
        self._random = random.Random(f"{network.seed} bytes of {name}")
        self._programs: dict[asyncio.Task[Any], _Program] = {}
        self._crashed_programs: list[_Program] = []
        self._clock_rate = 1.0
        self._clock_base = EPOCH
        self._clock_set_at = 0.0

    def __repr__(self) -> str:
        state = " down" if self.is_down else " paused" if self.is_paused else ""
        return f"<Host {self.name} {self.ipv4} {self.ipv6}{state}>"

    @property
    def transports(self) -> list[SimulatedTransport]:
        """The sockets that are open, oldest first."""
        return [*self._transports]

    # The place where a program meets the network

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host by name, or a numeric one as it is.

        Raises `InvalidAddress`, and `OSError` for a name that no host has.
        """
        checked_address(host, port, to_bind=True)
        if is_numeric(host):
            return [socket_address(host, port)]
        if host == "localhost":
            return [(LOOPBACK[4], port)]
        found = self.network.find_host(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, f"no host of this network is named {host}")
        return [socket_address(ip, port) for ip in found.resolves_to]

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        *,
        local_address: Address,
        **options: Unpack[EndpointOptions],
    ) -> TransportAndProtocol:
        """Return a bound socket and its protocol, as `aerogram.io.network.Network` says.

        The rest are `EndpointOptions`. Raises `InvalidAddress`, or `OSError` as a real bind does:
        EADDRINUSE, EADDRNOTAVAIL, ENETDOWN on a host that is down.
        """
        if self.is_down:
            raise _error(errno.ENETDOWN)
        self.network.attach()
        ip, port = self._checked_bind(local_address)
        reuse_port = options.get("reuse_port", False)
        keys = self._free_keys(ip, port, reuse_port=reuse_port)
        protocol = protocol_factory()
        transport = SimulatedTransport(
            self,
            protocol,
            socket_address(ip, keys[0][1]),
            peer=_checked_peer(options.get("remote_address"), ip),
            allow_broadcast=options.get("allow_broadcast", False),
            reuse_port=reuse_port,
            receive_buffer_bytes=options.get("receive_buffer_bytes", RECEIVE_BUFFER_BYTES),
        )
        for key in keys:
            self.bound.setdefault(key, []).append(transport)
        self._transports[transport] = keys
        self.network.opened(transport)
        protocol.connection_made(transport)
        return transport, protocol

    def random_bytes(self, count: int) -> bytes:
        """Return bytes that the seed and the host's name decide."""
        return self._random.randbytes(count)

    # Binding

    def _checked_bind(self, address: Address) -> tuple[str, int]:
        host, port = checked_address(address[0], address[1], to_bind=True)
        if not is_numeric(host):
            raise InvalidAddress(f"not a numeric host: {host!r}; resolve it first")
        ip = ipaddress.ip_address(host.partition("%")[0])
        is_special = ip.is_unspecified or ip.is_multicast or ip.is_loopback
        if not is_special and str(ip) not in (self.ipv4, self.ipv6):
            raise _error(errno.EADDRNOTAVAIL)
        return str(ip), port

    def _free_keys(self, ip: str, port: int, *, reuse_port: bool) -> tuple[Key, ...]:
        """Return where a socket is to be entered. Raises `OSError`."""
        if port:
            keys = self._keys(ip, port)
            if not self._is_free(keys, reuse_port=reuse_port):
                raise _error(errno.EADDRINUSE)
            return keys
        for _ in range(_FREE_PORTS):
            keys = self._keys(ip, _FIRST_FREE_PORT + self._ports_used % _FREE_PORTS)
            self._ports_used += 1
            if self._is_free(keys, reuse_port=False):
                return keys
        raise _error(errno.EADDRINUSE)

    def _keys(self, ip: str, port: int) -> tuple[Key, ...]:
        """Return the local addresses at which a bound socket is reached."""
        address = ipaddress.ip_address(ip)
        if not address.is_unspecified:
            return ((ip, port),)
        own = self.ipv4 if address.version == 4 else self.ipv6
        return tuple(dict.fromkeys([(own, port), (LOOPBACK[address.version], port)]))

    def _is_free(self, keys: tuple[Key, ...], *, reuse_port: bool) -> bool:
        holders = [holder for key in keys for holder in self.bound.get(key, ())]
        return not holders or (reuse_port and all(holder.reuse_port for holder in holders))

    def unbind(self, transport: SimulatedTransport) -> None:
        """Forget a socket that has closed."""
        for key in self._transports.pop(transport):
            holders = self.bound[key]
            holders.remove(transport)
            if not holders:
                del self.bound[key]
        self.network.changed()

    def listeners(
        self, group: str, port: int, source: str | None = None
    ) -> list[SimulatedTransport]:
        """Return the sockets that get what is sent to a group, or with "" to all by broadcast.

        With `source` what that host sends; without, what anybody does.
        """
        return [
            transport
            for transport in self._transports
            if transport.port == port and transport.hears(group, source)
        ]

    # Programs, and what happens to machines

    def run(self, program: Callable[[], Coroutine[Any, Any, _ResultT]]) -> asyncio.Task[_ResultT]:
        """Run a coroutine function as a program of this host: `crash` cancels it.

        A program that raises ends the simulation (it goes to the loop's exception handler).
        """
        task = asyncio.get_running_loop().create_task(
            program(), name=f"{self.name}: {getattr(program, '__name__', 'program')}"
        )
        self._programs[task] = program
        task.add_done_callback(self._program_ended)
        return task

    def _program_ended(self, task: asyncio.Task[Any]) -> None:
        self._programs.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            context = {"message": f"a program of {self.name} failed", "exception": error}
            task.get_loop().call_exception_handler(context | {"task": task})

    def crash(self) -> None:
        """Lose all state at once: sockets and the programs of `run`. Nobody is told.

        Protocols here get `connection_lost` with an error. What the host has sent still arrives;
        what arrives until `restart` is dropped. Does nothing on a host that is down.
        """
        if self.is_down:
            return
        self.is_down = True
        self.network.note(f"{self.name}: crash")
        for transport in self.transports:
            transport.end(_error(errno.ENETDOWN))
        for task, program in [*self._programs.items()]:
            del self._programs[task]
            self._crashed_programs.append(program)
            task.cancel()

    def restart(self) -> list[asyncio.Task[Any]]:
        """Come up again, and start anew the programs that the crash has ended.

        Raises `RuntimeError` on a host that has not crashed.
        """
        if not self.is_down:
            raise RuntimeError(f"{self.name} is not down")
        self.is_down = False
        self.is_paused = False
        self.network.note(f"{self.name}: restart")
        programs, self._crashed_programs = self._crashed_programs, []
        return [self.run(program) for program in programs]

    def pause(self) -> None:
        """Stop reading: what arrives waits in receive buffers, as with a program that is busy."""
        self.is_paused = True
        self.network.note(f"{self.name}: pause")

    def resume(self) -> None:
        """Undo `pause`."""
        self.is_paused = False
        self.network.note(f"{self.name}: resume")
        for transport in self._transports:
            transport.schedule_reading()

    # The clock

    def time(self) -> float:
        """Return what this host takes for the Unix time, in seconds. All start alike.

        It is for programs under test that read a wall clock; the loop's `time()` is not affected.
        """
        return self._clock_base + (self.network.now() - self._clock_set_at) * self._clock_rate

    def step_clock(self, seconds: float) -> None:
        """Put the clock forward, or back if negative."""
        self._set_clock(self.time() + seconds)
        self.network.note(f"{self.name}: clock stepped by {seconds:g} s")

    def skew_clock(self, parts_per_million: float) -> None:
        """Let the clock run fast by so much from now on, or slow if negative."""
        self._set_clock(self.time())
        self._clock_rate = 1.0 + parts_per_million / 1e6
        self.network.note(f"{self.name}: clock runs {parts_per_million:+g} ppm")

    def _set_clock(self, unix_time: float) -> None:
        self._clock_base = unix_time
        self._clock_set_at = self.network.now()


def _checked_peer(peer: Address | None, ip: str) -> Address | None:
    if peer is None:
        return None
    checked = checked_socket_address(peer)
    if (":" in checked[0]) != (":" in ip):
        raise InvalidAddress(f"a socket at {ip} cannot connect to {checked[0]}")
    return socket_address(str(ipaddress.ip_address(checked[0].partition("%")[0])), checked[1])


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
