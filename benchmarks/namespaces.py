"""Hosts on one Ethernet, made of network namespaces and a bridge of the kernel. Needs root.

Each host has the interface `e0`, the addresses 10.77.0.N and fe80::N, and a route for groups. Loss
is a filter in the kernel at the host's own ingress (`tc` with a BPF program that draws random
numbers), so each loses others, and nothing but multicast of IPv4. Leaving the block removes
everything that it made; what a killed process has left, the next one removes.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

HOSTS_LIMIT: Final = 250
GROUPS: Final = "239.0.0.0/8"
INTERFACE: Final = "e0"

NAMES: Final = Path("/run/netns")
_OURS: Final = re.compile(r"(?:ag|aw|aero)(\d+)(?:x\d+)?[a-z]\d*")
"""Names of namespaces with the process that made them: here, on a bad wire, in tests."""

_numbers = itertools.count(1)


@cache
def unavailable() -> str:
    """Why there can be no such hosts here, or nothing."""
    if sys.platform != "linux" or not hasattr(os, "geteuid"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    try:
        with Ethernet(1):
            return ""
    except RuntimeError as error:
        return f"no network namespaces can be made: {error}"


def run(*command: str, check: bool = True) -> None:
    """Run a program to its end. Raises `RuntimeError` with what it said if it fails."""
    done = subprocess.run([*command], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def remove_leftovers() -> None:
    """Remove the namespaces of processes that were killed before they could do it themselves."""
    if not NAMES.is_dir():
        return
    for found in NAMES.iterdir():
        ours = _OURS.fullmatch(found.name)
        if ours is not None and not Path(f"/proc/{ours[1]}").exists():
            run("ip", "netns", "del", found.name, check=False)


class Ethernet:
    """So many hosts on a bridge, numbered from 1."""

    def __init__(self, hosts: int) -> None:
        assert 0 < hosts <= HOSTS_LIMIT
        self._prefix = f"ag{os.getpid()}x{next(_numbers)}"
        self._bridge = f"{self._prefix}b"
        self._hosts = [f"{self._prefix}h{number}" for number in range(1, hosts + 1)]
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        while self._made:
            run("ip", "netns", "del", self._made[-1], check=False)
            self._made.pop()  # an interrupt before this lets another try remove it

    def _make(self) -> None:
        remove_leftovers()
        for name in (self._bridge, *self._hosts):
            run("ip", "netns", "add", name)
            self._made.append(name)
        bridge = ("ip", "-n", self._bridge)
        run(*bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run(*bridge, "link", "set", "br0", "up")
        for number, name in enumerate(self._hosts, 1):
            port, host = f"p{number}", ("ip", "-n", name)
            run(
                "ip", "link", "add", port, "netns", self._bridge,
                "type", "veth", "peer", "name", INTERFACE, "netns", name,
            )  # fmt: skip
            run(*bridge, "link", "set", port, "master", "br0")
            run(*bridge, "link", "set", port, "up")
            run(*host, "link", "set", INTERFACE, "addrgenmode", "none")
            run(*host, "addr", "add", f"{self.address(number)}/24", "dev", INTERFACE)
            run(*host, "addr", "add", f"fe80::{number}/64", "dev", INTERFACE, "nodad")
            run(*host, "link", "set", "lo", "up")
            run(*host, "link", "set", INTERFACE, "up")
            run(*host, "route", "add", GROUPS, "dev", INTERFACE)

    def address(self, number: int) -> str:
        """The address of a host."""
        return f"10.77.0.{number}"

    def command(self, number: int, *command: str) -> list[str]:
        """The command line that runs a program on a host."""
        return ["ip", "netns", "exec", self._hosts[number - 1], *command]

    def lose(self, number: int, share: float) -> None:
        """Let a host lose this share of the multicast packets that come to it."""
        tc = self.command(number, "tc")
        run(*tc, "qdisc", "del", "dev", INTERFACE, "ingress", check=False)
        if share:
            run(*tc, "qdisc", "add", "dev", INTERFACE, "ingress")
            filtering = ("filter", "add", "dev", INTERFACE, "ingress", "protocol", "ip")
            run(*tc, *filtering, "bpf", "da", "bytecode", _loss_program(share))


def _loss_program(share: float) -> str:
    """Classic BPF: shoot (2) a share of the packets to 224.0.0.0/4, let pass (0) all others."""
    destination, random_word = 30, 0xFFFF_F000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
    threshold = min(int(share * 0x1_0000_0000), 0xFFFF_FFFF)
    program: list[tuple[int, int, int, Any]] = [
        (0x30, 0, 0, destination),  # ldb [30]
        (0x54, 0, 0, 0xF0),  # and #0xf0
        (0x15, 0, 3, 0xE0),  # jeq #0xe0, or pass
        (0x20, 0, 0, random_word),  # ld rand
        (0x35, 1, 0, threshold),  # jge #threshold: pass
        (0x06, 0, 0, 2),
        (0x06, 0, 0, 0),
    ]
    return f"{len(program)}," + ",".join(" ".join(map(str, line)) for line in program)
