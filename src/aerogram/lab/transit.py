"""Datagrams on their way: from a socket's send through links and NATs to another's buffer.

One heap holds all copies in flight, and one timer of the event loop waits for the first, so that a
datagram costs a few microseconds. Rules: time is the event loop's, virtual or not; each datagram
ends in the trace once for each copy; nothing of a receiver is called from here, its socket only
gets something to read.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import math
import zlib
from typing import Final, NamedTuple

from aerogram.io.sockets import Address
from aerogram.lab.host import Host
from aerogram.lab.link import Copy, LinkState
from aerogram.lab.nat import Nat
from aerogram.lab.paths import Direction, Topology
from aerogram.lab.routing import Path
from aerogram.lab.trace import Flow, Trace
from aerogram.lab.transport import SimulatedTransport

HELD_LIMIT: Final = 100_000
"""Datagrams that wait for a release; more are dropped."""


class Held(NamedTuple):
    """A datagram that waits for a release."""

    path: Path
    direction: Direction[Held]
    flow: Flow
    data: bytes
    sent_at: float


_Flight = tuple[float, int, Path, str, Flow, bytes, float, str]
"""A copy on its way: when it arrives, a number that keeps the order of equals, its way, the name of
its receiver, its addresses, the datagram, when it was sent, and the link's remark. A plain tuple,
because a heap of them has to be quick."""


class Transit:
    """All that is on its way in one network."""

    def __init__(self, topology: Topology[Held], trace: Trace) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.held = 0
        """Datagrams that wait for a release."""
        self._topology = topology
        self._trace = trace
        self._flights: list[_Flight] = []
        self._launched = 0
        self._timer: asyncio.Handle | None = None
        self._timer_at = math.inf

    def attach(self) -> None:
        """Take the running event loop's time. Raises `RuntimeError` if another one has it."""
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return
        if self.loop is not None and not self.loop.is_closed():
            raise RuntimeError("this network is in use in another event loop")
        self.loop = loop
        self._flights.clear()
        self._timer = None
        self._timer_at = math.inf

    @property
    def in_flight(self) -> int:
        """Copies on their way."""
        return len(self._flights)

    # Departure

    def transmit(self, path: Path, data: bytes) -> None:
        """Send a datagram on its way."""
        assert self.loop is not None
        self._trace.sent += 1
        now = self.loop.time()
        flow = path.flow
        direction = path.direction
        if direction is None:
            if path.dead:
                self._trace.record(now, now, flow, "?", data, "dropped", path.dead)
                return
            direction = self._direction_into_nat(path, now)
        if path.through is not None:
            destination = flow.destination
            source = path.through.outbound(path.sender.host, path.inside, destination, now)
            flow = path.flow_from(source)
        if direction.is_open:
            self._plan(path, direction, flow, data, now, now)
        else:
            self._stop(path, direction, flow, data, now)

    def _direction_into_nat(self, path: Path, now: float) -> Direction[Held]:
        """Return the way to the host that a NAT's port leads to now, or else to the NAT."""
        nat = path.receiver
        assert isinstance(nat, Nat)
        target = nat.inside_host(path.key[1], now) or nat
        return self._topology.direction(path.sender.host.name, target.name)

    def _stop(
        self, path: Path, direction: Direction[Held], flow: Flow, data: bytes, now: float
    ) -> None:
        if direction.is_cut:
            self._trace.record(now, now, flow, direction.target, data, "dropped", "partition")
        elif self.held >= HELD_LIMIT or direction.held is None:
            self._trace.record(now, now, flow, direction.target, data, "dropped", "too many held")
        else:
            self.held += 1
            direction.held.append(Held(path, direction, flow, data, now))

    def release(self, released: list[Held]) -> None:
        """Let go what was held."""
        for path, direction, flow, data, sent_at in released:
            assert self.loop is not None
            self.held -= 1
            now = self.loop.time()
            if direction.is_cut:
                target = direction.target
                self._trace.record(now, sent_at, flow, target, data, "dropped", "partition")
            else:
                self._plan(path, direction, flow, data, now, sent_at)

    def _plan(
        self,
        path: Path,
        direction: Direction[Held],
        flow: Flow,
        data: bytes,
        now: float,
        sent_at: float,
    ) -> None:
        """Let the link decide, and let go what it delivers."""
        target = direction.target
        state = direction.state
        if state is None:
            copies = [Copy(now, data, "delivered", "")]
        else:
            state.header_bytes = path.header_bytes
            copies = state.plan(data, now)
            self._trace.duplicated += len(copies) - 1
        for at, copy, fate, reason in copies:
            if fate == "delivered":
                self._launched += 1
                flight = (at, self._launched, path, target, flow, copy, sent_at, reason)
                heapq.heappush(self._flights, flight)
                if at < self._timer_at:
                    self._set_timer(at, now)
                continue
            self._trace.record(at, sent_at, flow, target, copy, "dropped", reason)
            if state is not None and reason == "mtu":
                self._report_too_big(path.sender, state)

    def _set_timer(self, at: float, now: float) -> None:
        assert self.loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        if at <= now:
            self._timer = self.loop.call_soon(self._deliver_due)
        else:
            self._timer = self.loop.call_at(at, self._deliver_due)

    # Arrival

    def _deliver_due(self) -> None:
        """Bring what has arrived to its sockets, and only then let these read."""
        assert self.loop is not None
        self._timer = None
        self._timer_at = math.inf
        flights = self._flights
        ready: list[SimulatedTransport] = []
        now = self.loop.time()
        while flights and flights[0][0] <= now:
            _, _, path, target, flow, data, sent_at, remark = heapq.heappop(flights)
            sockets = path.bound.get(path.key)
            if sockets is None or len(sockets) != 1 or sockets[0].peer is not None:
                found = self._find_sockets(path, flow.source, now)
                if isinstance(found, str):
                    self._trace.record(now, sent_at, flow, target, data, "dropped", found)
                    if found == "port closed":
                        self._report_refused(path, target, now - sent_at)
                    continue
                sockets = found
            if len(sockets) == 1:
                took = sockets[0].take(data, flow.source, ready)
            else:
                took = bool([each for each in sockets if each.take(data, flow.source, ready)])
            if took:
                self._trace.record(now, sent_at, flow, target, data, "delivered", remark)
            else:
                self._trace.record(now, sent_at, flow, target, data, "dropped", "receive buffer")
        if flights:
            self._set_timer(flights[0][0], now)
        for socket in ready:
            socket.read()

    def _find_sockets(
        self, path: Path, source: Address, now: float
    ) -> list[SimulatedTransport] | str:
        """Return the sockets that a datagram is for, or why there is none."""
        receiver = path.receiver
        key = path.key
        if isinstance(receiver, Nat):
            inside = receiver.inbound(key, source, now)
            if isinstance(inside, str):
                return inside
            receiver, key = inside
        assert isinstance(receiver, Host)
        if path.to_many:
            sockets = receiver.listeners(*key, source[0])
        else:
            sockets = _choose(receiver.bound.get(key, []), source)
        if sockets:
            return sockets
        if receiver.is_down:
            return "host down"
        return "no listener" if path.to_many else "port closed"

    # What ICMP tells the sender

    def _report_too_big(self, sender: SimulatedTransport, state: LinkState) -> None:
        if state.link.icmp:
            assert self.loop is not None
            self.loop.call_later(state.link.delay, sender.report_error, errno.EMSGSIZE)

    def _report_refused(self, path: Path, target: str, took: float) -> None:
        """Tell a connected socket, the only kind that learns of it, unless the way back is cut."""
        sender = path.sender
        if sender.peer is None or self._topology.direction(target, sender.host.name).is_cut:
            return
        assert self.loop is not None
        self.loop.call_later(took, sender.report_error, errno.ECONNREFUSED)


def _choose(sockets: list[SimulatedTransport], source: Address) -> list[SimulatedTransport]:
    """Return the one socket for a sender: that connected to it, or always the same of the rest."""
    for socket in sockets:
        if socket.peer == source:
            return [socket]
    shared = [socket for socket in sockets if socket.peer is None]
    if not shared:
        return []
    return [shared[zlib.crc32(f"{source[0]} {source[1]}".encode()) % len(shared)]]
