"""A network address translator: hosts behind it share one address and cannot be called first.

It maps each inside address and port to one port for all destinations, and lets in only whom that
inside address has sent to (RFC 4787: "endpoint-independent mapping", "address and port-dependent
filtering"). That is the strictest kind that peers behind it can live with. IPv6 is not translated.
Rules: no clock and no I/O; all tables are bounded; every refusal has a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aerogram.io.sockets import Address

if TYPE_CHECKING:
    from aerogram.lab.host import Host

MAPPING_TIMEOUT_SECONDS: Final = 120.0
"""RFC 4787 REQ-5: not less than two minutes. Many devices forget after 30 s."""

_FIRST_PORT: Final = 1024
_PORTS: Final = 65_536 - _FIRST_PORT
_PEERS_LIMIT: Final = 4096
"""Remote addresses that one mapping lets in; the oldest is forgotten."""


@dataclass(slots=True)
class _Mapping:
    """An inside address and port, and whom it has sent to."""

    inside: Host
    key: tuple[str, int]
    port: int
    expires_at: float
    peers: dict[tuple[str, int], None] = field(default_factory=dict[tuple[str, int], None])


class Nat:
    """A translator. `Network.nat` makes it.

    Only what is sent from inside keeps a mapping alive for `mapping_timeout` seconds (RFC 4787
    REQ-6 allows that, and it is the harder case).
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        mapping_timeout: float,
        move: Callable[[Nat, str | None], str],
        note: Callable[[str], None],
    ) -> None:
        self.name = name
        self.address = address
        """The outside IPv4 address."""
        self.mapping_timeout = mapping_timeout
        self.nat: Nat | None = None
        """The translator that this one is behind: there is none."""
        self._move = move
        self._note = note
        self._by_inside: dict[tuple[str, int], _Mapping] = {}
        self._by_port: dict[int, _Mapping] = {}
        self._ports_used = 0

    def __repr__(self) -> str:
        return f"<Nat {self.name} {self.address} {len(self._by_port)} mappings>"

    # Changing it

    def rebind_port(self) -> None:
        """Forget all mappings, as after a restart: each next datagram gets a new port."""
        self._forget()
        self._note(f"{self.name}: new ports")

    def rebind_address(self, address: str | None = None) -> None:
        """Get another outside address, and forget all mappings. Raises `ValueError` if taken."""
        self.address = self._move(self, address)
        self._forget()
        self._note(f"{self.name}: new address {self.address}")

    def _forget(self) -> None:
        self._by_inside.clear()
        self._by_port.clear()

    # Translating

    def outbound(self, inside: Host, source: Address, destination: Address, now: float) -> Address:
        """Return the outside address for what an inside host sends, and let answers in."""
        key = source[0], source[1]
        mapping = self._by_inside.get(key)
        if mapping is None or mapping.expires_at <= now:
            mapping = self._new_mapping(inside, key)
        mapping.expires_at = now + self.mapping_timeout
        mapping.peers[destination[0], destination[1]] = None
        if len(mapping.peers) > _PEERS_LIMIT:
            del mapping.peers[next(iter(mapping.peers))]
        return self.address, mapping.port

    def inbound(
        self, key: tuple[str, int], source: Address, now: float
    ) -> tuple[Host, tuple[str, int]] | str:
        """Return the host and its address for what came to an address, or why it is not let in."""
        address, port = key
        mapping = self._mapping_of(port, now)
        if mapping is None or address != self.address:
            return "nat: no mapping"
        if (source[0], source[1]) not in mapping.peers:
            return "nat: unsolicited"
        return mapping.inside, mapping.key

    def inside_host(self, port: int, now: float) -> Host | None:
        """Return the host that a port leads to now."""
        mapping = self._mapping_of(port, now)
        return None if mapping is None else mapping.inside

    def _mapping_of(self, port: int, now: float) -> _Mapping | None:
        mapping = self._by_port.get(port)
        return mapping if mapping is not None and mapping.expires_at > now else None

    def _new_mapping(self, inside: Host, key: tuple[str, int]) -> _Mapping:
        self._remove(self._by_inside.get(key))
        port = _FIRST_PORT + self._ports_used % _PORTS
        self._ports_used += 1
        # When the ports have gone round, whoever has held this one longest loses it.
        self._remove(self._by_port.get(port))
        mapping = _Mapping(inside, key, port, 0.0)
        self._by_inside[key] = self._by_port[port] = mapping
        return mapping

    def _remove(self, mapping: _Mapping | None) -> None:
        if mapping is not None:
            del self._by_inside[mapping.key]
            del self._by_port[mapping.port]
