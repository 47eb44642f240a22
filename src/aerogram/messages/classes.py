"""The classes that users derive from, and what is known of a type: its tag, its delivery.

Rules: a mistake in a class statement raises there. Nothing is registered anywhere: two classes may
have one tag as long as no app has a handler for both, and defining a class anew is harmless.
"""

from __future__ import annotations

import types
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

import msgspec

from aerogram.errors import InvalidMessage
from aerogram.messages.routing import NAMED, PLAIN_KINDS, TAG_MAX, RoutingKey, name_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aerogram.core.delivery import Delivery

AnswerT = TypeVar("AnswerT")
_HAS_CONTENT: Final = "__aerogram_has_content__"
"""Marks classes whose instances carry more than their fields."""


class _MessageMeta(msgspec.StructMeta):
    """Takes `tag=` and `delivery=`, and fixes what must not differ between two messages."""

    __aerogram_tag__: int | str
    __aerogram_delivery__: Delivery | None
    __aerogram_has_content__: bool

    def __new__(  # noqa: PYI034  a metaclass has no Self
        mcls: type[_MessageMeta],
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        tag: int | str | None = None,
        delivery: Delivery | None = None,
        eq: bool = True,
        kw_only: bool = False,
        order: bool = False,
        has_content: bool = False,
    ) -> _MessageMeta:
        own_tag = _checked_tag(name, name if tag is None else tag)
        if delivery is not None:
            _check_delivery(name, delivery)
        has_content = has_content or any(base.__dict__.get(_HAS_CONTENT) for base in bases)
        cls = super().__new__(
            mcls,
            name,
            bases,
            namespace,
            array_like=True,
            gc=has_content,
            eq=eq,
            kw_only=kw_only,
            order=order,
            dict=has_content,
        )
        cls.__aerogram_tag__ = own_tag
        cls.__aerogram_has_content__ = has_content
        if delivery is not None or "__aerogram_delivery__" not in dir(cls):
            cls.__aerogram_delivery__ = delivery
        return cls


def _checked_tag(name: str, tag: object) -> int | str:
    if isinstance(tag, bool) or not isinstance(tag, int | str):
        raise TypeError(f"{name}: tag= is a number or a name, not {type(tag).__name__}")
    if isinstance(tag, int):
        if not 0 <= tag <= TAG_MAX:
            raise ValueError(f"{name}: a number as tag is 0 to {TAG_MAX}, not {tag}")
        return tag
    name_head(NAMED, tag, f"{name}: a name as tag")
    return tag


def _check_delivery(name: str, delivery: object) -> None:
    """By its shape: this module knows no protocol."""
    if isinstance(delivery, type) or not hasattr(delivery, "ordering"):
        shown = getattr(delivery, "__name__", type(delivery).__name__)
        raise TypeError(f"{name}: delivery= takes one like delivery.ordered(), not {shown}")


class Message(msgspec.Struct, metaclass=_MessageMeta):
    """The base of typed messages: `class Move(Message, tag=1): x: float`.

    `tag` tells a class from others on the wire: 0 to `TAG_MAX` takes one byte; without it, it is
    the class's name. `delivery` gives the class a channel of its own; subclasses inherit it.
    Further keywords: `eq`, `kw_only`, `order`, as in `dataclass`.
    Fields are what msgspec takes, checked on arrival. Raises `TypeError` or `ValueError` at the
    class statement for a tag or delivery that is none. An instance that reaches itself through its
    fields is never collected.
    """


class Request(Message, Generic[AnswerT]):
    """The base of requests: `class Quote(Request[Price], tag=2): symbol: str`.

    The answer is a `Message` class, a plain type such as `bytes` or `list[int]`, or a union of
    them. Requests and other messages may have the same tags. Raises `TypeError` at the class
    statement for another answer.
    """

    if not TYPE_CHECKING:

        def __init_subclass__(cls) -> None:
            super().__init_subclass__()
            for answer in answer_types(cls):
                _check_answer(cls.__name__, answer)


class Stream(Message, Generic[AnswerT]):
    """The base of questions with many answers: `class Watch(Stream[Price], tag=3): symbol: str`.

    Its handler is an async generator, and who asks iterates: see `Session.stream`. What may be an
    item is what may be the answer to a `Request`; both share their tags. Raises `TypeError` at the
    class statement for another item.
    """

    if not TYPE_CHECKING:

        def __init_subclass__(cls) -> None:
            super().__init_subclass__()
            for item in answer_types(cls):
                _check_answer(cls.__name__, item)


class Upload(Message, Generic[AnswerT], has_content=True):
    """The base of requests with content: `class Store(Upload[int], tag=4): name: str`.

    The content is bytes of any number, even more than fit memory: `Session.upload` sends them, and
    the handler iterates over `chunks`. What may be an answer is what may answer a `Request`. Raises
    `TypeError` at the class statement for another answer, and for a field named `chunks`.
    """

    if not TYPE_CHECKING:

        def __init_subclass__(cls) -> None:
            super().__init_subclass__()
            for answer in answer_types(cls):
                _check_answer(cls.__name__, answer)
            if "chunks" in cls.__annotations__:
                raise TypeError(f"{cls.__name__}: `chunks` is the content, not a field")

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """The content as it comes, for the handler and until it ends. One task may iterate.

        The sender goes on as chunks are taken; where it cut them, or they were cut on their way,
        means nothing. If it gives up or is gone, the handler is cancelled, so that the end of the
        iteration is the end of the content. Raises `RuntimeError` for a request that did not come
        from a peer, and in the iteration `RequestFailed` once the handler has ended.
        """
        chunks: AsyncIterator[bytes] | None = vars(self).get("_chunks")
        if chunks is None:
            raise RuntimeError("the content is there for the handler of a request that has come")
        return chunks

    def receive_content(self, chunks: AsyncIterator[bytes]) -> None:
        """The library has received this request, and its content comes."""
        vars(self)["_chunks"] = chunks


class Untyped(NamedTuple):
    """A typed message that was taken without naming its class, as by `session.receive()`."""

    tag: int | str
    fields: list[Any]


class Topic(NamedTuple):
    """A value of a topic that was taken without naming it."""

    name: str
    value: Any


ASKING: Final[tuple[type[Any], ...]] = (Request, Stream, Upload)
"""The bases of what is asked and not sent."""


def answer_types(kind: type[Any]) -> tuple[Any, ...]:
    """What may answer a request, or be an item of a stream: one type, or those of a union."""
    answer = _answer_of(kind)
    return get_args(answer) if get_origin(answer) in (Union, types.UnionType) else (answer,)


def _answer_of(kind: type[Any]) -> Any:
    """What `AnswerT` is in a class, or in a base of it that is generic too."""
    for base in kind.__dict__.get("__orig_bases__", kind.__bases__):
        origin: Any = get_origin(base) or base
        if origin in ASKING:
            return get_args(base)[0] if get_args(base) else None
        if issubclass(origin, ASKING):
            parameters: tuple[Any, ...] = getattr(cast("Any", origin), "__parameters__", ())
            answer = _answer_of(cast("type[Any]", origin))
            return get_args(base)[parameters.index(answer)] if answer in parameters else answer
    return None


def _check_answer(name: str, answer: Any) -> None:
    """A type variable is left to subclasses."""
    if isinstance(answer, TypeVar):
        return
    kind = get_origin(answer) or answer
    if kind not in PLAIN_KINDS and not (isinstance(kind, type) and issubclass(kind, Message)):
        shown = "nothing" if answer is None else repr(answer)
        raise TypeError(
            f"{name}: write Request[Answer], Stream[Item] or Upload[Answer] with a Message class "
            f"or a plain type, not {shown}"
        )


def tag_of(kind: type[Any]) -> int | str:
    """The tag of a message class. Raises `InvalidMessage` for another type."""
    if not isinstance(kind, _MessageMeta):
        raise not_a_message(kind)
    tag: int | str = kind.__aerogram_tag__
    return tag


def delivery_of(kind: type[Any]) -> Delivery | None:
    """The delivery that a class carries; None for one without, and for plain types."""
    return kind.__aerogram_delivery__ if isinstance(kind, _MessageMeta) else None


def asked_with(kind: type[Any]) -> str:
    """The method of a session that asks this."""
    if issubclass(kind, Upload):
        return "upload"
    return "stream" if issubclass(kind, Stream) else "request"


_ADVICE: Final[dict[type, str]] = {
    tuple: "make it a list",
    bytearray: "convert it with bytes()",
    memoryview: "convert it with bytes()",
}


def not_a_message(kind: type[Any]) -> InvalidMessage:
    """The error for a value that no payload can carry: it says what to do instead."""
    if not isinstance(kind, type):  # pyright: ignore[reportUnnecessaryIsInstance]
        return InvalidMessage(f"a class of messages, or a plain type, is meant and not {kind!r}")
    advice = _ADVICE.get(kind, "derive its class from Message")
    bases = [base for base in kind.__mro__[1:] if base in PLAIN_KINDS]
    if bases:
        advice = f"convert it with {bases[0].__name__}()"
    if isinstance(kind, _MessageMeta):
        advice = f"send it with session.{asked_with(kind)}()"
    return InvalidMessage(f"{kind.__name__} cannot be sent as a message: {advice}")


_keys: Final[dict[type, RoutingKey]] = {}


def type_key(kind: type[Any]) -> RoutingKey:
    """The routing key of a message class or plain type. Raises `InvalidMessage` for others."""
    key = _keys.get(kind)
    if key is None:
        key = _keys[kind] = _make_key(kind)
    return key


def _make_key(kind: type[Any]) -> RoutingKey:
    plain_kind = PLAIN_KINDS.get(kind)
    if plain_kind is not None:
        return plain_kind
    tag = tag_of(kind)
    return tag if isinstance(tag, int) else name_head(NAMED, tag, "a tag")
