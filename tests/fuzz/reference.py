"""`WIRE.md` read literally: a second decoder, slow and plain, that the real one is compared with.

It takes one field after the other and knows no fast path. Whatever breaks a rule is a `ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable

from aerogram.core import wire
from aerogram.core.wire import Mode, TransportParameters

NUMBERS_END = 1 << 62


class Reader:
    """What is left of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def take(self, size: int) -> bytes:
        if size > len(self.left):
            raise ValueError("cut off")
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def integer(self) -> int:
        size = 1 << (self.peek() >> 6)
        return int.from_bytes(self.take(size), "big") & (1 << 8 * size - 2) - 1

    def string(self) -> bytes:
        return self.take(self.integer())

    def text(self) -> str:
        text = self.string()
        require(len(text) <= 1024)
        return text.decode()

    def peek(self) -> int:
        if not self.left:
            raise ValueError("cut off")
        return self.left[0]


def require(*conditions: bool) -> None:
    if not all(conditions):
        raise ValueError("a rule is broken")


def packet(data: bytes) -> wire.Init | wire.Resp | wire.Retry | wire.Reset:
    """A packet that is not DATA."""
    read = Reader(data)
    kind = read.take(1)
    if kind == b"\xa3":
        reset = wire.Reset(read.take(8), read.take(16))
        require(not read.left)
        return reset
    require(kind in (b"\xa0", b"\xa1", b"\xa2"), read.take(1) == b"\x01")
    if kind == b"\xa0":
        return _init(read, len(data))
    identity, string = read.take(8), read.string()
    if kind == b"\xa1":
        require(not read.left)
        return wire.Resp(identity, string)
    read.take(16)
    require(not read.left, len(string) <= 256)
    return wire.Retry(identity, string)


def _init(read: Reader, size: int) -> wire.Init:
    mode = read.take(1)[0]
    require(size >= 1200, mode <= 2)
    init = wire.Init(Mode(mode), read.take(8), read.string(), read.string())
    require(len(init.token) <= 256, len(read.left) >= 16, not any(read.left[:-16]))
    return init


def parameters(data: bytes) -> TransportParameters:
    """A list of transport parameters."""
    read = Reader(data)
    found: dict[int, bytes] = {}
    while read.left:
        identity, value = read.integer(), read.string()
        require(identity not in found, len(found) < 32)
        found[identity] = value
    integers = [_whole_integer(found.get(identity, b"\0")) for identity in range(1, 7)]
    cid, token = found.get(7, b""), found.get(8, b"")
    require(len(cid) in (0, 8), len(token) in (0, 16))
    return TransportParameters(*integers, connection_id=cid, reset_token=token)


def _whole_integer(value: bytes) -> int:
    read = Reader(value)
    integer = read.integer()
    require(not read.left)
    return integer


def frames(data: bytes) -> list[wire.Frame]:
    """The frames of a packet; PADDING leaves no trace."""
    read = Reader(data)
    found: list[wire.Frame] = []
    units = 0
    while read.left:
        kind = read.take(1)[0]
        before = len(read.left) + 1
        if kind == 0:
            continue
        frame = _frame(kind, read)
        if kind == 1:
            while read.left[:1] == b"\x01":
                read.take(1)
        found.append(frame)
        units += 10
        if isinstance(frame, wire.Messages):
            units += len(frame.payloads)
        elif isinstance(frame, wire.Ack):
            units += (before - len(read.left)) // 2
        elif isinstance(frame, wire.Lifetimes):
            units += 3 * len(frame.runs)
        require(units <= 256)
    return found


def _frame(kind: int, read: Reader) -> wire.Frame:
    if kind not in _FRAMES:
        raise ValueError("an unknown frame")
    return _FRAMES[kind](read)


def _ack(read: Reader) -> wire.Ack:
    largest, delay, more, length = (read.integer() for _ in range(4))
    require(more < 64)
    ranges = [(largest - length, largest)]
    for _ in range(more):
        high = ranges[-1][0] - read.integer() - 2
        ranges.append((high - read.integer(), high))
    require(ranges[-1][0] >= 0)
    return wire.Ack(delay, ranges)


def _message(read: Reader) -> wire.Messages:
    channel, number = read.integer(), read.integer()
    require(number < NUMBERS_END, read.peek() < 0x80)
    return wire.Messages(channel, number, [read.string()])


def _messages(read: Reader) -> wire.Messages:
    channel, first, count = (read.integer() for _ in range(3))
    require(0 < count <= 256, first + count <= NUMBERS_END)
    payloads: list[bytes] = []
    for _ in range(count):
        require(read.peek() < 0x80)
        payloads.append(read.string())
    return wire.Messages(channel, first, payloads)


def _fragment(read: Reader) -> wire.Fragment:
    numbers = [read.integer() for _ in range(4)]
    piece = read.string()
    require(len(piece) > 0, numbers[3] + len(piece) <= numbers[2])
    return wire.Fragment(numbers[0], numbers[1], numbers[2], numbers[3], piece)


def _new_connection_id(read: Reader) -> wire.NewConnectionId:
    new = wire.NewConnectionId(read.integer(), read.integer(), read.take(8), read.take(16))
    require(new.retire_before <= new.sequence)
    return new


def _lifetimes(read: Reader) -> wire.Lifetimes:
    channel, first, count = (read.integer() for _ in range(3))
    require(0 < count <= 256)
    runs = [(read.integer(), read.integer()) for _ in range(count)]
    total = sum(messages for messages, _ in runs)
    require(all(messages > 0 for messages, _ in runs), total <= 256, first + total <= NUMBERS_END)
    return wire.Lifetimes(channel, first, runs)


def _time_answer(read: Reader) -> wire.TimeAnswer:
    answer = wire.TimeAnswer(read.integer(), read.integer(), read.integer())
    require(answer.received_at <= answer.sent_at)
    return answer


_FRAMES: dict[int, Callable[[Reader], wire.Frame]] = {
    0x01: lambda _: wire.Ping(),
    0x02: _ack,
    0x03: _messages,
    0x04: _fragment,
    0x05: lambda read: wire.ChannelAnnounce(read.integer(), read.text(), read.text()),
    0x06: lambda read: wire.Credit(read.integer(), read.integer()),
    0x07: lambda read: wire.Skip(read.integer(), read.integer(), read.integer()),
    0x08: lambda read: wire.Refuse(read.integer(), read.integer(), read.integer(), read.text()),
    0x09: lambda read: wire.PathChallenge(read.take(8)),
    0x0A: lambda read: wire.PathResponse(read.take(8)),
    0x0B: _new_connection_id,
    0x0C: lambda read: wire.RetireConnectionId(read.integer()),
    0x0D: lambda read: wire.Close(read.integer(), read.text()),
    0x0E: _lifetimes,
    0x0F: lambda read: wire.Time(read.integer()),
    0x10: _time_answer,
    0x11: _message,
}
