"""`python -m benchmarks.decode`: the slowest datagram that a search finds for each decoder.

The search counts lines of Python that a decoder runs, which no other program on the machine can
disturb; only the worst are then timed. Half of it starts from inputs that are made to be slow.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from types import FrameType
from typing import Any, Final

from aerogram.core import wire
from aerogram.errors import DecodeError
from tests.fuzz.mutator import Mutator

DATAGRAM_BYTES: Final = 1500
AIM_MICROSECONDS: Final = 50.0
POPULATION: Final = 24
"""Inputs that the search goes on from."""
TIMED_CALLS: Final = 1000
"""The quickest of so many is what an input takes; what others took more was other programs."""

Decoder = Callable[[bytes], object]

DECODERS: Final[dict[str, Decoder]] = {
    "packet": wire.decode_handshake_untrusted,
    "parameters": wire.decode_parameters_untrusted,
    "frames": wire.decode_frames_untrusted,
}


@dataclass(frozen=True, slots=True)
class Slowest:
    """The worst that was found for a decoder."""

    decoder: str
    data: bytes
    lines: int
    microseconds: float

    def __str__(self) -> str:
        shown = f"{self.data[:12].hex()}\u2026" if len(self.data) > 12 else self.data.hex()
        return (
            f"{self.decoder:<12}{self.microseconds:7.1f} \u00b5s {self.lines:6} lines "
            f"{len(self.data):5} bytes  {shown}"
        )


def integer(value: int, size: int) -> bytes:
    """A variable-length integer in a size that the sender chooses (RFC 9000 §16)."""
    return (size.bit_length() - 1 << 8 * size - 2 | value).to_bytes(size, "big")


def slow_frames() -> list[bytes]:
    """Frames that make as much work for their units as they can."""
    most = wire.PACKET_UNITS_LIMIT - wire.FRAME_UNITS
    found: list[bytes] = []
    for size in (1, 2, 4, 8):
        zero, one = integer(0, size), integer(1, size)
        ack = b"\x02" + integer(1 << 20 if size > 2 else 60, max(size, 4)) + zero * 2 + zero
        for ranges in (15, 30, 63):
            pairs = (one + zero) * ranges
            found.append(ack[:-2] + integer(ranges, size) + zero + pairs)
        for count in (most, most - 6, 90):
            lives = b"\x0e" + zero * 2 + integer(count, 2) + (one + zero) * count
            found += [lives, lives[:DATAGRAM_BYTES]]
        found.append((b"\x07" + zero * 3) * 25)
        found.append((b"\x08" + zero * 3 + b"\x00") * 25)
    for small, large in ((b"", b"a"), (b"", b"abc"), (b"a" * 4, b"a" * 6)):
        for prefix in (1, 2):
            pair = integer(len(small), prefix) + small + integer(len(large), prefix) + large
            found.append(wire.encode_messages_header(0, 0, most) + pair * (most // 2))
    alone = wire.encode_messages_header(0, 0, 1) + b"\x01a"
    found.append(alone * (wire.PACKET_UNITS_LIMIT // 11))
    found.append((b"\x00\x01" * 25)[: 2 * 25])
    found.append((b"\x05\x00" + integer(9, 2) + "\u00e9".encode() * 4 + b"a\x01b") * 25)
    return [data[:DATAGRAM_BYTES] for data in found]


def slow_inputs() -> dict[str, list[bytes]]:
    """Where the search for each decoder begins."""
    parameters = [
        b"".join(integer(n + 9, size) + integer(0, size) for n in range(64))
        for size in (1, 2, 4, 8)
    ]
    init = wire.encode_init(wire.Mode.PSK, bytes(8), bytes(256), bytes(100)) + bytes(16)
    return {
        "packet": [init.ljust(DATAGRAM_BYTES, b"\0"), wire.encode_resp(bytes(8), bytes(1200))],
        "parameters": [*parameters, b"\x01\x01\x05" * 500],
        "frames": slow_frames(),
    }


def lines_run(decode: Decoder, data: bytes) -> int:
    """How many lines of Python a decoder runs for an input, whatever comes of it."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(DecodeError):
            decode(data)
    finally:
        sys.settrace(before)
    return count


def microseconds(decode: Decoder, data: bytes) -> float:
    """What an input takes, undisturbed."""
    best = sys.maxsize
    for _ in range(TIMED_CALLS):
        with contextlib.suppress(DecodeError):
            started = perf_counter_ns()
            try:
                decode(data)
            finally:
                best = min(best, perf_counter_ns() - started)
    return best / 1000


def worst_inputs(decode: Decoder, start: list[bytes], tries: int, seed: int) -> list[bytes]:
    """The inputs that run the most lines, after so many changes to those that ran many."""
    ranked = sorted({(lines_run(decode, data), data) for data in start}, reverse=True)
    for turn in range(max(1, tries // 200)):
        pool = [data for _, data in ranked[:POPULATION]] + start
        mutator = Mutator(seed + turn, pool, input_bytes_most=DATAGRAM_BYTES)
        found = [mutator.next_input() for _ in range(200)]
        ranked = sorted(
            {*ranked[:POPULATION], *((lines_run(decode, data), data) for data in found)},
            reverse=True,
        )
    return [data for _, data in ranked[:POPULATION]]


def slowest(name: str, tries: int, seed: int) -> Slowest:
    """Search, and time the worst of what was found and of what was made to be slow."""
    decode, start = DECODERS[name], slow_inputs()[name]
    inputs = {*worst_inputs(decode, start, tries, seed), *start}
    timed = [(microseconds(decode, data), data) for data in sorted(inputs)]
    taken, data = max(timed)
    return Slowest(name, data, lines_run(decode, data), taken)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--tries", type=int, default=4000, help="inputs of each search")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    results = [slowest(name, options.tries, options.seed) for name in DECODERS]
    for result in results:
        print(result)
    worst = max(result.microseconds for result in results)
    print(f"the slowest takes {worst:.1f} \u00b5s; the aim is {AIM_MICROSECONDS:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
