"""Routes: how each kind of message is decoded, who takes it, and how many may be taken at once.

Rules: a route is plain data that an `App` fills once; sessions only read it. Middleware surrounds
a handler when it is registered, not when a message comes.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from aerogram import messages as codec

Handler = Callable[[Any, Any], Awaitable[Any]]
"""What a route calls: (session, message), and for requests it returns the answer."""
Next = Callable[[Any, Any], Awaitable[Any]]
"""The rest of the middleware chain."""
Middleware = Callable[[Any, Any, Next], Awaitable[Any]]
"""(session, message, call_next); returns what `call_next` returned, or refuses.

For a `Stream` that is the iterator of its items: the handler has only begun.
"""
Key = Callable[[Any], Hashable]
"""From a message to what it must not overtake: messages with equal keys go one after the other."""
Concurrency = int | Literal["unlimited"] | None
"""How many messages of a type one session may have handled at once.

`None` is one, in the order of all messages of the channel, or with a key any number. "unlimited"
is as many as flow control lets come.
"""


ASKING_KINDS: Final = (codec.REQUEST, codec.REPEATABLE, codec.STREAM, codec.UPLOAD)
"""The kinds of payloads that ask."""


@dataclass(slots=True, eq=False)
class Route:
    """How one kind of message is decoded and who takes it."""

    decode: codec.Decoder
    call: Handler
    name: str
    limit: float = 1
    """Handlers of it that one session runs at once; `math.inf` leaves it to flow control."""
    key: Key | None = None
    to_deadline: bool = True
    """True if a message's deadline cancels the handler that still runs it."""
    is_stream: bool = False
    """True if it answers with an iterator of items."""
    has_content: bool = False
    """True if content follows what is asked."""

    @property
    def goes_on(self) -> bool:
        """True if it may go on for ever: nothing waits for it."""
        return self.is_stream or self.has_content

    @property
    def leaves_order(self) -> bool:
        """True if its messages need not wait for those of other types, nor those for them."""
        return self.limit != 1 or self.key is not None


class RouteTable:
    """The routes of an app."""

    __slots__ = ("answers", "by_key", "by_type", "in_line")

    def __init__(self) -> None:
        self.by_key: dict[codec.RoutingKey, Route] = {}
        """Of what is sent and of all questions, by routing key."""
        self.in_line: dict[codec.RoutingKey, Route] = {}
        """Those of them whose messages are handled one after the other."""
        self.by_type: dict[type, Route] = {}
        """The same by the type of what is decoded already."""
        self.answers: dict[codec.RoutingKey, Route] = {}
        """Of each kind of question, by the routing key of what is asked."""

    def add(self, key: codec.RoutingKey, kind: type | None, route: Route) -> None:
        """Take the route of a message type, or with None of a topic. Raises `ValueError`."""
        other = self.by_key.get(key)
        if other is not None:
            raise ValueError(f"{route.name} and {other.name} have the same tag or topic")
        self.by_key[key] = route
        if not route.leaves_order:
            self.in_line[key] = route
        if kind is not None:
            self.by_type[kind] = route

    def add_answer(self, key: codec.RoutingKey, route: Route) -> None:
        """Take the route of a kind of question. Raises `ValueError`."""
        other = self.answers.get(key)
        if other is not None:
            same = other.name == route.name
            what = f"two handlers answer {route.name}"
            raise ValueError(what if same else f"{other.name} and {route.name} have the same tag")
        self.answers[key] = route
        if route.leaves_order:
            for asking in ASKING_KINDS:
                self.in_line.pop(asking, None)

    def of_value(self, message: object) -> tuple[Route | None, object]:
        """The route of what an ordering has seen decoded, and what that route's handler takes."""
        if isinstance(message, codec.Topic):
            return self.by_key.get(codec.topic_key(message.name)), message.value
        return self.by_type.get(type(message)), message


def make_route(
    decode: codec.Decoder,
    call: Handler,
    name: str,
    *,
    concurrency: Concurrency = None,
    key: Key | None = None,
    to_deadline: bool = True,
    is_stream: bool = False,
    has_content: bool = False,
) -> Route:
    """A route with what its user wrote. Raises `ValueError` or `TypeError` for what cannot be."""
    if key is not None and not callable(key):
        raise TypeError(f"key= takes a function of the message, not {key!r}")
    at_once = key is not None or is_stream or has_content
    limit = handlers_at_once(concurrency, math.inf if at_once else 1)
    return Route(decode, call, name, limit, key, to_deadline, is_stream, has_content)


def handlers_at_once(concurrency: object, default: float) -> float:
    """What `concurrency=` means. Raises `ValueError` or `TypeError`."""
    if concurrency is None:
        return default
    if concurrency == "unlimited":
        return math.inf
    if isinstance(concurrency, bool) or not isinstance(concurrency, int):
        raise TypeError(f'concurrency= takes a number or "unlimited", not {concurrency!r}')
    if concurrency < 1:
        raise ValueError(f"concurrency= is at least 1, not {concurrency}")
    return concurrency


def chained(handler: Handler, middleware: Iterable[Middleware]) -> Handler:
    """The handler inside its middleware, the first of which is outermost."""
    call = handler
    for layer in reversed([*middleware]):
        call = _around(layer, call)
    return call


def _around(layer: Middleware, inner: Handler) -> Handler:
    async def call(session: Any, message: Any) -> Any:
        return await layer(session, message, inner)

    return call


def begun(handler: Callable[[Any, Any], Any]) -> Handler:
    """A handler that is an async generator, as one that returns its iterator."""

    async def begin(session: Any, message: Any) -> Any:
        return handler(session, message)

    return begin
