"""What an app is given is checked where it is given: what could not be called is refused there."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from aerogram import App, Channel, Message, Request, Session, Stream, connect, delivery, serve
from aerogram.core.delivery import Delivery, InOrder
from aerogram.lab import Network


class Say(Message):
    text: str


class Ask(Request[int]):
    number: int


class Watch(Stream[int]):
    count: int


async def asynchronous(*_: object) -> None:
    """Be awaited."""


async def items(*_: object) -> AsyncIterator[int]:
    yield 1


def synchronous(*_: object) -> None:
    """Be called."""


class Callable1:
    async def __call__(self, *_: object) -> None:
        """Be awaited."""


class Sync1:
    def __call__(self, *_: object) -> None:
        """Be called."""


class Holder:
    async def method(self, *_: object) -> None:
        """Be awaited."""

    @staticmethod
    async def static(*_: object) -> None:
        """Be awaited."""


def wrapping(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    def call(*arguments: object) -> Awaitable[Any]:
        return function(*arguments)

    return call


ASYNC: list[Any] = [
    asynchronous,
    Callable1(),
    Holder().method,
    Holder.static,
    functools.partial(asynchronous, 1),
    functools.partial(functools.partial(Callable1()), 1),
    wrapping(asynchronous),
]
NOT_ASYNC: list[Any] = [
    synchronous,
    Sync1(),
    Callable1,
    lambda *_: None,
    functools.partial(synchronous, 1),
    print,
    None,
    5,
    "handler",
    asynchronous.__name__,
    items,
]

PLACES: dict[str, Callable[[App[Any, Any], Any], object]] = {
    "on": lambda app, given: app.on(Say)(given),
    "topic": lambda app, given: app.on("news")(given),
    "answers": lambda app, given: app.answers(Ask)(given),
    "on_open": lambda app, given: app.on_open(given),
    "on_close": lambda app, given: app.on_close(given),
    "datagram": lambda app, given: app.datagram("127.0.0.1", 0)(given),
    "middleware": lambda _, given: App(middleware=[given]),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("given", ASYNC)
def test_whatever_is_awaited_can_be_registered(place: str, given: Any) -> None:
    made = PLACES[place](App(), given)
    assert made is given or place == "middleware"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("given", NOT_ASYNC, ids=repr)
def test_whatever_is_not_awaited_is_refused_with_advice(place: str, given: Any) -> None:
    with pytest.raises(TypeError, match=r"async def|async generator|one answer: see Stream"):
        PLACES[place](App(), given)


def test_the_error_names_the_function_and_what_it_was_for() -> None:
    with pytest.raises(TypeError) as raised:
        App().on(Say)(synchronous)  # type: ignore[arg-type]
    assert str(raised.value) == (
        "the handler of Say is a coroutine function, and synchronous is none: "
        "it is not async: write `async def synchronous(...)`"
    )


@pytest.mark.parametrize("given", [items, functools.partial(items, 1)])
def test_a_stream_is_answered_by_what_yields(given: Any) -> None:
    assert App().answers(Watch)(given) is given


@pytest.mark.parametrize("given", [*ASYNC, *NOT_ASYNC[:-1]], ids=repr)
def test_nothing_else_answers_a_stream(given: Any) -> None:
    with pytest.raises(TypeError, match="Watch is a Stream: its handler yields items"):
        App().answers(Watch)(given)


@pytest.mark.parametrize("given", [asynchronous, synchronous, functools.partial(asynchronous)])
@pytest.mark.parametrize("decorator", ["on", "answers"])
def test_a_decorator_without_a_type_says_how_to_write_it(decorator: str, given: Any) -> None:
    with pytest.raises(TypeError, match=rf"write @app\.{decorator}\(Type\) above"):
        getattr(App(), decorator)(given)


@pytest.mark.parametrize("kind", [5, None, list[int], Say("hello"), (Say,)])
@pytest.mark.parametrize("decorator", ["on", "answers"])
def test_a_decorator_takes_a_class(decorator: str, kind: Any) -> None:
    with pytest.raises(TypeError, match=rf"@app\.{decorator} takes a class"):
        getattr(App(), decorator)(kind)


def test_the_wrong_decorator_names_the_right_one() -> None:
    with pytest.raises(TypeError, match=r"use @app\.answers"):
        App().on(Ask)
    with pytest.raises(TypeError, match=r"use @app\.on"):
        App().answers(Say)  # type: ignore[call-overload]


@pytest.mark.parametrize("key", [5, "symbol"])
def test_a_key_is_a_function(key: Any) -> None:
    with pytest.raises(TypeError, match="key= takes a function"):
        App().on(Say, key=key)(asynchronous)


async def test_what_is_registered_by_partial_and_object_is_called() -> None:
    taken: list[tuple[str, str]] = []
    both = asyncio.Event()

    async def take(who: str, _session: Session[Any], say: Say) -> None:
        taken.append((who, say.text))

    class Answer:
        async def __call__(self, _session: Session[Any], ask: Ask) -> int:
            return ask.number + 1

    class Around:
        async def __call__(self, session: Any, message: Any, call_next: Any) -> Any:
            both.set()
            return await call_next(session, message)

    app: App[None, None] = App(middleware=[Around()])
    app.on(Say)(functools.partial(take, "partial"))
    app.answers(Ask)(Answer())
    network = Network(seed=1)
    async with (
        serve(app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        await session.send(Say("hello"))
        assert await session.request(Ask(1), timeout=5) == 2
    assert taken == [("partial", "hello")]
    assert both.is_set()


# -- lifespan and state


@contextlib.asynccontextmanager
async def resources(*_: object) -> AsyncGenerator[int]:
    yield 7


async def undecorated() -> AsyncGenerator[int]:
    yield 7


def a_generator() -> Iterator[int]:
    yield 7


class Resources:
    async def __aenter__(self) -> int:
        return 7

    async def __aexit__(self, *_: object) -> None:
        """Leave."""


class Factory:
    def __call__(self) -> Resources:
        return Resources()


@pytest.mark.parametrize(
    "lifespan", [resources, Resources, functools.partial(resources, 1), Factory()]
)
async def test_a_lifespan_makes_an_async_context_manager(lifespan: Any) -> None:
    app: App[int, None] = App(lifespan=lifespan)
    async with app.running():
        assert app.state == 7


@pytest.mark.parametrize(
    ("lifespan", "advice"),
    [
        (undecorated, "put @contextlib.asynccontextmanager above"),
        (functools.partial(undecorated), "put @contextlib.asynccontextmanager above"),
        (a_generator, "`async def`"),
        (contextlib.contextmanager(a_generator), "`async def`"),
        (asynchronous, "returns an async context manager, not"),
        (Resources(), "returns an async context manager, not"),
        (7, "returns an async context manager, not"),
    ],
)
def test_a_lifespan_that_makes_none_is_refused(lifespan: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=advice):
        App(lifespan=lifespan)


async def test_a_lifespan_that_returns_none_is_told_when_it_is_entered() -> None:
    app: App[Any, None] = App(lifespan=synchronous)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="this one returned None"):
        await serve(app, "127.0.0.1", 0)


@pytest.mark.parametrize("given", [asynchronous, 5, "state"])
def test_the_state_of_a_session_is_made_by_a_plain_function(given: Any) -> None:
    with pytest.raises(TypeError, match="session_state= is a plain function"):
        App(session_state=given)


# -- channels and deliveries


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("", 5), "1 to 255 bytes, not 0"),
        (("x", 5), "delivery is one like delivery.ordered"),
        (("x", delivery.ordered), "delivery is one like delivery.ordered"),
        (("x", None), "delivery is one like delivery.ordered"),
        ((5, delivery.ordered()), "is a str, not 5"),
        (("x" * 256, delivery.ordered()), "1 to 255 bytes, not 256"),
        (("x", delivery.ordered(), Say), "carries= is a list of types, not"),
        (("x", delivery.ordered(), "Say"), "carries= is a list of types, not"),
        (("x", delivery.ordered(), ["Say"]), "with 'Say' in it"),
    ],
)
def test_a_channel_that_cannot_be_is_refused(arguments: tuple[Any, ...], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        Channel(*arguments)


def test_a_channel_takes_what_it_should() -> None:
    channel = Channel("é" * 127, delivery.ordered(), carries=(Say,))
    assert App(channels=[channel]).channels.of(Say) == channel.spec


@pytest.mark.parametrize("given", ["chat", 5, delivery.ordered()])
def test_an_app_takes_channels(given: Any) -> None:
    with pytest.raises(TypeError, match="channels= takes a list of Channel"):
        App(channels=[given])


PRESETS: dict[str, Callable[..., Delivery]] = {
    "unreliable": delivery.unreliable,
    "sequenced": delivery.sequenced,
    "reliable": delivery.reliable,
    "ordered": delivery.ordered,
    "reliable_sequenced": delivery.reliable_sequenced,
    "latest": functools.partial(delivery.latest, key=len),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("deadline", [math.inf, math.nan, -1, 0, 0.0, 1e9, "1", True, [1]])
def test_the_deadline_of_a_channel_is_a_time_to_come(preset: str, deadline: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"deadline= is .*0\.001 to 1e\+06"):
        PRESETS[preset](deadline=deadline)
    assert PRESETS[preset](deadline=0.5).deadline_seconds == 0.5
    assert PRESETS[preset](deadline=None).deadline_seconds is None


@pytest.mark.parametrize("preset", ["reliable", "ordered", "reliable_sequenced", "latest"])
@pytest.mark.parametrize("attempts", [0, -1, 1.5, True, "3", math.nan])
def test_attempts_are_counted_from_one(preset: str, attempts: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"attempts= is .*1 to"):
        PRESETS[preset](attempts=attempts)
    PRESETS[preset](attempts=1)


@pytest.mark.parametrize("wrong", [{"key": 5}, {"key": len, "keys": 0}, {"key": len, "keys": 1.5}])
def test_latest_takes_a_function_and_a_number_of_keys(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"keys?="):
        delivery.latest(**wrong)


@pytest.mark.parametrize("wrong", [(5,), (InOrder, 5), (InOrder, delivery.Never)])
def test_a_delivery_of_ones_own_is_a_factory_and_a_policy(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"an ordering is|a retry policy is"):
        Delivery(*wrong)


# -- groups


@pytest.mark.parametrize("members", [0, 2])
@pytest.mark.parametrize("deadline", [math.inf, math.nan, 1e9, "1", True])
async def test_a_deadline_of_a_group_is_checked_whoever_is_in_it(
    members: int, deadline: Any
) -> None:
    app: App[None, None] = App()
    group = app.group("room")
    joined = asyncio.Semaphore(0)

    @app.on_open
    async def join(session: Session[None]) -> None:
        group.add(session)
        joined.release()

    network = Network(seed=1)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(app, "server", 1, network=network))
        sessions = [
            await stack.enter_async_context(connect(server.address, network=network))
            for _ in range(members)
        ]
        for _ in sessions:
            await asyncio.wait_for(joined.acquire(), 5)
        for call in (
            lambda: group.send(Say("hello"), deadline=deadline),
            lambda: group.emit("news", 1, deadline=deadline),
        ):
            with pytest.raises((ValueError, TypeError), match=r"deadline= is .*at most 1e\+06"):
                await call()
        outcome = await group.send(Say("late"), deadline=-1.0)
        assert outcome.queued == members
        assert (await group.send(Say("in time"), deadline=5.0)).queued == members
        for session in sessions:
            assert await session.receive(Say, timeout=5) == Say("in time")
