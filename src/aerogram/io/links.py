"""`Link`: how an endpoint reaches the network, by a socket of its own or by an asyncio transport.

`SocketLink` (`socketlink.py`) needs a loop with `add_reader`. `TransportLink` (`transportlink.py`)
works with what `create_datagram_endpoint` of any loop, or of a simulated network, makes; it knows
less about a datagram. Rules: nothing raises into the loop; an error of one datagram never ends a
link; what goes wrong with a send is raised to its caller.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from aerogram.errors import InvalidMessage, MessageTooLarge
from aerogram.io.addresses import AddressBook
from aerogram.io.ancillary import ControlList
from aerogram.io.arrivals import Arrivals
from aerogram.io.datagram import DatagramStats
from aerogram.io.icmp import ErrorReports
from aerogram.io.tracing import Tracer

if TYPE_CHECKING:
    from aerogram.io.network import Network

IP_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

FULL_WAIT_SECONDS: Final = 0.001
"""Between two tries where nothing tells of room: a full interface queue still polls as writable."""


@dataclass(frozen=True, slots=True)
class Workings:
    """What an endpoint shares with its link."""

    loop: asyncio.AbstractEventLoop
    family: int
    book: AddressBook
    arrivals: Arrivals
    stats: DatagramStats
    errors: ErrorReports
    network: Network
    """For names."""
    tracer: Tracer | None = None
    """Who is told of every datagram, if anybody."""


Payload = bytes | bytearray | memoryview
"""What can be sent."""


class Link(Protocol):
    """What an endpoint sends by, and what fills its `Arrivals`."""

    @property
    def sock(self) -> socket.socket | None:
        """For options; a simulated network has none."""
        ...

    @property
    def transport(self) -> object:
        """Of asyncio or a simulated network; None where the socket is used directly."""
        ...

    @property
    def sends_runs(self) -> bool:
        """Whether one write may carry several datagrams (UDP_SEGMENT)."""
        ...

    @property
    def knows_details(self) -> bool:
        """Whether datagrams come, and can be sent, with control messages."""
        ...

    @property
    def local_address(self) -> Any:
        """The bound address, as the socket module gives it."""
        ...

    def start(self) -> None:
        """Begin to read."""
        ...

    def transmit(self, data: Payload, target: Any, control: ControlList | None, count: int) -> bool:
        """Send `count` datagrams in one write. False: there is no room, `wait_for_room`.

        `target` is an address from `AddressBook.for_socket`. Raises `InvalidMessage`,
        `MessageTooLarge`, `EndpointClosed`, or the `OSError` of the system.
        """
        ...

    def transmit_each(
        self, data: Payload, targets: Sequence[Any], control: ControlList | None
    ) -> tuple[int, OSError | None]:
        """Send to one target after the other, until something is in the way.

        Returns how many it was, and what the next one met, for `try_again`. Raises `InvalidMessage`
        and `EndpointClosed`.
        """
        ...

    def try_again(
        self, error: OSError, data: Payload, target: Any, control: ControlList | None, count: int
    ) -> bool:
        """Repeat a send that an earlier datagram's error displaced; else as `transmit`."""
        ...

    async def wait_for_room(self) -> None:
        """Wait until it is worth to transmit again."""
        ...

    async def close(self) -> None:
        """End; no call is made into the endpoint after this."""
        ...


def send_refused(error: OSError, size: int, stats: DatagramStats) -> Exception:
    """Count a send that the system refused, and return what its caller gets."""
    if error.errno == errno.EPERM:
        stats.send_lost += 1
        return error
    stats.send_refused += 1
    if error.errno == errno.EMSGSIZE:
        too_large = MessageTooLarge(f"no datagram of {size} bytes can be sent: {error.strerror}")
        too_large.__cause__ = error
        return too_large
    return error


def checked_payload(data: Payload) -> Payload:
    """Return `data` in one piece, of single bytes. Raises `InvalidMessage` for what is no bytes."""
    if isinstance(data, bytes | bytearray):
        return data
    if not isinstance(data, memoryview):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise not_bytes(data)
    # One with gaps, or of larger items, is no buffer to a socket, or its length not in bytes.
    return data.tobytes()


def not_bytes(data: object) -> InvalidMessage:
    """Return the error for it."""
    return InvalidMessage(f"a datagram is bytes, not {type(data).__name__}")
