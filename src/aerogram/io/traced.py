"""A link and a transport that tell of every datagram that they send, or lose.

They stand in the place of `Link` and `BatchTransport` where somebody watches, so that nobody pays
for it where nobody does.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Any

from aerogram.config import Config
from aerogram.io.addresses import AddressBook
from aerogram.io.ancillary import ControlList, sent_segment_bytes
from aerogram.io.batch import RUN_REFUSED_ERRORS, BatchTransport
from aerogram.io.links import Link, Payload
from aerogram.io.protocol import NO_ROOM_ERRORS, PacketProtocol
from aerogram.io.sockets import Address
from aerogram.io.tracing import Tracer


class TracedLink:
    """A `Link` that is watched."""

    def __init__(self, link: Link, book: AddressBook, tracer: Tracer) -> None:
        self._link = link
        self._book = book
        self._tracer = tracer
        self.wait_for_room = link.wait_for_room
        self.close = link.close

    @property
    def sock(self) -> socket.socket | None:
        """As `Link.sock`."""
        return self._link.sock

    @property
    def transport(self) -> object:
        """As `Link.transport`."""
        return self._link.transport

    @property
    def sends_runs(self) -> bool:
        """As `Link.sends_runs`."""
        return self._link.sends_runs

    @property
    def knows_details(self) -> bool:
        """As `Link.knows_details`."""
        return self._link.knows_details

    @property
    def local_address(self) -> Any:
        """As `Link.local_address`."""
        return self._link.local_address

    def start(self) -> None:
        """As `Link.start`."""
        self._tracer.bound_to(self._book.from_python(self._link.local_address))
        self._link.start()

    def transmit(self, data: Payload, target: Any, control: ControlList | None, count: int) -> bool:
        """As `Link.transmit`."""
        at = time.time()
        try:
            done = self._link.transmit(data, target, control, count)
        except OSError as error:
            self._failed(error, data, target, count)
            raise
        if done:
            self._sent(at, data, target, control)
        return done

    def transmit_each(
        self, data: Payload, targets: Sequence[Any], control: ControlList | None
    ) -> tuple[int, OSError | None]:
        """As `Link.transmit_each`."""
        at = time.time()
        sent, error = self._link.transmit_each(data, targets, control)
        for target in targets[:sent]:
            self._sent(at, data, target, control)
        return sent, error

    def try_again(
        self, error: OSError, data: Payload, target: Any, control: ControlList | None, count: int
    ) -> bool:
        """As `Link.try_again`."""
        at = time.time()
        try:
            done = self._link.try_again(error, data, target, control, count)
        except OSError as second:
            self._failed(second, data, target, count)
            raise
        if done:
            self._sent(at, data, target, control)
        return done

    def _sent(self, at: float, data: Payload, target: Any, control: ControlList | None) -> None:
        segment = sent_segment_bytes(control) if control else 0
        self._tracer.sent(at, bytes(data), self._book.from_python(target), segment)

    def _failed(self, error: OSError, data: Payload, target: Any, count: int) -> None:
        if count > 1 and error.errno in RUN_REFUSED_ERRORS:
            return  # they go one by one
        why = error.strerror or str(error)
        self._tracer.not_sent((bytes(data),), self._book.from_python(target), why)


class TracedBatchTransport(BatchTransport):
    """A `BatchTransport` of a protocol that is watched."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        udp: socket.socket,
        protocol: PacketProtocol,
        config: Config | None = None,
    ) -> None:
        super().__init__(loop, udp, protocol, config)
        assert protocol.tracer is not None
        self._tracer = protocol.tracer

    def _attempt(self, data: bytes, segment_bytes: int, address: Address | None) -> OSError | None:
        at = time.time()
        error = super()._attempt(data, segment_bytes, address)
        peer = self._peer if address is None else address
        if error is None:
            self._tracer.sent(at, data, peer, segment_bytes)
        elif error.errno not in NO_ROOM_ERRORS and not (
            segment_bytes and error.errno in RUN_REFUSED_ERRORS
        ):
            self._tracer.not_sent((data,), peer, error.strerror or str(error))
        return error

    def _drop(self, packets: Sequence[bytes], address: Address | None, why: str) -> None:
        super()._drop(packets, address, why)
        self._tracer.not_sent(packets, self._peer if address is None else address, why)

    def _drop_truncated(self, data: bytes, address: Address) -> None:
        super()._drop_truncated(data, address)
        self._tracer.not_received(data, address, "truncated")
