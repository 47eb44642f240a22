"""What an app is given, checked where it is given: what could never be called is refused there.

Rules: whoever registers something wrong gets a `TypeError` that says what to write instead. A
function counts as async if a call of it is to be awaited: a partial, a bound method, an object with
such a `__call__` and a wrapper (`functools.wraps`) are what they call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from aerogram import messages as codec
from aerogram.messages import Stream

ListedT = TypeVar("ListedT")

NO_LIFESPAN: Final = "lifespan= is a function that returns an async context manager"


def is_coroutine_function(function: object) -> bool:
    """True if a call of it is to be awaited: also a partial, or an object with such a `__call__`.

    A wrapper counts as what it wraps (`functools.wraps`).
    """
    return _is_any_way(function, inspect.iscoroutinefunction)


def is_async_generator(function: object) -> bool:
    """The same for what is iterated over with `async for`."""
    return _is_any_way(function, inspect.isasyncgenfunction)


def _is_any_way(function: object, is_kind: Callable[[Any], bool]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type) or not callable(function):
        return False
    if is_kind(inspect.unwrap(function)):
        return True
    return is_kind(getattr(function, "__call__"))  # noqa: B004, B009  wants what the class defines


def check_coroutine_function(function: object, what: str) -> None:
    """Raise `TypeError` for what cannot be awaited once it is called; `what` is what it was for."""
    if is_coroutine_function(function):
        return
    name = name_of(function)
    if is_async_generator(function):
        advice = "it yields, so it is an async generator: only the handler of a Stream is one"
    elif isinstance(function, type) or not callable(function):
        advice = "it is not a function: write it as an `async def`"
    else:
        advice = f"it is not async: write `async def {name}(...)`"
    raise TypeError(f"{what} is a coroutine function, and {name} is none: {advice}")


def name_of(function: object) -> str:
    """What its user calls it."""
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else repr(function)


def check_registered_type(kind: object, decorator: str) -> None:
    """Raise `TypeError` for what is no type of messages; often that is the handler itself."""
    if isinstance(kind, type):
        return
    name = name_of(kind)
    if inspect.isroutine(kind) or isinstance(kind, functools.partial):
        raise TypeError(
            f"{decorator} takes the type of messages: write {decorator}(Type) above {name}"
        )
    raise TypeError(f"{decorator} takes a class of messages, not {kind!r}")


def check_asking(kind: type[Any]) -> None:
    """Raise `TypeError` for what is no `Request`, `Stream` or `Upload`."""
    check_registered_type(kind, "@app.answers")
    if not issubclass(kind, codec.ASKING):
        raise TypeError(f"{kind.__name__} is no request: use @app.on")


def answers_as_stream(kind: type[Any], handler: Callable[..., Any]) -> bool:
    """True for a `Stream`. Raises `TypeError` if the handler does not suit the kind."""
    name = kind.__name__
    if not issubclass(kind, Stream):
        if is_async_generator(handler):
            raise TypeError(f"{name} is a Request, its handler returns one answer: see Stream")
        check_coroutine_function(handler, f"what answers {name}")
        return False
    if not is_async_generator(handler):
        raise TypeError(
            f"{name} is a Stream: its handler yields items, as an `async def` with `yield`, and "
            f"{name_of(handler)} does not"
        )
    return True


def listed(name: str, values: Iterable[ListedT]) -> list[ListedT]:
    """A list of what may be iterated over once. Raises `TypeError` for anything else."""
    _check_listed(name, values)
    return [*values]


def _check_listed(name: str, values: object) -> None:
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise TypeError(f"{name} takes a list, not {values!r}")


def check_lifespan(lifespan: object) -> None:
    """Raise `TypeError` for what is known to make no context manager before it is called."""
    while isinstance(lifespan, functools.partial):
        lifespan = lifespan.func
    if lifespan is None:
        return
    if is_async_generator(lifespan):
        if not hasattr(lifespan, "__wrapped__"):
            raise TypeError(f"{NO_LIFESPAN}: put @contextlib.asynccontextmanager above this one")
    elif not callable(lifespan) or is_coroutine_function(lifespan):
        raise TypeError(f"{NO_LIFESPAN}, not {lifespan!r}")
    elif inspect.isgeneratorfunction(inspect.unwrap(lifespan)):
        raise TypeError(f"{NO_LIFESPAN}: write this one as an `async def`")


def check_session_state(session_state: object) -> None:
    """Raise `TypeError` for what does not make the state of a session."""
    if session_state is None:
        return
    if not callable(session_state) or is_coroutine_function(session_state):
        raise TypeError(f"session_state= is a plain function without arguments: {session_state!r}")
