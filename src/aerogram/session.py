"""`Session`: what a user holds of a peer. Sending in three strengths, receiving, closing.

Rules: `send` returns once there is room, `deliver` once the peer's endpoint has the message,
`request` once its handler has answered; each raises its own errors, and all of them
`SessionClosed` once the session has ended. Nothing here touches a socket: the connection queues,
the manager flushes at the end of the loop's turn.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from aerogram import messages as codec
from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core.channel import Outcome
from aerogram.core.events import CloseCode, RefuseCode
from aerogram.core.stats import SessionStats
from aerogram.dispatch import Mailbox, Route
from aerogram.errors import (
    ClosedByPeer,
    ClosedLocally,
    DecodeError,
    DeliveryFailed,
    DeliveryTimeout,
    Rejected,
    SessionClosed,
)
from aerogram.inbox import Inbox
from aerogram.messages import Request
from aerogram.outbox import Outbox
from aerogram.pings import Pings
from aerogram.receipts import Receipt
from aerogram.requests import Requests
from aerogram.session_clock import SessionClock
from aerogram.shell import Shell
from aerogram.typevars import StateT

if TYPE_CHECKING:
    from aerogram.app import App, Channel, Channels
    from aerogram.core.channel import ReceiveChannel, Run, SendChannel
    from aerogram.core.connection import Connection
    from aerogram.groups import Group

MessageT = TypeVar("MessageT")
AnswerT = TypeVar("AnswerT")

DEFAULT_REQUEST_TIMEOUT = 10.0
"""Seconds; pass `timeout=None` to wait as long as the session lives."""


class Session(Generic[StateT]):
    """A peer. Users get it from `connect`, or as the first argument of their handlers."""

    def __init__(
        self,
        shell: Shell,
        connection: Connection,
        channels: Channels,
        app: App[Any, StateT] | None,
        *,
        is_client: bool,
    ) -> None:
        self.connection = connection
        self.config = shell.config
        self.app = app
        self.ready = False
        """True once `on_open` has run: handlers may."""
        self._shell = shell
        self._is_client = is_client
        self._clock: SessionClock | None = None
        self._outbox = Outbox(shell, connection, channels)
        self._mailboxes: dict[int, Mailbox] = {}
        self._inbox = Inbox(self.config.mailbox_bytes)
        self._groups: dict[Group[Any], None] = {}
        self.requests = Requests(self)
        self._error: SessionClosed | None = None
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings = Pings(connection, shell)
        self._opener: asyncio.Task[None] | None = None
        self._finisher: asyncio.Task[None] | None = None
        self._runs_closers = False
        self._drained: asyncio.Future[None] | None = None
        self._queue_messages = self.config.send_queue_messages
        self._queue_bytes = self.config.send_queue_bytes
        make_state = app.session_state if app is not None else None
        self._state: StateT | None = make_state() if make_state is not None else None

    def __repr__(self) -> str:
        status = "closed" if self.closed else "open"
        return f"<Session {status} {self.address!r}>"

    # -- looking

    @property
    def state(self) -> StateT:
        """What `session_state=` made, or what was assigned. `AttributeError` without either."""
        if self._state is None and (self.app is None or self.app.session_state is None):
            raise AttributeError("this session has no state: give the App a session_state=")
        return self._state  # type: ignore[return-value]  # None only if StateT is

    @state.setter
    def state(self, value: StateT) -> None:
        self._state = value

    @property
    def address(self) -> tuple[Any, ...]:
        """The peer's address; it may change while the session lives."""
        return self.connection.path.address

    @property
    def peer_key(self) -> bytes | None:
        """The peer's public key, where the handshake proved one."""
        return self.connection.peer_key

    @property
    def clock(self) -> SessionClock:
        """The time that both ends share: the server's. The first look starts to measure it."""
        if self._clock is None:
            self._clock = SessionClock(self.connection, self._shell.time, asks=self._is_client)
            self._shell.schedule_flush()
        return self._clock

    @property
    def closed(self) -> bool:
        """True once the session has ended."""
        return self._error is not None

    @property
    def error(self) -> SessionClosed | None:
        """Why the session ended, or None while it is open."""
        return self._error

    @property
    def stats(self) -> SessionStats:
        """A snapshot of all counters."""
        rtt = self.connection.rtt
        return SessionStats(
            **asdict(self.connection.stats),
            rtt=rtt.smoothed,
            rtt_variation=rtt.variation,
            messages_in_flight=self.connection.messages_in_flight,
        )

    # -- sending

    async def send(
        self, message: object, *, via: Channel | None = None, deadline: float | None = None
    ) -> Receipt:
        """Queue a message; waits while the channel's queue is full.

        `deadline` is in seconds from now: later the message is worthless and given up. Raises
        `InvalidMessage`, `MessageTooLarge`, or `SessionClosed`.
        """
        payload = codec.encode(message)
        outbox = self._outbox
        channel = outbox.channels.get(type(message)) if via is None else outbox.via(via)
        if channel is None:
            channel = outbox.channel_of(type(message))
        if (
            len(channel.queue) >= self._queue_messages
            or channel.queued_bytes + len(payload) > self._queue_bytes
        ):
            await outbox.room(channel, len(payload))
        return outbox.put(channel, payload, deadline)

    async def emit(
        self,
        topic: str,
        value: object,
        *,
        via: Channel | None = None,
        deadline: float | None = None,
    ) -> Receipt:
        """Queue a plain value under a topic; like `send` in all else."""
        payload = codec.encode_topic(topic, value)
        channel = self._outbox.channel_for(object, via)
        await self._outbox.room(channel, len(payload))
        return self._outbox.put(channel, payload, deadline)

    async def deliver(
        self,
        message: object,
        *,
        timeout: float | None = None,
        via: Channel | None = None,
        deadline: float | None = None,
    ) -> Receipt:
        """Send a message and wait until the peer's endpoint has it.

        Raises `DeliveryFailed` with the outcome if it ends otherwise, `DeliveryTimeout` after
        `timeout` seconds, and what `send` raises.
        """
        try:
            async with asyncio.timeout(timeout):
                receipt = await self.send(message, via=via, deadline=deadline)
                outcome = await receipt
        except TimeoutError:
            raise DeliveryTimeout("in flight", f"not confirmed within {timeout} s") from None
        if outcome is Outcome.DELIVERED:
            return receipt
        self._shell.poll()  # if the session has ended just now, say why
        if self._error is not None:
            raise DeliveryFailed(outcome, str(self._error)) from self._error
        raise DeliveryFailed(outcome, receipt.reason)

    async def request(
        self,
        request: Request[AnswerT],
        *,
        timeout: float | None = DEFAULT_REQUEST_TIMEOUT,
        via: Channel | None = None,
    ) -> AnswerT:
        """Ask and wait for the answer of the peer's handler.

        Raises `Rejected` if the peer's handler refused, `RequestFailed` if it raised or there is
        none, `RequestTimeout` after `timeout` seconds, and what `send` raises.
        """
        channel = self._outbox.channel_for(type(request), via)
        answer: AnswerT = await self.requests.ask(request, channel, timeout)
        return answer

    async def ping(self, *, timeout: float | None = None) -> float:
        """Measure a round trip to the peer's protocol, in seconds; no handler is involved.

        Raises `TimeoutError` after `timeout` seconds, or `SessionClosed`.
        """
        if self._error is not None:
            raise self._error
        return await self._pings.ping(timeout)

    def send_encoded(self, kind: type, payload: bytes) -> bool:
        """Queue a message that is encoded already; False if there is no room now."""
        channel = self._outbox.channel_of(kind)
        if self._outbox.is_full(channel, len(payload)):
            return False
        self._outbox.put(channel, payload, None)
        return True

    async def send_when_room(self, kind: type, payload: bytes) -> None:
        """Queue a message that is encoded already, once there is room."""
        await self.send_payload(self._outbox.channel_of(kind), payload)

    async def send_payload(self, channel: SendChannel, payload: bytes) -> Receipt:
        """Queue bytes on a channel once there is room."""
        await self._outbox.room(channel, len(payload))
        return self._outbox.put(channel, payload, None)

    def send_on(self, name: str, payload: bytes) -> None:
        """Queue bytes of our own on a channel of our own, if the session lives and has room."""
        channel = self.open_named(name)
        if self._error is None and not self._outbox.is_full(channel, len(payload)):
            self._outbox.put(channel, payload, None)

    def open_named(self, name: str) -> SendChannel:
        """The channel with this name, which the app or the library has declared."""
        return self._outbox.named(name)

    def has_room(self, channel: SendChannel) -> None:
        """The manager says that a queue which was full is half empty."""
        self._outbox.has_room(channel)

    # -- receiving

    @overload
    async def receive(self, kind: type[MessageT], *, timeout: float | None = None) -> MessageT: ...
    @overload
    async def receive(self, kind: None = None, *, timeout: float | None = None) -> object: ...
    async def receive(self, kind: type[Any] | None = None, *, timeout: float | None = None) -> Any:
        """The next message for which there is no handler; with `kind`, the next of that type.

        Others stay for later. Raises `SessionClosed` once the session has ended and nothing is
        left, `TimeoutError` after `timeout` seconds, `DecodeError` for one that does not decode.
        """
        key = None if kind is None else codec.type_key(kind)
        decode = codec.decode_any if kind is None else codec.decoder_for(kind)
        async with asyncio.timeout(timeout):
            while (taken := self._inbox.take(key)) is None:
                if self._error is not None:
                    raise self._error
                await self._inbox.changed()
        channel, payload = taken
        self.consumed(channel, len(payload) + MESSAGE_OVERHEAD_BYTES)
        return decode(payload)

    def __aiter__(self) -> Session[StateT]:
        return self

    async def __anext__(self) -> object:
        """The next message; the end of the iteration is the end of the session.

        Raises what ended the session, unless one side closed it.
        """
        try:
            return await self.receive()
        except (ClosedByPeer, ClosedLocally):
            raise StopAsyncIteration from None

    def arrived(self, channel: ReceiveChannel, runs: list[Run]) -> None:
        """The manager hands over what a channel released."""
        if channel.name == "answers":
            self._answers_arrived(channel, runs)
        elif self.app is None:
            self._keep(channel, runs)
        else:
            mailbox = self._mailboxes.get(channel.identity)
            if mailbox is None:
                mailbox = self._mailboxes[channel.identity] = Mailbox(self, channel)
            mailbox.put(runs)

    def _answers_arrived(self, channel: ReceiveChannel, runs: list[Run]) -> None:
        for number, run, cost in runs:
            for payload in run:
                try:
                    self.requests.answered(payload)
                except DecodeError as error:
                    self.refuse(channel, number, RefuseCode.UNDECODABLE, str(error))
            self.consumed(channel, cost)

    def _keep(self, channel: ReceiveChannel, runs: list[Run]) -> None:
        """Without an app, messages wait for `receive`."""
        for _, run, _ in runs:
            for payload in run:
                if payload[0] == codec.REQUEST:
                    self.requests.unanswerable(payload)
                    self.consumed(channel, len(payload) + MESSAGE_OVERHEAD_BYTES)
                else:
                    self._inbox.put(channel, payload)
        self.connection.stats.messages_dropped_mailbox += self._inbox.make_room()
        self._inbox.wake()

    # -- what dispatch needs

    @property
    def routes(self) -> dict[codec.RoutingKey, Route]:
        """Routes of one-way messages, and of requests."""
        assert self.app is not None
        return self.app.routes

    def app_route(self, message: object) -> Route | None:
        """The route of a message that is decoded already."""
        assert self.app is not None
        return self.app.routes_by_type.get(type(message))

    def consumed(self, channel: ReceiveChannel, cost: int) -> None:
        """Handlers are done with messages of this cost."""
        if channel.resends:
            self.connection.consumed(channel, cost)
            if channel.credit_due and not self._shell.flush_scheduled:
                self._shell.schedule_flush()

    def refuse(self, channel: ReceiveChannel, number: int, code: RefuseCode, reason: str) -> None:
        """Tell the peer that a message was not taken."""
        self.connection.stats.messages_received_refused += 1
        if number >= 0 and self._error is None:
            self.connection.refuse(channel, number, code, reason)
            self._shell.schedule_flush()

    def refuse_unknown(self, channel: ReceiveChannel, number: int, payload: object) -> None:
        """A message arrived for which there is no handler."""
        if isinstance(payload, bytes):
            reason = f"no handler takes {codec.describe(payload)}"
        else:
            reason = f"no handler takes {type(payload).__name__}"
        self.refuse(channel, number, RefuseCode.UNKNOWN_TAG, reason)

    def handler_failed(self, name: str, error: BaseException) -> None:
        """A handler raised: log it; the session lives."""
        self._shell.log_handler_error(self, name, error)

    # -- opening and closing

    async def run_open(self) -> None:
        """Run `on_open`, then let the handlers begin."""
        if self.app is not None:
            try:
                await self.app.opened(self)
            except Rejected as error:
                self.connection.close(CloseCode.NO_ERROR, error.reason, self._shell.time())
                self._shell.schedule_flush()
            except Exception as error:  # a user's handler; the session lives without it
                self.handler_failed("on_open", error)
        self.ready = True
        for mailbox in self._mailboxes.values():
            mailbox.start()

    async def close(self, reason: str = "", *, code: int = 0, grace: float | None = None) -> None:
        """Close the session: let queued messages arrive first, at most `grace` seconds.

        `code` is 0 or an application's own, from 256 on. Harmless if the session has ended.
        Returns once the session's handlers, but not the one that calls this, are done.
        """
        if code != 0 and not 256 <= code < 1 << 62:
            raise ValueError(f"code is 0, or 256 and up, not {code}")
        await self._drain(self.config.grace_seconds if grace is None else grace)
        self.connection.close(code, reason, self._shell.time())
        self._shell.schedule_flush()
        self._shell.poll()
        if not self._is_handling():
            await asyncio.shield(self._finished)

    def _is_handling(self) -> bool:
        current = asyncio.current_task()
        if current is self._opener or current is self._finisher:
            return True
        return any(mailbox.worker is current for mailbox in self._mailboxes.values())

    async def _drain(self, grace: float) -> None:
        if self._error is not None or grace <= 0:
            return
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
        self.connection.notify_when_drained()
        self._shell.schedule_flush()
        await asyncio.wait([self._drained], timeout=grace)

    def has_drained(self) -> None:
        """The manager says that nothing is on its way any more."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def ended(self, error: SessionClosed) -> None:
        """The manager says that the connection has ended."""
        self._error = error
        self.has_drained()
        self.requests.fail(error)
        self._outbox.end(error)
        self._pings.fail(error)
        self._inbox.wake()
        for group in [*self._groups]:
            group.discard(self)
        self._finisher = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        """What arrived is still handled; then `on_close` runs, whatever happened."""
        error = self._error
        try:
            if self._opener is not None:
                await asyncio.wait([self._opener])
            while workers := [m.worker for m in self._mailboxes.values() if m.worker is not None]:
                await asyncio.wait(workers)
        finally:
            try:
                await self._run_closers(error)
            finally:
                if not self._finished.done():
                    self._finished.set_result(None)
                self._shell.session_finished(self)

    async def _run_closers(self, error: SessionClosed | None) -> None:
        if self.app is None:
            return
        self._runs_closers = True
        shown = None if isinstance(error, ClosedByPeer | ClosedLocally) else error
        for handler in self.app.closers:
            try:
                await handler(self, shown)
            except Exception as raised:  # a user's handler
                self.handler_failed("on_close", raised)

    async def wait_closed(self) -> None:
        """Wait until the session has ended and its handlers are done."""
        await asyncio.shield(self._finished)

    def start(self) -> None:
        """The manager has opened this session: run `on_open`."""
        self._opener = asyncio.get_running_loop().create_task(self.run_open())

    def cancel(self) -> None:
        """Grace is over: cancel the handlers that run now; that may be those of `on_close`."""
        for mailbox in self._mailboxes.values():
            if mailbox.worker is not None:
                mailbox.worker.cancel()
        if self._opener is not None:
            self._opener.cancel()
        if self._runs_closers and self._finisher is not None:
            self._finisher.cancel()

    def joined(self, group: Group[Any]) -> None:
        """A group has taken this session in."""
        self._groups[group] = None

    def left(self, group: Group[Any]) -> None:
        """A group has let this session go."""
        self._groups.pop(group, None)
