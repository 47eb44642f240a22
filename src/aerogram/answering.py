"""The answering side of requests: handlers that can be cancelled from afar, and streams of items.

Rules: what comes back travels on a channel of its own. A handler whose answer nobody waits for any
more is cancelled, whether its asker says so or its session ends. A stream sends no more items than
it was given credit for, and its generator rests meanwhile; an upload makes room as its handler
takes what has come. A request that may come again is handled once: by its number within a session,
or across sessions by the peer's key and the key that the peer chose; the latter goes on when its
session ends, since it may be asked for again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NoReturn

from aerogram import messages as codec
from aerogram.channels import ANSWERS_CHANNEL
from aerogram.errors import DecodeError, MessageTooLarge, Rejected, RequestFailed, SessionClosed
from aerogram.idempotency import AnswerKey, digest_of
from aerogram.messages import Failure, FailureCode, Question
from aerogram.uploads import Chunks

if TYPE_CHECKING:
    from aerogram.inner_session import InnerSession
    from aerogram.routes import Route

ANSWERS: Final = ANSWERS_CHANNEL.name
"""The name of the channel that answers travel on."""
NUMBERS_REMEMBERED: Final = 4096
"""Of requests that were cancelled, and of those that may come again, in each session."""
AT_ONCE: Final = -1.0
"""A time that has passed on every clock."""


class Unanswerable(Exception):
    """Nobody here takes a request; its asker has been told."""


class Withdrawn(Exception):
    """Nobody waits for the answer to a request any more."""


class Flow:
    """How far a stream has got, and how far it may go."""

    __slots__ = ("_grown", "limit", "sent")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sent = 0
        self._grown: asyncio.Future[None] | None = None

    def grow(self, limit: int) -> None:
        """The peer lets it go on; a lower limit than before is an old one."""
        self.limit = max(self.limit, limit)
        if self._grown is not None and not self._grown.done():
            self._grown.set_result(None)

    async def room(self) -> None:
        """Wait until one more item may be sent."""
        while self.sent >= self.limit:
            self._grown = asyncio.get_running_loop().create_future()
            await self._grown


class Answering:
    """What a session is asked, and what it answers."""

    __slots__ = (
        "_cancelled",
        "_flows",
        "_repeatable",
        "_running",
        "_scope",
        "_session",
        "_uploads",
        "lasting",
    )

    def __init__(self, session: InnerSession) -> None:
        self.lasting: set[asyncio.Task[Any] | None] = set()
        """Those that answer what may be asked again on another session."""
        self._session = session
        self._running: dict[int, tuple[asyncio.Timeout, asyncio.Task[Any] | None]] = {}
        """What can cut an answer short, by the number of the question."""
        self._flows: dict[int, Flow] = {}
        self._uploads: dict[int, Chunks] = {}
        self._cancelled: OrderedDict[int, None] = OrderedDict()
        self._repeatable: OrderedDict[int, None] = OrderedDict()
        self._scope = b""

    # -- what the peer says about its questions

    def control(self, payload: bytes) -> None:
        """The peer gives something up, or lets a stream go on. Raises `DecodeError`."""
        identity, limit = codec.decode_control(payload)
        if limit is not None:
            if identity in self._flows:
                self._flows[identity].grow(limit)
        elif identity in self._running:
            _cut(self._running[identity][0])
        else:  # it has overtaken its question, or the question waits for its turn
            _remember(self._cancelled, identity)

    def end(self) -> None:
        """The session has ended: nobody waits for an answer on it, but a handler may end it."""
        for scope, task in self._running.values():
            if task is not asyncio.current_task():
                _cut(scope)

    def decline(self, payload: bytes) -> None:
        """A question came where there are no handlers at all. Raises `DecodeError`."""
        question = codec.decode_question(payload)
        self._session.outbox.offer_own(ANSWERS, _nobody(question))

    # -- questions

    async def resolve(self, question: Question) -> tuple[Route, Any]:
        """Who answers a question, and what is asked. Raises `Unanswerable`."""
        app, inner = self._session.app, question.payload
        route = app.routes.answers.get(codec.routing_key(inner)) if app is not None else None
        if route is None or not _suits(route, question):
            await self._send(_nobody(question))
            raise Unanswerable
        try:
            return route, route.decode(inner)
        except DecodeError as error:
            await self._refuse(question, str(error))

    async def _refuse(self, question: Question, reason: str) -> NoReturn:
        await self._send(codec.encode_failure(question.identity, FailureCode.FAILED, reason))
        raise Unanswerable

    async def answer(
        self, question: Question, route: Route, request: Any, deadline: float | None
    ) -> None:
        """Call the handler and send what it returns, or yields.

        Raises `Unanswerable` or `Withdrawn` if the handler is not called.
        """
        identity, repeat_key = question.identity, question.repeat_key
        if self._session.closed and not repeat_key:
            raise Withdrawn
        if self._cancelled.pop(identity, self) is None:
            raise Withdrawn
        if repeat_key is None and identity in self._running:
            raise DecodeError("two requests have the same number")
        if repeat_key == b"" and not _remember(self._repeatable, identity):
            return
        if len(self._running) >= self._session.config.requests_limit:
            await self._refuse(question, "too many requests are being answered")
        if question.limit is not None:
            await self._answer_stream(question, Flow(question.limit), route, request)
        elif question.has_content:
            await self._take_upload(question, route, request, deadline)
        elif repeat_key:
            await self._answer_once(question, repeat_key, route, request, deadline)
        else:
            reply = await self._called(question, route, request, deadline)
            if reply is not None:
                await self._send(reply)

    async def _called(
        self, question: Question, route: Route, request: Any, deadline: float | None
    ) -> bytes | None:
        """The reply with what the handler answers; None if its asker has given up."""
        session, identity = self._session, question.identity
        scope = asyncio.timeout_at(deadline)
        try:
            async with scope:
                if not question.repeat_key:
                    self._running[identity] = scope, asyncio.current_task()
                answer = await route.call(session.public, request)
            return codec.encode_answer(identity, answer)
        except BaseException as error:  # a handler's own
            if isinstance(error, TimeoutError) and scope.expired():
                return self._cut_short(question, scope)
            failure = self._failure_of(route, error)
            return codec.encode_failure(identity, failure.code, failure.reason)
        finally:
            self._running.pop(identity, None)

    def _cut_short(self, question: Question, scope: asyncio.Timeout) -> bytes | None:
        """Either the asker does not wait any more, or the deadline of the message has passed."""
        counts = self._session.counts
        if scope.when() == AT_ONCE:
            counts.handlers_cancelled += 1
            return None
        counts.handlers_expired += 1
        reason = "the deadline of the request has passed"
        return codec.encode_failure(question.identity, FailureCode.FAILED, reason)

    def _failure_of(self, route: Route, error: BaseException) -> Failure:
        """What the peer is told of an exception: that it was one, and not what.

        Raises it again if it is meant for this task.
        """
        if self._session.life.is_for_task(error):
            raise error
        if isinstance(error, Rejected):
            return Failure(FailureCode.REJECTED, error.reason)
        if not (isinstance(error, SessionClosed) and self._session.closed):
            self._session.handler_failed(route.name, error)
        return Failure(FailureCode.FAILED, f"the handler of {route.name} failed")

    async def _send(self, reply: bytes) -> None:
        """Send what comes back, once there is room; the session may have ended meanwhile."""
        session = self._session
        channel = session.outbox.named(ANSWERS)
        try:
            await session.outbox.send_own(channel, reply)
        except SessionClosed:
            return
        except MessageTooLarge as error:
            session.handler_failed("an answer", error)
            failed = codec.encode_failure(0, FailureCode.FAILED, "the answer is too large")
            await self._send(codec.readdressed(failed, codec.decode_reply(reply)[0]))

    # -- requests that may come again on another session

    async def _answer_once(
        self, question: Question, key: bytes, route: Route, request: Any, deadline: float | None
    ) -> None:
        """Call the handler unless it has been called, or is being called, for this key."""
        session = self._session
        assert session.app is not None
        cache = session.app.kept_answers
        scoped, digest = self._scoped(key), digest_of(question.payload)
        entry = cache.find(scoped, session.time())
        if entry is not None and entry.digest != digest:
            await self._refuse(question, "another request has come with this idempotency key")
        if entry is None:
            entry = cache.begin(scoped, digest)
            reply, task = None, asyncio.current_task()
            self.lasting.add(task)
            try:
                reply = await self._called(question, route, request, deadline)
            finally:
                self.lasting.discard(task)
                cache.finish(scoped, reply, session.time())
        reply = await asyncio.shield(entry.answer)
        if reply is None:
            await self._refuse(question, f"the handler of {route.name} was cancelled")
        await self._send(codec.readdressed(reply, question.identity))

    def _scoped(self, key: bytes) -> AnswerKey:
        """Peers that prove no key are known by their session, and no longer than that."""
        if not self._scope:
            self._scope = self._session.peer_key or self._session.connection.local_cid
        return self._scope, key

    # -- uploads

    def content(self, payload: bytes) -> None:
        """Some content of an upload came. Raises `DecodeError`, and cancels its handler then."""
        identity, chunk = codec.decode_chunk(payload)
        chunks = self._uploads.get(identity)
        if chunks is None:
            return  # its handler has ended, and its sender learns it
        try:
            chunks.arrived(chunk)
        except DecodeError:
            if identity in self._running:
                _cut(self._running[identity][0])
            raise

    async def _take_upload(
        self, question: Question, route: Route, request: Any, deadline: float | None
    ) -> None:
        session, identity = self._session, question.identity
        window = session.config.upload_window_bytes
        if not session.connection.receiver.lend(window):
            await self._refuse(question, "there is no memory for another upload")

        def tell(limit: int) -> None:
            session.outbox.put_own(ANSWERS, codec.encode_room(identity, limit))

        chunks = self._uploads[identity] = Chunks(window, tell)
        request.receive_content(chunks)
        try:
            reply = await self._called(question, route, request, deadline)
        finally:
            del self._uploads[identity]
            session.give_back(window)
            chunks.fail(RequestFailed("the handler of this upload has ended"))
        if reply is not None:
            await self._send(reply)

    # -- streams

    async def _answer_stream(
        self, question: Question, flow: Flow, route: Route, request: Any
    ) -> None:
        identity = question.identity
        failure: Failure | None = None
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._running[identity] = scope, asyncio.current_task()
                self._flows[identity] = flow
                await self._send_items(
                    identity, flow, await route.call(self._session.public, request)
                )
        except BaseException as error:  # a handler's own
            if isinstance(error, TimeoutError) and scope.expired():
                self._session.counts.handlers_cancelled += 1
                return
            failure = self._failure_of(route, error)
        finally:
            self._running.pop(identity, None)
            self._flows.pop(identity, None)
        await self._send(codec.encode_end(identity, flow.sent, failure))

    async def _send_items(self, identity: int, flow: Flow, items: Any) -> None:
        session = self._session
        channel = session.outbox.named(ANSWERS)
        iterator = aiter(items)
        try:
            while True:
                await flow.room()
                try:
                    item = await anext(iterator)
                except StopAsyncIteration:
                    return
                await session.outbox.send_own(channel, codec.encode_item(identity, flow.sent, item))
                flow.sent += 1
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()


def _suits(route: Route, question: Question) -> bool:
    """True if it was asked for in the way that its handler answers."""
    is_stream = question.limit is not None
    return route.is_stream == is_stream and route.has_content == question.has_content


def _cut(scope: asyncio.Timeout) -> None:
    """Cancel what runs inside."""
    if not scope.expired():
        scope.reschedule(AT_ONCE)


def _nobody(question: Question) -> bytes:
    reason = f"nobody answers {codec.describe(question.payload)}"
    return codec.encode_failure(question.identity, FailureCode.UNKNOWN, reason)


def _remember(numbers: OrderedDict[int, None], number: int) -> bool:
    """Note a number, and forget the oldest beyond the limit; False if it was noted already."""
    if number in numbers:
        return False
    numbers[number] = None
    if len(numbers) > NUMBERS_REMEMBERED:
        numbers.popitem(last=False)
    return True
