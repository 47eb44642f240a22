"""Requests and their answers, over messages: an id, the question, and one answer or failure.

Answers travel on a channel of their own and are handed to whoever asked at once: a handler that
asks back is never stuck behind its own mailbox.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aerogram import messages as codec
from aerogram.errors import (
    DecodeError,
    InvalidMessage,
    Rejected,
    RequestFailed,
    RequestTimeout,
    SessionClosed,
)

if TYPE_CHECKING:
    from aerogram.core.channel import SendChannel
    from aerogram.session import Session

ANSWERS: Final = "answers"
"""The name of the channel that answers travel on."""


class Requests:
    """What a session has asked and not been answered, and how it answers what it is asked."""

    __slots__ = ("_next_identity", "_session", "_waiting")

    def __init__(self, session: Session[Any]) -> None:
        self._session = session
        self._next_identity = 0
        self._waiting: dict[int, tuple[asyncio.Future[Any], type]] = {}

    async def ask(self, request: Any, channel: SendChannel, timeout: float | None) -> Any:
        """Send a request and wait for what became of it; see `Session.request`."""
        session = self._session
        if len(self._waiting) >= session.config.requests_limit:
            raise RequestFailed("too many requests are waiting for their answers")
        identity = self._next_identity
        self._next_identity += 1
        payload = codec.encode_request(identity, request)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[identity] = (answer, type(request))
        try:
            async with asyncio.timeout(timeout):
                receipt = await session.send_payload(channel, payload)
                receipt.fail_unless_delivered(answer)
                return await answer
        except TimeoutError:
            self._cancel(identity)
            name = type(request).__name__
            raise RequestTimeout(f"{name} was not answered within {timeout} s") from None
        except asyncio.CancelledError:
            self._cancel(identity)
            raise
        finally:
            self._waiting.pop(identity, None)

    def _cancel(self, identity: int) -> None:
        """Nobody waits for the answer any more: tell the peer, if there is room."""
        session = self._session
        if not session.closed:
            session.send_on(ANSWERS, codec.encode_cancel(identity))

    def answered(self, payload: bytes) -> None:
        """An answer, a failure or a cancellation came. Raises `DecodeError`."""
        if payload[0] == codec.CANCEL:
            return
        identity, result = codec.decode_reply(payload)
        waiting = self._waiting.get(identity)
        if waiting is None or waiting[0].done():
            return
        future, kind = waiting
        if isinstance(result, codec.Failure):
            future.set_exception(_failure(result))
            return
        try:
            future.set_result(codec.decode_answer(kind, result))
        except DecodeError as error:
            future.set_exception(RequestFailed(f"the answer cannot be decoded: {error}"))

    def fail(self, error: SessionClosed) -> None:
        """The session has ended: so have all requests."""
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(error)

    async def answer(self, payload: bytes) -> None:
        """Call the handler of a request and send what it returns. Raises `DecodeError`."""
        session = self._session
        assert session.app is not None
        identity, inner = codec.decode_request(payload)
        route = session.app.answer_routes.get(codec.routing_key(inner))
        if route is None:
            self.unanswerable(payload)
            return
        try:
            reply = codec.encode_answer(identity, await route.call(session, route.decode(inner)))
        except Rejected as error:
            reply = codec.encode_failure(identity, codec.FailureCode.REJECTED, error.reason)
        except DecodeError as error:
            reply = codec.encode_failure(identity, codec.FailureCode.FAILED, str(error))
        except Exception as error:  # a user's handler: the peer learns that, not what
            session.handler_failed(route.name, error)
            reason = f"the handler of {route.name} failed"
            reply = codec.encode_failure(identity, codec.FailureCode.FAILED, reason)
        try:
            await session.send_payload(session.open_named(ANSWERS), reply)
        except (SessionClosed, InvalidMessage):
            return

    def unanswerable(self, payload: bytes) -> None:
        """Nobody here answers this request."""
        try:
            identity, inner = codec.decode_request(payload)
        except DecodeError:
            return
        reason = f"nobody answers {codec.describe(inner)}"
        failure = codec.encode_failure(identity, codec.FailureCode.UNKNOWN, reason)
        self._session.send_on(ANSWERS, failure)


async def answer_request(session: Session[Any], payload: bytes) -> None:
    """The route that all requests take."""
    await session.requests.answer(payload)


def _failure(failure: codec.Failure) -> Exception:
    if failure.code == codec.FailureCode.REJECTED:
        return Rejected(failure.reason)
    return RequestFailed(failure.reason)
