from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerogram import delivery
from aerogram import messages as codec
from aerogram.errors import InvalidMessage
from aerogram.messages import Message, Request
from aerogram.messages.plain import DEPTH_MAX, ITEMS_MAX

T = TypeVar("T")


class Move(Message, tag=1, delivery=delivery.sequenced()):
    x: float
    y: float


class Line(Message):
    text: str
    author: str = ""


class Crowd(Message, tag=223):
    moves: list[Move]
    lines: dict[str, Line]
    at: datetime | None = None
    raw: bytes = b""
    seat: tuple[int, str] = (0, "")


class Anything(Message, tag=7):
    value: Any


class Tree(Message, tag=8):
    children: list[Tree] = msgspec.field(default_factory=list)


class Quote(Request[Move], tag=1):
    symbol: str


class Find(Request[Line | None], tag=2):
    name: str


class Names(Request[list[str]], tag=3):
    pass


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
KEYS = st.text() | st.binary() | st.integers(-(2**63), 2**64 - 1)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=60
)
MOVES = st.builds(Move, st.floats(allow_nan=False), st.floats(allow_nan=False))
LINES = st.builds(Line, st.text(), st.text())
CROWDS = st.builds(
    Crowd,
    st.lists(MOVES),
    st.dictionaries(st.text(), LINES),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.binary(),
    st.tuples(st.integers(-(2**63), 2**63 - 1), st.text()),
)
KINDS = (bytes, str, int, float, bool, list, dict, type(None))
TYPES = (*KINDS, Move, Line, Crowd, Anything, Tree, Quote, Find, Names)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


# -- round trips


@given(VALUES)
def test_a_plain_value_arrives_as_it_was(value: Any) -> None:
    payload = codec.encode(value)
    decoded = codec.decoder_for(type(value))(payload)
    assert decoded == value
    assert type(decoded) is type(value)
    assert codec.decode_any(payload) == value
    assert codec.routing_key(payload) == codec.type_key(type(value))


@given(MOVES | LINES | CROWDS | st.builds(Anything, VALUES))
def test_a_typed_message_arrives_as_it_was(message: Message) -> None:
    payload = codec.encode(message)
    assert codec.decoder_for(type(message))(payload) == message
    assert codec.routing_key(payload) == codec.type_key(type(message))
    assert codec.encode(message) == payload


@given(st.text(min_size=1, max_size=60), VALUES)
def test_a_topic_carries_a_plain_value(name: str, value: Any) -> None:
    payload = codec.encode_topic(name, value)
    assert codec.decode_topic(payload) == value
    assert codec.routing_key(payload) == codec.topic_key(name)
    assert codec.decode_any(payload) == codec.Topic(name, value)


def test_not_a_number_is_a_float_like_others() -> None:
    assert math.isnan(codec.decoder_for(float)(codec.encode(math.nan)))
    assert math.isnan(codec.decoder_for(Move)(codec.encode(Move(math.nan, 0.0))).x)


def test_bytes_and_short_tags_cost_one_byte() -> None:
    assert len(codec.encode(bytes(64))) == 65
    assert codec.encode(Move(1.0, 2.0))[0] == 1
    assert len(codec.encode(Move(1.0, 2.0))) == 1 + 1 + 2 * 9


def test_every_kind_has_a_routing_key_of_its_own() -> None:
    messages = [kind for kind in TYPES if not issubclass(kind, Request)]
    keys = [codec.type_key(kind) for kind in messages]
    keys += [codec.topic_key("Line"), codec.topic_key("x"), codec.REQUEST, codec.CANCEL]
    assert len(set(keys)) == len(keys)


def test_a_payload_routes_by_its_first_byte_only_if_that_is_all_of_its_key() -> None:
    for value in (Line("a"), Move(1.0, 2.0), "text"):
        payload = codec.encode(value)
        key = codec.type_key(type(value))
        assert payload[0] == key or isinstance(key, bytes)


def test_without_its_class_a_message_shows_its_tag_and_fields() -> None:
    assert codec.decode_any(codec.encode(Move(1.0, 2.0))) == codec.Untyped(1, [1.0, 2.0])
    assert codec.decode_any(codec.encode(Line("hi"))) == codec.Untyped("Line", ["hi", ""])


def test_a_tuple_arrives_as_a_list() -> None:
    assert codec.decode_any(codec.encode([(1, 2)])) == [[1, 2]]


# -- versions


def versions() -> tuple[type[Any], type[Any]]:
    class Older(Message, tag=9):
        name: str

    class Newer(Message, tag=9):
        name: str
        age: int = 18
        tags: list[str] = msgspec.field(default_factory=list)

    return Older, Newer


def test_a_field_with_a_default_may_be_added() -> None:
    older, newer = versions()
    assert codec.decoder_for(newer)(codec.encode(older("ann"))) == newer("ann", 18, [])
    assert codec.decoder_for(older)(codec.encode(newer("bob", 7, ["x"]))) == older("bob")


def test_a_class_may_be_defined_anew() -> None:
    first, second = versions()[0], versions()[0]
    for kind in (first, second):
        assert type(codec.decoder_for(kind)(codec.encode(kind("x")))) is kind


def test_two_classes_may_have_one_tag() -> None:
    older, newer = versions()
    assert codec.type_key(older) == codec.type_key(newer)


# -- classes


def test_a_tag_is_the_name_of_the_class_unless_given() -> None:
    assert codec.tag_of(Move) == 1
    assert codec.tag_of(Line) == "Line"

    class Other(Move):
        pass

    class Renamed(Message, tag="long.name"):
        pass

    assert codec.tag_of(Other) == "Other"
    assert codec.decoder_for(Renamed)(codec.encode(Renamed())) == Renamed()


def test_a_delivery_is_inherited_until_another_is_given() -> None:
    class Other(Move):
        pass

    class Sure(Move, delivery=delivery.reliable()):
        pass

    found = [codec.delivery_of(kind) for kind in (Move, Other, Sure)]
    assert [one.name for one in found if one] == ["sequenced", "sequenced", "reliable"]
    assert codec.delivery_of(Line) is None
    assert codec.delivery_of(bytes) is None


@pytest.mark.parametrize(
    ("tag", "error", "text"),
    [
        (-1, ValueError, "0 to 223, not -1"),
        (224, ValueError, "0 to 223, not 224"),
        ("", ValueError, "1 to 255 bytes, not 0"),
        ("x" * 256, ValueError, "1 to 255 bytes, not 256"),
        ("\ud800", ValueError, "not valid Unicode"),
        (True, TypeError, "a number or a name, not bool"),
        (1.5, TypeError, "a number or a name, not float"),
    ],
)
def test_a_bad_tag_is_refused_at_the_class(tag: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised:

        class Bad(Message, tag=tag):
            pass

    assert str(raised.value).startswith("Bad: ")


@pytest.mark.parametrize("bad", ["ordered", 1, delivery.ordered, delivery.Delivery])
def test_a_bad_delivery_is_refused_at_the_class(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"Bad: delivery= takes one like delivery\.ordered\(\)"):

        class Bad(Message, delivery=bad):
            pass


def test_what_all_messages_share_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="array_like"):

        class Bad(Message, array_like=False):  # type: ignore[call-arg]
            pass

    class Fine(Message, kw_only=True, order=True):
        x: int

    assert Fine(x=1) < Fine(x=2)
    with pytest.raises(TypeError):
        Fine(1)  # type: ignore[misc]


@pytest.mark.parametrize("answer", [set, object, "Move", list | set, tuple[int]])
def test_a_request_names_an_answer_that_can_be_sent(answer: Any) -> None:
    with pytest.raises(TypeError, match=r"Bad: write Request\[Answer\]"):

        class Bad(Request[answer]):
            pass


def test_a_request_without_an_answer_is_refused() -> None:
    with pytest.raises(TypeError, match="not nothing"):

        class Bad(Request):  # type: ignore[type-arg]
            pass


# -- values that cannot be sent


@dataclass
class Point:
    x: int = 0


class Deep(dict[str, Any]):
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Point(), "Point cannot be sent as a message: derive its class from Message"),
        ((1, 2), "tuple .*: make it a list"),
        (bytearray(b"x"), r"bytearray .*: convert it with bytes\(\)"),
        (Deep(), r"Deep .*: convert it with dict\(\)"),
        (Quote("x"), r"Quote .*: send it with session\.request\(\)"),
        ({1, 2}, "set"),
        ([Point()], "Point is not a plain value"),
        ([Move(1.0, 2.0)], "Move is not a plain value"),
        ([msgpack.ExtType(1, b"")], "ExtType is not a plain value"),
        ([datetime.now(UTC)], "datetime is not a plain value"),
        ({(1, 2): 3}, "tuple cannot be the key"),
        (2**64, "int cannot be sent"),
        ([-(2**63) - 1], "list cannot be sent"),
        ("\ud800", "str cannot be sent"),
        (nested(DEPTH_MAX + 1), f"nests {DEPTH_MAX} deep"),
        ([0] * (ITEMS_MAX + 1), f"{ITEMS_MAX} items"),
        ([[0] * ITEMS_MAX], f"{ITEMS_MAX} items"),
        (Anything(2**64), "Anything cannot be sent"),
        (Anything(object()), "Anything cannot be sent"),
        (Anything(nested(40)), "Anything cannot be sent: nested more than 32 deep"),
        (Line("\ud800"), "Line cannot be sent"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_a_reason(value: Any, text: str) -> None:
    with pytest.raises(InvalidMessage, match=text):
        codec.encode(value)


def test_what_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    tree = Tree()
    tree.children.append(tree)
    for value in (loop, {"loop": loop}, Anything(loop), tree):
        with pytest.raises(InvalidMessage):
            codec.encode(value)
    with pytest.raises(InvalidMessage):
        codec.encode_topic("loop", loop)


def test_a_topic_has_a_name_of_limited_length() -> None:
    for name in ("", "x" * 256, "\ud800"):
        with pytest.raises(InvalidMessage, match="a topic"):
            codec.encode_topic(name, 1)
        with pytest.raises(ValueError, match="a topic"):
            codec.topic_key(name)


def test_other_types_have_no_key_tag_or_decoder() -> None:
    for ask in (codec.type_key, codec.tag_of, codec.decoder_for):
        with pytest.raises(InvalidMessage, match="Point cannot be sent"):
            ask(Point)


@given(st.integers(0, DEPTH_MAX))
def test_what_nests_as_deep_as_allowed_arrives(depth: int) -> None:
    assert codec.decode_any(codec.encode(nested(depth))) == nested(depth)


def test_as_many_items_as_allowed_arrive() -> None:
    for value in ([1] * ITEMS_MAX, {i: [] for i in range(ITEMS_MAX // 2)}):
        assert codec.decode_any(codec.encode(value)) == value
