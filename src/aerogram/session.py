"""`Session`: what a user holds of a peer. Sending in three strengths, receiving, closing.

Rules: `send` returns once there is room, `deliver` once the peer's endpoint has the message,
`request` once its handler has answered; each raises its own errors, and all of them
`SessionClosed` once the session has ended. Nothing here touches a socket: the connection queues,
the manager flushes at the end of the loop's turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from aerogram import messages as codec
from aerogram.answering import Answering
from aerogram.asking import Asking
from aerogram.config import check_timeout
from aerogram.core.budget import Budget
from aerogram.core.channel import Outcome
from aerogram.core.events import RefuseCode
from aerogram.core.incoming import IncomingRecord
from aerogram.core.ledger import Ledger, SessionStats
from aerogram.core.pacing import RateLimit
from aerogram.dispatch import Mailboxes
from aerogram.errors import (
    ClosedByPeer,
    ClosedLocally,
    DeliveryFailed,
    DeliveryTimeout,
    SessionClosed,
)
from aerogram.inbox import Inbox
from aerogram.lifecycle import Lifecycle
from aerogram.outbox import Outbox, full
from aerogram.pings import Pings
from aerogram.receipts import Progress, Receipt, until_it_raises
from aerogram.requests import OWN_CHANNELS, Requests, take_answers
from aerogram.session_clock import SessionClock
from aerogram.shell import Shell
from aerogram.typevars import StateT

if TYPE_CHECKING:
    from aerogram.app import App
    from aerogram.channels import Channel, Channels
    from aerogram.core.channel import ReceiveChannel, Run, SendChannel
    from aerogram.core.connection import Connection
    from aerogram.groups import Group

MessageT = TypeVar("MessageT")


class Session(Asking, Generic[StateT]):
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
        self.memory = connection.receiver.memory
        """What the peer has sent that nobody has taken; no handler's concern."""
        self.app = app
        self.time = shell.time
        """The endpoint's clock, in seconds."""
        self.counts = Ledger()
        """What is counted above the protocol core."""
        self._shell = shell
        self._is_client = is_client
        self._clock: SessionClock | None = None
        super().__init__(Outbox(shell, connection, channels), Requests(self))
        self._mailboxes = Mailboxes(self)
        self.life = Lifecycle(self, shell, self._mailboxes)
        """Its beginning and its end."""
        self._inbox = Inbox(self, self._mailboxes)
        self._groups: dict[Group[Any], None] = {}
        self.answering = Answering(self)
        self._error: SessionClosed | None = None
        self._pings = Pings(connection, shell)
        self._rate_limit: RateLimit | None = None
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
    def ready(self) -> bool:
        """True once `on_open` has run: handlers may."""
        return self.life.ready

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
        stats = SessionStats(rtt=rtt.smoothed, rtt_variation=rtt.variation)
        stats.add(self.connection.stats)
        stats.add(self.counts)
        # The core is ahead by what it has not handed over in this turn of the loop.
        stats.messages_received = self.counts.messages_received
        stats.messages_handled += self._mailboxes.handled_uncounted
        stats.messages_waiting = self._mailboxes.waiting + self._inbox.waiting
        stats.messages_in_flight = self.connection.messages_in_flight
        return stats

    # -- rates

    @property
    def rate_limit_bytes_per_second(self) -> float | None:
        """What the session may send, packets as a whole; None is without limit.

        Setting it holds for what is sent from now on. Raises `ValueError` for a rate that is none.
        """
        return None if self._rate_limit is None else self._rate_limit.bytes_per_second

    @rate_limit_bytes_per_second.setter
    def rate_limit_bytes_per_second(self, rate: float | None) -> None:
        limit = None if rate is None else RateLimit(rate)
        if self._rate_limit is not None:
            self.connection.lift_limit(self._rate_limit)
        if limit is not None:
            self.connection.limit_rate(limit)
        self._rate_limit = limit
        self._shell.schedule_flush()

    def budget(self, kind: type[Any] | None = None, *, via: Channel | None = None) -> Budget:
        """What the session can take on now, for messages of a type or on a channel.

        Raises `InvalidMessage` for a type that cannot be sent.
        """
        channel = self.outbox.channel_for(object if kind is None else kind, via)
        return self.connection.budget(channel)

    # -- sending

    async def send(
        self,
        message: object,
        *,
        via: Channel | None = None,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> Receipt:
        """Queue a message; waits while the channel's queue is full, unless the channel says else.

        `deadline` is in seconds from now: later the message is worthless and given up. `progress`
        is called with the bytes that the peer's endpoint has, of a large message piece by piece,
        and with how many there are. Raises `InvalidMessage`, `MessageTooLarge`, `SessionClosed`, or
        `QueueFull` on a channel that wants it so.
        """
        receipt: Receipt
        payload = codec.encode(message)
        outbox = self.outbox
        if via is None:
            channel = outbox.channels.get(type(message))
            if channel is None:
                channel = outbox.channel_of(type(message))
            if deadline is None and progress is None and channel.is_untimed:
                receipt = Receipt(payload)
                if self.connection.send_plain(channel, receipt):
                    if not self._shell.flush_scheduled:
                        self._shell.schedule_flush()
                    return receipt
        else:
            channel = outbox.via(via)
        receipt = await outbox.send(channel, message, payload, deadline)
        if progress is not None:
            receipt.report(progress, partial(self.handler_failed, "progress="))
        return receipt

    def send_nowait(
        self, message: object, *, via: Channel | None = None, deadline: float | None = None
    ) -> Receipt:
        """Queue a message if there is room on its channel; like `send` in all else.

        Raises `QueueFull` if there is not, and what `send` raises.
        """
        payload = codec.encode(message)
        channel = self.outbox.channel_for(type(message), via)
        receipt = self.outbox.offer(channel, message, payload, deadline)
        if receipt is None:
            raise full(channel)
        return receipt

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
        channel = self.outbox.channel_for(object, via)
        return await self.outbox.send(channel, value, payload, deadline)

    async def deliver(
        self,
        message: object,
        *,
        timeout: float | None = None,
        via: Channel | None = None,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> Receipt:
        """Send a message and wait until the peer's endpoint has it, as its receipt tells.

        That waits for no handler: ask with `request` what one makes of a message. One that refuses
        at once still fails the delivery, see `Receipt`. Raises `DeliveryFailed` with the outcome if
        it ends otherwise, `DeliveryTimeout` after `timeout` seconds, and what `send` raises.
        """
        check_timeout(timeout)
        try:
            async with asyncio.timeout(timeout):
                receipt = await self.send(message, via=via, deadline=deadline, progress=progress)
                outcome = await receipt
        except TimeoutError:
            raise DeliveryTimeout("in flight", f"not confirmed within {timeout} s") from None
        if outcome is Outcome.DELIVERED:
            return receipt
        self._shell.poll()  # if the session has ended just now, say why
        if self._error is not None:
            raise DeliveryFailed(outcome, str(self._error)) from self._error
        raise DeliveryFailed(outcome, receipt.reason)

    async def ping(self, *, timeout: float | None = None) -> float:
        """Measure a round trip to the peer's protocol, in seconds; no handler is involved.

        Raises `TimeoutError` after `timeout` seconds, or `SessionClosed`.
        """
        self.raise_if_closed()
        return await self._pings.ping(timeout)

    def has_room(self, channel: SendChannel) -> None:
        """The manager says that a queue which was full is half empty."""
        self.outbox.has_room(channel)

    # -- receiving

    @property
    def incoming_records(self) -> list[IncomingRecord]:
        """The large messages of which some pieces have arrived and others not."""
        return self.connection.receiver.unfinished()

    def watch_incoming(self, watcher: Callable[[IncomingRecord], object] | None) -> None:
        """Have `watcher` called for each piece of a large message that arrives; None: no more.

        If it raises, that is logged as for a handler, and it is called no more.
        """
        failed = partial(self.handler_failed, "watch_incoming")
        told = None if watcher is None else until_it_raises(watcher, failed)
        self.connection.receiver.watcher = told

    @overload
    async def receive(self, kind: type[MessageT], *, timeout: float | None = None) -> MessageT: ...
    @overload
    async def receive(self, kind: None = None, *, timeout: float | None = None) -> object: ...
    async def receive(self, kind: type[Any] | None = None, *, timeout: float | None = None) -> Any:
        """The next message for which there is no handler; with `kind`, the next of that type.

        Others stay for later, and slow their sender down as a handler does that lags. A session
        without an app keeps all that comes. One with an app refuses what has no handler until it is
        asked for: it keeps messages of a type from the first `receive` of that type on, and all
        from the first without `kind`. A handler may call it too, and `on_open`.

        Raises `SessionClosed` once the session has ended and nothing is left, `TimeoutError` after
        `timeout` seconds, `DecodeError` for one that does not decode; at once `RuntimeError` for a
        type that has a handler, `TypeError` for a request, `InvalidMessage` for what is no type.
        """
        check_timeout(timeout)
        return await self._inbox.receive(kind, timeout)

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
        for _, run, _ in runs:
            self.counts.messages_received += len(run)
        if channel.name in OWN_CHANNELS:
            take_answers(self, channel, runs)
        elif self.app is None:
            self._inbox.put(channel, runs)
        else:
            rest = self._inbox.sort(channel, runs) if self._inbox.reads else runs
            self._mailboxes.put(channel, rest)

    # -- what dispatch needs

    def consumed(self, channel: ReceiveChannel, cost: int) -> None:
        """Handlers are done with messages of this cost."""
        if channel.resends:
            self.connection.consumed(channel, cost)
            if channel.credit_due and not self._shell.flush_scheduled:
                self._shell.schedule_flush()

    def give_back(self, size: int) -> None:
        """Memory that was lent for what a handler takes piece by piece is free again."""
        self.connection.receiver.take_back(size)
        self.connection.touch()
        self._shell.schedule_flush()

    def refuse(self, channel: ReceiveChannel, number: int, code: RefuseCode, reason: str) -> None:
        """Tell the peer that a message was not taken."""
        self.connection.stats.messages_received_refused += 1
        if number >= 0 and self._error is None:
            self.connection.refuse(channel, number, code, reason)
            self._shell.schedule_flush()

    def handler_failed(self, name: str, error: BaseException) -> None:
        """A handler raised: log it; the session lives."""
        self._shell.log_handler_error(self, name, error)

    def poll(self) -> None:
        """Deal with what has happened in this turn of the loop."""
        self._shell.poll()

    def raise_if_closed(self) -> None:
        """Raise why the session has ended, if it is known to have."""
        if self._error is not None:
            raise self._error

    # -- opening and closing

    async def close(self, reason: str = "", *, code: int = 0, grace: float | None = None) -> None:
        """Close the session: let queued messages arrive and handlers end, at most `grace` seconds.

        Handlers that still run then are cancelled. `on_close` runs after them, for at most
        `Config.grace_seconds`. Returns when all that is done; to a handler of the session, which
        is not waited for, as soon as the session has ended. If this call is cancelled, the session
        ends at once. `code` is 0 or an application's own, from 256 on. Harmless if the session has
        ended.
        """
        if code != 0 and not 256 <= code < 1 << 62:
            raise ValueError(f"code is 0, or 256 and up, not {code}")
        check_timeout(grace, "grace=")
        await self.life.close(reason, code, self.config.grace_seconds if grace is None else grace)

    def cut(self, reason: str, *, code: int) -> None:
        """Close the session at once; what is queued or on its way is lost."""
        self.connection.close(code, str(reason), self._shell.time())
        self._shell.schedule_flush()
        self._shell.poll()

    def ended(self, error: SessionClosed) -> None:
        """The manager says that the connection has ended."""
        self._error = error
        self.requests.fail(error)
        self.answering.end()
        self.outbox.end(error)
        self._pings.fail(error)
        self._inbox.wake()
        for group in [*self._groups]:
            group.discard(self)
        self.life.end(error)

    async def wait_closed(self) -> None:
        """Wait until the session has ended and its handlers are done, those of `on_close` too.

        Raises `RuntimeError` in one of them: it would wait for itself.
        """
        await self.life.wait_finished()

    def joined(self, group: Group[Any]) -> None:
        """A group has taken this session in."""
        self._groups[group] = None

    def left(self, group: Group[Any]) -> None:
        """A group has let this session go."""
        self._groups.pop(group, None)
