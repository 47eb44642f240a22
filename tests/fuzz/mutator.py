"""Inputs made from inputs: a seeded mutator that knows what wire formats consist of.

It needs nothing beyond the standard library, so that every test run can use it; the same seed and
the same corpus give the same inputs on every Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

MUTATIONS_MOST: Final = 8
"""Changes to one input; half of all inputs get one."""
SLICE_BYTES_MOST: Final = 64
BLOCK_BYTES_MOST: Final = 300
REPEATS_MOST: Final = 300
"""Copies of a small slice in a row: nesting, runs of frames, floods."""

INTEGERS: Final = (
    *(0, 1, 2, 3, 7, 8, 9, 16, 20, 25, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257),
    *(1023, 1024, 1025, 1200, 4096, 16383, 16384, 32767, 65535, 65536),
    *((1 << 30) - 1, 1 << 30, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, (1 << 53), (1 << 61)),
    *((1 << 62) - 2, (1 << 62) - 1, (1 << 63) - 1, (1 << 64) - 1),
)
"""Where limits, signs and encodings change."""

Mutation = Callable[[Random, bytearray, bytes], None]
"""Changes an input in place; the last argument is another input to take from."""


def integer_bytes(random: Random, value: int) -> bytes:
    """An integer as formats write it: RFC 9000 §16 in any length that holds it, or big-endian."""
    sizes = [exponent for exponent in range(4) if value < 1 << (8 << exponent) - 2]
    if sizes and random.random() < 0.7:
        exponent = random.choice(sizes)
        return (exponent << (8 << exponent) - 2 | value).to_bytes(1 << exponent, "big")
    size = max(1, (value.bit_length() + 7) // 8)
    return value.to_bytes(random.choice([size, *(n for n in (1, 2, 4, 8) if n >= size)]), "big")


def _slice(random: Random, data: bytes | bytearray) -> tuple[int, int]:
    if not data:
        return 0, 0
    start = random.randrange(len(data))
    return start, min(len(data), start + random.randint(1, SLICE_BYTES_MOST))


def flip_bit(random: Random, data: bytearray, other: bytes) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def set_byte(random: Random, data: bytearray, other: bytes) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice((random.randrange(256), 0, 0xFF, 0x40))


def insert_noise(random: Random, data: bytearray, other: bytes) -> None:
    at = random.randint(0, len(data))
    data[at:at] = random.randbytes(random.randint(1, 16))


def insert_integer(random: Random, data: bytearray, other: bytes) -> None:
    at = random.randint(0, len(data))
    data[at:at] = integer_bytes(random, random.choice(INTEGERS))


def overwrite_integer(random: Random, data: bytearray, other: bytes) -> None:
    at = random.randint(0, len(data))
    value = integer_bytes(random, random.choice(INTEGERS))
    data[at : at + len(value)] = value


def edit_length(random: Random, data: bytearray, other: bytes) -> None:
    """Whatever stands there, as a field of one, two or four bytes, becomes a little different."""
    if not data:
        return
    at, size = random.randrange(len(data)), random.choice((1, 1, 2, 4))
    field = data[at : at + size]
    rest = len(data) - at - len(field)
    value = random.choice((int.from_bytes(field, "big") + random.randint(-4, 4), rest))
    data[at : at + size] = (value % (1 << 8 * len(field))).to_bytes(len(field), "big")


def delete(random: Random, data: bytearray, other: bytes) -> None:
    start, end = _slice(random, data)
    del data[start:end]


def truncate(random: Random, data: bytearray, other: bytes) -> None:
    del data[random.randint(0, len(data)) :]


def duplicate(random: Random, data: bytearray, other: bytes) -> None:
    start, end = _slice(random, data)
    at = random.choice((end, random.randint(0, len(data))))
    data[at:at] = data[start:end]


def repeat(random: Random, data: bytearray, other: bytes) -> None:
    start, end = _slice(random, data)
    end = min(end, start + random.randint(1, 8))
    data[end:end] = data[start:end] * random.randint(2, REPEATS_MOST)


def repeat_block(random: Random, data: bytearray, other: bytes) -> None:
    """Runs of whole frames, messages and steps."""
    start, end = _slice(random, data)
    end = min(len(data), end + random.randint(0, BLOCK_BYTES_MOST))
    data[end:end] = data[start:end] * random.randint(1, 8)


def substitute(random: Random, data: bytearray, other: bytes) -> None:
    """Everything that was one byte becomes another: a field that comes again and again."""
    if data:
        old, new = random.choice(data), random.randrange(256)
        data[:] = data.replace(bytes((old,)), bytes((new,)))


def exchange(random: Random, data: bytearray, other: bytes) -> None:
    start, end = _slice(random, data)
    moved = data[start:end]
    del data[start:end]
    at = random.randint(0, len(data))
    data[at:at] = moved


def splice(random: Random, data: bytearray, other: bytes) -> None:
    """The beginning of one input and the end of another."""
    data[random.randint(0, len(data)) :] = other[random.randint(0, len(other)) :]


def graft(random: Random, data: bytearray, other: bytes) -> None:
    """A piece of another input in the midst of this one."""
    start, end = _slice(random, other)
    at = random.randint(0, len(data))
    data[at : at + random.choice((0, end - start))] = other[start:end]


MUTATIONS: Final[tuple[Mutation, ...]] = (
    flip_bit,
    set_byte,
    insert_noise,
    insert_integer,
    overwrite_integer,
    edit_length,
    delete,
    truncate,
    duplicate,
    repeat,
    repeat_block,
    substitute,
    exchange,
    splice,
    graft,
)


class Mutator:
    """An endless source of inputs that resemble those of a corpus."""

    def __init__(self, seed: int, corpus: Sequence[bytes], *, input_bytes_most: int) -> None:
        self._random = Random(seed)
        self._corpus = sorted({*corpus}) or [b""]
        self._input_bytes_most = input_bytes_most

    def next_input(self) -> bytes:
        """An input of the corpus with one or several changes."""
        random = self._random
        data = bytearray(random.choice(self._corpus))
        for _ in range(MUTATIONS_MOST):
            random.choice(MUTATIONS)(random, data, random.choice(self._corpus))
            if random.random() < 0.5:
                break
        return bytes(data[: self._input_bytes_most])
