"""One datagram to many addresses with few system calls: `sendmmsg`, reached through ctypes.

The call of the socket module takes each address apart anew, which costs a third of what the kernel
takes to send. Here the addresses are packed once (`AddressBook.packed`) and go down together.
Rules: no more than `ADDRESSES_PER_CALL` at a time; what stops a call is told with the place where
it stopped, as if they had gone one by one.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from aerogram.io.addresses import NAME_BYTES
from aerogram.io.ancillary import ControlList, packed
from aerogram.io.libc import MSG_DONTWAIT, load

ADDRESSES_PER_CALL: Final = 64

_HEADER: Final = struct.Struct("@PIPNPNiI")
"""struct mmsghdr of sendmmsg(2) on a 64-bit system, whose holes native alignment makes."""

_HEADER_BYTES: Final = 64
_VECTOR: Final = struct.Struct("@PN")


def make_writer(sock: socket.socket) -> Writer | None:
    """Return a writer for a UDP socket, or None where the system has no such call.

    Neither has a socket of a class of the user's own, which may send in a way of its own.
    """
    size = NAME_BYTES.get(sock.family)
    function = _load_sendmmsg()
    if size is None or function is None or type(sock) is not socket.socket:
        return None
    return Writer(sock.fileno, size, function)


def _load_sendmmsg() -> Callable[..., int] | None:
    """The C library's function where its structures are as `_HEADER` has them, or None."""
    number = ctypes.c_int
    return load("sendmmsg", number, ctypes.c_void_p, ctypes.c_uint, number)


class Writer:
    """Sends by one socket, whose addresses have `name_bytes` when packed."""

    __slots__ = ("_fileno", "_headers", "_headers_at", "_name_bytes", "_names", "_sendmmsg",
                 "_shared", "_vector", "_vector_at")  # fmt: skip

    def __init__(
        self, fileno: Callable[[], int], name_bytes: int, sendmmsg: Callable[..., int]
    ) -> None:
        # Asked each time: the number of a socket that was closed may be another one's by now.
        self._fileno = fileno
        self._sendmmsg = sendmmsg
        self._name_bytes = name_bytes
        self._names = bytearray(ADDRESSES_PER_CALL * name_bytes)
        self._vector = bytearray(_VECTOR.size)
        self._vector_at = _address_of(self._vector)
        self._headers = bytearray(ADDRESSES_PER_CALL * _HEADER_BYTES)
        self._headers_at = _address_of(self._headers)
        self._shared = b""
        self._write_headers(0, b"")

    def _write_headers(self, control_at: int, control: bytes) -> None:
        """Let all headers name the same data and control messages, each with its own address."""
        names_at, step = _address_of(self._names), self._name_bytes
        for index in range(ADDRESSES_PER_CALL):
            _HEADER.pack_into(
                self._headers, index * _HEADER_BYTES, names_at + index * step, step,
                self._vector_at, 1, control_at, len(control), 0, 0,
            )  # fmt: skip
        self._shared = control

    def send(
        self, data: bytes, names: Sequence[bytes], control: ControlList | None
    ) -> tuple[int, OSError | None]:
        """Send to these packed addresses, `ADDRESSES_PER_CALL` at most.

        Returns how many it was, and what the next one met.
        """
        shared = packed(control) if control else b""
        buffer = ctypes.create_string_buffer(shared)
        if shared:
            self._write_headers(ctypes.addressof(buffer), shared)
        elif self._shared:
            self._write_headers(0, b"")
        at = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        _VECTOR.pack_into(self._vector, 0, at, len(data))
        self._names[: len(names) * self._name_bytes] = b"".join(names)
        done = 0
        while done < len(names):
            count = self._sendmmsg(
                self._fileno(),
                self._headers_at + done * _HEADER_BYTES,
                len(names) - done,
                MSG_DONTWAIT,
            )
            if count < 0:
                number = ctypes.get_errno()
                return done, OSError(number, os.strerror(number))
            done += count  # fewer than asked: the next call says why
        return done, None


def _address_of(area: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))
