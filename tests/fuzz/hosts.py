"""Endpoints for targets: a shell without sockets, sessions without handshakes, and what must hold.

`Host.turn` checks after every datagram that nothing is kept beyond its named limit; `Host.finish`
that nothing is left once everything has ended. The limits are small here, so that a few datagrams
reach them.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from aerogram.config import Config
from aerogram.core.channel import ChannelSpec
from aerogram.core.connection import Connection, State
from aerogram.core.delivery import preset
from aerogram.core.endpoint import Endpoint
from aerogram.core.events import (
    ConnectFailure,
    Event,
    MessagesReceived,
    RefuseCode,
    SessionEnded,
    SessionOpened,
)
from aerogram.core.handshake import ClientSecurity, Established, ServerSecurity, local_parameters
from aerogram.core.keys import Aead, Identity, PacketProtection
from aerogram.core.wire import Mode, TransportParameters
from tests.fuzz.bounds import check_bounds, check_ledger, check_nothing_held

Address = tuple[str, int]
Datagram = tuple[bytes, Address]

CONFIG: Final = Config(
    max_record_bytes=32 * 1024,
    channel_window_bytes=16 * 1024,
    reassembly_bytes_per_session=64 * 1024,
    reassembly_bytes_per_endpoint=96 * 1024,
    unread_bytes_per_session=16 * 1024,
    unread_bytes_per_endpoint=32 * 1024,
    channels_per_session=8,
    congestion_window_bytes=16 * 1024,
    half_open_limit=6,
    half_open_before_retry=2,
    sessions_limit=12,
    handshake_timeout_seconds=5.0,
    idle_timeout_seconds=30.0,
)
PSK: Final = bytes(range(32))
SERVER_IDENTITY: Final = Identity.from_private_bytes(bytes(range(32, 64)))
CLIENT_IDENTITY: Final = Identity.from_private_bytes(bytes(range(64, 96)))
SERVER: Final = ("server", 1)
CLIENT: Final = ("client", 2)
ELSEWHERE: Final = ("elsewhere", 3)
SERVER_CID: Final = b"at-serve"
CLIENT_CID: Final = b"atclient"
UPWARD_KEY: Final = bytes(range(96, 128))
DOWNWARD_KEY: Final = bytes(range(128, 160))

SPECS: Final = {
    name: ChannelSpec(name, delivery)
    for name in ("ordered", "reliable", "sequenced", "unreliable")
    if (delivery := preset(name)) is not None
}
REFUSED: Final = b"?"
"""A message that begins with this is refused, as one that does not decode."""
TIMERS_MOST: Final = 2000
"""Deadlines in one wait: more means that a deadline does not move."""
ENDED_SECONDS: Final = 10.0
"""A session that this side or the peer has closed is forgotten after this, whatever comes."""
QUIET_SECONDS: Final = 60.0
"""After so much silence an endpoint has forgotten everybody."""


class Host:
    """An endpoint and its shell: takes events, lets messages be handled, collects datagrams."""

    def __init__(self, *, serves: bool, seed: int = 0) -> None:
        security = ServerSecurity(SERVER_IDENTITY, PSK, insecure=True) if serves else None
        self.endpoint = Endpoint(
            CONFIG,
            random_bytes=Random(seed).randbytes,
            specs=SPECS,
            security=security,
            reset_secret=PSK,
        )
        self.now = 100.0
        self.consumes = True
        """Handlers keep up with what arrives."""
        self.messages: list[bytes] = []
        self.opened: list[Connection] = []
        self.ended: list[SessionEnded] = []
        self.failures: list[ConnectFailure] = []

    def hear(self, data: bytes, address: Address) -> list[Datagram]:
        """A datagram arrives; return what leaves."""
        self.endpoint.receive_datagram(data, address, self.now)
        return self.turn()

    def turn(self) -> list[Datagram]:
        """What the shell does at the end of a turn of its loop; return what leaves."""
        self._take_events()
        sent = [
            (packet, transmit.address)
            for transmit in self.endpoint.poll_transmit(self.now)
            for packet in transmit.packets
        ]
        self._take_events()
        check_bounds(self.endpoint)
        return sent

    def wait(self, seconds: float) -> list[Datagram]:
        """Let time pass, with all timers that are due; return what leaves."""
        until = self.now + seconds
        sent: list[Datagram] = []
        for _ in range(TIMERS_MOST):
            due = self.endpoint.poll_timeout()
            if due is None or due > until:
                self.now = until
                return sent
            self.now = max(self.now, due)
            self.endpoint.handle_timeout(self.now)
            sent += self.turn()
        raise AssertionError("a deadline does not move")

    def _take_events(self) -> None:
        while (event := self.endpoint.poll_event()) is not None:
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, SessionOpened):
            self.opened.append(event.connection)
        elif isinstance(event, SessionEnded):
            self.ended.append(event)
        elif isinstance(event, ConnectFailure):
            self.failures.append(event)
        elif isinstance(event, MessagesReceived):
            for number, payloads, cost in event.runs:
                self._handle(event.connection, event.channel, number, payloads)
                if self.consumes and event.channel.resends:
                    event.connection.consumed(event.channel, cost)

    def _handle(self, connection: Connection, channel: Any, number: int, run: list[bytes]) -> None:
        self.messages += run
        for index, payload in enumerate(run):
            if payload.startswith(REFUSED) and connection.state is State.OPEN:
                connection.refuse(channel, number + index, RefuseCode.UNDECODABLE, "?")

    def finish(self) -> None:
        """Close all sessions; nobody answers. Nothing may be left."""
        for connection in self.endpoint.connections:
            connection.close(0, "", self.now)
        self.turn()
        self.wait(ENDED_SECONDS)
        left = self.endpoint.connections
        assert not left, f"a closed session is still there: {left[0].state.name}"
        self.wait(QUIET_SECONDS)
        check_nothing_held(self.endpoint)
        assert len(self.ended) == len(self.opened)
        for connection in self.opened:
            check_ledger(connection)


def client_security(mode: Mode) -> ClientSecurity:
    """How a genuine client of the server here proves itself."""
    if mode is Mode.PINNED:
        return ClientSecurity(mode, CLIENT_IDENTITY, SERVER_IDENTITY.public_bytes)
    return ClientSecurity(mode, psk=PSK if mode is Mode.PSK else None)


def peer_parameters(cid: bytes) -> TransportParameters:
    """What a peer with the same limits says of itself."""
    parameters = local_parameters(CONFIG, Aead.AES_256_GCM)
    parameters.connection_id = cid
    parameters.reset_token = cid + cid
    return parameters


def protection(*, serves: bool, rekey_packets: int = 1 << 20) -> PacketProtection:
    """The keys of one side of a session that was opened without a handshake."""
    keys = (DOWNWARD_KEY, UPWARD_KEY) if serves else (UPWARD_KEY, DOWNWARD_KEY)
    return PacketProtection(*keys, Aead.AES_256_GCM, rekey_packets=rekey_packets)


def add_session(
    host: Host, *, serves: bool, parameters: TransportParameters | None = None
) -> Connection:
    """A session of this host that is open without a handshake; `serves` as the server's side."""
    local, remote = (SERVER_CID, CLIENT_CID) if serves else (CLIENT_CID, SERVER_CID)
    peer = parameters if parameters is not None else peer_parameters(remote)
    established = Established(protection(serves=serves), peer, None, remote)
    connection = host.endpoint._add(established, local, CLIENT if serves else SERVER, host.now)
    connection.opened()
    host.turn()
    return connection


def settle(hosts: dict[Address, Host], sent: list[tuple[Address, Datagram]]) -> None:
    """Deliver datagrams, each with its sender's address, and all that follows from them."""
    for _ in range(2000):
        if not sent:
            return
        source, (data, target) = sent.pop(0)
        if target in hosts:
            sent += [(target, datagram) for datagram in hosts[target].hear(data, source)]
    raise AssertionError("two hosts never stop talking")
