"""The asking side of requests, over messages: a number, the question, and what comes back for it.

Rules: answers travel on a channel of their own and are handed to whoever asked at once, so a
handler that asks back is never stuck behind its own mailbox. Whoever stops waiting says so, and the
peer's handler is cancelled. A try again has the number of the first, so that whichever answer comes
first counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from aerogram import messages as codec
from aerogram.answering import ANSWERS
from aerogram.config import check_timeout
from aerogram.core.channel import Outcome
from aerogram.core.events import RefuseCode
from aerogram.errors import DecodeError, RequestFailed, RequestTimeout, SessionClosed
from aerogram.incoming import Incoming, error_of
from aerogram.uploads import CONTENT, Content, Outflow, check_content, send_content

if TYPE_CHECKING:
    from aerogram.core.channel import ReceiveChannel, Run, SendChannel
    from aerogram.inner_session import InnerSession
    from aerogram.receipts import Receipt


_CONTROLS: Final = (bytes([codec.CANCEL]), bytes([codec.MORE]))
"""First bytes of what is told about questions."""
OWN_CHANNELS: Final = frozenset({ANSWERS, CONTENT})
"""The names of the channels that carry what belongs to questions, and no messages of users."""
_CONTENT: Final = (bytes([codec.CHUNK]), bytes([codec.LAST]))
"""First bytes of what comes after a question."""


class NotDelivered(RequestFailed):
    """The request did not reach the peer, so it may be tried again."""


@dataclass(slots=True)
class Asked:
    """A request that waits for its answer."""

    kind: type[Any]
    changed: asyncio.Future[None]
    """Done once there is a reply; replaced for each try."""
    reply: codec.Reply | None = None
    """What came back; kept, because it may come just when a try is given up."""

    def answer(self) -> Any:
        """What came back. Raises `Rejected` or `RequestFailed` if that is no answer."""
        reply = self.reply
        if isinstance(reply, codec.Failure):
            raise error_of(reply)
        if not isinstance(reply, bytes):
            raise RequestFailed("a stream came where one answer was asked for")
        try:
            return cast("Any", codec.decode_answer(self.kind, reply))
        except DecodeError as error:
            raise RequestFailed(f"the answer cannot be decoded: {error}") from None


class Requests:
    """What a session has asked and not been answered."""

    __slots__ = ("_next_identity", "_outflows", "_session", "_streams", "_waiting")

    def __init__(self, session: InnerSession) -> None:
        self._session = session
        self._next_identity = 0
        self._waiting: dict[int, Asked] = {}
        self._streams: dict[int, Incoming] = {}
        self._outflows: dict[int, Outflow] = {}

    def _new_identity(self) -> int:
        self._next_identity += 1
        return self._next_identity - 1

    def _check_limit(self) -> None:
        if len(self._waiting) + len(self._streams) >= self._session.config.requests_limit:
            raise RequestFailed("too many requests are waiting for their answers")

    def _cancel(self, identity: int) -> None:
        """Nobody waits for the answer any more: tell the peer.

        Even if there is no room: there are no more of these than questions that had room.
        """
        self._session.outbox.put_own(ANSWERS, codec.encode_cancel(identity))

    # -- one answer

    async def ask(
        self,
        request: Any,
        channel: SendChannel,
        timeout: float | None,
        retries: int,
        idempotency_key: bytes | None,
    ) -> Any:
        """Send a request and wait for what became of it; see `Session.request`."""
        check_timeout(timeout)
        if retries < 0:
            raise ValueError(f"retries is at least 0, not {retries}")
        self._check_limit()
        identity = self._new_identity()
        repeat_key = b"" if retries and idempotency_key is None else idempotency_key
        payload = codec.encode_request(identity, request, repeat_key)
        asked = self._waiting[identity] = Asked(_kind_of(request), _new_future())
        sent: list[Receipt] = []
        try:
            while True:
                try:
                    return await self._try(asked, channel, payload, timeout, sent)
                except (RequestTimeout, NotDelivered):
                    retries -= 1
                    if retries < 0:
                        raise
        except (RequestTimeout, asyncio.CancelledError):
            # With a key of its own the answer may be asked for again, on another session.
            if sent and idempotency_key is None:
                self._cancel(identity)
            raise
        finally:
            self._waiting.pop(identity, None)

    async def _try(
        self,
        asked: Asked,
        channel: SendChannel,
        payload: bytes,
        timeout: float | None,
        sent: list[Receipt],
    ) -> Any:
        session = self._session
        changed = asked.changed = _new_future()
        try:
            async with asyncio.timeout(timeout):
                if asked.reply is None:
                    receipt = await session.outbox.send_own(channel, payload)
                    sent.append(receipt)
                    receipt.observe(lambda: _fail(changed, _failure(receipt)))
                    await changed
        except TimeoutError:
            if asked.reply is None:
                name = asked.kind.__name__
                raise RequestTimeout(f"{name} was not answered within {timeout} s") from None
        except NotDelivered:
            session.poll()
            session.raise_if_closed()  # that says why
            raise
        return asked.answer()

    # -- many answers

    def stream(
        self, request: Any, channel: SendChannel, timeout: float | None, window: int
    ) -> AsyncGenerator[Any]:
        """Iterate over the items of a stream; see `Session.stream`."""
        check_timeout(timeout)
        if window < 1:
            raise ValueError(f"window is at least 1, not {window}")
        identity = self._new_identity()
        payload = codec.encode_stream(identity, request, window)
        incoming = Incoming(_kind_of(request), window)
        return self._items(identity, payload, channel, timeout, incoming)

    async def _items(
        self,
        identity: int,
        payload: bytes,
        channel: SendChannel,
        timeout: float | None,
        incoming: Incoming,
    ) -> AsyncGenerator[Any]:
        session = self._session
        answers = session.outbox.named(ANSWERS)
        self._check_limit()
        self._streams[identity] = incoming
        sent = False
        try:
            receipt = await self._begin_stream(channel, payload, timeout)
            sent = True
            receipt.observe(lambda: incoming.fail(_failure(receipt)))
            while await incoming.wait(timeout):
                yield incoming.take()
                limit = incoming.consumed()
                if limit is not None:
                    await session.outbox.send_own(answers, codec.encode_more(identity, limit))
        except NotDelivered:
            session.poll()
            session.raise_if_closed()  # that says why
            raise
        finally:
            del self._streams[identity]
            if sent and not incoming.is_over:
                self._cancel(identity)

    async def _begin_stream(
        self, channel: SendChannel, payload: bytes, timeout: float | None
    ) -> Receipt:
        try:
            async with asyncio.timeout(timeout):
                return await self._session.outbox.send_own(channel, payload)
        except TimeoutError:
            raise RequestTimeout(f"there was no room to ask for {timeout} s") from None

    # -- one answer to much

    async def upload(
        self, request: Any, content: Content, channel: SendChannel, timeout: float | None
    ) -> Any:
        """Send a request and its content, and wait for the answer; see `Session.upload`."""
        check_timeout(timeout)
        check_content(content)
        self._check_limit()
        identity = self._new_identity()
        payload = codec.encode_upload(identity, request)
        asked = self._waiting[identity] = Asked(_kind_of(request), _new_future())
        flow = self._outflows[identity] = Outflow()
        scope = asyncio.timeout(timeout)
        sent = False
        try:
            async with scope:
                receipt = await self._session.outbox.send_own(channel, payload)
                sent = True
                receipt.observe(lambda: _fail(asked.changed, _failure(receipt)))
                await self._send_and_wait(
                    asked, send_content(self._session, identity, flow, content)
                )
        except TimeoutError:
            if asked.reply is None and scope.expired():
                name = asked.kind.__name__
                raise RequestTimeout(f"{name} was not answered within {timeout} s") from None
            if asked.reply is None:
                raise
        except NotDelivered:
            self._session.raise_if_closed()  # that says why
            raise
        finally:
            del self._waiting[identity], self._outflows[identity]
            if sent and asked.reply is None:
                self._cancel(identity)
        return asked.answer()

    async def _send_and_wait(self, asked: Asked, sending: Coroutine[Any, Any, None]) -> None:
        """Send content until all is sent or the answer is there; then wait for that.

        Raises what sending raises, and why there can be no answer.
        """
        task = asyncio.get_running_loop().create_task(sending)
        try:
            await asyncio.wait([task, asked.changed], return_when=asyncio.FIRST_COMPLETED)
            if not asked.changed.done():
                await task
            await asked.changed
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # so that it is known to have been seen: what is raised says more

    # -- what comes back

    def answered(self, payload: bytes) -> None:
        """Something came back for a question. Raises `DecodeError`."""
        identity, reply = codec.decode_reply(payload)
        stream = self._streams.get(identity)
        if stream is not None:
            stream.arrived(reply)
            return
        if isinstance(reply, codec.Room):
            if identity in self._outflows:
                self._outflows[identity].grow(reply.limit)
            return
        asked = self._waiting.get(identity)
        if asked is None or asked.reply is not None:
            return
        asked.reply = reply
        if not asked.changed.done():
            asked.changed.set_result(None)

    def fail(self, error: SessionClosed) -> None:
        """The session has ended: so have all requests."""
        for asked in self._waiting.values():
            _fail(asked.changed, error)
        for stream in self._streams.values():
            stream.fail(error)


def _failure(receipt: Receipt) -> RequestFailed | None:
    """Why there can be no answer any more, if that is so: the question did not arrive."""
    outcome = receipt.outcome
    if outcome is None or outcome is Outcome.DELIVERED:
        return None
    may_try_again = outcome in (Outcome.LOST, Outcome.EXPIRED)
    kind = NotDelivered if may_try_again else RequestFailed
    return kind(f"{outcome}: {receipt.reason}" if receipt.reason else str(outcome))


def _kind_of(request: object) -> type[Any]:
    return type(request)


def _new_future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def _fail(waiting: asyncio.Future[None], error: Exception | None) -> None:
    if error is not None and not waiting.done():
        waiting.set_exception(error)


def checked_key(key: bytes | None) -> bytes | None:
    """An idempotency key as the user gave it. Raises `TypeError` or `ValueError`."""
    if key is not None:
        if not isinstance(cast("object", key), bytes):
            raise TypeError(f"idempotency_key= takes bytes, not {type(key).__name__}")
        if not 0 < len(key) <= codec.REPEAT_KEY_BYTES_MAX:
            most = codec.REPEAT_KEY_BYTES_MAX
            raise ValueError(f"an idempotency key has 1 to {most} bytes, not {len(key)}")
    return key


def take_answers(session: InnerSession, channel: ReceiveChannel, runs: list[Run]) -> None:
    """What came back for questions, and what the peer says about questions of its own."""
    for first, run, cost in runs:
        for number, payload in enumerate(run, first):
            try:
                if payload[:1] in _CONTROLS:
                    session.answering.control(payload)
                elif payload[:1] in _CONTENT:
                    session.answering.content(payload)
                else:
                    session.requests.answered(payload)
                session.counts.messages_handled += 1
            except DecodeError as error:
                session.refuse(channel, number, RefuseCode.UNDECODABLE, str(error))
        session.consumed(channel, cost)
