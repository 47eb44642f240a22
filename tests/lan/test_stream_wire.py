from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from aerogram.errors import DecodeError
from aerogram.lan.stream import wire
from aerogram.lan.stream.wire import Echo, Heartbeat, Nack, Segment

WHOLE = wire.encode_whole(7, 40, [b"a", b"", b"c" * 900])
FRAGMENT = wire.encode_fragment(8, 41, 2, 5, b"piece")
HEARTBEAT = wire.encode_heartbeat(Heartbeat(3, 9, 12, 50, 0.25, 8, wire.END))
NACK = wire.encode_nack(Nack(Echo(5, 99, 0.5), [(5, 5), (8, 11), (20, 20)]))


def test_whole_messages_go_and_come() -> None:
    segment = wire.decode_segment(WHOLE)
    assert segment == Segment(7, 40, [b"a", b"", b"c" * 900])
    assert segment.next_message == 43


def test_a_fragment_goes_and_comes() -> None:
    segment = wire.decode_segment(FRAGMENT)
    assert segment == Segment(8, 41, (b"piece",), 2, 5)
    assert segment.next_message == 42


def test_a_heartbeat_goes_and_comes() -> None:
    assert wire.decode_heartbeat(HEARTBEAT) == Heartbeat(3, 9, 12, 50, 0.25, 8, wire.END)


def test_a_nack_goes_and_comes() -> None:
    assert wire.decode_nack(NACK) == Nack(Echo(5, 99, 0.5), [(5, 5), (8, 11), (20, 20)])
    nothing = Nack(Echo(5, 0, 0.0), [])
    assert wire.decode_nack(wire.encode_nack(nothing)) == nothing


def test_a_nack_asks_for_the_first_of_what_does_not_fit() -> None:
    single = [(2 * n, 2 * n) for n in range(1000)]
    body = wire.encode_nack(Nack(Echo(0, 0, 0.0), single))
    assert wire.decode_nack(body).ranges == single[: wire.NACK_RANGES_LIMIT]
    assert len(body) + wire.OVERHEAD_BYTES <= 1200
    far = wire.encode_nack(Nack(Echo(0, 0, 0.0), [(1, 100_000), (200_000, 200_000)]))
    assert wire.decode_nack(far).ranges == [(1, 65535)]
    apart = wire.encode_nack(Nack(Echo(0, 0, 0.0), [(1, 2), (200_000, 200_000)]))
    assert wire.decode_nack(apart).ranges == [(1, 2)]


DECODERS: list[tuple[Callable[[bytes], Any], bytes]] = [
    (wire.decode_segment, WHOLE),
    (wire.decode_segment, FRAGMENT),
    (wire.decode_heartbeat, HEARTBEAT),
    (wire.decode_nack, NACK),
]


@pytest.mark.parametrize(
    ("decode", "body"), DECODERS, ids=["whole", "fragment", "heartbeat", "nack"]
)
def test_hostile_bodies_raise_one_error(decode: Callable[[bytes], Any], body: bytes) -> None:
    chance = random.Random(1)
    for _ in range(2000):
        broken = bytearray(body[: chance.randrange(len(body) + 1)])
        for _ in range(chance.randrange(4)):
            if broken:
                broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            decode(bytes(broken))
        except DecodeError:
            continue


@pytest.mark.parametrize(
    "body",
    [
        b"",
        wire.encode_whole(1, 1, []),
        wire.encode_whole(1, 1, [b"abc"])[:-1],
        wire.encode_whole(wire.NUMBERS_LIMIT, 1, [b"abc"]),
        wire.encode_fragment(1, 1, 5, 5, b"x"),
        wire.encode_fragment(1, 1, 0, 1, b"x"),
        wire.encode_fragment(1, 1, 0, wire.FRAGMENTS_LIMIT + 1, b"x"),
        wire.encode_fragment(1, 1, 0, 2, b""),
    ],
)
def test_segments_that_cannot_be_are_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        wire.decode_segment(body)


@pytest.mark.parametrize(
    "heartbeat", [Heartbeat(5, 0, 4, 0, 0, 0, 0), Heartbeat(0, 5, 0, 4, 0, 0, 0)]
)
def test_a_heartbeat_does_not_hold_more_than_was_sent(heartbeat: Heartbeat) -> None:
    with pytest.raises(DecodeError):
        wire.decode_heartbeat(wire.encode_heartbeat(heartbeat))


@pytest.mark.parametrize("datagram", [b"", bytes(41), b"\xaf" + bytes(60), b"\xb4" + bytes(60)])
def test_other_datagrams_are_no_packets(datagram: bytes) -> None:
    with pytest.raises(DecodeError):
        wire.split_untrusted(datagram)


def test_a_nack_is_no_other_kind() -> None:
    with pytest.raises(DecodeError):
        wire.decode_nack(NACK, wire.DATA)


def test_a_nack_names_no_number_out_of_range() -> None:
    last = wire.NUMBERS_LIMIT - 1
    whole = wire.encode_nack(Nack(Echo(0, 0, 0.0), [(last - 9, last)]))
    assert wire.decode_nack(whole).ranges == [(last - 9, last)]
    with pytest.raises(DecodeError):
        wire.decode_nack(wire.encode_nack(Nack(Echo(0, 0, 0.0), [(last - 9, last + 1)])))
