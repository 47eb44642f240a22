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
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from aerogram import messages as codec
from aerogram.asking import Asking
from aerogram.config import Range, check_timeout
from aerogram.core.budget import Budget
from aerogram.core.channel import Outcome
from aerogram.core.incoming import IncomingRecord
from aerogram.core.ledger import SessionStats
from aerogram.core.pacing import RateLimit
from aerogram.errors import (
    ClosedByPeer,
    ClosedLocally,
    DeliveryFailed,
    DeliveryTimeout,
    SessionClosed,
)
from aerogram.inner_session import InnerSession
from aerogram.outbox import full
from aerogram.receipts import Progress, Receipt, until_it_raises
from aerogram.session_clock import SessionClock
from aerogram.typevars import StateT

if TYPE_CHECKING:
    from aerogram.channels import Channel

MessageT = TypeVar("MessageT")

CODE: Final = Range(256, (1 << 62) - 1, or_zero=True)
"""Of a close: an application's own, or none; those between are the protocol's."""


class Session(Asking, Generic[StateT]):
    """A peer. Users get it from `connect`, or as the first argument of their handlers."""

    def __init__(self, inner: InnerSession) -> None:
        super().__init__(inner.outbox, inner.requests)
        self._inner = inner
        self._connection = inner.connection
        self._shell = inner.shell
        self._clock: SessionClock | None = None
        self._rate_limit: RateLimit | None = None
        make_state = inner.app.session_state if inner.app is not None else None
        self._state: StateT | None = make_state() if make_state is not None else None

    def __repr__(self) -> str:
        status = "closed" if self.closed else "open"
        return f"<Session {status} {self.address!r}>"

    # -- looking

    @property
    def state(self) -> StateT:
        """What `session_state=` made, or what was assigned. `AttributeError` without either."""
        app = self._inner.app
        if self._state is None and (app is None or app.session_state is None):
            raise AttributeError("this session has no state: give the App a session_state=")
        return self._state  # type: ignore[return-value]  # None only if StateT is

    @state.setter
    def state(self, value: StateT) -> None:
        self._state = value

    @property
    def address(self) -> tuple[Any, ...]:
        """The peer's address; it may change while the session lives."""
        return self._inner.address

    @property
    def peer_key(self) -> bytes | None:
        """The peer's public key, where the handshake proved one."""
        return self._inner.peer_key

    @property
    def clock(self) -> SessionClock:
        """The time that both ends share: the server's. The first look starts to measure it."""
        if self._clock is None:
            self._clock = SessionClock(
                self._connection, self._shell.time, asks=self._inner.is_client
            )
            self._shell.schedule_flush()
        return self._clock

    @property
    def closed(self) -> bool:
        """True once the session has ended."""
        return self._inner.error is not None

    @property
    def error(self) -> SessionClosed | None:
        """Why the session ended, or None while it is open."""
        return self._inner.error

    @property
    def stats(self) -> SessionStats:
        """A snapshot of all counters."""
        return self._inner.stats

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
            self._connection.lift_limit(self._rate_limit)
        if limit is not None:
            self._connection.limit_rate(limit)
        self._rate_limit = limit
        self._shell.schedule_flush()

    def budget(self, kind: type[Any] | None = None, *, via: Channel | None = None) -> Budget:
        """What the session can take on now, for messages of a type or on a channel.

        Raises `InvalidMessage` for a type that cannot be sent.
        """
        if kind is not None:
            codec.type_key(kind)
        channel = self._outbox.channel_for(object if kind is None else kind, via)
        return self._connection.budget(channel)

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

        `deadline` is in seconds from now: later the message is worthless and given up, also if it
        still waits for room. `progress` is called with the bytes that the peer's endpoint has, of a
        large message piece by piece, and with how many there are. Raises `InvalidMessage`,
        `MessageTooLarge`, `SessionClosed`, or `QueueFull` on a channel that wants it so.
        """
        receipt: Receipt
        payload = codec.encode(message)
        outbox = self._outbox
        if via is None:
            channel = outbox.channels.get(type(message))
            if channel is None:
                channel = outbox.channel_of(type(message))
            if deadline is None and progress is None and channel.is_untimed:
                receipt = Receipt(payload)
                if self._connection.send_plain(channel, receipt):
                    if not self._shell.flush_scheduled:
                        self._shell.schedule_flush()
                    return receipt
        else:
            channel = outbox.via(via)
        receipt = await outbox.send(channel, message, payload, deadline)
        if progress is not None:
            receipt.report(progress, partial(self._inner.handler_failed, "progress="))
        return receipt

    def send_nowait(
        self, message: object, *, via: Channel | None = None, deadline: float | None = None
    ) -> Receipt:
        """Queue a message if there is room on its channel; like `send` in all else.

        Raises `QueueFull` if there is not, and what `send` raises.
        """
        payload = codec.encode(message)
        channel = self._outbox.channel_for(type(message), via)
        receipt = self._outbox.offer(channel, message, payload, deadline)
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
        channel = self._outbox.channel_for(object, via)
        return await self._outbox.send(channel, value, payload, deadline)

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
        if self._inner.error is not None:
            raise DeliveryFailed(outcome, str(self._inner.error)) from self._inner.error
        raise DeliveryFailed(outcome, receipt.reason)

    async def ping(self, *, timeout: float | None = None) -> float:
        """Measure a round trip to the peer's protocol, in seconds; no handler is involved.

        Raises `TimeoutError` after `timeout` seconds, or `SessionClosed`.
        """
        self._inner.raise_if_closed()
        return await self._inner.pings.ping(timeout)

    # -- receiving

    @property
    def incoming_records(self) -> list[IncomingRecord]:
        """The large messages of which some pieces have arrived and others not."""
        return self._connection.receiver.unfinished()

    def watch_incoming(self, watcher: Callable[[IncomingRecord], object] | None) -> None:
        """Have `watcher` called for each piece of a large message that arrives; None: no more.

        If it raises, that is logged as for a handler, and it is called no more.
        """
        failed = partial(self._inner.handler_failed, "watch_incoming")
        told = None if watcher is None else until_it_raises(watcher, failed)
        self._connection.receiver.watcher = told

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
        return await self._inner.inbox.receive(kind, timeout)

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

    # -- opening and closing

    async def close(self, reason: str = "", *, code: int = 0, grace: float | None = None) -> None:
        """Close the session: let queued messages arrive and handlers end, at most `grace` seconds.

        Handlers that still run then are cancelled. `on_close` runs after them, for at most
        `Config.grace_seconds`. Returns when all that is done; to a handler of the session, which
        is not waited for, as soon as the session has ended. If this call is cancelled, the session
        ends at once. `code` is 0 or an application's own, from 256 on. Harmless if the session has
        ended.
        """
        CODE.check("code=", code)
        check_timeout(grace, "grace=")
        if grace is None:
            grace = self._inner.config.grace_seconds
        await self._inner.life.close(reason, code, grace)

    async def wait_closed(self) -> None:
        """Wait until the session has ended and its handlers are done, those of `on_close` too.

        Raises `RuntimeError` in one of them: it would wait for itself.
        """
        await self._inner.life.wait_finished()


def inner_of(session: Session[Any]) -> InnerSession:
    """What the library itself knows of a session."""
    return session._inner  # pyright: ignore[reportPrivateUsage]  the one way in


async def answer_question(session: Session[Any], question: codec.Question) -> None:
    """The route that all questions take."""
    answering = inner_of(session).answering
    route, request = await answering.resolve(question)
    await answering.answer(question, route, request, None)
