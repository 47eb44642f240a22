"""What the tests of connectionless endpoints share."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytest

from aerogram.config import Config
from aerogram.io.datagram import DatagramStats
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.opening import open_endpoint

HOST = "127.0.0.1"
PATIENCE = 10.0

Kind = Literal["auto", "asyncio"]
EVERY_TRANSPORT = pytest.mark.parametrize("kind", ["auto", "asyncio"])
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these control messages")


def opened(host: str | None = HOST, port: int = 0, *, kind: Kind = "auto", **how: Any) -> Any:
    """`open_endpoint` with the transport of this test."""
    limits = {name: how.pop(name) for name in [*how] if name.startswith("receive_queue")}
    return open_endpoint(host, port, config=Config(transport=kind, **limits), **how)


def balances(stats: DatagramStats) -> bool:
    """Whether every datagram that was received is in one counter."""
    dropped = stats.dropped_oldest + stats.dropped_newest + stats.dropped_at_close
    return stats.received == stats.handed_over + dropped + stats.queued


async def take(endpoint: DatagramEndpoint, count: int) -> list[bytes]:
    """The data of the next datagrams."""
    return [(await endpoint.receive(timeout=PATIENCE)).data for _ in range(count)]


async def until(true: Callable[[], object]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  nothing tells when
            await asyncio.sleep(0.001)


class RefusingSocket(socket.socket):
    """A bound UDP socket whose next sends end as the test says; the others reach the kernel."""

    def __init__(self, outcomes: Iterable[int] = ()) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.bind((HOST, 0))
        self.outcomes = deque(outcomes)
        self.sends = 0

    def _maybe_refuse(self) -> None:
        self.sends += 1
        number = self.outcomes.popleft() if self.outcomes else 0
        if number:
            raise OSError(number, os.strerror(number))

    def sendto(self, *arguments: Any) -> int:
        self._maybe_refuse()
        return super().sendto(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        self._maybe_refuse()
        return super().sendmsg(*arguments)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
