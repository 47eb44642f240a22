"""The part of a `Session` that asks: requests, streams and uploads, and what they promise."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, TypeVar

from aerogram.messages import Request, Stream, Upload
from aerogram.requests import checked_key

if TYPE_CHECKING:
    from aerogram.channels import Channel
    from aerogram.outbox import Outbox
    from aerogram.requests import Requests
    from aerogram.uploads import Content

AnswerT = TypeVar("AnswerT")

DEFAULT_REQUEST_TIMEOUT = 10.0
"""Seconds; pass `timeout=None` to wait as long as the session lives."""
DEFAULT_STREAM_WINDOW = 16
"""Items of a stream that may be ahead of who iterates."""


class Asking:
    """What a session can ask its peer."""

    def __init__(self, outbox: Outbox, requests: Requests) -> None:
        self._outbox = outbox
        self._requests = requests

    async def request(
        self,
        request: Request[AnswerT],
        *,
        timeout: float | None = DEFAULT_REQUEST_TIMEOUT,
        via: Channel | None = None,
        retries: int = 0,
        idempotency_key: bytes | None = None,
    ) -> AnswerT:
        """Ask and wait for the answer of the peer's handler.

        The request is asked again up to `retries` times if it was lost, or not answered within
        `timeout` seconds; the peer's handler runs once all the same. With an `idempotency_key`, 1
        to 255 bytes that stand for this one request, it does so even if the request is asked anew
        on another session, within two minutes after it was answered. For that the peer has to
        recognise this side by its key: give `connect` an `identity`. Without one, and with a `psk`
        or `insecure`, a key counts for its session only.

        Whoever stops waiting, by a timeout or by being cancelled, cancels the peer's handler; not
        so with an `idempotency_key`, whose answer may yet be asked for.

        Raises `Rejected` if the peer's handler refused, `RequestFailed` if it raised or there is
        none, `RequestTimeout` after `timeout` seconds, and what `send` raises.
        """
        channel = self._outbox.channel_for(type(request), via)
        answer: AnswerT = await self._requests.ask(
            request, channel, timeout, retries, checked_key(idempotency_key)
        )
        return answer

    def stream(
        self,
        request: Stream[AnswerT],
        *,
        timeout: float | None = None,
        window: int = DEFAULT_STREAM_WINDOW,
        via: Channel | None = None,
    ) -> AsyncGenerator[AnswerT]:
        """Ask and iterate over what the peer's handler yields, in that order.

        The peer is asked when the iteration begins. Its handler is at most `window` items ahead
        and rests until more are taken. Leaving the loop closes the handler, as soon as the
        iterator is collected or its `aclose` is awaited; `contextlib.aclosing` does that at once.

        The iteration raises, after the items that came before, `Rejected` if the handler refused,
        `RequestFailed` if it raised or there is none, `RequestTimeout` if the next item takes
        longer than `timeout` seconds, and what `send` raises, such as `SessionClosed`.
        Raises `ValueError` for a `window` below 1, and `InvalidMessage`.
        """
        channel = self._outbox.channel_for(type(request), via)
        return self._requests.stream(request, channel, timeout, window)

    async def upload(
        self,
        request: Upload[AnswerT],
        content: Content,
        *,
        timeout: float | None = None,
        via: Channel | None = None,
    ) -> AnswerT:
        """Send a request and its content, and wait for the answer of the peer's handler.

        `content` is bytes, or yields bytes, all of which may be more than fit memory: it is asked
        for more as the handler takes what was sent. No chunk is asked for before the handler has
        begun to take them, nor after it has answered. An async generator is closed at the end.

        Whoever stops waiting, by a timeout, by being cancelled or because `content` raised, cancels
        the peer's handler.

        Raises what `content` raises, `InvalidMessage` for what is no bytes, and what `request`
        raises; `RequestFailed` also if the peer has no memory for another upload.
        """
        channel = self._outbox.channel_for(type(request), via)
        answer: AnswerT = await self._requests.upload(request, content, channel, timeout)
        return answer
