"""Checks what ran on simulated networks: drops that nobody planned, ledgers, servers left open.

An `Audit` looks at every network that is made, and every socket that is opened, while it is
entered; afterwards it reads the counters that the product keeps anyway, so that no product code
knows of it. Rules: it changes nothing; what links, NATs, partitions and crashes do is planned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from aerogram.io.protocol import PacketProtocol
from aerogram.io.transportlink import TransportLink
from aerogram.lab.faults import CORRUPTION, COUNTERS, DROPS, checked_faults
from aerogram.lab.loop import VirtualLoop
from aerogram.lab.network import WATCHERS, Network
from aerogram.lab.transport import SimulatedTransport
from aerogram.manager import SessionManager

_FINDINGS_LIMIT: Final = 50
"""A thousand clients that fail alike are not all worth a line."""


class Finding(NamedTuple):
    """A fault that was not expected."""

    fault: str
    """Its name in `aerogram.lab.faults.FAULTS`."""
    text: str
    """How often and where."""

    def __str__(self) -> str:
        return f"{self.fault}: {self.text}"


class Audit:
    """What is wrong with the networks that were made while it was `watching`.

    `expected` are names of faults that are none on any of these networks; each network has more of
    its own, by `Network.expect`. Raises `ValueError` for a name that is not there.
    """

    def __init__(self, expected: Iterable[str] = ()) -> None:
        self.networks: list[Network] = []
        self._sockets: list[SimulatedTransport] = []
        self._expected = frozenset(checked_faults(expected))

    @contextmanager
    def watching(self) -> Generator[None]:
        """Take in what is made for as long as the context lasts."""
        WATCHERS.append(self)
        try:
            yield
        finally:
            WATCHERS.remove(self)

    def network_made(self, network: Network) -> None:
        """As `aerogram.lab.network.Watcher` says."""
        self.networks.append(network)

    def socket_opened(self, transport: SimulatedTransport) -> None:
        """As `aerogram.lab.network.Watcher` says. A reference keeps its counters from going."""
        self._sockets.append(transport)

    def expects(self, fault: str) -> bool:
        """Whether it was said that a fault is none, on any network."""
        return fault in self._expected or any(fault in n.expected for n in self.networks)

    @property
    def findings(self) -> list[Finding]:
        """What was found, the first of each network first."""
        found = [
            finding
            for network in self.networks
            for finding in self._look_at(network)
            if finding.fault not in self._expected | network.expected
        ]
        more = len(found) - _FINDINGS_LIMIT
        if more <= 0:
            return found
        return [*found[:_FINDINGS_LIMIT], Finding("more", f"{more} findings")]

    def _look_at(self, network: Network) -> Iterator[Finding]:
        for reason in DROPS:
            count = network.trace.dropped.get(reason, 0)
            if count:
                yield Finding(reason, f"{count} dropped by the network")
        corrupts = "corrupt" in network.trace.remarks
        for transport in self._sockets:
            if transport.host.network is network:
                for finding in _look_at(transport):
                    if not (corrupts and finding.fault in CORRUPTION):
                        yield finding


def _look_at(transport: SimulatedTransport) -> Iterator[Finding]:
    protocol = transport.get_protocol()
    where = f"at {transport.host.name}, {transport.ip} port {transport.port}"
    for fault, count in _count_faults(_counters(protocol)).items():
        yield Finding(fault, f"{count} {where}")
    if isinstance(protocol, PacketProtocol | TransportLink) and _is_left_open(transport):
        yield Finding("left over", f"the socket {where} was never closed")
    manager = _manager(protocol)
    if manager is not None:
        for text in _unbalanced(manager):
            yield Finding("ledger", f"{text} {where}")


def _counters(protocol: asyncio.BaseProtocol) -> Iterator[Any]:
    """Return all that counts something for a socket: protocols of the product have `stats`."""
    yield getattr(protocol, "stats", None)
    manager = _manager(protocol)
    if manager is not None:
        yield manager
        yield manager.endpoint.stats
        yield manager.ended
        for session in manager.sessions:
            yield session.connection.stats


def _manager(protocol: asyncio.BaseProtocol) -> SessionManager | None:
    receiver = protocol.receiver if isinstance(protocol, PacketProtocol) else None
    return receiver if isinstance(receiver, SessionManager) else None


def _count_faults(counters: Iterable[Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for counter in counters:
        for name, fault in COUNTERS.items():
            count = getattr(counter, name, 0)
            if count:
                counts[fault] = counts.get(fault, 0) + count
    return counts


def _is_left_open(transport: SimulatedTransport) -> bool:
    """Whether a simulation has ended with the socket open; a loop in real time may go on."""
    loop = transport.host.network.transit.loop
    return isinstance(loop, VirtualLoop) and loop.is_closed() and not transport.is_closing()


def _unbalanced(manager: SessionManager) -> Iterator[str]:
    for imbalance in manager.ended.imbalances:
        yield f"{imbalance} of the sessions that are gone"
    for session in manager.sessions:
        for imbalance in session.stats.imbalances:
            yield f"{imbalance} with {session.address}"
