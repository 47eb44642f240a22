"""`SessionManager`: between one socket and the protocol core, and from there to sessions.

Rules: a datagram callback only feeds the core; events and packets are dealt with once per turn of
the loop, in one flush. There is one loop timer per endpoint, armed for the core's one deadline.
Nothing raises into the loop: what the application gave the protocol (its deliveries, its
`session_state`) may fail as handlers do. Such errors are logged at a bounded rate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from aerogram.config import Config
from aerogram.core.connection import State
from aerogram.core.endpoint import Endpoint
from aerogram.core.events import (
    ChannelHasRoom,
    CloseCode,
    ConnectFailure,
    Drained,
    Event,
    MessageRefused,
    MessagesReceived,
    PolicyFailed,
    SessionEnded,
    SessionOpened,
)
from aerogram.core.ledger import Ledger
from aerogram.errors import (
    ChannelMismatch,
    ClosedByPeer,
    ClosedLocally,
    IdleTimeout,
    KeyLimitReached,
    PeerProtocolError,
    PeerRestarted,
    SessionClosed,
)
from aerogram.inner_session import InnerSession
from aerogram.io.protocol import PacketProtocol
from aerogram.lifecycle import STOPS_LOOP
from aerogram.loglimit import LogLimit
from aerogram.session import Session
from aerogram.timers import DeadlineTimers

if TYPE_CHECKING:
    from aerogram.app import App
    from aerogram.channels import Channels
    from aerogram.core.handshake import ClientSecurity
    from aerogram.io.network import Network
    from aerogram.io.sockets import Address

SessionEvent = (
    MessagesReceived | MessageRefused | PolicyFailed | ChannelHasRoom | Drained | SessionEnded
)
"""What a session is told."""

LEDGER_CHECK_SECONDS: Final = 5.0
"""In asyncio's debug mode the ledger of each session is checked this often."""

SOCKET_CLOSES_SECONDS: Final = 1.0
"""A transport that has been closed says so in the next turn; one that does not is not waited for
longer than this."""


class SessionManager:
    """The sessions of one socket, as client, server, or both."""

    def __init__(
        self,
        endpoint: Endpoint,
        config: Config,
        channels: Channels,
        app: App[Any, Any] | None,
        logger: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self.config = config
        self.endpoint = endpoint
        self.flush_scheduled = False
        self._has_handlers = False
        """True if messages have come for handlers in this read."""
        self._gives_way = False
        """True if a flush that was scheduled is to let them begin first; it does so once."""
        self._gave_way = False
        self.sessions: dict[InnerSession, None] = {}
        self.handler_errors = 0
        self.ended = Ledger()
        """What the sessions that are gone have counted."""
        self._app = app
        self._channels = channels
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self.time = clock_of(self._loop)
        """The endpoint's clock, in seconds."""
        self._is_debug = self._loop.get_debug()
        self._check_at = self.time() + LEDGER_CHECK_SECONDS
        self._timers = DeadlineTimers(self._loop, self._timeout)
        self._transport: asyncio.DatagramTransport | None = None
        self._protocol: PacketProtocol | None = None
        self._log_limit = LogLimit()
        self._gone: asyncio.Future[None] | None = None
        self._closing = False
        self._closing_reason = ""
        self._callers: list[InnerSession] = []
        """Sessions of which a handler is closing them all."""
        self._stopped = False
        self._closed = asyncio.Event()
        self._lost: asyncio.Future[None] = self._loop.create_future()

    # -- the socket

    async def open(self, network: Network, local_address: Address) -> None:
        """Bind the socket. Raises `OSError`."""
        self._transport, protocol = await network.create_datagram_endpoint(
            self._make_protocol, local_address=local_address
        )
        self._protocol = cast("PacketProtocol", protocol)

    def _make_protocol(self) -> PacketProtocol:
        return PacketProtocol(self, self.config)

    @property
    def protocol(self) -> PacketProtocol:
        """The protocol of the open socket."""
        assert self._protocol is not None
        return self._protocol

    @property
    def transport(self) -> asyncio.DatagramTransport:
        """The transport of the open socket."""
        assert self._transport is not None
        return self._transport

    @property
    def local_address(self) -> Address:
        """The address that the socket is bound to."""
        address: Address = self.transport.get_extra_info("sockname")
        return address

    def drop_counts(self) -> dict[str, int]:
        """How many datagrams were dropped, by reason: for whoever watches the socket."""
        stats = self.endpoint.stats
        return {
            "malformed": stats.dropped_malformed,
            "not authentic": stats.dropped_unauthentic,
            "unknown connection": stats.dropped_unknown_connection,
            "unexpected": stats.dropped_unexpected,
            "at a limit": stats.dropped_at_limit,
        }

    def receive_datagram(self, data: bytes, address: Address) -> None:
        """From the socket: one datagram."""
        self.endpoint.receive_datagram(data, address, self.time())

    def receive_run(self, data: bytes, segment_bytes: int, address: Address) -> None:
        """From the socket: several datagrams of one size, of which the last may be shorter."""
        now = self.time()
        receive = self.endpoint.receive_datagram
        for start in range(0, len(data), segment_bytes):
            receive(data[start : start + segment_bytes], address, now)

    def read_complete(self) -> None:
        """From the socket: that was all for now.

        Handlers have a turn of the loop before their messages are acknowledged, so that what one
        refuses at once is refused for its sender too; and what they send goes in the same packet.
        """
        self._has_handlers = False
        self._poll_safely()
        if not self._has_handlers:
            self._flush()
        elif self.flush_scheduled:
            self._gives_way = True
        else:
            self.schedule_flush()

    def transport_lost(self, error: Exception | None) -> None:
        """From the socket: it is closed."""
        if not self._lost.done():
            self._lost.set_result(None)
        if error is not None and not self._closing:
            self._logger.error("the socket was lost: %s", error)
            for connection in self.endpoint.connections:
                connection.end_silently(CloseCode.IDLE, str(error), self.time())
            self.poll()

    def send_error(self, error: OSError, address: Address | None) -> None:
        """From the socket: a send failed or an ICMP error came. Loss detection takes care."""

    # -- the turn

    def schedule_flush(self) -> None:
        """Deal with events and packets at the end of this turn of the loop."""
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._stopped:
            return
        if self._gives_way and not self._gave_way:
            self._gave_way = True
            self._loop.call_soon(self._flush)
            return
        self._gives_way = self._gave_way = False
        self.flush_scheduled = False
        events = self.endpoint.events
        try:
            if events:
                self.poll()
            self._transmit()
            if events:
                self.poll()
        except Exception as error:  # of a delivery that the application wrote
            self._application_failed("a delivery", error)
        self._arm()
        if self._gone is not None and not self._gone.done() and self._all_gone():
            self._gone.set_result(None)

    def _poll_safely(self) -> None:
        try:
            self.poll()
        except Exception as error:  # of a delivery that the application wrote
            self._application_failed("a delivery", error)

    def poll(self) -> None:
        """Deal with all events."""
        poll_event = self.endpoint.poll_event
        while (event := poll_event()) is not None:
            self._take(event)

    def _transmit(self) -> None:
        if self._protocol is None:
            return
        send_run = self._protocol.send_run
        for transmit in self.endpoint.poll_transmit(self.time()):
            send_run(transmit.packets, transmit.address)

    def _arm(self) -> None:
        due = self.endpoint.poll_timeout()
        if due is None:
            return
        if due <= 0.0:
            self.schedule_flush()
            return
        if self._is_debug:
            due = min(due, self._check_at)
        self._timers.arm(due)

    def _timeout(self) -> None:
        now = self.time()
        if self._is_debug and now >= self._check_at:
            self._check_ledgers()
        try:
            self.endpoint.handle_timeout(now)
        except Exception as error:  # of a delivery that the application wrote
            self._application_failed("a delivery", error)
        if self.endpoint.has_work and not self.flush_scheduled:
            self._flush()
        else:
            self._arm()

    def _check_ledgers(self) -> None:
        self._check_at = self.time() + LEDGER_CHECK_SECONDS
        for session in self.sessions:
            for imbalance in session.stats.imbalances:
                self._logger.error(
                    "the ledger of the session with %s does not balance: %s",
                    session.address,
                    imbalance,
                )

    @property
    def totals(self) -> Ledger:
        """What all sessions have counted, those that are gone included."""
        totals = Ledger()
        totals.add(self.ended)
        for session in self.sessions:
            totals.add(session.stats)
        return totals

    # -- events

    def _take(self, event: Event) -> None:
        if isinstance(event, SessionOpened):
            self._opened(event)
        elif isinstance(event, ConnectFailure):
            _fail(event.handshake.owner, event.error)
        elif event.connection.owner is not None:  # else it was turned away
            self._tell(event.connection.owner, event)

    def _tell(self, session: InnerSession, event: SessionEvent) -> None:
        if isinstance(event, MessagesReceived):
            self._has_handlers |= session.app is not None
            session.arrived(event.channel, event.runs)
        elif isinstance(event, ChannelHasRoom):
            session.outbox.has_room(event.channel)
        elif isinstance(event, SessionEnded):
            self._ended(session, event)
        elif isinstance(event, Drained):
            session.life.has_drained()
        elif isinstance(event, PolicyFailed):
            self._application_failed(f"the delivery of channel {event.channel_name!r}", event.error)
        else:
            self._refused(session, event)

    def _opened(self, event: SessionOpened) -> None:
        connection = event.connection
        waiter: asyncio.Future[Session[Any]] | None = connection.owner
        connection.owner = None
        if self._closing:
            connection.close(CloseCode.GOING_AWAY, self._closing_reason, self.time())
            return
        try:
            session = InnerSession(
                self, connection, self._channels, self._app, is_client=event.handshake is not None
            )
            session.public = Session(session)
        except Exception as error:  # of the application's `session_state`
            self._application_failed("session_state", error)
            connection.close(CloseCode.NO_ERROR, "the session could not be set up", self.time())
            _fail(waiter, error)
            return
        connection.owner = session
        self.sessions[session] = None
        self._logger.info("session with %s opened", session.address)
        session.life.start()
        if waiter is None:
            return
        if waiter.done():
            connection.close(CloseCode.NO_ERROR, "", self.time())
        else:
            waiter.set_result(session.public)

    def _ended(self, session: InnerSession, event: SessionEnded) -> None:
        error = closing_error(event.code, event.reason, by_peer=event.by_peer)
        self._logger.info("session with %s closed: %r", session.address, error)
        session.ended(error)

    def _refused(self, session: InnerSession, event: MessageRefused) -> None:
        if self._may_log():
            self._logger.warning(
                "%s did not take a message on channel %r: %r",
                session.address,
                event.channel_name,
                event.reason,
            )

    def log_handler_error(self, session: InnerSession, name: str, error: BaseException) -> None:
        """A handler raised: log it with its traceback, at a bounded rate.

        What stops the loop does so, outside of the task that handles other messages too.
        """
        if isinstance(error, STOPS_LOOP):
            self._loop.call_soon(_raise, error)
            return
        self.handler_errors += 1
        if self._may_log():
            self._logger.error(
                "the handler of %s failed for %s", name, session.address, exc_info=error
            )

    def log_overdue(self, session: InnerSession, level: int, text: str) -> None:
        """Handlers have not ended in their time."""
        if self._may_log():
            self._logger.log(level, "handlers of %s have not ended and %s", session.address, text)

    def _application_failed(self, what: str, error: Exception) -> None:
        """Something of the application raised that belongs to no message: as a handler."""
        self.handler_errors += 1
        if self._may_log():
            self._logger.error("%s of the application failed", what, exc_info=error)

    def _may_log(self) -> bool:
        return self._log_limit.allows(self.time())

    def session_finished(self, session: InnerSession) -> None:
        """A session has ended and its handlers are done."""
        self.sessions.pop(session, None)
        self.ended.add(session.stats)
        if self._gone is not None and not self._gone.done() and self._all_gone():
            self._gone.set_result(None)

    # -- opening and closing

    async def connect(
        self, address: Address, security: ClientSecurity, timeout: float
    ) -> Session[Any]:
        """Open a session. Raises `HandshakeTimeout` if nothing authentic answers in time.

        Raises `NoCommonCipher` if the server insists on another cipher.
        """
        handshake = self.endpoint.connect(address, security, self.time(), timeout)
        opened: asyncio.Future[Session[Any]] = self._loop.create_future()
        handshake.owner = opened
        self.schedule_flush()
        try:
            return await opened
        except BaseException:
            self.endpoint.abandon(handshake)
            raise

    async def close(self, reason: str, grace: float) -> None:
        """Close all sessions, wait for them, and then close the socket.

        Messages that are queued are let out first, and handlers let end, at most `grace` seconds;
        then they are cancelled. A handler that calls this is not waited for; it has the grace when
        this returns. If this call is cancelled, all that happens at once.
        """
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        self._closing_reason = reason
        self.endpoint.accepting = False
        self._callers = [session for session in self.sessions if session.life.is_handling]
        for session in self._callers:
            session.life.hold()
        try:
            await self._close_sessions(reason, grace)
        finally:
            self._end_sessions(reason, grace)
            self._gives_way = False
            self._flush()
            self._stopped = self.flush_scheduled = True  # nothing is flushed any more
            self._timers.stop()
            self._closed.set()
            if self._protocol is not None:
                self._protocol.close()
                await asyncio.wait([self._lost], timeout=SOCKET_CLOSES_SECONDS)

    async def _close_sessions(self, reason: str, grace: float) -> None:
        closing: list[asyncio.Future[None]] = []
        for session in [*self.sessions]:
            close = session.life.shut if session in self._callers else session.life.close
            closing.append(asyncio.ensure_future(close(reason, 0, grace)))
        try:
            if closing:
                await asyncio.wait(closing)
        finally:
            for task in closing:
                task.cancel()
        self._gone = self._loop.create_future()
        self.schedule_flush()
        await asyncio.wait([self._gone], timeout=grace / 2)

    def _end_sessions(self, reason: str, grace: float) -> None:
        """End every session and cancel its handlers."""
        now = self.time()
        for connection in self.endpoint.connections:
            connection.close(CloseCode.GOING_AWAY, reason, now)
        self.poll()
        for session in [*self.sessions]:
            session.life.hurry(grace if session in self._callers else 0.0)

    def _all_gone(self) -> bool:
        if any(session not in self._callers for session in self.sessions):
            return False
        return all(c.state is not State.CLOSING for c in self.endpoint.connections)


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock that `loop.call_at` goes by, as finely as it can be read.

    uvloop shows the milliseconds at which its turn began; underneath is `time.monotonic`.
    """
    return time.monotonic if type(loop).__module__.startswith("uvloop") else loop.time


def _raise(error: BaseException) -> None:
    raise error


def _fail(future: Any, error: Exception) -> None:
    if isinstance(future, asyncio.Future) and not future.done():
        future.set_exception(error)


def closing_error(code: int, reason: str, *, by_peer: bool) -> SessionClosed:
    """The exception for the way in which a session ended."""
    kinds: dict[int, type[SessionClosed]] = {
        CloseCode.PROTOCOL_VIOLATION: PeerProtocolError,
        CloseCode.CHANNEL_MISMATCH: ChannelMismatch,
        CloseCode.IDLE: IdleTimeout,
        CloseCode.RESTARTED: PeerRestarted,
        CloseCode.KEY_LIMIT: KeyLimitReached,
    }
    kind = kinds.get(code, ClosedByPeer if by_peer else ClosedLocally)
    return kind(reason, code=code)
