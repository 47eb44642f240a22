"""Where fuzzing begins: inputs of every target that are made of genuine things.

They are code and not files, so that they follow the wire format; what fuzzing has found is in
`corpus/`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aerogram import messages
from aerogram.core import wire
from aerogram.core.wire import Mode
from aerogram.lan import questions
from aerogram.lan.stream import wire as stream
from tests.core.vectors import FRAMES, PARAMETERS, encode_frame, published
from tests.fuzz.hosts import SPECS
from tests.fuzz.steps import Step, write_steps
from tests.fuzz.targets import codec

_PARAMETERS: Final = PARAMETERS.encode()
_FRAMES: Final = {name: encode_frame(frame) for name, frame in FRAMES.items()}

LOW_ORDER_POINTS: Final = tuple(
    value.to_bytes(32, "little")
    for value in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        *(2**255 - 19 + delta for delta in (-1, 0, 1)),
        2**256 - 1,
    )
)
"""X25519 points whose secret everybody knows (RFC 7748 §6.1), and one that is not canonical."""

SAY, SKIP_NUMBERS, REPEAT, FORGE, SEND, SEND_LATE = 0, 4, 5, 6, 7, 8
ACK, HANDLERS, PING, ANNOUNCE, REKEY, CLOSE, TIME = 9, 10, 11, 12, 13, 14, 15
"""Kinds of the steps of `hostile.Hostile`."""


def _messages(first: int, *payloads: bytes) -> bytes:
    return encode_frame(wire.Messages(0, first, [*payloads]))


def _fragment(number: int, total: int, offset: int, size: int) -> bytes:
    return encode_frame(wire.Fragment(0, number, total, offset, bytes(size)))


def _conversations() -> list[list[Step]]:
    """What a peer with the keys may say to a session, as lists of steps."""
    found = [[Step(SAY, frame)] for frame in _FRAMES.values()]
    for which in range(len(SPECS)):
        announce = Step(ANNOUNCE, bytes((which,)))
        said = [
            _messages(0, b"a", b"bb"),
            _messages(3, b"?"),
            _fragment(2, 600, 0, 300),
            _fragment(2, 600, 300, 300),
            wire.encode_skip(0, 4, 32),
            encode_frame(wire.Lifetimes(0, 5, [(1, 20), (2, 0)])) + _messages(5, b"x", b"y"),
        ]
        found.append([announce, *(Step(SAY, frames) for frames in said)])
        large = [announce, *(Step(SAY, _fragment(0, 20_000, at, 1000)) for at in (0, 1000, 19_000))]
        found.append([*large, Step(SAY, wire.encode_skip(0, 0, 4096))])
        found.append(
            [
                Step(SEND, bytes((which, 0, 100, 5))),
                Step(SEND, bytes((which, 8, 0, 1))),
                Step(ACK),
                Step(SEND_LATE, bytes((which, 0, 10, 1)), wait=2),
                Step(SAY, wire.encode_ack(1, 0, [(0, 1)])),
                Step(SAY, wire.encode_credit(0, 1 << 20)),
                Step(SAY, wire.encode_refuse(0, 0, 1, "no"), wait=4),
            ]
        )
    unknown = wire.encode_channel(0, "nobody", "nothing/resent") + _messages(0, b"a")
    found.append([Step(SAY, unknown), Step(SAY, unknown)])
    found.append([Step(REKEY, wire.PING)] * 8)
    found.append(
        [
            Step(SAY, wire.PING, from_elsewhere=True),
            Step(SAY, _FRAMES["PATH_RESPONSE"], from_elsewhere=True),
        ]
    )
    found.append([Step(HANDLERS), Step(PING), Step(SKIP_NUMBERS, b"\0\0\0\x09\x01"), Step(REPEAT)])
    times = [b"", b"\0\0\0\x06\0\0\0\0\0\0\x09", bytes((0xFF,)) * 11]
    found.append([Step(TIME, body, wait=wait) for body in times for wait in (0, 4, 5)])
    found.append([Step(CLOSE), Step(SAY, _FRAMES["CLOSE"]), Step(FORGE, bytes(40), wait=3)])
    return found


def _wire() -> list[bytes]:
    runs = [_messages(0, *[b"@" * size] * count) for size in (1, 63, 200) for count in (4, 5)]
    return [*published().values(), *_FRAMES.values(), b"".join(_FRAMES.values()), *runs]


def _session() -> list[bytes]:
    head = bytes((0, len(_PARAMETERS))) + _PARAMETERS
    plain = [bytes((index & 1, 0)) + write_steps(s) for index, s in enumerate(_conversations())]
    return [*plain, *(head + write_steps(steps) for steps in _conversations()[-3:])]


def _ending() -> list[bytes]:
    return [bytes((index & 3,)) + write_steps(s) for index, s in enumerate(_conversations())]


def _half_open() -> list[bytes]:
    return [write_steps(steps) for steps in _conversations()]


def _server() -> list[bytes]:
    conversations = [[Step(kind, _PARAMETERS)] for kind in range(8)]
    conversations += [[Step(0, packet)] for packet in published().values()]
    for mode in Mode:
        for head in (mode, mode + 4, mode + 16, mode + 24):
            conversations.append([Step(3, bytes((head,)) + _PARAMETERS)])
        conversations.append(
            [Step(4, bytes((0x80 + mode, 4, 176, 0))), Step(5, bytes(40)), Step(6)]
        )
    for point in LOW_ORDER_POINTS:
        for mode in (Mode.PSK, Mode.PINNED):
            conversations.append([Step(2, bytes((mode,)) + point + bytes(80))])
    flood = [Step(1, bytes((16 * client,)) + _PARAMETERS) for client in range(8)]
    conversations.append([*flood, Step(3, bytes((0x95,)) + _PARAMETERS)])
    for frame in _FRAMES.values():
        conversations.append([Step(1, b"\0" + _PARAMETERS), Step(5, b"\x40" + frame)])
    return [write_steps(steps) for steps in conversations]


def _client() -> list[bytes]:
    steps = [Step(kind, body) for kind in range(8) for body in (_PARAMETERS, b"token")]
    steps += [Step(0, packet) for packet in published().values()]
    steps += [Step(1, point + bytes(80)) for point in LOW_ORDER_POINTS]
    return [bytes((mode,)) + write_steps([step]) for mode in Mode for step in steps]


def _forged() -> list[bytes]:
    found: list[bytes] = []
    for kind in range(16):
        said = [Step(7, b"hello"), Step(15, bytes(1500)), Step(kind, bytes((1, 20, 9, 3)))]
        found.append(write_steps([*said, Step(kind, bytes(60), from_elsewhere=True)]))
    return found


def _codec() -> list[bytes]:
    plain = (1, -(2**40), 2.5, "x", b"y", True, None, [1, [2, {}]], {"a": [1.0, None], b"b": 2})
    typed = (
        codec.Move(1.0, 2.0),
        codec.Path([[1]], "name", {"b": b"c"}),
        codec.Anything([{}]),
        codec.Tree([codec.Tree([])]),
        codec.Picky(3, codec.Move(1.0, 2.0)),
        codec.Named([codec.Move(1.0, 2.0)]),
    )
    failed = messages.Failure(messages.FailureCode.FAILED, "why")
    return [
        *map(messages.encode, (*plain, *typed)),
        messages.encode_topic("chat", {"text": "hello"}),
        messages.encode_request(3, codec.Quote("a")),
        messages.encode_request(3, codec.Find("a"), b"key"),
        messages.encode_stream(4, codec.Watch("a"), 100),
        messages.encode_cancel(3),
        messages.encode_more(4, 200),
        messages.encode_answer(3, codec.Move(1.0, 2.0)),
        messages.encode_failure(3, messages.FailureCode.REJECTED, "no"),
        messages.encode_item(4, 7, codec.Move(1.0, 2.0)),
        messages.encode_end(4, 8, None),
        messages.encode_end(4, 8, failed),
    ]


def _address() -> list[bytes]:
    texts = (
        "aerogram://127.0.0.1:9000/#k=" + "a" * 51 + "q",
        "aerogram://[::1]:9000",
        "aerogram://user@host.example:1/path?query#k=a&k=b",
        "[fe80::1%eth0]:80",
        "localhost:0",
        "an-example.org.:65535",
        "b\u00fccher.example:80",
        "::ffff:127.0.0.1",
        "127.0.0.1",
    )
    return [text.encode() for text in texts]


def _lan() -> list[bytes]:
    echo = stream.Echo(5, 9, 0.02)
    asked = questions.Question(bytes(16), 0.5, [bytes(16)], b"who")
    return [
        stream.Header(stream.DATA, bytes(8), 1, stream.SENDER, 7).encode() + bytes(40),
        stream.encode_whole(3, 4, [b"", b"abc"]),
        stream.encode_fragment(3, 4, 1, 3, bytes(300)),
        stream.encode_heartbeat(stream.Heartbeat(1, 2, 3, 4, 0.01, 5, stream.END)),
        stream.encode_nack(stream.Nack(echo, [(5, 5), (7, 20)])),
        questions.encode_question(asked),
        questions.encode_reply(questions.Reply(bytes(16), bytes(16), b"here")),
        questions.encode_heard(questions.Heard(bytes(16), bytes(16))),
        bytes((0x23,)) + bytes(range(1, 48)),
    ]


_SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "address": _address,
    "client": _client,
    "codec": _codec,
    "ending": _ending,
    "forged": _forged,
    "half_open": _half_open,
    "lan": _lan,
    "server": _server,
    "session": _session,
    "wire": _wire,
}


def seeds(target: str) -> list[bytes]:
    """The inputs that a target begins with."""
    return _SEEDS[target]()
