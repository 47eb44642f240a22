"""Sockets that the service manager has opened: systemd's socket activation (sd_listen_fds(3)).

The process gets them as descriptors from 3 on, with LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES in
its environment. They stay open as long as the process lives; each use gets a duplicate, so that
closing an endpoint and opening it again works, and loses nothing that came in between.
"""

from __future__ import annotations

import os
import socket
from typing import Final, NamedTuple

from aerogram.errors import InvalidAddress

FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START"""

DESCRIPTORS_LIMIT: Final = 1024


class InheritedSocket(NamedTuple):
    """A descriptor that the service manager has handed over."""

    name: str
    """FileDescriptorName= of the socket unit; "unknown" where it says nothing."""

    descriptor: int


def sockets_from_systemd() -> list[InheritedSocket]:
    """Return what this process was handed, in order; empty when it was not activated."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []  # unset, or meant for a parent of this process
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdecimal() or not 0 < int(count) <= DESCRIPTORS_LIMIT:
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return [
        InheritedSocket(
            names[i] if i < len(names) and names[i] else "unknown", i + FIRST_DESCRIPTOR
        )
        for i in range(int(count))
    ]


def inherited_socket(which: str | int) -> socket.socket:
    """Return a duplicate of the socket with this name, or this place from 0 on.

    Raises `InvalidAddress` when there is none, or it is not a datagram socket.
    """
    handed = sockets_from_systemd()
    matching = [each for place, each in enumerate(handed) if which in (place, each.name)]
    if not matching:
        names = ", ".join(each.name for each in handed) or "none"
        raise InvalidAddress(f"no inherited socket {which!r}; there are: {names}")
    descriptor = os.dup(matching[0].descriptor)  # not inherited by children
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        os.close(descriptor)
        raise InvalidAddress(f"inherited descriptor {which!r} is no socket") from error
    if sock.type != socket.SOCK_DGRAM:
        sock.close()
        raise InvalidAddress(f"inherited socket {which!r} is no datagram socket")
    return sock
