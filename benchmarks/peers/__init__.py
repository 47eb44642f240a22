"""The peers: each module has `run_receiver(control, work)` and `run_sender(control, work)`."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from benchmarks.control import Control
from benchmarks.work import Work


class Runner(Protocol):
    """What a peer's module offers."""

    def run_receiver(self, control: Control, work: Work) -> Awaitable[None]:
        """Listen on loopback, tell the address, count or echo what comes."""

    def run_sender(self, control: Control, work: Work) -> Awaitable[None]:
        """Hear the address, connect, send the load."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to move messages."""

    module: str
    loop: str
    """`asyncio` or `uvloop`."""

    requires: tuple[str, ...]
    """Packages without which the peer is shown as not installed."""

    promises: str
    """What it does for a message."""

    def runner(self) -> Runner:
        return cast("Runner", import_module(f"benchmarks.peers.{self.module}"))

    @property
    def is_installed(self) -> bool:
        return all(find_spec(package) is not None for package in self.requires)


PEERS = {
    "aerogram": Peer(
        "aerogram_peer", "uvloop", ("aerogram", "uvloop"), "reliable, ordered, encrypted"
    ),
    "pyenet": Peer("enet_peer", "asyncio", ("enet",), "reliable, ordered"),
    "tcp-uvloop": Peer("tcp", "uvloop", ("uvloop",), "reliable, ordered"),
    "aioquic": Peer(
        "aioquic_peer", "uvloop", ("aioquic", "uvloop"), "reliable, ordered, encrypted"
    ),
    "udp-uvloop": Peer("udp", "uvloop", ("uvloop",), "nothing"),
    "udp-asyncio": Peer("udp", "asyncio", (), "nothing"),
}
