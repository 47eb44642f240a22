"""`Network`: many simulated hosts, the links between them, and all that can go wrong.

It takes the place of the real network in `serve(..., network=network)` and `connect(...)`, which
know nothing of it. Used directly, a name is a host of that name and a client gets a host of its
own; `Network.host` gives machines to hold on to. Rules: the event loop's clock is the only time, so
it works in real time too; the seed decides everything else; each datagram that was sent ends in the
trace, delivered or dropped for a reason:
`sent + duplicated == delivered + dropped + in flight + held`.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import random
from collections.abc import Callable, Iterable
from typing import Final, Protocol, Unpack

from aerogram.errors import InvalidAddress
from aerogram.io.network import TransportAndProtocol
from aerogram.io.sockets import Address, checked_address, is_numeric
from aerogram.lab.addresses import AddressBook, parse_ipv4, parse_ipv6
from aerogram.lab.faults import checked_faults
from aerogram.lab.host import EndpointOptions, Host
from aerogram.lab.link import Link
from aerogram.lab.loop import VirtualLoop
from aerogram.lab.nat import MAPPING_TIMEOUT_SECONDS, Nat
from aerogram.lab.paths import Direction, Pair, Topology
from aerogram.lab.routing import LOOPBACK, socket_address
from aerogram.lab.trace import ENTRIES_LIMIT, Trace
from aerogram.lab.transit import Held, Transit
from aerogram.lab.transport import SimulatedTransport

Node = Host | Nat
Where = str | Node | Iterable[str | Node]
"""A host or NAT, its name, or several."""


class Watcher(Protocol):
    """Is told of what is made while it is in `WATCHERS`, as by a test that checks it all."""

    def network_made(self, network: Network) -> None:
        """Know of a network before anything is in it."""

    def socket_opened(self, transport: SimulatedTransport) -> None:
        """Know of a socket of a host of any network."""


WATCHERS: Final[list[Watcher]] = []

_PERFECT: Final = Link()
_LOCALHOST: Final = "localhost"
_PAIRS_NAMED: Final = 4


class Network:
    """A simulated network in which a seed replays everything.

    `link` joins all hosts that have no link of their own; `default` changes it. Without `seed` it
    is that of the simulation that runs, or 0. `trace` says what became of each datagram;
    `keep_packets` lets it write captures.
    """

    def __init__(
        self,
        seed: int | None = None,
        link: Link = _PERFECT,
        *,
        trace_entries: int = ENTRIES_LIMIT,
        keep_packets: bool = False,
    ) -> None:
        self.seed = _current_seed() if seed is None else seed
        self.trace = Trace(entries_limit=trace_entries, keep_packets=keep_packets)
        self.generation = 0
        """Counts what may change the ways that datagrams take."""
        self._topology: Topology[Held] = Topology(self.seed, link)
        self.transit = Transit(self._topology, self.trace)
        self._random = random.Random(f"{self.seed} bytes")
        self._nodes: dict[str, Node] = {}
        self._by_ip: dict[str, Node] = {}
        self._addresses = AddressBook()
        self._guests = 0
        self._nats = 0
        self.expected: set[str] = set()
        """Faults that `expect` has named."""
        for watcher in WATCHERS:
            watcher.network_made(self)

    def __repr__(self) -> str:
        return f"<Network seed={self.seed} {len(self._nodes)} hosts, {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """Copies on their way."""
        return self.transit.in_flight

    @property
    def held(self) -> int:
        """Datagrams that wait for `release`."""
        return self.transit.held

    # The place where a program meets the network

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of the host of that name, made on first use.

        A numeric host is returned as it is. Raises `InvalidAddress`.
        """
        checked_address(host, port, to_bind=True)
        if is_numeric(host):
            return [socket_address(host, port)]
        return [socket_address(ip, port) for ip in self.host(host).resolves_to]

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        *,
        local_address: Address,
        **options: Unpack[EndpointOptions],
    ) -> TransportAndProtocol:
        """Return a socket at the host that has the local address, made on first use.

        With no address and no port, it gets a host of its own, named client-1 and so on; with no
        address but a port it is `localhost`. For the rest see `Host.create_datagram_endpoint`.
        """
        host = self._host_to_bind(local_address)
        return await host.create_datagram_endpoint(
            protocol_factory, local_address=local_address, **options
        )

    def random_bytes(self, count: int) -> bytes:
        """Return bytes that the seed decides."""
        return self._random.randbytes(count)

    def _host_to_bind(self, local_address: Address) -> Host:
        address, port = checked_address(local_address[0], local_address[1], to_bind=True)
        if not is_numeric(address):
            raise InvalidAddress(f"not a numeric host: {address!r}; resolve it first")
        ip = ipaddress.ip_address(address.partition("%")[0])
        if ip.is_loopback or (ip.is_unspecified and port):
            return self.host(_LOCALHOST)
        if ip.is_unspecified or ip.is_multicast:
            return self._next_guest()
        node = self._by_ip.get(str(ip))
        if isinstance(node, Nat):
            raise OSError(errno.EADDRNOTAVAIL, f"{ip} is the address of {node.name}")
        return node or self.host(str(ip), address=str(ip))

    def _next_guest(self) -> Host:
        self._guests += 1
        host = self.host(f"client-{self._guests}")
        host.is_guest = True
        return host

    # Hosts and NATs

    def host(self, name: str, *, address: str | None = None, ipv6: str | None = None) -> Host:
        """Return the host of that name, made on first use.

        `address` is its IPv4 address, or its IPv6 address if it looks like one; `ipv6` is for a
        host of which both are told. "192.168.1.5/24" also tells the subnet, which broadcasts reach.
        What is not told is given: 10.0.0.1 and fd00::1 and so on. The name resolves to what is
        told, or to the IPv4 address. Raises `InvalidAddress`, `ValueError` if the address, or the
        name with other addresses, is taken.
        """
        node = self._nodes.get(name)
        if isinstance(node, Host) and address is None and ipv6 is None:
            return node
        if node is not None:
            raise ValueError(f"there is a host or NAT named {name} already")
        checked_address(name, 0, to_bind=True)
        if address is not None and ":" in address:
            address, ipv6 = None, ipv6 or address
        told = [text.partition("/")[0] for text in (address, ipv6) if text is not None]
        if name == _LOCALHOST:
            address, ipv6 = LOOPBACK[4], LOOPBACK[6]
        subnet = parse_ipv4(address) if address else self._addresses.next_ipv4(self._by_ip)
        subnet6 = parse_ipv6(ipv6) if ipv6 else self._addresses.next_ipv6(self._by_ip)
        own = [str(subnet.ip), str(subnet6.ip)]
        resolves_to = [ip for ip in own if ip in told] or own[:1]
        host = Host(self, name, subnet, subnet6, resolves_to=resolves_to)
        self._add(host, host.ipv4, host.ipv6)
        return host

    @property
    def hosts(self) -> list[Host]:
        """All hosts, oldest first."""
        return [node for node in self._nodes.values() if isinstance(node, Host)]

    @property
    def transports(self) -> list[SimulatedTransport]:
        """All sockets that are open."""
        return [transport for host in self.hosts for transport in host.transports]

    def nat(
        self,
        inside: Where,
        *,
        address: str | None = None,
        mapping_timeout: float = MAPPING_TIMEOUT_SECONDS,
    ) -> Nat:
        """Put hosts behind a NAT with an outside IPv4 address, and return it.

        Raises `ValueError` if one is behind a NAT already, or the address is taken.
        """
        hosts = [node for node in self._nodes_at(inside) if isinstance(node, Host)]
        if any(host.nat is not None for host in hosts):
            raise ValueError("a host is behind one NAT at most")
        self._nats += 1
        name = f"nat-{self._nats}"
        outside = self._outside_address(address)
        nat = Nat(name, outside, mapping_timeout=mapping_timeout, move=self._move, note=self.note)
        self._add(nat, outside)
        for host in hosts:
            host.nat = nat
        self.changed()
        return nat

    def find_host(self, name: str) -> Host | None:
        """Return the host of that name, if there is one."""
        node = self._nodes.get(name)
        return node if isinstance(node, Host) else None

    def node_at(self, ip: str) -> Node | None:
        """Return who has an address."""
        return self._by_ip.get(ip)

    def neighbours(self, host: Host, version: int) -> list[Host]:
        """Return the hosts that a broadcast or a group of an IP version reaches from a host."""
        subnet = host.subnets[version]
        return [h for h in self.hosts if h.nat is host.nat and h.subnets[version] == subnet]

    def _add(self, node: Node, *addresses: str) -> None:
        for ip in addresses:
            if ip in self._by_ip:
                raise ValueError(f"{ip} is the address of {self._by_ip[ip].name}")
        self._nodes[node.name] = node
        self._by_ip.update(dict.fromkeys(addresses, node))
        self.changed()

    def _outside_address(self, wanted: str | None) -> str:
        if wanted is None:
            return self._addresses.next_nat(self._by_ip)
        ip = str(parse_ipv4(wanted).ip)
        if ip in self._by_ip:
            raise ValueError(f"{ip} is the address of {self._by_ip[ip].name}")
        return ip

    def _move(self, nat: Nat, wanted: str | None) -> str:
        """Give a NAT another address."""
        address = self._outside_address(wanted)
        del self._by_ip[nat.address]
        self._by_ip[address] = nat
        self.changed()
        return address

    def _nodes_at(self, where: Where) -> list[Node]:
        if isinstance(where, Host | Nat):
            return [where]
        if isinstance(where, str):
            return [self._nodes.get(where) or self.host(where)]
        return [node for each in where for node in self._nodes_at(each)]

    # Links, and what stops datagrams

    @property
    def default(self) -> Link:
        """The link of all hosts that have none of their own; may be changed at any time."""
        return self._topology.default

    @default.setter
    def default(self, link: Link) -> None:
        self._topology.default = link
        self.note(f"default link: {link}")

    def link(
        self,
        a: Where,
        b: Where | None,
        link: Link,
        *,
        both_ways: bool = True,
        shared: bool = False,
    ) -> None:
        """Join `a` and `b`, each pair of them, by a link; `both_ways=False` is from `a` to `b`.

        `b=None` is everybody, also who comes later. With `shared` all pairs of a way go through one
        link and compete for its rate. A link between two hosts goes before one to everybody. May be
        called again at any time; what is on its way still arrives.
        """
        for pairs in [self._pairs(a, b), self._pairs(b, a)][: 1 + both_ways]:
            self._topology.set_link(pairs, link, shared=shared)
        self.note(f"link {_text(self._ways(a, b, both_ways=both_ways))}: {link}")

    def partition(self, a: Where, b: Where | None = None, *, both_ways: bool = True) -> None:
        """Let nothing pass between `a` and `b`, or from `a` to `b`; None is everybody.

        What is on its way still arrives.
        """
        ways = self._ways(a, b, both_ways=both_ways)
        self._topology.cut(ways)
        self.note(f"partition {_text(ways)}")

    def repair(self, a: Where | None = None, b: Where | None = None) -> None:
        """Undo partitions: between `a` and `b`, of `a` with whomever, or all.

        A partition from everybody is undone as a whole.
        """
        ways = self._ways(a, b, both_ways=True)
        self._topology.mend(ways)
        self.note(f"repair {_text(ways)}")

    def hold(self, a: Where, b: Where | None = None, *, both_ways: bool = True) -> None:
        """Let datagrams wait, as `partition` would drop them."""
        ways = self._ways(a, b, both_ways=both_ways)
        self._topology.hold(ways)
        self.note(f"hold {_text(ways)}")

    def release(self, a: Where | None = None, b: Where | None = None) -> None:
        """Let go what was held, as `repair` undoes partitions; the links then do their work."""
        ways = self._ways(a, b, both_ways=True)
        self.note(f"release {_text(ways)}")
        self.transit.release(self._topology.release(ways))

    def note(self, text: str) -> None:
        """Write something that happened into the trace."""
        self.trace.note(self.now(), text)

    def _ways(self, a: Where | None, b: Where | None, *, both_ways: bool) -> list[Pair]:
        return self._pairs(a, b) + (self._pairs(b, a) if both_ways else [])

    def _pairs(self, a: Where | None, b: Where | None) -> list[Pair]:
        sources, targets = (
            [None] if where is None else [node.name for node in self._nodes_at(where)]
            for where in (a, b)
        )
        return [(s, t) for s in sources for t in targets if s != t or s is None]

    def direction(self, source: Node, target: Node) -> Direction[Held]:
        """Return the way from one host to another."""
        return self._topology.direction(source.name, target.name)

    def changed(self) -> None:
        """Let sockets find their ways anew."""
        self.generation += 1

    # Those who look on

    def expect(self, *faults: str) -> None:
        """Let a test pass in spite of these: names of `aerogram.lab.faults.FAULTS`.

        Raises `ValueError` for a name that is not there.
        """
        self.expected.update(checked_faults(faults))

    def opened(self, transport: SimulatedTransport) -> None:
        """Take in a socket that a host has opened."""
        self.changed()
        for watcher in WATCHERS:
            watcher.socket_opened(transport)

    # Time

    def attach(self) -> None:
        """Take the running event loop's time. Raises `RuntimeError` if another one has it."""
        self.transit.attach()

    def now(self) -> float:
        """Return the event loop's time, or 0 before there is one."""
        loop = self.transit.loop or _running_loop()
        return 0.0 if loop is None else loop.time()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _current_seed() -> int:
    loop = _running_loop()
    seed = loop.seed if isinstance(loop, VirtualLoop) else None
    return seed or 0


def _text(pairs: Iterable[Pair]) -> str:
    """Name some pairs; the rest would only make the line long."""
    names = [f"{source or '*'} > {target or '*'}" for source, target in pairs]
    more = len(names) - _PAIRS_NAMED
    return ", ".join(names if more <= 0 else [*names[:_PAIRS_NAMED], f"{more} more"])
