"""Sockets for groups: what a program binds to when others on its machine may do the same."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from aerogram.config import Config
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.multicast import InterfaceName, check_group
from aerogram.io.network import Network, SocketNetwork
from aerogram.io.opening import open_endpoint
from aerogram.io.sockets import Address, checked_address

LOCAL_NETWORK_TTL: Final = 1
"""What is sent stays on the local network, unless told otherwise."""


def checked_group(group: str, port: int) -> Address:
    """The address of a group. Raises `InvalidAddress`."""
    check_group(None, group, None)
    checked_address(group, port)
    return (group, port)


@asynccontextmanager
async def open_group(
    group: str,
    port: int,
    *,
    interface: InterfaceName | Iterable[InterfaceName] | None,
    send_by: InterfaceName | None = None,
    ttl: int = LOCAL_NETWORK_TTL,
    loop: bool = True,
    network: Network | None = None,
    config: Config | None = None,
) -> AsyncGenerator[DatagramEndpoint]:
    """Open an endpoint that receives what is sent to a group, and can send to it.

    Several programs of a machine may do so; each gets all. `loop` lets them hear each other.
    Raises `InvalidAddress`, `ValueError`, or `OSError`.
    """
    checked_group(group, port)
    simulated = simulated_only(network)
    endpoint = open_endpoint(
        _bind_host(group, simulated),
        port,
        network=simulated,
        config=config,
        reuse_port=hasattr(socket, "SO_REUSEPORT"),
        details=False,
    )
    async with endpoint as opened:
        opened.join(group, interface=interface)
        opened.set_multicast(interface=send_by, ttl=ttl, loop=loop)
        yield opened


def simulated_only(network: Network | None) -> Network | None:
    """What `open_endpoint` is given: its own sockets can do more than a plain network's."""
    return None if isinstance(network, SocketNetwork) else network


def _bind_host(group: str, network: Network | None) -> str:
    """The group itself where the system lets it: so nothing but the group's traffic arrives."""
    is_ipv4 = ":" not in group
    if network is not None or (is_ipv4 and sys.platform != "win32"):
        return group
    return "0.0.0.0" if is_ipv4 else "::"  # noqa: S104
