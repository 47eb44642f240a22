"""`App`: a table of handlers, middleware and channels. It does no I/O and knows no loop."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, Unpack, overload
from weakref import WeakValueDictionary

from aerogram import messages as codec
from aerogram.channels import Channel, Channels
from aerogram.datagrams import DatagramRoute
from aerogram.group_sending import OverRate
from aerogram.groups import Group
from aerogram.idempotency import AnswerCache
from aerogram.io.datagram import Datagram
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.opening import EndpointOptions, open_endpoint
from aerogram.messages import Message, Request, Stream, Upload
from aerogram.registration import (
    NO_LIFESPAN,
    answers_as_stream,
    check_asking,
    check_coroutine_function,
    check_lifespan,
    check_registered_type,
    check_session_state,
    listed,
    name_of,
)
from aerogram.routes import (
    ASKING_KINDS,
    Concurrency,
    Handler,
    Middleware,
    Route,
    RouteTable,
    begun,
    chained,
    make_route,
)
from aerogram.session import Session, answer_question
from aerogram.typevars import DepsT, StateT

if TYPE_CHECKING:
    from aerogram.config import Config
    from aerogram.core.keys import Identity
    from aerogram.server import Server

MessageT = TypeVar("MessageT")
AnswerT = TypeVar("AnswerT")
LifespanT = TypeVar("LifespanT")
MadeT = TypeVar("MadeT")
DatagramHandlerT = TypeVar(
    "DatagramHandlerT", bound=Callable[[DatagramEndpoint, Datagram], Awaitable[Any]]
)
HandlerT = TypeVar("HandlerT", bound=Callable[..., Awaitable[Any]])

PLAIN_TYPES: Final = (bytes, str, int, float, bool, list, dict, type(None))
"""Types that may be sent and handled without a `Message` class."""


class App(Generic[DepsT, StateT]):
    """A table of handlers for `serve` and `connect`, with what surrounds them.

    `lifespan` is entered when serving starts; what it yields is `state`. `session_state` makes the
    `state` of each new session. `middleware` surrounds every handler, the first outermost.
    Raises `TypeError` for a `lifespan`, `session_state`, channel or middleware that is none.
    """

    @overload
    def __init__(
        self: App[None, None],
        *,
        channels: Iterable[Channel] = (),
        middleware: Iterable[Middleware] = (),
    ) -> None: ...
    @overload
    def __init__(
        self: App[None, MadeT],
        *,
        session_state: Callable[[], MadeT],
        channels: Iterable[Channel] = (),
        middleware: Iterable[Middleware] = (),
    ) -> None: ...
    @overload
    def __init__(
        self: App[LifespanT, None],
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[LifespanT]],
        channels: Iterable[Channel] = (),
        middleware: Iterable[Middleware] = (),
    ) -> None: ...
    @overload
    def __init__(
        self: App[LifespanT, MadeT],
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[LifespanT]],
        session_state: Callable[[], MadeT],
        channels: Iterable[Channel] = (),
        middleware: Iterable[Middleware] = (),
    ) -> None: ...
    def __init__(
        self,
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        session_state: Callable[[], Any] | None = None,
        channels: Iterable[Channel] = (),
        middleware: Iterable[Middleware] = (),
    ) -> None:
        middleware = listed("middleware=", middleware)
        for layer in middleware:
            check_coroutine_function(layer, "middleware")
        check_lifespan(lifespan)
        check_session_state(session_state)
        self.channels = Channels(listed("channels=", channels), self._decode)
        self.lifespan = lifespan
        self.session_state = session_state
        self.routes = RouteTable()
        """Who handles what; sessions look messages up in it."""
        self.kept_answers = AnswerCache()
        """Answers to requests that their askers may repeat on another session."""
        self._middleware = middleware
        ask = Route(codec.decode_question, answer_question, "request")
        for kind in ASKING_KINDS:
            self.routes.add(kind, codec.Question, ask)
        self._openers: list[Callable[[Any], Awaitable[Any]]] = []
        self._closers: list[Callable[[Any, Any], Awaitable[Any]]] = []
        self.datagram_routes: list[DatagramRoute] = []
        """Where bare datagrams are expected."""
        self._groups: WeakValueDictionary[str, Group[StateT]] = WeakValueDictionary()
        self._state: list[DepsT] = []

    # -- registration

    @overload
    def on(
        self,
        kind: str,
        *,
        concurrency: Concurrency = None,
        key: Callable[[Any], Hashable] | None = None,
        deadline: bool = True,
    ) -> Callable[
        [Callable[[Session[StateT], Any], Awaitable[None]]],
        Callable[[Session[StateT], Any], Awaitable[None]],
    ]: ...
    @overload
    def on(
        self,
        kind: type[MessageT],
        *,
        concurrency: Concurrency = None,
        key: Callable[[MessageT], Hashable] | None = None,
        deadline: bool = True,
    ) -> Callable[
        [Callable[[Session[StateT], MessageT], Awaitable[None]]],
        Callable[[Session[StateT], MessageT], Awaitable[None]],
    ]: ...
    def on(
        self,
        kind: type[Any] | str,
        *,
        concurrency: Concurrency = None,
        key: Callable[[Any], Hashable] | None = None,
        deadline: bool = True,
    ) -> Callable[[Handler], Handler]:
        """Register a coroutine function for a message type, a plain type, or a topic.

        It may also be a `functools.partial` of one, or an object whose `__call__` is one.
        Messages of a session are handled one at a time on each channel, in the channel's order.
        Two keywords let the messages of a type leave that order:

        - `concurrency=N` handles up to N of them at once, `concurrency="unlimited"` as many as
          flow control lets come. They begin in the channel's order.
        - `key=function` handles those for which it returns equal keys one after the other, in
          the channel's order, and others at the same time; `concurrency` bounds these.

        Nothing waits for a message of such a type, not even another message of its channel. It
        begins once everything before it on its channel that keeps the order is done, and all
        that keeps the order stays in order. A message's place among those that may run is kept
        by its session: other sessions are not waited for. Credit is granted, and thereby more let
        come, when a handler has finished.

        A message whose deadline has passed is not handed over, and one whose deadline passes
        cancels its handler, as `asyncio.timeout` does; with `deadline=False` the handler runs to
        its end. Both are counted.

        Raises `ValueError` if there is a handler already, or for a `concurrency` below 1;
        `TypeError` for a type that is not a message, and for a handler that is not async.
        """
        key_of, decode, name = self._described(kind)

        def register(handler: Handler) -> Handler:
            check_coroutine_function(handler, f"the handler of {name}")
            call = chained(handler, self._middleware)
            route = make_route(
                decode, call, name, concurrency=concurrency, key=key, to_deadline=deadline
            )
            self.routes.add(key_of, kind if isinstance(kind, type) else None, route)
            return handler

        return register

    def _described(self, kind: type[Any] | str) -> tuple[codec.RoutingKey, codec.Decoder, str]:
        """Routing key, decoder and name of what `on` takes."""
        if isinstance(kind, str):
            return codec.topic_key(kind), codec.decode_topic, repr(kind)
        check_registered_type(kind, "@app.on")
        if issubclass(kind, codec.ASKING):
            raise TypeError(f"{kind.__name__} is a request: use @app.answers")
        if not issubclass(kind, Message) and kind not in PLAIN_TYPES:
            raise TypeError(f"{kind.__name__} is neither a Message nor a plain type")
        self.channels.of(kind)
        return codec.type_key(kind), codec.decoder_for(kind), kind.__name__

    @overload
    def answers(
        self,
        kind: type[Request[AnswerT]],
        *,
        concurrency: Concurrency = None,
        key: Callable[[Any], Hashable] | None = None,
        deadline: bool = True,
    ) -> Callable[
        [Callable[[Session[StateT], Any], Awaitable[AnswerT]]],
        Callable[[Session[StateT], Any], Awaitable[AnswerT]],
    ]: ...
    @overload
    def answers(
        self,
        kind: type[Stream[AnswerT]],
        *,
        concurrency: Concurrency = None,
        key: Callable[[Any], Hashable] | None = None,
    ) -> Callable[
        [Callable[[Session[StateT], Any], AsyncIterator[AnswerT]]],
        Callable[[Session[StateT], Any], AsyncIterator[AnswerT]],
    ]: ...
    @overload
    def answers(
        self,
        kind: type[Upload[AnswerT]],
        *,
        concurrency: Concurrency = None,
        key: Callable[[Any], Hashable] | None = None,
        deadline: bool = True,
    ) -> Callable[
        [Callable[[Session[StateT], Any], Awaitable[AnswerT]]],
        Callable[[Session[StateT], Any], Awaitable[AnswerT]],
    ]: ...
    def answers(
        self,
        kind: type[Any],
        *,
        concurrency: Concurrency = None,
        key: Callable[[Any], Hashable] | None = None,
        deadline: bool = True,
    ) -> Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]:
        """Register what answers a type of request.

        For a `Request` that is a coroutine function, whose return value is the answer. It is
        handled like any message: one at a time, in the channel's order, unless `concurrency`,
        `key` or `deadline` say otherwise, as in `on`. When the one who asked gives up, times out
        or is gone, the handler is cancelled.

        For a `Stream` it is an async generator, whose values are the items. Streams run at once,
        as many as there are, unless `concurrency` bounds them. A generator that is ahead of who
        asked is left at its `yield`, and closed there when nobody wants more.

        For an `Upload` it is a coroutine function as for a `Request`, which iterates over the
        `chunks` of what it is given. Uploads run at once, as streams do.

        `Rejected` raised in any of them tells the one who asked. Raises `ValueError` if there is a
        handler already, or for a `concurrency` below 1; `TypeError` for a type that is no
        request, and for a handler of another sort.
        """
        check_asking(kind)

        def register(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            is_stream = answers_as_stream(kind, handler)
            self.channels.of(kind)
            call = chained(begun(handler) if is_stream else handler, self._middleware)
            route = make_route(
                codec.decoder_for(kind),
                call,
                kind.__name__,
                concurrency=concurrency,
                key=key,
                to_deadline=deadline and not is_stream,
                is_stream=is_stream,
                has_content=issubclass(kind, Upload),
            )
            self.routes.add_answer(codec.type_key(kind), route)
            return handler

        return register

    def datagram(
        self,
        host: str | None = None,
        port: int = 0,
        **options: Unpack[EndpointOptions],
    ) -> Callable[[DatagramHandlerT], DatagramHandlerT]:
        """Register a coroutine function (endpoint, datagram) for bare datagrams at an address.

        There is no session and nothing of ours on the wire. The options are those of
        `open_endpoint`, `path`, `socket` and `inherited` among them; the endpoint is opened when
        the app is served. Raises as that does, and `TypeError` for a handler that is not async.
        """
        open_endpoint(host, port, **options)  # which opens nothing yet, but looks at all of it

        def register(handler: DatagramHandlerT) -> DatagramHandlerT:
            check_coroutine_function(handler, "the handler of datagrams")
            call = chained(handler, self._middleware)
            name = name_of(handler)
            self.datagram_routes.append(DatagramRoute(host, port, dict(options), call, name))
            return handler

        return register

    def on_open(self, handler: HandlerT) -> HandlerT:
        """Register a coroutine function that each new session runs before its first message.

        `Rejected` raised in it closes the session with that reason. Raises `TypeError` for a
        function that is not async.
        """
        check_coroutine_function(handler, "on_open")
        self._openers.append(handler)
        return handler

    def on_close(self, handler: HandlerT) -> HandlerT:
        """Register a coroutine function (session, error) that always runs when a session ends.

        Raises `TypeError` for a function that is not async.
        """
        check_coroutine_function(handler, "on_close")
        self._closers.append(handler)
        return handler

    # -- what sessions need

    async def opened(self, session: Session[Any]) -> None:
        """Run the `on_open` handlers."""
        for handler in self._openers:
            await handler(session)

    @property
    def openers(self) -> list[Callable[[Any], Awaitable[Any]]]:
        """The `on_open` handlers."""
        return self._openers

    @property
    def closers(self) -> list[Callable[[Any, Any], Awaitable[Any]]]:
        """The `on_close` handlers."""
        return self._closers

    def _decode(self, payload: bytes) -> Any:
        """What an ordering of the user's own sees of a message."""
        route = self.routes.by_key.get(codec.routing_key(payload))
        if route is None or route.decode is codec.decode_topic:  # the value would lose its name
            return codec.decode_any(payload)
        return route.decode(payload)

    # -- what users need

    def group(
        self,
        name: str,
        *,
        messages_per_second: float | None = None,
        bytes_per_second: float | None = None,
        over_rate: OverRate = "wait",
    ) -> Group[StateT]:
        """The group with this name, made on first use.

        A rate sets the limit of the group (`Group.limit_rate`). A group is forgotten, with its
        limit, when it has no members and nobody holds it. Raises `ValueError` for a rate that is
        none.
        """
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name)
        if messages_per_second is not None or bytes_per_second is not None:
            group.limit_rate(
                messages_per_second=messages_per_second,
                bytes_per_second=bytes_per_second,
                over_rate=over_rate,
            )
        return group

    @property
    def state(self) -> DepsT:
        """What `lifespan` yielded. Raises `RuntimeError` while nothing is being served."""
        if not self._state:
            raise RuntimeError("app.state exists only while the app is being served")
        return self._state[-1]

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Enter the app's lifespan; `state` is what it yields until the context ends."""
        if self.lifespan is None:
            yield
            return
        context = self.lifespan()
        if not hasattr(context, "__aenter__"):
            raise TypeError(f"{NO_LIFESPAN}, and this one returned {context!r}")
        async with context as state:
            self._state.append(state)
            try:
                yield
            finally:
                self._state.remove(state)

    async def run(
        self,
        host: str,
        port: int,
        *,
        identity: Identity | None = None,
        psk: bytes | None = None,
        insecure: bool | Literal["anywhere"] = False,
        config: Config | None = None,
        started: Callable[[Server], None] | None = None,
    ) -> None:
        """Serve until SIGINT or SIGTERM; `started` is called with the server once it runs.

        The other options are those of `serve`, which suits programs with a life of their own.
        """
        from aerogram.server import run_until_signal  # noqa: PLC0415  server imports this module

        await run_until_signal(
            self,
            host,
            port,
            started,
            identity=identity,
            psk=psk,
            insecure=insecure,
            config=config,
        )
