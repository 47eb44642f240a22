"""`answer`: a handler for questions to a group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

from aerogram import messages as codec
from aerogram.config import check_timeout
from aerogram.errors import DecodeError, EndpointClosed
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.multicast import InterfaceName
from aerogram.io.network import Network, SocketNetwork
from aerogram.io.sockets import Address
from aerogram.lan.alarm import Alarm, cancel
from aerogram.lan.group_socket import LOCAL_NETWORK_TTL, checked_group, open_group
from aerogram.lan.questions import IDENTITY_BYTES, AnswerStats, Question, Responder
from aerogram.lan.stream.timing import TokenBucket
from aerogram.messages import Request

RequestT = TypeVar("RequestT", bound=Request[Any])
Handler = Callable[[Any, Address], Awaitable[Any]]

MAX_DELAY_SECONDS: Final = 0.1
"""mDNS has 20 to 120 ms (RFC 6762 §6)."""
LOGS_PER_SECOND: Final = 1.0
"""A handler that always fails is not told of more often."""


class answer:  # noqa: N801  used as a function: `async with answer(...)`
    """Answer questions to a group: `async with answer(group, port, handler) as answering`.

    `handler(question, asker)` is a coroutine function; what it returns is sent to the asker after a
    random time of up to `max_delay` seconds, None is silence. It is called once for each question,
    however often that is repeated. Without `kind` questions and answers are bytes; with a `Request`
    class the handler gets that and returns its answer, and other questions are ignored.

    With `suppress` an answer is kept back when so many others have sent the same one; all who might
    should say so, for then they tell each other. `interface` is one or several to listen on.

    What comes is unauthenticated, and the asker's address may be forged: answers are no larger than
    1180 bytes and no more than 100 a second. Raises `InvalidAddress`, `ValueError`, on entering
    also `OSError`.
    """

    @overload
    def __init__(
        self,
        group: str,
        port: int,
        handler: Callable[[bytes, Address], Awaitable[bytes | None]],
        *,
        suppress: int | None = None,
        max_delay: float = MAX_DELAY_SECONDS,
        interface: InterfaceName | Iterable[InterfaceName] | None = None,
        ttl: int = LOCAL_NETWORK_TTL,
        network: Network | None = None,
        logger: logging.Logger | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        group: str,
        port: int,
        handler: Callable[[RequestT, Address], Awaitable[Any]],
        *,
        kind: type[RequestT],
        suppress: int | None = None,
        max_delay: float = MAX_DELAY_SECONDS,
        interface: InterfaceName | Iterable[InterfaceName] | None = None,
        ttl: int = LOCAL_NETWORK_TTL,
        network: Network | None = None,
        logger: logging.Logger | None = None,
    ) -> None: ...
    def __init__(
        self,
        group: str,
        port: int,
        handler: Handler,
        *,
        kind: type[Request[Any]] | None = None,
        suppress: int | None = None,
        max_delay: float = MAX_DELAY_SECONDS,
        interface: InterfaceName | Iterable[InterfaceName] | None = None,
        ttl: int = LOCAL_NETWORK_TTL,
        network: Network | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        check_timeout(max_delay, "max_delay=")
        if suppress is not None and suppress < 1:
            raise ValueError("suppress is at least 1")
        self._target = checked_group(group, port)
        self._handler = handler
        self._decode = None if kind is None else codec.decoder_for(kind)
        self._key = None if kind is None else codec.type_key(kind)
        self._suppress = suppress
        self._max_delay = max_delay
        self._interface = interface
        self._ttl = ttl
        self._network = network or SocketNetwork()
        self._logger = logger or logging.getLogger("aerogram.lan")
        self._stack = contextlib.AsyncExitStack()
        self._handling: set[asyncio.Task[None]] = set()
        self._responder: Responder

    @property
    def stats(self) -> AnswerStats:
        """What has been counted since it was entered."""
        return self._responder.stats

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as opening:
            endpoint = await opening.enter_async_context(
                open_group(
                    *self._target[:2],
                    interface=self._interface,
                    send_by=self._interface if isinstance(self._interface, str | int) else None,
                    ttl=self._ttl,
                    network=self._network,
                )
            )
            self._alarm = Alarm()
            self._chance = random.Random(self._network.random_bytes(16))  # noqa: S311  spreads
            self._logs = TokenBucket(LOGS_PER_SECOND, LOGS_PER_SECOND, self._loop.time())
            self._responder = Responder(
                self._network.random_bytes(IDENTITY_BYTES),
                suppress=self._suppress,
                max_delay=self._max_delay,
                now=self._loop.time(),
            )
            opening.push_async_callback(self._cancel_handlers)
            for work in (self._receive(endpoint), self._send(endpoint)):
                opening.push_async_callback(cancel, self._loop.create_task(work))
            self._stack = opening.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _cancel_handlers(self) -> None:
        for task in [*self._handling]:
            await cancel(task)

    async def _receive(self, endpoint: DatagramEndpoint) -> None:
        with contextlib.suppress(EndpointClosed):
            while True:
                datagram = await endpoint.receive()
                address, now = datagram.address, self._loop.time()
                question = self._responder.receive(
                    datagram.data, address, now, self._chance.random()
                )
                if question is not None:
                    task = self._loop.create_task(self._handle(question, address))
                    self._handling.add(task)
                    task.add_done_callback(self._handling.discard)
                self._alarm.ring()

    async def _handle(self, question: Question, address: Address) -> None:
        body: bytes | None = None
        try:
            body = await self._ask_handler(question, address)
        except DecodeError:
            self.stats.dropped_malformed += 1
        except Exception:  # a user's handler
            self.stats.handler_errors += 1
            if self._logs.take(1.0, self._loop.time()):
                self._logger.exception("the handler of a question failed")
        self._responder.answered(address, question, body)
        self._alarm.ring()

    async def _ask_handler(self, question: Question, address: Address) -> bytes | None:
        """The encoded answer. Raises `DecodeError` for what is no question to this handler."""
        if self._decode is None:
            answer: bytes | None = await self._handler(question.body, address)
            return answer
        if codec.routing_key(question.body) != self._key:
            raise DecodeError("a question of another type")
        value = await self._handler(self._decode(question.body), address)
        return None if value is None else codec.encode(value)

    async def _send(self, endpoint: DatagramEndpoint) -> None:
        """Send answers when their time has come."""
        now = self._loop.time()
        with contextlib.suppress(EndpointClosed):
            while True:
                for datagram, address in self._responder.poll(now):
                    with contextlib.suppress(OSError):  # no way to the group: as if it was lost
                        if address is None:
                            await endpoint.send(datagram, self._target)
                        else:
                            await endpoint.answer(datagram, address)
                now = await self._alarm.wait(self._responder.poll_timeout())
