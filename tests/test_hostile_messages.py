"""Bytes from strangers: whatever they are, decoding gives a value or raises `DecodeError`."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerogram import messages as codec
from aerogram.errors import DecodeError, InvalidMessage
from aerogram.messages import Message, Request, Stream
from aerogram.messages.plain import CONTAINER_BYTES, CONTAINERS_MAX, DEPTH_MAX, ITEMS_MAX

LIST, DICT, STR, INT, FLOAT, BOOL, NONE = (
    codec.encode(value)[:1] for value in ([], {}, "", 0, 0.0, False, None)
)


class Move(Message, tag=1):
    x: float
    y: float


class Path(Message, tag=3):
    steps: list[list[int]]


class Anything(Message, tag=4):
    value: Any


class Tree(Message, tag=5):
    children: list[Tree]


class Picky(Message, tag=6):
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is below zero")
        if self.x > 9:
            raise KeyError("a secret of the handler's program")


class Quote(Request[Move], tag=2):
    symbol: str


class Find(Request[Move | None], tag=2):
    name: str


class Names(Request[list[str]]):
    pass


class Follow(Stream[Move], tag=3):
    name: str


KINDS = (bytes, str, int, float, bool, list, dict, type(None))
DECODERS = [codec.decoder_for(kind) for kind in (*KINDS, Move, Path, Anything, Tree, Picky)]
DECODERS += [
    codec.decode_any,
    codec.decode_reply,
    codec.decode_question,
    codec.decode_control,
    lambda payload: codec.decode_answer(Quote, payload),
    lambda payload: codec.decode_answer(Find, payload),
    lambda payload: codec.decode_answer(Names, payload),
    lambda payload: codec.decode_topic(b"\xff\x01t" + payload),
]

BOMBS = {
    "nested arrays of 1.1 kB": b"\x91" * 1100,
    "nested maps": b"\x81\x00" * 1100,
    "a map of 2**32": b"\xdf\xff\xff\xff\xff",
    "an array of 2**32": b"\xdd\xff\xff\xff\xff",
    "nested arrays of 2**32": b"\xdd\xff\xff\xff\xff" * 1000,
    "nested arrays of 2**16": b"\xdc\xff\xff" * 1000 + b"\x00" * 60_000,
    "an array of a million empty ones": b"\xdd\x00\x0f\x42\x40" + b"\x90" * 1_000_000,
    "nested maps of 2**32": b"\xdf\xff\xff\xff\xff\x00" * 1000,
    "a string of 2**32": b"\xdb\xff\xff\xff\xff",
    "bytes of 2**32": b"\xc6\xff\xff\xff\xff",
    "an extension of 2**32": b"\xc9\xff\xff\xff\xff\x01",
    "a value and more": b"\x01\x02",
    "nothing": b"",
    "invalid UTF-8": b"\xa2\xff\xfe",
    "a cut array": b"\x93\x01\x02",
    "an array as key": b"\x81\x91\x01\x02",
    "an extension": msgpack.packb(msgpack.ExtType(5, b"x")),
    "an extension without data": b"\xc7\x00\x05",
    "a time": msgpack.packb(msgpack.Timestamp(1, 2)),
    "the byte that begins nothing": b"\xc1",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("kind", [LIST, DICT, STR, INT, FLOAT, BOOL, NONE, b"\x05", b"\x09"])
def test_bombs_are_refused_without_building_them(kind: bytes, bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(kind + bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(bomb) + 100_000


def test_announced_arrays_take_a_bounded_room_for_a_moment() -> None:
    bomb = LIST + b"\xdc\xff\xe0" * DEPTH_MAX + bytes(ITEMS_MAX - 3 * DEPTH_MAX - 1)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            codec.decode_any(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 18 * 1024 * 1024


def decode(payload: bytes) -> Any:
    return codec.decoder_for(Tree)(payload) if payload[0] == 5 else codec.decode_any(payload)


@pytest.mark.parametrize("kind", [Path, Anything, Tree, Picky])
@pytest.mark.parametrize("inside", [b"\x91", b"\x81\x00", b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff"])
def test_a_typed_message_is_no_way_around_the_limits(kind: type[Any], inside: bytes) -> None:
    with pytest.raises(DecodeError, match=kind.__name__):
        codec.decoder_for(kind)(codec.encode(Move(0.0, 0.0))[:1] + b"\x91" + inside * 1100)


def test_nesting_counts_where_a_field_is_open() -> None:
    deep = b"\x91" * DEPTH_MAX + b"\x00"
    assert codec.decoder_for(Anything)(b"\x04" + deep)
    with pytest.raises(DecodeError, match=f"nested more than {DEPTH_MAX} deep"):
        codec.decoder_for(Anything)(b"\x04\x91" + deep)


def test_many_bytes_that_look_like_containers_are_no_nesting() -> None:
    for value in ("\u0711" * 500, [-1.5e300] * 500, b"\x90" * 4000, {"\u4e5c" * 99: [[0x9A9B9C]]}):
        assert codec.decode_any(codec.encode([value])) == [value]


def test_long_values_are_walked_over_exactly() -> None:
    value: list[Any] = [
        None, True, False, 2**7, 2**15, 2**31, 2**63, -1, -(2**7), -(2**15), -(2**31), -(2**63),
        0.5, "", "x" * 31, "y" * 255, "z" * 65535, "w" * 65536, b"", b"b" * 256, b"c" * 65536,
        {}, [], [[[[]]]], {"k": {b"k": {5: []}}}, [0] * 15, [0] * 16, {i: i for i in range(16)},
        *([[]] * 200),
    ]  # fmt: skip
    assert codec.decode_any(codec.encode(value)) == value
    with pytest.raises(DecodeError, match=f"nested more than {DEPTH_MAX} deep"):
        codec.decode_any(LIST + b"\x92" + msgpack.packb(value) + b"\x91" * 40 + b"\x00")
    with pytest.raises(DecodeError, match=f"more than {ITEMS_MAX} items"):
        codec.decode_any(LIST + b"\x92" + msgpack.packb(value) + msgpack.packb([0] * ITEMS_MAX))


@given(st.binary(max_size=300))
def test_noise_is_a_value_or_a_decode_error(noise: bytes) -> None:
    for decoder in DECODERS:
        try_decoding(decoder, noise)
    codec.routing_key(noise)
    codec.describe(noise)


def test_damaged_payloads_are_a_value_or_a_decode_error() -> None:
    rng = random.Random(7)
    whole: list[bytes] = [
        codec.encode({"a": [1, 2.5, None, {"b": b"x" * 40}], "c": "\u00e9" * 30}),
        codec.encode(Path([[1, 2], [3]])),
        codec.encode_topic("chat", [1, {"x": "y"}]),
        codec.encode_request(5, Quote("x")),
        codec.encode_request(5, Quote("x"), b"key"),
        codec.encode_stream(5, Follow("x"), 16),
        codec.encode_answer(5, Move(1.0, 2.0)),
        codec.encode_failure(5, codec.FailureCode.FAILED, "why"),
        codec.encode_item(5, 3, Move(1.0, 2.0)),
        codec.encode_end(5, 4, codec.Failure(codec.FailureCode.REJECTED, "why")),
        codec.encode_more(5, 32),
        codec.encode_cancel(5),
    ]
    for _ in range(3000):
        damaged = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        payload = bytes(damaged[: rng.randint(0, len(damaged))] if rng.random() < 0.3 else damaged)
        for decoder in DECODERS:
            try_decoding(decoder, payload)
        assert len(codec.describe(payload)) < 1100


def try_decoding(decoder: Any, payload: bytes) -> None:
    with suppress(DecodeError):
        decoder(payload)


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        (Move, b"\x01\x92\xa1a\x00", "Move: Expected `float`, got `str`"),
        (Move, b"\x01\x91\x00", "Move: .*at least length 2"),
        (Move, b"\x01\x80", "Move: Expected `array`, got `object`"),
        (Picky, b"\x06\x91\xff", "Picky: x is below zero"),
        (Picky, b"\x06\x91\x0a", "^Picky: KeyError$"),
        (int, INT + b"\xa1a", "str came where int was announced"),
        (int, INT + b"\xc3", "bool came where int was announced"),
        (float, FLOAT + b"\x01", "int came where float was announced"),
        (dict, DICT + b"\x90", "list came where dict was announced"),
        (list, LIST + b"\xd4\x05\x00", "ext"),
    ],
)
def test_what_is_wrong_is_told(kind: type[Any], payload: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        codec.decoder_for(kind)(payload)


# -- describing


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (codec.encode(Move(1.0, 2.0)), "tag 1"),
        (codec.encode_topic("chat", 1), "topic 'chat'"),
        (b"\xfe\x04Line", "tag 'Line'"),
        (b"\xfe\x02\xff\n", r"tag '\ufffd\n'".replace(r"\ufffd", "\ufffd")),
        (codec.encode(b"x"), "bytes"),
        (codec.encode("x"), "str"),
        (codec.encode(None), "None"),
        (codec.encode({}), "dict"),
        (codec.encode_request(1, Quote("x")), "a request"),
        (codec.encode_answer(1, 2), "an answer"),
        (codec.encode_failure(1, codec.FailureCode.FAILED, ""), "a failure"),
        (codec.encode_cancel(1), "a cancellation"),
        (codec.encode_stream(1, Follow("x"), 1), "a request for a stream"),
        (codec.encode_item(1, 0, 2), "an item of a stream"),
        (codec.encode_end(1, 0, None), "the end of a stream"),
        (codec.encode_more(1, 2), "credit for a stream"),
        (b"\xef", "a payload of an unknown kind"),
        (b"", "a payload of an unknown kind"),
        (b"\xff", "a payload of an unknown kind"),
    ],
)
def test_a_payload_is_described_in_few_words(payload: bytes, text: str) -> None:
    assert codec.describe(payload) == text


def test_what_makes_no_sense_has_a_key_that_nobody_has() -> None:
    assert codec.routing_key(b"") == codec.routing_key(b"\xff") == -1
    assert codec.routing_key(b"\xff\x09chat") != codec.topic_key("chat")
    with pytest.raises(DecodeError, match="an answer is not a message"):
        codec.decode_any(codec.encode_answer(1, 2))


@pytest.mark.parametrize("payload", [b"\xff\x00\x01", b"\xfe\x00\x90"])
def test_a_topic_or_tag_that_nobody_can_send_is_not_taken(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="a name is empty"):
        codec.decode_any(payload)


# -- requests


def test_a_request_finds_its_answer() -> None:
    question = codec.decode_question(codec.encode_request(2**40, Quote("ACME")))
    assert (question.identity, question.limit, question.repeat_key) == (2**40, None, None)
    assert codec.routing_key(question.payload) == codec.type_key(Quote)
    assert codec.decoder_for(Quote)(question.payload) == Quote("ACME")
    identity, result = codec.decode_reply(codec.encode_answer(2**40, Move(1.0, 2.0)))
    assert identity == 2**40
    assert isinstance(result, bytes)
    assert codec.decode_answer(Quote, result) == Move(1.0, 2.0)


@pytest.mark.parametrize("answer", [b"x", "x", 1, 1.5, True, [1], {"a": 1}, None])
def test_a_plain_answer_keeps_its_type(answer: Any) -> None:
    class Ask(Request[type(answer)]):  # type: ignore[misc]
        pass

    assert codec.decode_answer(Ask, reply_to(answer)) == answer
    for other in (b"x", "x", 1, 1.5, True, [1], {"a": 1}, None):
        if type(other) is not type(answer):
            with pytest.raises(DecodeError, match="Ask was answered with"):
                codec.decode_answer(Ask, reply_to(other))


def reply_to(answer: object) -> bytes:
    _, result = codec.decode_reply(codec.encode_answer(1, answer))
    assert isinstance(result, bytes)
    return result


def test_an_answer_may_be_one_of_several_types() -> None:
    assert codec.decode_answer(Find, reply_to(None)) is None
    assert codec.decode_answer(Find, reply_to(Move(1.0, 2.0))) == Move(1.0, 2.0)
    with pytest.raises(DecodeError, match="Find was answered with str"):
        codec.decode_answer(Find, reply_to("x"))


def test_an_answer_may_say_what_is_in_a_list() -> None:
    assert codec.decode_answer(Names, reply_to(["a", "b"])) == ["a", "b"]
    with pytest.raises(DecodeError, match="list: Expected `str`, got `int`"):
        codec.decode_answer(Names, reply_to(["a", 1]))


def test_a_failure_keeps_its_code_and_reason() -> None:
    for code in codec.FailureCode:
        reply = codec.decode_reply(codec.encode_failure(3, code, "why \u00e9"))
        assert reply == (3, codec.Failure(code, "why \u00e9"))
    _, cut = codec.decode_reply(codec.encode_failure(3, codec.FailureCode.FAILED, "\u00e9" * 5000))
    assert isinstance(cut, codec.Failure)
    assert cut.reason == "\u00e9" * 512
    strange = codec.encode_failure(3, codec.FailureCode.REJECTED, "\ud800")
    assert codec.decode_reply(strange) == (3, codec.Failure(codec.FailureCode.REJECTED, "?"))


def test_a_failure_of_a_later_version_is_a_failure() -> None:
    payload = bytearray(codec.encode_failure(3, codec.FailureCode.FAILED, "why"))
    payload[9] = 77
    assert codec.decode_reply(bytes(payload)) == (3, codec.Failure(codec.FailureCode.FAILED, "why"))


def test_a_cancellation_is_known_by_its_first_byte() -> None:
    assert codec.encode_cancel(9)[0] == codec.CANCEL
    assert codec.encode_request(9, Quote("x"))[0] == codec.REQUEST
    assert codec.decode_control(codec.encode_cancel(9)) == (9, None)
    for take in (codec.decode_question, codec.decode_reply):
        with pytest.raises(DecodeError, match="a cancellation is not"):
            take(codec.encode_cancel(9))


@pytest.mark.parametrize("key", [b"", b"order 17", bytes(255)])
def test_a_request_that_may_come_again_has_its_key(key: bytes) -> None:
    question = codec.decode_question(codec.encode_request(9, Quote("x"), key))
    assert (question.identity, question.repeat_key, question.limit) == (9, key, None)
    assert codec.decoder_for(Quote)(question.payload) == Quote("x")


def test_a_stream_is_asked_for_and_comes_back_in_pieces() -> None:
    question = codec.decode_question(codec.encode_stream(9, Follow("x"), 16))
    assert (question.identity, question.limit, question.repeat_key) == (9, 16, None)
    assert codec.decoder_for(Follow)(question.payload) == Follow("x")
    assert codec.decode_control(codec.encode_more(9, 2**40)) == (9, 2**40)
    identity, item = codec.decode_reply(codec.encode_item(9, 7, Move(1.0, 2.0)))
    assert isinstance(item, codec.Item)
    assert (identity, item.sequence) == (9, 7)
    assert codec.decode_answer(Follow, item.payload) == Move(1.0, 2.0)
    assert codec.decode_reply(codec.encode_end(9, 8, None)) == (9, codec.End(8, None))
    failure = codec.Failure(codec.FailureCode.REJECTED, "why")
    assert codec.decode_reply(codec.encode_end(9, 8, failure)) == (9, codec.End(8, failure))


def test_what_is_cut_short_or_empty_is_no_question() -> None:
    for whole in (
        codec.encode_stream(9, Follow("x"), 1),
        codec.encode_request(9, Quote("x"), b"k"),
    ):
        for size in range(len(whole) - len(codec.encode_request(9, Quote("x"))) + 10):
            with pytest.raises(DecodeError):
                codec.decode_question(whole[:size])
    for wrong in (codec.encode_more(9, 1)[:-1], codec.encode_cancel(9) + b"x", b""):
        with pytest.raises(DecodeError):
            codec.decode_control(wrong)


def test_each_way_of_asking_names_the_other() -> None:
    with pytest.raises(InvalidMessage, match=r"Follow is no request: send it with session\.stream"):
        codec.encode_request(1, Follow("x"))  # type: ignore[arg-type]
    with pytest.raises(InvalidMessage, match=r"Quote is no stream: send it with session\.request"):
        codec.encode_stream(1, Quote("x"), 1)  # type: ignore[arg-type]
    with pytest.raises(InvalidMessage, match=r"send it with session\.stream"):
        codec.encode(Follow("x"))
    with pytest.raises(InvalidMessage, match="derive its class from Stream"):
        codec.encode_stream(1, 7, 1)  # type: ignore[arg-type]


# -- what many small things cost


class Small(Message, tag=20):
    a: int = 0
    b: int = 0
    c: str = ""


class Smalls(Message, tag=21):
    rows: list[Small]


class Rows(Message, tag=22):
    rows: list[list[int]]


class Maps(Message, tag=23):
    rows: dict[int, dict[str, int]]


class Pairs(Message, tag=24):
    rows: tuple[tuple[int, int], ...]


class Numbers(Message, tag=25):
    rows: list[float]


class Blobs(Message, tag=26):
    rows: list[list[int]]
    blob: bytes


def many(kind: type[Message], item: bytes, count: int, *further: bytes) -> bytes:
    """A message with a list of so many items, each encoded alike, and further fields."""
    head = bytes([codec.type_key(kind), 0x91 + len(further), 0xDD])  # type: ignore[list-item]
    return head + count.to_bytes(4, "big") + item * count + b"".join(further)


@pytest.mark.parametrize(
    ("kind", "item"),
    [(Rows, b"\x90"), (Smalls, b"\x90"), (Pairs, b"\x92\x01\x02"), (Rows, b"\xdc\x00\x00")],
)
def test_a_crowd_of_tiny_things_is_refused_before_it_is_built(
    kind: type[Message], item: bytes
) -> None:
    decode = codec.decoder_for(kind)
    payload = many(kind, item, 1 << 18)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="more lists, maps and messages"):
            decode(payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(payload)


def test_a_crowd_of_maps_is_refused() -> None:
    payload = codec.encode(Maps({}))[:1] + b"\x91\xdf" + (1 << 18).to_bytes(4, "big")
    payload += b"".join(b"\xce" + n.to_bytes(4, "big") + b"\x80" for n in range(1 << 18))
    with pytest.raises(DecodeError, match="more lists, maps and messages"):
        codec.decoder_for(Maps)(payload)


@pytest.mark.parametrize("kind", [Rows, Smalls])
def test_the_most_that_passes_is_bounded_by_the_payload(kind: type[Message]) -> None:
    count = CONTAINERS_MAX - 2
    while True:  # as many as a payload of this size may have
        payload = many(kind, b"\x90", count)
        more = CONTAINERS_MAX + len(payload) // CONTAINER_BYTES - 2
        if more == count:
            break
        count = more
    decode = codec.decoder_for(kind)
    tracemalloc.start()
    try:
        assert len(decode(payload).rows) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 110 * len(payload)  # of 70 KB
    with pytest.raises(DecodeError):
        decode(many(kind, b"\x90", count + 20))


def test_what_is_in_a_blob_is_no_crowd() -> None:
    """Bytes that look like lists are looked at more closely, and pass."""
    blob = bytes([0xC6]) + (1 << 20).to_bytes(4, "big") + b"\x90" * (1 << 20)
    decoded = codec.decoder_for(Blobs)(many(Blobs, b"\x90", 10, blob))
    assert decoded == Blobs([[]] * 10, b"\x90" * (1 << 20))


def test_many_numbers_and_many_points_pass_both_ways() -> None:
    points = Path([[n, n + 1, n + 2] for n in range(100_000, 250_000)])
    numbers = Numbers([n / 7 for n in range(300_000)])
    small = Smalls([Small(n << 20, n << 20, "a name") for n in range(100_000)])
    for message in (points, numbers, small):
        kind = type(message)
        assert codec.decoder_for(kind)(codec.encode(message)) == message
        assert codec.decoder_for(kind)(codec.encode(message)) == message  # and again


def test_what_would_not_be_taken_cannot_be_sent() -> None:
    for _ in range(2):
        with pytest.raises(InvalidMessage, match="more lists, maps and messages"):
            codec.encode(Rows([[]] * 100_000))
