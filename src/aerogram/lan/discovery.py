"""Servers that are found by name on the local network: DNS-SD over multicast DNS.

A server is announced as `_aerogram._udp` with its port, addresses and public key, so that
`connect(service)` checks who answers: whoever can spoof multicast DNS can hide a server or offer
its own, but not pass for one whose key is known. Any DNS-SD browser sees these services.

Rules: this is `zeroconf` and no protocol of ours (`pip install "aerogram[discovery]"`); a service
is shown once however many interfaces it is heard on; what a flood of announcements can make us keep
is bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aerogram.address import (
    ServerAddress,
    decode_key,
    encode_key,
    parse_server_address,
)
from aerogram.errors import AerogramError, InvalidAddress
from aerogram.io.interfaces import interfaces as system_interfaces

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    from aerogram.server import Server

SERVICE_TYPE: Final = "_aerogram._udp.local."
NAME_BYTES_LIMIT: Final = 63
"""RFC 6763 §4.1.1: an instance name is one DNS label."""
NUMBER_BYTES: Final = 6
"""Of it, for the number of a name that is taken: as `-12345`."""
PROPERTY_BYTES_LIMIT: Final = 1024
"""All properties together; RFC 6763 §6.2 asks for few."""
SERVICES_LIMIT: Final = 1024
"""Services that a browser remembers; further ones are not shown."""
RESOLVE_SECONDS: Final = 3.0
OWN_PROPERTIES: Final = frozenset({"k", "v"})
"""The server's key and the version of this record."""
RECORD_VERSION: Final = "1"


class DiscoveryUnavailable(AerogramError, ImportError):
    """The package `zeroconf` is not installed."""


@dataclass(frozen=True, slots=True)
class Service:
    """A server that was found. `connect(service)` connects to it, and to no other."""

    name: str
    server_addresses: tuple[ServerAddress, ...]
    """Where it is, the likeliest first; each carries the server's key if it has one."""
    properties: Mapping[str, str] = field(default_factory=dict[str, str])
    is_gone: bool = False
    """True if it has just said goodbye, or has not been heard for its time to live."""

    @property
    def address(self) -> str:
        """The likeliest address: `aerogram://host:port/#k=<server key>`."""
        if not self.server_addresses:
            raise InvalidAddress(f"{self.name} has no address")
        return str(self.server_addresses[0])


@asynccontextmanager
async def announce(
    server: Server,
    name: str,
    properties: Mapping[str, str] | None = None,
    *,
    interfaces: Iterable[str] | None = None,
) -> AsyncGenerator[None]:
    """Let others find a server under a name while the context lasts.

    `properties` are short texts that browsers are shown before they connect. `interfaces` are
    addresses of interfaces to announce on (default: all). A name that is taken gets a number, for
    which a long one is cut off.
    Raises `ValueError` for a name or properties that are too long, or `DiscoveryUnavailable`.
    """
    described = dict(properties or {})
    _check(name, described)
    here = parse_server_address(server.address)
    described["v"] = RECORD_VERSION
    if here.key is not None:
        described["k"] = encode_key(here.key)
    hosts = _hosts_of(server)
    async with _zeroconf(interfaces) as zeroconf:
        registry: Any = zeroconf  # its types are incomplete
        info = await _register(
            registry,
            _service_info(name, here.port, hosts, described),
            _service_info(_with_room_for_number(name), here.port, hosts, described),
        )
        try:
            yield
        finally:
            await (await registry.async_unregister_service(info))


async def _register(
    registry: Any, wanted: AsyncServiceInfo, shorter: AsyncServiceInfo
) -> AsyncServiceInfo:
    """Return which of them was registered: the shorter one if the other is taken and too long."""
    from zeroconf import BadTypeInNameException  # noqa: PLC0415

    try:
        await registry.async_register_service(wanted, allow_name_change=True)
    except BadTypeInNameException:
        await registry.async_register_service(shorter, allow_name_change=True)
        return shorter
    return wanted


def _with_room_for_number(name: str) -> str:
    return name.encode()[: NAME_BYTES_LIMIT - NUMBER_BYTES].decode(errors="ignore")


def _check(name: str, properties: Mapping[str, str]) -> None:
    if not 0 < len(name.encode()) <= NAME_BYTES_LIMIT or "." in name:
        raise ValueError(f"a name has 1 to {NAME_BYTES_LIMIT} bytes and no dot, not {name!r}")
    size = 0
    for key, value in properties.items():
        if not key or "=" in key or not key.isascii() or key in OWN_PROPERTIES:
            raise ValueError(f"a property is not called {key!r}")
        size += len(key) + len(value.encode()) + 2
        if len(key) + len(value.encode()) + 1 > 255:
            raise ValueError(f"property {key!r} is too long")
    if size > PROPERTY_BYTES_LIMIT:
        raise ValueError(f"properties have {size} bytes, at most {PROPERTY_BYTES_LIMIT} fit")


def _hosts_of(server: Server) -> list[str]:
    """The addresses that others reach this server at."""
    host = server.local_address[0].partition("%")[0]
    bound = ipaddress.ip_address(host)
    if not bound.is_unspecified:
        return [host]
    return [
        address.host
        for interface in system_interfaces()
        if interface.is_up and not interface.is_loopback
        for address in interface.addresses
        if address.is_ipv4 == (bound.version == 4)
    ] or ["127.0.0.1" if bound.version == 4 else "::1"]


def _service_info(
    name: str, port: int, hosts: list[str], properties: dict[str, str]
) -> AsyncServiceInfo:
    from zeroconf.asyncio import AsyncServiceInfo  # noqa: PLC0415

    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{name}.{SERVICE_TYPE}",
        port=port,
        properties=dict(properties),
        parsed_addresses=hosts,
        server=f"{name.encode().hex()[:40]}-{port}.local.",
    )


async def browse(
    *, interfaces: Iterable[str] | None = None, with_gone: bool = False
) -> AsyncIterator[Service]:
    """Iterate over services as they are found, and again when what they say changes.

    It does not end by itself: leave the loop, or bound it with `asyncio.timeout`. `with_gone` also
    shows those that have gone. Raises `DiscoveryUnavailable`.
    """
    async with _zeroconf(interfaces) as zeroconf:
        browser = _Browser(zeroconf.zeroconf)
        await browser.start()
        try:
            while True:
                service = await browser.next()
                if with_gone or not service.is_gone:
                    yield service
        finally:
            await browser.stop()


class _Browser:
    """Turns zeroconf's callbacks into services, each change shown once."""

    def __init__(self, zeroconf: Zeroconf) -> None:
        self._zeroconf = zeroconf
        self._known: dict[str, Service] = {}
        self._changed: dict[str, Service] = {}
        """What has not been shown yet, oldest first: of each name only how it is now."""
        self._has_changed = asyncio.Event()
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._browser: Any = None

    async def start(self) -> None:
        from zeroconf.asyncio import AsyncServiceBrowser  # noqa: PLC0415

        self._browser = AsyncServiceBrowser(
            self._zeroconf, SERVICE_TYPE, handlers=[self._on_change]
        )

    async def stop(self) -> None:
        await self._browser.async_cancel()
        for task in self._resolving.values():
            task.cancel()
        await asyncio.gather(*self._resolving.values(), return_exceptions=True)

    async def next(self) -> Service:
        while not self._changed:
            self._has_changed.clear()
            await self._has_changed.wait()
        return self._changed.pop(next(iter(self._changed)))

    def _show(self, name: str, service: Service) -> None:
        if name not in self._changed and len(self._changed) >= SERVICES_LIMIT:
            return  # nobody looks, and somebody makes up names
        self._changed[name] = service
        self._has_changed.set()

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change.name == "Removed":
            known = self._known.pop(name, None)
            if known is not None:
                gone = Service(known.name, known.server_addresses, known.properties, is_gone=True)
                self._show(name, gone)
            return
        if name in self._resolving or len(self._resolving) + len(self._known) >= SERVICES_LIMIT:
            return
        self._resolving[name] = asyncio.get_running_loop().create_task(self._resolve(name))

    async def _resolve(self, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo  # noqa: PLC0415

        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if not await info.async_request(self._zeroconf, RESOLVE_SECONDS * 1000):
                return
            service = service_of(info)
            if service is not None and service != self._known.get(name):
                self._known[name] = service
                self._show(name, service)
        finally:
            del self._resolving[name]


def service_of(info: AsyncServiceInfo) -> Service | None:
    """What a record says, or None for one that no server of ours has made."""
    if info.port is None:
        return None
    texts = {
        key.decode("utf-8", "replace"): (value or b"").decode("utf-8", "replace")
        for key, value in info.properties.items()
    }
    try:
        key = decode_key(texts["k"]) if "k" in texts else None
        hosts = sorted(info.parsed_scoped_addresses(), key=_distance)
        addresses = tuple(ServerAddress(host, info.port, key) for host in hosts)
    except (InvalidAddress, ValueError):
        return None
    properties = {name: text for name, text in texts.items() if name not in OWN_PROPERTIES}
    return Service(info.name.removesuffix("." + SERVICE_TYPE), addresses, properties)


def _distance(host: str) -> tuple[bool, bool]:
    """Hosts in a network of this machine before others, IPv4 before IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    near = any(
        address in ipaddress.ip_network(f"{own.host}/{own.prefix_length}", strict=False)
        for interface in system_interfaces()
        for own in interface.addresses
        if own.is_ipv4 == (address.version == 4)
    )
    return not near, address.version == 6


@asynccontextmanager
async def _zeroconf(interfaces: Iterable[str] | None) -> AsyncGenerator[AsyncZeroconf]:
    try:
        from zeroconf import InterfaceChoice, IPVersion  # noqa: PLC0415
        from zeroconf.asyncio import AsyncZeroconf  # noqa: PLC0415
    except ImportError as error:
        raise DiscoveryUnavailable(
            'discovery needs zeroconf: pip install "aerogram[discovery]"'
        ) from error
    chosen = list(interfaces) if interfaces is not None else None
    only_ipv4 = chosen is not None and all(":" not in host for host in chosen)
    zeroconf = AsyncZeroconf(
        interfaces=InterfaceChoice.All if chosen is None else chosen,
        ip_version=IPVersion.V4Only if only_ipv4 else IPVersion.All,
    )
    try:
        yield zeroconf
    finally:
        await zeroconf.async_close()
