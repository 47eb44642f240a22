"""The wire format against its published vectors, its inverse, and whatever else may arrive."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aerogram.config import SMALLEST_DATAGRAM_BYTES
from aerogram.core import wire
from aerogram.core.keys import Aead, PacketProtection, mac1_key, mac1_matches, psk_identifier
from aerogram.core.wire import Mode, TransportParameters
from aerogram.errors import DecodeError
from tests.core.vectors import (
    CID,
    FRAMES,
    PACKETS,
    PARAMETERS,
    encode_frame,
    encode_packet,
    handshake_vectors,
    published,
)

INTEGERS = st.integers(0, (1 << 62) - 1) | st.integers(0, 70) | st.integers(16380, 16390)
TEXT = st.text(max_size=40)
PAYLOADS = st.lists(st.binary(max_size=80), min_size=1, max_size=20) | st.builds(
    lambda payload, count: [payload] * count,
    st.integers(0, 300).map(lambda size: b"u" * size),
    st.integers(1, 70),
)


def _ranges(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges, largest first, from (gap, length) counted upwards."""
    ranges: list[tuple[int, int]] = []
    low = 0
    for gap, length in steps:
        low += gap
        ranges.insert(0, (low, low + length))
        low += length + 2
    return ranges


FEW = st.integers(0, 70)
SMALL = st.integers(0, 1 << 40) | st.integers(0, 70)
MESSAGES = st.builds(wire.Messages, INTEGERS, st.integers(0, 1 << 61), PAYLOADS)
ACKS = st.builds(
    wire.Ack,
    INTEGERS,
    st.lists(st.tuples(SMALL, SMALL), min_size=1, max_size=20).map(_ranges)
    | st.lists(st.tuples(FEW, FEW), min_size=1, max_size=64).map(_ranges),
)
FRAGMENTS = st.builds(
    lambda channel, number, before, data, after: wire.Fragment(
        channel, number, before + len(data) + after, before, data
    ),
    INTEGERS,
    INTEGERS,
    st.integers(0, 1 << 40),
    st.binary(min_size=1, max_size=80),
    st.integers(0, 1 << 40),
)
NEW_IDS = st.builds(
    lambda first, more, cid, token: wire.NewConnectionId(first + more, first, cid, token),
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 60),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=16, max_size=16),
)
OTHERS = st.one_of(
    FRAGMENTS,
    NEW_IDS,
    st.just(wire.Ping()),
    st.builds(wire.ChannelAnnounce, INTEGERS, TEXT, TEXT),
    st.builds(wire.Credit, INTEGERS, INTEGERS),
    st.builds(wire.Skip, INTEGERS, INTEGERS, INTEGERS),
    st.builds(wire.Refuse, INTEGERS, INTEGERS, INTEGERS, TEXT),
    st.builds(wire.PathChallenge, st.binary(min_size=8, max_size=8)),
    st.builds(wire.PathResponse, st.binary(min_size=8, max_size=8)),
    st.builds(wire.RetireConnectionId, INTEGERS),
    st.builds(wire.Close, INTEGERS, TEXT),
    st.builds(
        wire.Lifetimes,
        INTEGERS,
        st.integers(0, 1 << 61),
        st.lists(st.tuples(st.integers(1, 16), INTEGERS), min_size=1, max_size=16),
    ),
    st.builds(wire.Time, INTEGERS),
    st.builds(lambda a, b, c: wire.TimeAnswer(a, *sorted((b, c))), INTEGERS, INTEGERS, INTEGERS),
)
HANDSHAKE = st.one_of(
    st.builds(
        wire.Init,
        st.sampled_from(Mode),
        st.binary(min_size=8, max_size=8),
        st.binary(max_size=256),
        st.binary(max_size=1300),
    ),
    st.builds(wire.Resp, st.binary(min_size=8, max_size=8), st.binary(max_size=1000)),
    st.builds(wire.Retry, st.binary(min_size=8, max_size=8), st.binary(max_size=256)),
    st.builds(wire.Reset, st.binary(min_size=8, max_size=8), st.binary(min_size=16, max_size=16)),
)
PARAMETER_VALUES = st.builds(
    TransportParameters,
    *[INTEGERS] * 6,
    st.sampled_from([b"", CID]),
    st.sampled_from([b"", bytes(range(16))]),
)


def units(frames: list[wire.Frame]) -> int:
    total = 0
    for frame in frames:
        total += wire.FRAME_UNITS
        if isinstance(frame, wire.Messages):
            total += len(frame.payloads)
        elif isinstance(frame, wire.Ack):
            total += len(encode_frame(frame)) // wire.ACK_UNIT_BYTES
        elif isinstance(frame, wire.Lifetimes):
            total += wire.LIFETIME_UNITS * len(frame.runs)
    return total


def decoders(data: bytes) -> None:
    """Give everything to every decoder; only `DecodeError` may come out."""
    for decode in (
        wire.decode_frames_untrusted,
        wire.decode_handshake_untrusted,
        wire.decode_parameters_untrusted,
    ):
        try:
            result = decode(data)
        except DecodeError:
            continue
        if isinstance(result, list):
            assert units(result) <= wire.PACKET_UNITS_LIMIT


# -- the published vectors


@pytest.mark.parametrize("name", PACKETS)
def test_packets_are_as_published(name: str) -> None:
    data = published()[name]
    packet = PACKETS[name]
    assert wire.decode_handshake_untrusted(data) == packet
    if isinstance(packet, wire.Init | wire.Retry):
        key = mac1_key(psk_identifier(bytes(range(32))))
        answered = b"" if isinstance(packet, wire.Init) else published()["INIT"][-wire.MAC1_BYTES :]
        assert mac1_matches(key, data, answered)
        data = data[: -wire.MAC1_BYTES] + bytes(wire.MAC1_BYTES)
    assert encode_packet(packet) == data


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_as_published(name: str) -> None:
    data = published()[name]
    assert wire.decode_frames_untrusted(data) == [FRAMES[name]]
    assert encode_frame(FRAMES[name]) == data


def test_transport_parameters_are_as_published() -> None:
    data = published()["PARAMETERS"]
    assert wire.decode_parameters_untrusted(data) == PARAMETERS
    assert PARAMETERS.encode() == data


@pytest.mark.parametrize(
    ("name", "aead"),
    [
        ("DATA", Aead.AES_256_GCM),
        ("DATA_CHACHA20_POLY1305", Aead.CHACHA20_POLY1305),
        ("DATA_NONE", Aead.NONE),
    ],
)
def test_data_packets_are_as_published(name: str, aead: Aead) -> None:
    protection = PacketProtection(bytes(range(32)), bytes(range(32)), aead)
    data = published()[name]
    assert protection.open(data) == (5, wire.PING)
    assert protection.seal(CID, 5, wire.PING) == data


@pytest.mark.parametrize("name", handshake_vectors())
def test_handshakes_are_as_published(name: str) -> None:
    assert published()[name] == handshake_vectors()[name]


def test_every_vector_is_checked() -> None:
    data = {"PARAMETERS", "DATA", "DATA_CHACHA20_POLY1305", "DATA_NONE"}
    assert set(published()) == {*PACKETS, *FRAMES, *data, *handshake_vectors()}


# -- round trips


@st.composite
def packets(draw: st.DrawFn) -> list[wire.Frame]:
    """Frames that one packet may hold, in any order."""
    frames = draw(st.lists(OTHERS, max_size=8))
    for strategy in (ACKS, MESSAGES):
        frames.insert(draw(st.integers(0, len(frames))), draw(strategy))
        if units(frames) > wire.PACKET_UNITS_LIMIT:
            frames.pop()
    return frames


@given(packets(), st.lists(st.integers(0, 3), min_size=10, max_size=10))
def test_frames_survive_the_wire(frames: list[wire.Frame], padding: list[int]) -> None:
    data = b""
    expected: list[wire.Frame] = []
    after_ping = False
    for frame, room in zip(frames, padding, strict=False):
        data += encode_frame(frame) + bytes(room)
        if not (after_ping and isinstance(frame, wire.Ping)):
            expected.append(frame)
        after_ping = isinstance(frame, wire.Ping) and room == 0
    if units(expected) <= wire.PACKET_UNITS_LIMIT:
        assert wire.decode_frames_untrusted(data) == expected


@given(HANDSHAKE)
def test_packets_survive_the_wire(packet: wire.Init | wire.Resp | wire.Retry | wire.Reset) -> None:
    assert wire.decode_handshake_untrusted(encode_packet(packet)) == packet


@given(PARAMETER_VALUES)
def test_transport_parameters_survive_the_wire(parameters: TransportParameters) -> None:
    assert wire.decode_parameters_untrusted(parameters.encode()) == parameters


@given(INTEGERS)
def test_integers_survive_the_wire(value: int) -> None:
    assert wire.decode_frames_untrusted(wire.encode_credit(value, value)) == [
        wire.Credit(value, value)
    ]


@pytest.mark.parametrize("value", [-1, 1 << 62, 1 << 64])
def test_an_integer_out_of_range_is_not_encoded(value: int) -> None:
    with pytest.raises(ValueError, match="variable-length integer"):
        wire.encode_credit(0, value)


def test_an_integer_may_be_longer_than_it_need_be() -> None:
    for zero in ("00", "4000", "80000000", "c000000000000000"):
        data = bytes.fromhex("06" + zero + zero)
        assert wire.decode_frames_untrusted(data) == [wire.Credit(0, 0)]
    assert wire.decode_frames_untrusted(bytes.fromhex("0303054001" + "4000")) == [
        wire.Messages(3, 5, [b""])
    ]


# -- what is cut, or goes on too long


@pytest.mark.parametrize("name", PACKETS)
def test_a_cut_packet_is_no_packet(name: str) -> None:
    data = published()[name]
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            wire.decode_handshake_untrusted(data[:end])


@pytest.mark.parametrize("name", ["RESP", "RETRY", "RESET"])
def test_a_packet_ends_where_it_ends(name: str) -> None:
    with pytest.raises(DecodeError):
        wire.decode_handshake_untrusted(published()[name] + b"\x00")


@pytest.mark.parametrize("name", FRAMES)
def test_a_cut_frame_is_no_frame(name: str) -> None:
    data = published()[name]
    for end in range(1, len(data)):
        with pytest.raises(DecodeError):
            wire.decode_frames_untrusted(data[:end])


def test_a_cut_run_of_frames_is_an_error_or_fewer_frames() -> None:
    frames = [*FRAMES.values()]
    borders: dict[int, int] = {0: 0}
    data = b""
    for frame in frames:
        data += encode_frame(frame)
        borders[len(data)] = len(borders)
    for end in range(len(data) + 1):
        if end in borders:
            assert wire.decode_frames_untrusted(data[:end]) == frames[: borders[end]]
        else:
            with pytest.raises(DecodeError):
                wire.decode_frames_untrusted(data[:end])


def test_cut_transport_parameters_are_an_error_or_fewer_parameters() -> None:
    data = PARAMETERS.encode()
    good = 0
    for end in range(len(data)):
        try:
            assert wire.decode_parameters_untrusted(data[:end]) != PARAMETERS
        except DecodeError:
            continue
        good += 1
    assert good == 8


@pytest.mark.parametrize("kind", [*range(18, 256)])
def test_an_unknown_frame_is_an_error(kind: int) -> None:
    with pytest.raises(DecodeError):
        wire.decode_frames_untrusted(wire.PING + bytes((kind,)) + bytes(40))


def test_padding_and_pings_leave_little_behind() -> None:
    assert wire.decode_frames_untrusted(b"") == []
    assert wire.decode_frames_untrusted(bytes(1500)) == []
    assert wire.decode_frames_untrusted(wire.PING * 1500) == [wire.Ping()]
    mixed = bytes(700) + wire.PING * 9 + bytes(3) + encode_frame(wire.Credit(0, 0)) + bytes(9)
    assert wire.decode_frames_untrusted(mixed) == [wire.Ping(), wire.Credit(0, 0)]


# -- what is forbidden


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ("03 03 05 00", "no message"),
        ("03 03 ffffffffffffffff 02 00 00", "a number beyond the last"),
        ("03 03 05 01 80000001 61", "a message that has to be fragments"),
        ("03 03 05 04 81000000" + "00" * 40, "the same, in a run of several"),
        ("04 02 09 05 00 00", "an empty fragment"),
        ("04 02 09 05 04 02 6161", "a fragment beyond its record"),
        ("02 05 00 00 06", "an ACK of a negative number"),
        ("02 05 00 01 00 04 00", "the same in a later range"),
        ("0b 01 02" + "00" * 24, "a connection id that retires itself"),
        ("0d 00 02 c328", "text that is not UTF-8"),
        ("0e 03 05 00", "no lifetime"),
        ("0e 03 05 01 00 0a", "a lifetime of no message"),
        ("0e 03 05 4101" + "01 0a" * 257, "too many lifetimes"),
        ("0e 03 05 02 4100 0a 01 0a", "lifetimes of too many messages"),
        ("0e 03 ffffffffffffffff 01 02 0a", "lifetimes beyond the last message"),
        ("0d 00 4401" + "61" * 1025, "text that is too long"),
    ],
)
def test_a_frame_that_makes_no_sense_is_an_error(frame: str, why: str) -> None:
    with pytest.raises(DecodeError):
        wire.decode_frames_untrusted(bytes.fromhex(frame))


def test_a_packet_has_no_more_units_than_the_limit() -> None:
    most = wire.PACKET_UNITS_LIMIT - wire.FRAME_UNITS
    frame = encode_frame(wire.Messages(0, 0, [b""] * most))
    assert len(wire.decode_frames_untrusted(frame)) == 1
    for data in (
        encode_frame(wire.Messages(0, 0, [b""] * (most + 1))),
        frame + wire.PING,
        wire.encode_credit(0, 0) * (wire.PACKET_UNITS_LIMIT // wire.FRAME_UNITS + 1),
        (wire.PING + b"\x00") * (wire.PACKET_UNITS_LIMIT // wire.FRAME_UNITS + 1),
        wire.encode_ack(9, 0, [(9, 9)]) * 22,
        encode_frame(wire.Messages(0, 0, [b""] * (most - 11))) + wire.encode_ack(9, 0, [(9, 9)]),
        encode_frame(wire.Ack(0, [(1000 - 3 * n, 1000 - 3 * n) for n in range(65)])),
    ):
        with pytest.raises(DecodeError):
            wire.decode_frames_untrusted(data)


@pytest.mark.parametrize("count", [1, 3, 4, 64, 70])
@pytest.mark.parametrize("size", ["80", "c0", "ff"])
def test_a_message_whose_size_takes_more_than_two_bytes_is_an_error(count: int, size: str) -> None:
    message = bytes.fromhex(size) + bytes(int(size, 16))
    with pytest.raises(DecodeError):
        wire.decode_frames_untrusted(wire.encode_messages_header(0, 0, count) + message * count)


def test_an_ack_leaves_out_what_would_make_it_too_long() -> None:
    far = [(n << 33, n << 33) for n in range(64, 0, -1)]
    [ack] = wire.decode_frames_untrusted(wire.encode_ack(far[0][1], 1 << 61, far))
    assert isinstance(ack, wire.Ack)
    assert len(ack.ranges) > 20
    assert ack.ranges == far[: len(ack.ranges)]


@pytest.mark.parametrize(
    ("at", "byte"), [(0, 0xA4), (0, 0x00), (1, 2), (2, 3), (2, 255), (1000, 1), (1183, 1)]
)
def test_an_init_that_is_not_as_it_should_be_is_an_error(at: int, byte: int) -> None:
    data = bytearray(published()["INIT"])
    data[at] = byte
    with pytest.raises(DecodeError):
        wire.decode_handshake_untrusted(bytes(data))


def test_an_init_fills_the_smallest_datagram() -> None:
    for size in (0, 200, 1184):
        body = wire.encode_init(Mode.PSK, CID, b"", bytes(size))
        assert len(body) + wire.MAC1_BYTES >= SMALLEST_DATAGRAM_BYTES
    with pytest.raises(DecodeError):
        wire.decode_handshake_untrusted(published()["INIT"][:-1])


def test_a_token_has_a_limit() -> None:
    with pytest.raises(DecodeError):
        wire.decode_handshake_untrusted(wire.encode_retry(CID, bytes(257)) + bytes(16))
    init = wire.encode_init(Mode.PSK, CID, bytes(257), b"") + bytes(16)
    with pytest.raises(DecodeError):
        wire.decode_handshake_untrusted(init)


def test_unknown_transport_parameters_are_ignored() -> None:
    known = PARAMETERS.encode()
    assert wire.decode_parameters_untrusted(b"\x20\x03abc" + known + b"\x7f\xff\x00") == PARAMETERS
    assert wire.decode_parameters_untrusted(b"") == TransportParameters()


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ("01 01 05 01 01 05", "twice"),
        ("20 00 20 00", "an unknown one twice"),
        ("01 02 05 00", "more than an integer"),
        ("01 00", "no integer"),
        ("01 01 40", "half an integer"),
        ("07 01 00", "a connection id of the wrong size"),
        ("08 01 00", "a reset token of the wrong size"),
        ("".join(f"{identity:04x} 00" for identity in range(0x4009, 0x4009 + 65)), "too many"),
    ],
)
def test_transport_parameters_that_make_no_sense_are_an_error(parameters: str, why: str) -> None:
    with pytest.raises(DecodeError):
        wire.decode_parameters_untrusted(bytes.fromhex(parameters))


# -- what a stranger may send


@given(st.binary(max_size=1500))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    decoders(data)


@given(st.integers(0, 13), st.binary(max_size=200))
@example(3, b"\x00\x00\x04" + b"\xbf" * 200)
def test_any_bytes_in_a_frame_are_decoded_or_refused(kind: int, data: bytes) -> None:
    decoders(bytes((kind,)) + data)


@pytest.mark.parametrize("kind", [wire.INIT, wire.RESP, wire.RETRY, wire.RESET])
def test_any_bytes_in_a_packet_are_decoded_or_refused(kind: int) -> None:
    generator = random.Random(kind)
    for _ in range(500):
        head = bytes((kind, wire.VERSION, generator.randrange(4)))
        decoders(head + generator.randbytes(generator.choice((8, 30, 1190, 1400))))


def test_golden_packets_with_broken_bytes_are_decoded_or_refused() -> None:
    generator = random.Random(1)
    golden = [*published().values()]
    for _ in range(5000):
        data = bytearray(generator.choice(golden))
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.choice((0, 1, 0x3F, 0x40, 0x80, 0xFF))
        decoders(bytes(data))


@given(st.lists(st.sampled_from([0, 1, 2, 63, 64, 65, 255, 256, 320]), min_size=1, max_size=30))
@example([64] * 30)
@example([64] * 29 + [65])
@example([256] * 29 + [320])
def test_messages_come_out_whole_whatever_their_sizes(sizes: list[int]) -> None:
    frame = wire.Messages(1, 2, [bytes((n,)) * size for n, size in enumerate(sizes)])
    assert wire.decode_frames_untrusted(encode_frame(frame) + wire.PING) == [frame, wire.Ping()]
