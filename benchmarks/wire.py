"""A bad wire between two network namespaces, for all of IP: TCP meets the same faults. Needs root.

Two TUN devices and one process that passes packets on as `aerogram.lab.link` plans. The ends have
the addresses `NEAR` and `FAR`; leaving the block removes everything that it made.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import struct
import sys
import threading
from random import Random
from select import select
from time import monotonic
from typing import Final, Self

from aerogram.lab.link import Link, LinkState
from benchmarks.namespaces import remove_leftovers, run

NEAR: Final = "10.98.0.1"
FAR: Final = "10.98.0.2"
_SET_INTERFACE: Final = 0x400454CA
_TUN_WITHOUT_HEADER: Final = 0x1001
_PACKET_BYTES: Final = 65536
_LOOK_SECONDS: Final = 0.01


class BadWire:
    """Two namespaces, `near` and `far`, joined by a link in each direction."""

    def __init__(self, link: Link, seed: int) -> None:
        prefix = f"aw{os.getpid()}"
        self.near, self.far = f"{prefix}n", f"{prefix}f"
        self.packets = 0
        self.lost = 0
        self._links = [LinkState(link, Random(f"{seed} {way}"), header_bytes=0) for way in "nf"]
        self._tuns: list[int] = []
        self._made: list[str] = []
        self._stop = threading.Event()
        self._forwarding = threading.Thread(target=self._forward, daemon=True)

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        self._forwarding.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._forwarding.join()
        self._remove()

    def _make(self) -> None:
        remove_leftovers()
        for name, address in ((self.near, NEAR), (self.far, FAR)):
            run("ip", "netns", "add", name)
            self._made.append(name)
            self._tuns.append(_tun(f"{name}t"))
            run("ip", "link", "set", f"{name}t", "netns", name)
            inside = ("ip", "-n", name)
            run(*inside, "link", "set", "lo", "up")
            run(*inside, "addr", "add", f"{address}/24", "dev", f"{name}t")
            run(*inside, "link", "set", f"{name}t", "up", "mtu", "1500", "txqueuelen", "4000")

    def _remove(self) -> None:
        for tun in self._tuns:
            os.close(tun)
        self._tuns.clear()
        while self._made:
            run("ip", "netns", "del", self._made.pop(), check=False)

    def command(self, namespace: str, *arguments: str) -> list[str]:
        """How a module of Python is run inside."""
        return ["ip", "netns", "exec", namespace, sys.executable, "-m", *arguments]

    def _forward(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        near, far = self._tuns
        other = {near: far, far: near}
        links = dict(zip(self._tuns, self._links, strict=True))
        while not self._stop.is_set():
            pause = _LOOK_SECONDS
            if waiting:
                pause = min(max(waiting[0][0] - monotonic(), 0.0), pause)
            for tun in select(self._tuns, [], [], pause)[0]:
                packet = os.read(tun, _PACKET_BYTES)
                if packet[0] >> 4 != 4:
                    continue  # the kernel's own IPv6 chatter
                self.packets += 1
                for copy in links[tun].plan(packet, monotonic()):
                    if copy.fate == "dropped":
                        self.lost += 1
                        continue
                    heapq.heappush(waiting, (copy.at, self.packets, other[tun], copy.data))
            while waiting and waiting[0][0] <= monotonic():
                _, _, tun, packet = heapq.heappop(waiting)
                os.write(tun, packet)


def _tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    settings = struct.pack("16sH22s", name.encode(), _TUN_WITHOUT_HEADER, b"")
    fcntl.ioctl(descriptor, _SET_INTERFACE, settings)
    return descriptor
