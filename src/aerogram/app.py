"""`App`: a table of handlers, middleware and channels. It does no I/O and knows no loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload

from aerogram import delivery as presets
from aerogram import messages as codec
from aerogram.core.channel import ChannelSpec
from aerogram.core.delivery import AsItArrives, Delivery, InOrder, NewestWins
from aerogram.datagrams import DatagramRoute
from aerogram.dispatch import Handler, Middleware, Route, chained
from aerogram.groups import Group
from aerogram.io.arrivals import Overflow
from aerogram.io.datagram import Datagram
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.sockets import checked_address
from aerogram.messages import Message, Request
from aerogram.requests import answer_request
from aerogram.session import Session
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


@dataclass(frozen=True)
class Channel:
    """A named channel: its delivery, and the types that travel on it in one order."""

    name: str
    delivery: Delivery
    carries: Sequence[type] = ()
    priority: int = 0
    """Channels of a higher priority are sent first."""

    @property
    def spec(self) -> ChannelSpec:
        """What the protocol core knows of it."""
        return ChannelSpec(self.name, self.delivery, self.priority)


DEFAULT_CHANNEL: Final = Channel("default", presets.ordered())
ANSWERS_CHANNEL: Final = Channel("answers", presets.reliable())


class Channels:
    """Which channel a type travels on."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self.specs: dict[str, ChannelSpec] = {}
        self._by_type: dict[type, ChannelSpec] = {}
        self._default = DEFAULT_CHANNEL.spec
        for channel in (DEFAULT_CHANNEL, ANSWERS_CHANNEL, *channels):
            self._add(channel)

    def _add(self, channel: Channel) -> None:
        if channel.name in self.specs:
            raise ValueError(f"two channels are named {channel.name!r}")
        self.specs[channel.name] = channel.spec
        for kind in channel.carries:
            if kind in self._by_type:
                raise ValueError(f"two channels carry {kind.__name__}")
            self._by_type[kind] = channel.spec

    def of(self, kind: type) -> ChannelSpec:
        """The channel of a type: the one that carries it, its own, or the default one."""
        spec = self._by_type.get(kind)
        if spec is None:
            delivery = codec.delivery_of(kind)
            spec = self._default if delivery is None else self._own(kind, delivery)
            self._by_type[kind] = spec
        return spec

    def _own(self, kind: type, delivery: Delivery) -> ChannelSpec:
        name = f"tag:{codec.tag_of(kind)}"
        spec = self.specs.get(name)
        if spec is None:
            spec = self.specs[name] = ChannelSpec(name, delivery)
        return spec

    def decode_for_orderings(self, decode: Callable[[bytes], Any]) -> None:
        """Orderings of the user's own look into messages: they get them decoded."""
        for name, spec in self.specs.items():
            if not isinstance(spec.delivery.ordering(), AsItArrives | InOrder | NewestWins):
                self.specs[name] = ChannelSpec(spec.name, spec.delivery, spec.priority, decode)


class App(Generic[DepsT, StateT]):
    """A table of handlers for `serve` and `connect`, with what surrounds them.

    `lifespan` is entered when serving starts; what it yields is `state`. `session_state` makes the
    `state` of each new session. `middleware` surrounds every handler, the first outermost.
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
        self.channels = Channels(channels)
        self.lifespan = lifespan
        self.session_state = session_state
        self._middleware = [*middleware]
        self._routes: dict[codec.RoutingKey, Route] = {
            codec.REQUEST: Route(bytes, answer_request, "request")
        }
        self._routes_by_type: dict[type, Route] = {}
        self._answers: dict[codec.RoutingKey, Route] = {}
        self._openers: list[Callable[[Any], Awaitable[Any]]] = []
        self._closers: list[Callable[[Any, Any], Awaitable[Any]]] = []
        self.datagram_routes: list[DatagramRoute] = []
        """Where bare datagrams are expected."""
        self._groups: dict[str, Group[StateT]] = {}
        self._state: list[DepsT] = []
        self.channels.decode_for_orderings(self._decode)

    # -- registration

    @overload
    def on(
        self, kind: str
    ) -> Callable[
        [Callable[[Session[StateT], Any], Awaitable[None]]],
        Callable[[Session[StateT], Any], Awaitable[None]],
    ]: ...
    @overload
    def on(
        self, kind: type[MessageT]
    ) -> Callable[
        [Callable[[Session[StateT], MessageT], Awaitable[None]]],
        Callable[[Session[StateT], MessageT], Awaitable[None]],
    ]: ...
    def on(self, kind: type[Any] | str) -> Callable[[Handler], Handler]:
        """Register a coroutine function for a message type, a plain type, or a topic.

        Raises `ValueError` if there is one already, `TypeError` for a type that is not a message.
        """

        def register(handler: Handler) -> Handler:
            if isinstance(kind, str):
                self._add_route(codec.topic_key(kind), codec.decode_topic, handler, repr(kind))
            else:
                self._add_type(kind, handler)
            return handler

        return register

    def answers(
        self, kind: type[Request[AnswerT]]
    ) -> Callable[
        [Callable[[Session[StateT], Any], Awaitable[AnswerT]]],
        Callable[[Session[StateT], Any], Awaitable[AnswerT]],
    ]:
        """Register the coroutine function that answers a request type with its return value."""

        def register(
            handler: Callable[[Session[StateT], Any], Awaitable[AnswerT]],
        ) -> Callable[[Session[StateT], Any], Awaitable[AnswerT]]:
            key = codec.type_key(kind)
            if key in self._answers:
                raise ValueError(f"two handlers answer {kind.__name__}")
            self.channels.of(kind)
            call = chained(handler, self._middleware)
            self._answers[key] = Route(codec.decoder_for(kind), call, kind.__name__)
            return handler

        return register

    def datagram(
        self,
        host: str,
        port: int,
        *,
        overflow: Overflow = "drop_oldest",
        dual_stack: bool = False,
        reuse_port: bool = False,
        details: bool = True,
    ) -> Callable[[DatagramHandlerT], DatagramHandlerT]:
        """Register a coroutine function (endpoint, datagram) for bare datagrams at an address.

        There is no session and nothing of ours on the wire. The options are those of
        `open_endpoint`; the endpoint is opened when the app is served. Raises `InvalidAddress`.
        """
        checked_address(host, port, to_bind=True)
        options = {
            "overflow": overflow,
            "dual_stack": dual_stack,
            "reuse_port": reuse_port,
            "details": details,
        }

        def register(handler: DatagramHandlerT) -> DatagramHandlerT:
            call = chained(handler, self._middleware)
            name = getattr(handler, "__name__", repr(handler))
            self.datagram_routes.append(DatagramRoute(host, port, options, call, name))
            return handler

        return register

    def on_open(self, handler: HandlerT) -> HandlerT:
        """Register a coroutine function that each new session runs before its first message.

        `Rejected` raised in it closes the session with that reason.
        """
        self._openers.append(handler)
        return handler

    def on_close(self, handler: HandlerT) -> HandlerT:
        """Register a coroutine function (session, error) that always runs when a session ends."""
        self._closers.append(handler)
        return handler

    def _add_type(self, kind: type[Any], handler: Handler) -> None:
        if issubclass(kind, Request):
            raise TypeError(f"{kind.__name__} is a request: use @app.answers")
        if not issubclass(kind, Message) and kind not in PLAIN_TYPES:
            raise TypeError(f"{kind.__name__} is neither a Message nor a plain type")
        self.channels.of(kind)
        key = codec.type_key(kind)
        self._add_route(key, codec.decoder_for(kind), handler, kind.__name__)
        self._routes_by_type[kind] = self._routes[key]

    def _add_route(
        self,
        key: codec.RoutingKey,
        decode: Callable[[bytes], Any],
        handler: Handler,
        name: str,
    ) -> None:
        if key in self._routes:
            raise ValueError(f"{name} and {self._routes[key].name} have the same tag or topic")
        self._routes[key] = Route(decode, chained(handler, self._middleware), name)

    # -- what sessions need

    @property
    def routes(self) -> dict[codec.RoutingKey, Route]:
        """Handlers of one-way messages by routing key."""
        return self._routes

    @property
    def routes_by_type(self) -> dict[type, Route]:
        """The same by type."""
        return self._routes_by_type

    @property
    def answer_routes(self) -> dict[codec.RoutingKey, Route]:
        """Handlers of requests by the routing key of the request."""
        return self._answers

    async def opened(self, session: Session[Any]) -> None:
        """Run the `on_open` handlers."""
        for handler in self._openers:
            await handler(session)

    @property
    def closers(self) -> list[Callable[[Any, Any], Awaitable[Any]]]:
        """The `on_close` handlers."""
        return self._closers

    def _decode(self, payload: bytes) -> Any:
        route = self._routes.get(codec.routing_key(payload))
        return route.decode(payload) if route is not None else codec.decode_any(payload)

    # -- what users need

    def group(self, name: str) -> Group[StateT]:
        """The group with this name, made on first use."""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name)
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
        async with self.lifespan() as state:
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
