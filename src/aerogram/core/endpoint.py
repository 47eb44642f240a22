"""Many peers behind one socket: routing of datagrams, handshakes, stateless replies, limits.

The shell feeds `receive_datagram` and `handle_timeout`, then polls in this order: `poll_event`
until None, `poll_transmit` until it is exhausted, `poll_event` again, and arms one timer for
`poll_timeout`. Rules: strangers get silence and a counter; what they can make this endpoint keep
or send is bounded; ids that a peer chooses are keyed as bytes.
"""

from __future__ import annotations

import heapq
import hmac
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from aerogram.config import Config
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec
from aerogram.core.connection import Connection, Shared, State
from aerogram.core.events import CloseCode, ConnectFailure, Event
from aerogram.core.handshake import (
    ClientHandshake,
    ClientSecurity,
    Established,
    ServerHandshake,
    ServerSecurity,
)
from aerogram.core.keys import RetryTokens, mac1, mac1_matches, reset_token
from aerogram.core.memory import EndpointMemory
from aerogram.core.path import Address
from aerogram.core.stats import EndpointStats
from aerogram.errors import CryptoError, DecodeError, HandshakeTimeout, NoCommonCipher

RESET_INTERVAL_SECONDS: Final = 0.1
"""Stateless resets to one address are at least this far apart (RFC 9000 §10.3)."""
RESET_ADDRESSES: Final = 1024
"""Addresses that are remembered for that."""
STALE_TIMERS: Final = 64
"""So many timers, and one for each session, may be there that an earlier one has replaced."""


@dataclass(slots=True)
class Transmit:
    """Packets to one address; all of one size but the last, which may be shorter."""

    address: Address
    packets: list[bytes]


class Endpoint:
    """The protocol on one socket, as client, server, or both."""

    def __init__(
        self,
        config: Config,
        *,
        random_bytes: Callable[[int], bytes],
        specs: Mapping[str, ChannelSpec],
        security: ServerSecurity | None = None,
        reset_secret: bytes | None = None,
    ) -> None:
        self.config = config
        self.stats = EndpointStats()
        self._random_bytes = random_bytes
        self._server = ServerHandshake(config, security) if security is not None else None
        self._retry_tokens = RetryTokens(random_bytes(32))
        self._reset_secret = reset_secret
        self._resets: OrderedDict[Address, float] = OrderedDict()
        self.events: deque[Event] = deque()
        """What `poll_event` takes from, for those who look first whether there is anything."""
        self._dirty: list[Connection] = []
        budget = EndpointMemory(config)
        self._shared = Shared(config, specs, budget, self.events, random_bytes, self._dirty)
        self._connections: dict[bytes, Connection] = {}
        self._by_reset_token: dict[bytes, Connection] = {}
        self._newest_at: dict[Address, Connection] = {}
        """The connection that was confirmed last from an address."""
        self._half_open: OrderedDict[tuple[bytes, Address], tuple[Connection, bytes, float]] = (
            OrderedDict()
        )
        self._handshakes: dict[bytes, ClientHandshake] = {}
        self._stateless: list[Transmit] = []
        self._timers: list[tuple[float, int, Connection]] = []
        self._timer_count = 0
        self.accepting = True

    # -- what the user does

    @property
    def connections(self) -> list[Connection]:
        """Those that are open, or closing and not yet gone."""
        return [c for c in self._connections.values() if c.state is not State.HALF_OPEN]

    def connect(
        self, address: Address, security: ClientSecurity, now: float, timeout_seconds: float
    ) -> ClientHandshake:
        """Start a handshake; `SessionOpened` or `ConnectFailure` will name it."""
        cid = self._new_cid()
        handshake = ClientHandshake(
            self.config, security, address, cid, self._random_bytes(32), now, timeout_seconds
        )
        self._handshakes[cid] = handshake
        self.stats.handshakes_started += 1
        return handshake

    def abandon(self, handshake: ClientHandshake) -> None:
        """Forget a handshake: nobody waits for it any more."""
        self._handshakes.pop(handshake.cid, None)

    def _new_cid(self) -> bytes:
        while True:
            cid = self._random_bytes(wire.CID_BYTES)
            if cid not in self._connections and cid not in self._handshakes:
                return cid

    # -- what arrives

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram from anybody. Never raises for what it contains."""
        self.stats.datagrams_received += 1
        if len(data) > wire.DATA_HEADER_BYTES and data[0] & 0xFE == wire.DATA:
            connection = self._connections.get(data[1:9])
            if connection is None:
                self._unknown_connection(data, address, now)
                return
            was_half_open = connection.state is State.HALF_OPEN
            if not connection.receive_packet(data, address, now):
                self.stats.dropped_unauthentic += 1
            elif was_half_open:
                self._confirmed(connection, now)
            return
        try:
            packet = wire.decode_handshake_untrusted(data)
        except DecodeError:
            self.stats.dropped_malformed += 1
            return
        self._receive_handshake(packet, data, address, now)

    def _receive_handshake(
        self,
        packet: wire.Init | wire.Resp | wire.Retry | wire.Reset,
        data: bytes,
        address: Address,
        now: float,
    ) -> None:
        if isinstance(packet, wire.Init):
            self._receive_init(packet, data, address, now)
        elif isinstance(packet, wire.Resp):
            self._receive_resp(packet, address, now)
        elif isinstance(packet, wire.Retry):
            self._receive_retry(packet, data, address, now)
        else:
            self._receive_reset(packet, now)

    # -- server

    def _receive_init(self, init: wire.Init, data: bytes, address: Address, now: float) -> None:
        server = self._server
        if server is None or not self.accepting:
            self.stats.dropped_unexpected += 1
            return
        key = server.mac1_key(init.mode)
        if key is None or not mac1_matches(key, data):
            self.stats.dropped_unauthentic += 1
            return
        known = self._half_open.get((init.client_cid, address))
        if known is not None:
            # The RESP was lost, or the INIT is a copy: the same answer, and no new work.
            self._stateless.append(Transmit(address, [known[1]]))
            return
        if not self._has_room(init, key, data, address, now):
            return
        self._answer(server, init, address, now)

    def _has_room(
        self, init: wire.Init, key: bytes, data: bytes, address: Address, now: float
    ) -> bool:
        half_open = len(self._half_open)
        if half_open >= self.config.half_open_limit or (
            len(self._connections) >= self.config.sessions_limit
        ):
            self.stats.dropped_at_limit += 1
            return False
        if half_open < self.config.half_open_before_retry:
            return True
        where = repr(address).encode()
        if init.token and self._retry_tokens.verify(init.token, where, init.client_cid, now):
            return True
        token = self._retry_tokens.mint(where, init.client_cid, now)
        body = wire.encode_retry(init.client_cid, token)
        retry = body + mac1(key, body + data[-wire.MAC1_BYTES :])
        self._stateless.append(Transmit(address, [retry]))
        self.stats.retries_sent += 1
        return False

    def _answer(
        self, server: ServerHandshake, init: wire.Init, address: Address, now: float
    ) -> None:
        cid = self._new_cid()
        reset = self._random_bytes(16)
        if self._reset_secret is not None:
            reset = reset_token(self._reset_secret, cid)
        try:
            resp, established = server.respond(init, cid, reset, self._random_bytes(32))
        except (CryptoError, DecodeError):
            self.stats.dropped_unauthentic += 1
            return
        self.stats.handshakes_started += 1
        connection = self._add(established, cid, address, now)
        expires_at = now + self.config.handshake_timeout_seconds
        self._half_open[init.client_cid, address] = (connection, resp, expires_at)
        self._stateless.append(Transmit(address, [resp]))

    def _add(
        self, established: Established, cid: bytes, address: Address, now: float
    ) -> Connection:
        connection = Connection(
            self._shared,
            protection=established.protection,
            local_cid=cid,
            remote_cid=established.remote_cid,
            address=address,
            peer=established.peer,
            peer_key=established.peer_key,
            now=now,
        )
        self._connections[cid] = connection
        if connection.peer_reset_token:
            self._by_reset_token[connection.peer_reset_token] = connection
        return connection

    def _remove(self, connection: Connection) -> None:
        self._connections.pop(connection.local_cid, None)
        connection.deadline_registered = None
        self._by_reset_token.pop(connection.peer_reset_token, None)
        if self._newest_at.get(connection.opened_from) is connection:
            del self._newest_at[connection.opened_from]

    def _confirmed(self, connection: Connection, now: float) -> None:
        """A half-open connection has become a session."""
        self.stats.handshakes_completed += 1
        self._half_open.pop((connection.remote_cid, connection.path.address), None)
        address = connection.opened_from
        older = self._newest_at.get(address)
        self._newest_at[address] = connection
        if older is not None:
            # The same address cannot be two programs: the older one is gone or answers.
            older.ping()

    def _unknown_connection(self, data: bytes, address: Address, now: float) -> None:
        self.stats.dropped_unknown_connection += 1
        if self._reset_secret is None:
            return
        last = self._resets.get(address)
        if last is not None and now < last + RESET_INTERVAL_SECONDS:
            return
        self._resets[address] = now
        self._resets.move_to_end(address)
        while len(self._resets) > RESET_ADDRESSES:
            self._resets.popitem(last=False)
        cid = data[1:9]
        reset = wire.encode_reset(cid, reset_token(self._reset_secret, cid))
        if len(reset) < len(data):
            self._stateless.append(Transmit(address, [reset]))
            self.stats.resets_sent += 1

    # -- client

    def _receive_resp(self, resp: wire.Resp, address: Address, now: float) -> None:
        handshake = self._handshakes.get(resp.client_cid)
        if handshake is None or address != handshake.address:
            self.stats.dropped_unexpected += 1
            return
        try:
            established = handshake.respond(resp)
        except NoCommonCipher as refusal:  # it was the server itself that said so
            del self._handshakes[resp.client_cid]
            self.events.append(ConnectFailure(handshake, refusal))
            return
        except (CryptoError, DecodeError):
            self.stats.dropped_unauthentic += 1
            return
        del self._handshakes[resp.client_cid]
        self.stats.handshakes_completed += 1
        connection = self._add(established, resp.client_cid, address, now)
        connection.owner = handshake.owner
        connection.opened(handshake)
        connection.ping()

    def _receive_retry(self, retry: wire.Retry, data: bytes, address: Address, now: float) -> None:
        handshake = self._handshakes.get(retry.client_cid)
        if handshake is None or address != handshake.address:
            self.stats.dropped_unexpected += 1
            return
        try:
            handshake.retry(retry, data, now)
        except CryptoError:
            self.stats.dropped_unauthentic += 1

    def _receive_reset(self, packet: wire.Reset, now: float) -> None:
        connection = self._by_reset_token.get(packet.token)
        if connection is None or not _resets(packet, connection):
            self.stats.dropped_unexpected += 1
            return
        self.stats.resets_received += 1
        connection.end_silently(CloseCode.RESTARTED, "the peer has lost this session", now)

    # -- time

    def handle_timeout(self, now: float) -> None:
        """Let every connection and handshake whose deadline has passed do its work."""
        while self._timers and self._timers[0][0] <= now:
            due, _, connection = heapq.heappop(self._timers)
            if connection.deadline_registered != due:
                continue
            connection.deadline_registered = None
            deadline = connection.deadline()
            if deadline is not None and deadline <= now:
                connection.handle_timeout(now)
            else:
                self._register(connection, deadline)
        if self._half_open:
            self._expire_half_open(now)
        for handshake in [*self._handshakes.values()] if self._handshakes else ():
            if now >= handshake.expires_at:
                del self._handshakes[handshake.cid]
                error = HandshakeTimeout(f"no answer within {handshake.timeout_seconds:g} s")
                self.events.append(ConnectFailure(handshake, error))

    def _expire_half_open(self, now: float) -> None:
        while self._half_open:
            connection, _, expires_at = next(iter(self._half_open.values()))
            if expires_at > now:
                return
            self._half_open.popitem(last=False)
            self._remove(connection)
            self.stats.handshakes_expired += 1

    # -- what to do next

    @property
    def has_work(self) -> bool:
        """False if `poll_event` and `poll_transmit` have nothing."""
        return bool(self.events or self._shared.dirty or self._stateless or self._handshakes)

    def poll_event(self) -> Event | None:
        """The next event, or None."""
        return self.events.popleft() if self.events else None

    def poll_transmit(self, now: float) -> Iterator[Transmit]:
        """What is to be sent now, in runs that one system call can take."""
        if self._stateless:
            stateless, self._stateless = self._stateless, []
            yield from stateless
        for handshake in [*self._handshakes.values()] if self._handshakes else ():
            if now >= handshake.deadline:
                yield Transmit(handshake.address, [handshake.init(now)])
        dirty, self._shared.dirty = self._shared.dirty, []
        waiting = iter(dirty)
        try:
            for connection in waiting:
                connection.is_dirty = False
                try:
                    packets = connection.transmit(now)
                    if len(packets) == 1:
                        yield Transmit(connection.path.address, packets)
                    elif packets:
                        yield from _runs(connection.path.address, packets)
                    if connection.path.challenge_waits:
                        yield from _challenge(connection)
                finally:
                    self._register(connection, connection.deadline())
        finally:
            # A retry policy of the application that raises holds up no other connection.
            self._shared.dirty.extend(waiting)

    def _register(self, connection: Connection, deadline: float | None) -> None:
        """Look at a connection again when its deadline has passed; without one it is gone."""
        if deadline is None:
            if self._connections.get(connection.local_cid) is connection:
                self._remove(connection)
            return
        registered = connection.deadline_registered
        if registered is not None and registered <= deadline:
            return
        # A later deadline is not registered: the earlier one will look again.
        connection.deadline_registered = deadline
        self._timer_count += 1
        heapq.heappush(self._timers, (deadline, self._timer_count, connection))
        if len(self._timers) > 2 * len(self._connections) + STALE_TIMERS:
            self._timers = [t for t in self._timers if t[2].deadline_registered == t[0]]
            heapq.heapify(self._timers)

    def poll_timeout(self) -> float | None:
        """When `handle_timeout` is to be called, if nothing happens before."""
        result: float | None = None
        if self._shared.dirty or self._stateless:
            return 0.0
        while self._timers and self._timers[0][2].deadline_registered != self._timers[0][0]:
            heapq.heappop(self._timers)
        if self._timers:
            result = self._timers[0][0]
        for handshake in self._handshakes.values():
            if result is None or handshake.deadline < result:
                result = handshake.deadline
        if self._half_open:
            expires_at = next(iter(self._half_open.values()))[2]
            if result is None or expires_at < result:
                result = expires_at
        return result


def _resets(packet: wire.Reset, connection: Connection) -> bool:
    same_token = hmac.compare_digest(connection.peer_reset_token, packet.token)
    return same_token and connection.remote_cid == packet.cid


def _challenge(connection: Connection) -> Iterator[Transmit]:
    challenge = connection.take_challenge()
    if challenge is not None:
        yield Transmit(challenge[1], [challenge[0]])


def _runs(address: Address, packets: list[bytes]) -> Iterator[Transmit]:
    """Cut a list of packets into runs of one size, whose last may be shorter."""
    run = [packets[0]]
    size = len(packets[0])
    for packet in packets[1:]:
        if len(run[-1]) == size and len(packet) <= size:
            run.append(packet)
            continue
        yield Transmit(address, run)
        run, size = [packet], len(packet)
    yield Transmit(address, run)
