"""`Pair`: two endpoints of the protocol core and a link each way, in virtual time.

No loop, no sockets, no sessions: what runs is the protocol alone, a hundred times faster than
real, for tests and figures about the protocol itself. Rules: the seed decides everything; time
moves to the next thing that is due and never else; whatever the core hands over is noted at once.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from aerogram.config import Config
from aerogram.core.channel import ChannelSpec, SendChannel
from aerogram.core.connection import Connection
from aerogram.core.endpoint import Endpoint
from aerogram.core.events import (
    ConnectFailure,
    Event,
    MessagesReceived,
    SessionEnded,
    SessionOpened,
)
from aerogram.core.handshake import ClientSecurity, ServerSecurity
from aerogram.core.outgoing import Outgoing
from aerogram.core.path import Address
from aerogram.core.wire import Mode
from aerogram.lab.link import Link, LinkState

PSK: Final = bytes(range(32))
"""What both sides share where the mode is `Mode.PSK`."""
OPENING_SECONDS: Final = 60.0
"""A handshake may take so long; links may be bad."""
STEPS_AT_ONE_INSTANT: Final = 100_000
"""A protocol that does so much without time passing goes round in circles."""

Received = tuple[str, int, Any]
"""A message that was handed over: the name of its channel, its number, its payload."""


class Side:
    """One endpoint, its one connection, and what that has handed over."""

    def __init__(self, endpoint: Endpoint, specs: dict[str, ChannelSpec], address: Address) -> None:
        self.endpoint = endpoint
        self.address = address
        self.specs = specs
        self.received: list[Received] = []
        self.events: list[Event] = []
        """All but messages."""
        self.consumes = True
        """False lets nothing be consumed: a handler that hangs."""
        self.keeps_messages = True
        """False for those who only want `on_message`."""
        self.on_message: Callable[[str, int, Any, float], None] | None = None
        """Called for each message with the name of its channel, its number, itself and the time."""
        self.ended: SessionEnded | None = None
        self.now = 0.0
        self._channels: dict[str, SendChannel] = {}
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection to the other side; there is one after `Pair.open`."""
        assert self._connection is not None
        return self._connection

    def channel(self, name: str) -> SendChannel:
        """The sending half of a channel, opened on first use."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = self.connection.open_channel(self.specs[name])
        return channel

    def send(self, name: str, payload: bytes, deadline: float | None = None) -> Outgoing:
        """Queue a message; `deadline` is a time of the pair's clock."""
        channel = self.channel(name)
        message = Outgoing(payload, deadline)
        key_of = channel.delivery.key
        if key_of is None:
            self.connection.send(channel, message)
        else:
            view = self.specs[name].view
            key = key_of(payload if view is None else view(payload))
            self.connection.send_about(key, channel, message, self.now)
        return message

    def payloads(self, name: str) -> list[Any]:
        """What was handed over on a channel, in order."""
        return [payload for channel, _, payload in self.received if channel == name]

    def take(self, now: float) -> None:
        """Note what the core has handed over."""
        self.now = now
        while (event := self.endpoint.poll_event()) is not None:
            if isinstance(event, MessagesReceived):
                self._take_messages(event, now)
                continue
            self.events.append(event)
            if isinstance(event, SessionOpened):
                self._connection = event.connection
            elif isinstance(event, SessionEnded):
                self.ended = event

    def _take_messages(self, event: MessagesReceived, now: float) -> None:
        name = event.channel.name
        for first, messages, cost in event.runs:
            for index, message in enumerate(messages):
                number = first + index if first >= 0 else -1
                if self.keeps_messages:
                    self.received.append((name, number, message))
                if self.on_message is not None:
                    self.on_message(name, number, message, now)
            if self.consumes:
                event.connection.consumed(event.channel, cost)


@dataclass(slots=True)
class Traffic:
    """Datagrams of one direction."""

    sent: int = 0
    bytes_sent: int = 0
    lost: int = 0
    delivered: int = 0


class Pair:
    """A client and a server. `link` is the way there, `back` the way back (the same if not given).

    Both sides know the channels `specs`; `server_specs` if the server's are others.
    """

    def __init__(
        self,
        specs: Iterable[ChannelSpec] = (),
        *,
        server_specs: Iterable[ChannelSpec] | None = None,
        link: Link | None = None,
        back: Link | None = None,
        seed: int = 0,
        config: Config | None = None,
        server_config: Config | None = None,
        mode: Mode = Mode.INSECURE,
    ) -> None:
        self.now = 0.0
        self.seed = seed
        self._config = config or Config()
        self._mode = mode
        mine = {spec.name: spec for spec in specs}
        theirs = mine if server_specs is None else {spec.name: spec for spec in server_specs}
        psk = PSK if mode is Mode.PSK else None
        security = ServerSecurity(None, psk, insecure=mode is Mode.INSECURE)
        self.client = Side(self._endpoint("client", mine, self._config, None), mine, ("client", 1))
        self.server = Side(
            self._endpoint("server", theirs, server_config or self._config, security),
            theirs,
            ("server", 1),
        )
        there = link or Link()
        self.links = (
            LinkState(there, Random(f"{seed} there")),
            LinkState(there if back is None else back, Random(f"{seed} back")),
        )
        """There and back."""
        self.traffic = (Traffic(), Traffic())
        self.on_packet: Callable[[Side, bytes, float], None] | None = None
        """Called for each datagram that a side sends, lost or not."""
        self.loses: Callable[[Side, bytes], bool] | None = None
        """Asked for each datagram that a side sends whether it is lost, beside what links lose."""
        self._is_cut = False
        self._order = itertools.count()
        self._flying: list[tuple[float, int, int, bytes, Address, Address]] = []
        self._calls: list[tuple[float, int, Callable[[], object]]] = []

    def _endpoint(
        self,
        name: str,
        specs: dict[str, ChannelSpec],
        config: Config,
        security: ServerSecurity | None,
    ) -> Endpoint:
        random = Random(f"{self.seed} {name}")
        return Endpoint(config, random_bytes=random.randbytes, specs=specs, security=security)

    # -- the world

    def open(self) -> None:
        """Connect. Raises `HandshakeTimeout` or `NoCommonCipher`."""
        psk = PSK if self._mode is Mode.PSK else None
        security = ClientSecurity(self._mode, psk=psk)
        self.client.endpoint.connect(self.server.address, security, self.now, OPENING_SECONDS)
        self.run(self._is_open, OPENING_SECONDS + 1)
        for event in self.client.events:
            if isinstance(event, ConnectFailure):
                raise event.error

    def _is_open(self) -> bool:
        kinds = [*map(type, self.client.events)]
        if ConnectFailure in kinds:
            return True
        return SessionOpened in kinds and SessionOpened in [*map(type, self.server.events)]

    def at(self, time: float, call: Callable[[], object]) -> None:
        """Have something done at a time."""
        heapq.heappush(self._calls, (time, next(self._order), call))

    def cut(self, seconds: float | None = None) -> None:
        """Let nothing pass any more, for so long or until `heal`. What is flying still arrives."""
        self._is_cut = True
        if seconds is not None:
            self.at(self.now + seconds, self.heal)

    def heal(self) -> None:
        """Let datagrams pass again."""
        self._is_cut = False

    def rebind(self) -> None:
        """Give the client another address, as a NAT does; what flies to the old one is lost."""
        host, port = self.client.address
        self.client.address = (host, port + 1)

    # -- time

    def run(self, done: Callable[[], bool] | None = None, seconds: float = 60.0) -> bool:
        """Let time pass until `done` says so, nothing is due, or `seconds` have passed.

        Returns what `done` says in the end; True without one.
        """
        limit = self.now + seconds
        steps = 0
        self._exchange()
        while done is None or not done():
            due = self._next_due()
            if due is None or due > limit:
                self.now = limit
                break
            steps = steps + 1 if due <= self.now else 0
            assert steps < STEPS_AT_ONE_INSTANT, f"no end of work at {self.now} s"
            self.now = max(self.now, due)
            self._step()
        return done is None or done()

    def settle(self, seconds: float = 60.0) -> bool:
        """Run until nothing that either side has sent is on its way; False if that takes longer."""
        return self.run(self._is_settled, seconds)

    def _is_settled(self) -> bool:
        return self.client.connection.is_drained and self.server.connection.is_drained

    def _next_due(self) -> float | None:
        times = [side.endpoint.poll_timeout() for side in (self.client, self.server)]
        if self._flying:
            times.append(self._flying[0][0])
        if self._calls:
            times.append(self._calls[0][0])
        return min((time for time in times if time is not None), default=None)

    def _step(self) -> None:
        now = self.now
        while self._calls and self._calls[0][0] <= now:
            heapq.heappop(self._calls)[2]()
        while self._flying and self._flying[0][0] <= now:
            _, _, way, data, source, target = heapq.heappop(self._flying)
            side = self.server if way == 0 else self.client
            if side.address == target:
                self.traffic[way].delivered += 1
                side.endpoint.receive_datagram(data, source, now)
            else:
                self.traffic[way].lost += 1
        for side in (self.client, self.server):
            due = side.endpoint.poll_timeout()
            if due is not None and due <= now:
                side.endpoint.handle_timeout(now)
        self._exchange()

    def _exchange(self) -> None:
        """Take what both sides hand over, and put what they send on its way."""
        for way, side in enumerate((self.client, self.server)):
            side.take(self.now)
            for transmit in side.endpoint.poll_transmit(self.now):
                for packet in transmit.packets:
                    self._transmit(way, side, packet, transmit.address)
            side.take(self.now)

    def _transmit(self, way: int, side: Side, data: bytes, target: Address) -> None:
        traffic = self.traffic[way]
        traffic.sent += 1
        traffic.bytes_sent += len(data)
        if self.on_packet is not None:
            self.on_packet(side, data, self.now)
        if self.loses is not None and self.loses(side, data):
            traffic.lost += 1
            return
        copies = self.links[way].plan(data, self.now)
        if self._is_cut or copies[0].fate == "dropped":
            traffic.lost += 1
            return
        for copy in copies:
            entry = (copy.at, next(self._order), way, copy.data, side.address, target)
            heapq.heappush(self._flying, entry)
