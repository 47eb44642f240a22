"""Two ways to read many datagrams in one loop turn, with all that the kernel tells about them.

`recvmmsg` fills a whole set of buffers in one system call; it is reached through ctypes, because
Python does not offer it. `recvmsg`, once for each datagram, is there on every POSIX system. Rules:
a read is bounded, so that a flood cannot starve timers; a truncated datagram is counted and never
handed on; a run that the kernel gathered (UDP_GRO) is taken apart again.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import operator
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, Final, NamedTuple, Protocol, cast

from aerogram.io.addresses import NAME_BYTES, AddressBook
from aerogram.io.ancillary import CONTROL_BYTES, segment_bytes
from aerogram.io.datagram import Clocks, Datagram, DatagramStats, cut_run
from aerogram.io.libc import MSG_DONTWAIT, load

BUFFERS_PER_READ: Final = 64
"""Each takes one datagram, or one run."""

DATAGRAM_BYTES_LIMIT: Final = 65536
"""Of a buffer: more than UDP carries; AF_UNIX could have larger ones."""

EQUAL_SIZES_AT_LEAST: Final = 16
"""Datagrams of one size in a read, for which it pays to look up how to cut them at once."""

_NAME_BYTES: Final = 112
"""struct sockaddr_un with a margin."""

TRUNCATED_FLAGS: Final = int(getattr(socket, "MSG_TRUNC", 0) | getattr(socket, "MSG_CTRUNC", 0))
"""A plain number, as `MSG_DONTWAIT`."""

_Maker = Callable[[type[Datagram], tuple[Any, ...]], Datagram]
_new: Final[_Maker] = operator.attrgetter("__new__")(tuple)
"""Makes a datagram of its fields. The constructor of a named tuple takes twice as long."""


class Read(NamedTuple):
    """What one read gave."""

    datagrams: list[Datagram]
    size: int
    """Bytes in all."""

    has_more: bool
    """Whether there may be more; it is sure that there was nothing more if not."""


class Reader(Protocol):
    """Reads one socket."""

    def read(self, limit: int) -> Read:
        """Return what is there, about `limit` datagrams at most.

        How many come in a run is not known before; it is guessed by the read before. Raises
        `BlockingIOError` when there is nothing, another `OSError` for an error that the socket
        reports.
        """
        ...


def make_reader(
    sock: socket.socket,
    book: AddressBook,
    stats: DatagramStats,
    endpoint: Any,
    loop_time: Callable[[], float],
    control_bytes: int,
    *,
    keep_runs: bool = False,
) -> Reader:
    """Return the quickest reader that this system has for `sock`; datagrams name `endpoint`.

    `control_bytes` is what a datagram has that is not a run: see `ancillary.enable_details`.
    """
    source = _Source(sock, book, stats, endpoint, loop_time, control_bytes, keep_runs)
    return RecvmmsgReader(source) if _load_recvmmsg() is not None else RecvmsgReader(source)


class _Source:
    """What both readers need."""

    __slots__ = ("book", "control_bytes", "endpoint", "keep_runs", "loop_time", "sock", "stats")

    def __init__(
        self,
        sock: socket.socket,
        book: AddressBook,
        stats: DatagramStats,
        endpoint: Any,
        loop_time: Callable[[], float],
        control_bytes: int,
        keep_runs: bool,
    ) -> None:
        self.sock = sock
        self.book = book
        self.stats = stats
        self.endpoint = endpoint
        self.loop_time = loop_time
        self.control_bytes = control_bytes
        self.keep_runs = keep_runs

    def take_run(self, run: Datagram, segment: int, found: list[Datagram]) -> None:
        """Append the datagrams of a run: `segment` bytes each, the last may be shorter."""
        self.stats.received_runs += 1
        if self.keep_runs:
            found.append(run)
            return
        data, address, control, read_at, endpoint = run
        parts = zip(
            cut_run(data, segment),
            repeat(address),
            repeat(control),
            repeat(read_at),
            repeat(endpoint),
        )
        found += map(_new, repeat(Datagram), parts)


class RecvmsgReader:
    """One system call a datagram, until the socket is empty or the limit reached."""

    __slots__ = ("_source",)

    def __init__(self, source: _Source) -> None:
        self._source = source

    def read(self, limit: int) -> Read:
        """As `Reader.read`."""
        source = self._source
        read_at = Clocks(time.time(), source.loop_time())
        found: list[Datagram] = []
        size = 0
        for done in range(BUFFERS_PER_READ):
            if len(found) >= limit:
                return Read(found, size, has_more=True)
            try:
                data, control, flags, peer = source.sock.recvmsg(
                    DATAGRAM_BYTES_LIMIT, CONTROL_BYTES
                )
            except OSError:
                # An error comes again with the next read, if it matters; what was read is kept.
                if done:
                    return Read(found, size, has_more=False)
                raise
            if flags & TRUNCATED_FLAGS:
                source.stats.truncated += 1
                continue
            size += len(data)
            address = source.book.from_python(peer)
            first = Datagram(data, address, control, read_at, source.endpoint)
            segment = segment_bytes(control) if control else 0
            if 0 < segment < len(data):
                source.take_run(first, segment, found)
            else:
                found.append(first)
        return Read(found, size, has_more=True)


# recvmmsg

_HEADER: Final = struct.Struct("@PIPNPNiI")
"""struct mmsghdr of recvmmsg(2) on a 64-bit system, whose holes native alignment makes."""

_RESULTS: Final = [
    struct.Struct("@" + "8xI28xNi4xI4x" * count) for count in range(BUFFERS_PER_READ + 1)
]
"""What the kernel writes into so many: lengths of name and control, flags, length of data."""

_HEADER_BYTES: Final = 64


@functools.lru_cache(maxsize=256)
def _equal_parts(size: int, count: int) -> struct.Struct:
    """The data of `count` datagrams of one size: all of them at once, where slices cost each."""
    return struct.Struct(f"{size}s{DATAGRAM_BYTES_LIMIT - size}x" * count)


@functools.lru_cache(maxsize=1024)
def _metas(name_bytes: int, control_bytes: int, count: int) -> struct.Struct:
    """Name and control messages of `count` datagrams, where both have the same size in all."""
    gap, rest = _NAME_BYTES - name_bytes, CONTROL_BYTES - control_bytes
    return struct.Struct(f"{name_bytes}s{gap}x{control_bytes}s{rest}x" * count)


_META_BYTES: Final = _NAME_BYTES + CONTROL_BYTES
_META_START: Final = BUFFERS_PER_READ * DATAGRAM_BYTES_LIMIT
_BUFFER_BYTES: Final = _META_START + BUFFERS_PER_READ * _META_BYTES


def _load_recvmmsg() -> Callable[..., int] | None:
    """The C library's function where its structures are as `_HEADER` has them, or None."""
    pointer, number = ctypes.c_void_p, ctypes.c_int
    return load("recvmmsg", number, pointer, ctypes.c_uint, number, pointer)


class _Memory(Protocol):
    """An array of C characters: unlike that of a bytearray, its slices are bytes at once."""

    def __getitem__(self, part: slice) -> bytes: ...

    def __buffer__(self, flags: int) -> memoryview: ...


class _Buffers:
    """Memory for one read. A thread has one set for all its sockets, as each empties it at once.

    It is mapped, and pages that no datagram ever reached take no memory.
    """

    def __init__(self) -> None:
        # Private: two processes of a fork must not read into the same memory.
        pages = mmap.mmap(-1, _BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area = (ctypes.c_char * _BUFFER_BYTES).from_buffer(pages)
        self.memory = cast("_Memory", area)
        self._base = base = ctypes.addressof(area)
        vectors = struct.pack(
            f"={2 * BUFFERS_PER_READ}Q",
            *(
                number
                for index in range(BUFFERS_PER_READ)
                for number in (base + index * DATAGRAM_BYTES_LIMIT, DATAGRAM_BYTES_LIMIT)
            ),
        )
        self._vectors = ctypes.create_string_buffer(vectors, len(vectors))
        self.starts = [
            (index * DATAGRAM_BYTES_LIMIT, _META_START + index * _META_BYTES)
            for index in range(BUFFERS_PER_READ)
        ]
        self.template = b"".join(map(self._header, range(BUFFERS_PER_READ)))
        self.headers = bytearray(self.template)
        self.results = memoryview(self.headers)
        self.headers_at = ctypes.addressof(ctypes.c_char.from_buffer(self.headers))

    def _header(self, index: int) -> bytes:
        name = self._base + self.starts[index][1]
        vector = ctypes.addressof(self._vectors) + 16 * index
        packed = _HEADER.pack(name, _NAME_BYTES, vector, 1, name + _NAME_BYTES, CONTROL_BYTES, 0, 0)
        return packed.ljust(_HEADER_BYTES, b"\0")


_thread: Final = threading.local()


def _thread_buffers() -> _Buffers:
    if not hasattr(_thread, "buffers"):
        _thread.buffers = _Buffers()
    return cast("_Buffers", _thread.buffers)


class RecvmmsgReader:
    """One system call for up to `BUFFERS_PER_READ` datagrams."""

    __slots__ = ("_buffers", "_descriptor", "_name_bytes", "_recvmmsg", "_run_length", "_source")

    def __init__(self, source: _Source) -> None:
        recvmmsg = _load_recvmmsg()
        assert recvmmsg is not None, "make_reader probes it"
        self._recvmmsg = recvmmsg
        self._source = source
        self._descriptor = source.sock.fileno()
        self._run_length = 1
        self._buffers = _thread_buffers()
        self._name_bytes = NAME_BYTES.get(source.sock.family, 0)

    def read(self, limit: int) -> Read:
        """As `Reader.read`."""
        buffers = self._buffers
        wanted = max(1, min(limit // self._run_length, BUFFERS_PER_READ))
        # The kernel has shortened the lengths of the last read to what it wrote.
        buffers.headers[:] = buffers.template
        count = self._recvmmsg(self._descriptor, buffers.headers_at, wanted, MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        results = _RESULTS[count].unpack_from(buffers.headers)
        names, controls, flags, sizes = results[::4], results[1::4], results[2::4], results[3::4]
        if (
            names.count(self._name_bytes) == count
            and controls.count(self._source.control_bytes) == count
            and flags.count(0) == count
        ):
            self._run_length = 1
            return Read(self._collect_plain(buffers, sizes), sum(sizes), count == wanted)
        found, size = self._collect(
            buffers, zip(buffers.starts, names, controls, flags, sizes, strict=False)
        )
        self._run_length = max(1, len(found) // count)
        return Read(found, size, count == wanted)

    def _collect_plain(self, buffers: _Buffers, sizes: tuple[int, ...]) -> list[Datagram]:
        """Make datagrams of what the kernel wrote: no run, nothing odd. As quick as can be."""
        source, memory, count = self._source, buffers.memory, len(sizes)
        metas = _metas(self._name_bytes, source.control_bytes, count)
        fields = metas.unpack_from(memory, _META_START)
        addresses = list(map(source.book.known.get, fields[::2]))
        if None in addresses:
            addresses = [
                source.book.known.get(name) or source.book.learn(name) for name in fields[::2]
            ]
        data: Iterable[bytes]
        if count >= EQUAL_SIZES_AT_LEAST and sizes.count(sizes[0]) == count:
            data = _equal_parts(sizes[0], count).unpack_from(memory)
        else:
            data = [
                memory[start : start + size]
                for (start, _), size in zip(buffers.starts, sizes, strict=False)
            ]
        read_at = repeat(Clocks(time.time(), source.loop_time()))
        parts = zip(data, addresses, fields[1::2], read_at, repeat(source.endpoint))
        return list(map(_new, repeat(Datagram), parts))

    def _collect(
        self, buffers: _Buffers, results: Iterable[tuple[tuple[int, int], int, int, int, int]]
    ) -> tuple[list[Datagram], int]:
        """The same for whatever the kernel may write."""
        source, memory = self._source, buffers.memory
        book, endpoint = source.book, source.endpoint
        read_at = Clocks(time.time(), source.loop_time())
        found: list[Datagram] = []
        total = 0
        for (start, name), name_bytes, control_bytes, flags, size in results:
            if flags & TRUNCATED_FLAGS:
                source.stats.truncated += 1
                continue
            packed = memory[name : name + name_bytes]
            address = book.known.get(packed) or book.learn(packed)
            control_start = name + _NAME_BYTES
            control = memory[control_start : control_start + control_bytes]
            data = memory[start : start + size]
            datagram = _new(Datagram, (data, address, control, read_at, endpoint))
            total += size
            segment = segment_bytes(control) if control_bytes != source.control_bytes else 0
            if 0 < segment < size:
                source.take_run(datagram, segment, found)
            else:
                found.append(datagram)
        return found, total
