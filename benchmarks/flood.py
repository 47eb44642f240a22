"""`flood` of `native.py` in Python, for machines without a C compiler."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from time import perf_counter

UDP_SEGMENT = 103
SENDS_PER_LOOK = 64


def main(arguments: list[str]) -> None:
    port, senders, size, segments = map(int, arguments)
    sockets = [connected(port, size if segments > 1 else 0) for _ in range(senders)]
    data = bytes(size * segments)
    print("ready", flush=True)
    for line in sys.stdin:
        kind, value = line.split()
        sent = 0
        for turn in turns(float(value) if kind == "flood" else None, float(value), segments):
            sockets[turn % senders].send(data)
            sent += segments
        print(sent, flush=True)


def connected(port: int, segment_bytes: int) -> socket.socket:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("127.0.0.1", port))
    if segment_bytes:
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment_bytes)
    return sender


def turns(seconds: float | None, count: float, segments: int) -> Iterator[int]:
    if seconds is None:
        yield from range(-(-int(count) // segments))
        return
    until = perf_counter() + seconds
    turn = 0
    while turn % SENDS_PER_LOOK or perf_counter() < until:
        yield turn
        turn += 1


if __name__ == "__main__":
    main(sys.argv[1:])
