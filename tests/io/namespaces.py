"""Hosts that are real: network namespaces joined by bridges, made for a test and removed by it.

A socket belongs for good to the namespace in which it was made, so one program can hold sockets of
several hosts: `with host.entered(): ...` makes them there.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.namespaces import remove_leftovers

_CLONE_NEWNET = 0x40000000
_LINK_LOCAL_SECONDS = 5.0
_numbers = itertools.count()


class CannotMake(Exception):
    """This machine has no namespaces, bridges, or rights to make them."""


@dataclass(frozen=True)
class Host:
    """A namespace, with an interface e0 on the first network and e1 on the second."""

    namespace: str
    number: int

    def address(self, network: int) -> str:
        return f"10.99.{network}.{self.number}"

    def ip(self, *arguments: str) -> str:
        return run("ip", "-n", self.namespace, *arguments)

    @contextlib.contextmanager
    def entered(self) -> Generator[None]:
        """Be in this namespace. Nothing else may run meanwhile: do not wait in the block."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/self/ns/net").open("rb") as ours:
            with Path(f"/run/netns/{self.namespace}").open("rb") as theirs:
                assert libc.setns(theirs.fileno(), _CLONE_NEWNET) == 0, ctypes.get_errno()
            try:
                yield
            finally:
                assert libc.setns(ours.fileno(), _CLONE_NEWNET) == 0, ctypes.get_errno()


def run(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if finished.returncode != 0:
        raise CannotMake(f"{' '.join(command)}: {finished.stderr.strip()}")
    return finished.stdout


@contextlib.contextmanager
def hosts(count: int, networks: int) -> Generator[list[Host]]:
    """So many hosts, each on every one of the networks. Skips the test where they cannot be had."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux, root and iproute2")
    remove_leftovers()
    prefix = f"aero{os.getpid()}x{next(_numbers)}"
    switch = f"{prefix}s"
    made = [Host(f"{prefix}h{number}", number) for number in range(1, count + 1)]
    try:
        try:
            _make(switch, made, networks)
        except CannotMake as error:
            pytest.skip(f"cannot make network namespaces: {error}")
        yield made
    finally:
        for namespace in (switch, *(host.namespace for host in made)):
            with contextlib.suppress(CannotMake):
                run("ip", "netns", "del", namespace)


def _make(switch: str, made: list[Host], networks: int) -> None:
    run("ip", "netns", "add", switch)
    for network in range(networks):
        bridge = f"b{network}"
        run("ip", "-n", switch, "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", switch, "link", "set", bridge, "up")
    for host in made:
        run("ip", "netns", "add", host.namespace)
        host.ip("link", "set", "lo", "up")
        for network in range(networks):
            _plug_in(switch, host, network)
    for host in made:
        _wait_for_link_local(host, networks)


def _plug_in(switch: str, host: Host, network: int) -> None:
    inner, outer = f"e{network}", f"p{network}h{host.number}"
    veth = ("link", "add", inner, "netns", host.namespace, "type", "veth")
    run("ip", *veth, "peer", "name", outer, "netns", switch)
    run("ip", "-n", switch, "link", "set", outer, "master", f"b{network}", "up")
    host.ip("link", "set", inner, "addrgenmode", "none")
    host.ip("link", "set", inner, "up")
    host.ip("addr", "add", f"{host.address(network)}/24", "broadcast", "+", "dev", inner)
    host.ip("addr", "add", f"fe80::{host.number}/64", "dev", inner, "nodad")


def _wait_for_link_local(host: Host, networks: int) -> None:
    """An address can be used once its interface has a carrier."""
    until = time.monotonic() + _LINK_LOCAL_SECONDS
    while "tentative" in host.ip("-6", "addr") or host.ip("link").count("LOWER_UP") < networks + 1:
        if time.monotonic() > until:
            raise CannotMake("its links do not come up")
        time.sleep(0.02)
