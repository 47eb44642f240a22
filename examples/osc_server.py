"""Open Sound Control 1.0, the protocol of synthesisers and stages: prints and answers messages.

`python examples/osc_server.py [PORT]`. An OSC packet is one datagram; `/ping` is answered with
`/pong` and the same arguments, to show that an answer goes where the question came from.
"""

from __future__ import annotations

import asyncio
import struct
import sys

from aerogram import open_endpoint

Argument = int | float | str | bytes


class OscError(ValueError):
    """No OSC packet."""


def padded(data: bytes) -> bytes:
    """OSC pads everything to a multiple of four, strings with at least one zero."""
    return data + bytes(-len(data) % 4)


def encode(path: str, *arguments: Argument) -> bytes:
    tags = "," + "".join({int: "i", float: "f", str: "s", bytes: "b"}[type(a)] for a in arguments)
    parts = [padded(path.encode() + b"\0"), padded(tags.encode() + b"\0")]
    for argument in arguments:
        if isinstance(argument, int):
            parts.append(struct.pack(">i", argument))
        elif isinstance(argument, float):
            parts.append(struct.pack(">f", argument))
        elif isinstance(argument, str):
            parts.append(padded(argument.encode() + b"\0"))
        else:
            parts.append(struct.pack(">i", len(argument)) + padded(argument))
    return b"".join(parts)


def decode(packet: bytes) -> list[tuple[str, list[Argument]]]:
    """The messages of a packet, those of bundles in their order. Raises `OscError`."""
    try:
        if packet.startswith(b"#bundle\0"):
            return _bundle(packet)
        path, rest = _string(packet)
        tags, rest = _string(rest)
        arguments: list[Argument] = []
        for tag in tags.removeprefix(","):
            argument, rest = _argument(tag, rest)
            arguments.append(argument)
    except (struct.error, ValueError) as error:
        raise OscError(f"no OSC packet: {error}") from error
    return [(path, arguments)]


def _bundle(packet: bytes) -> list[tuple[str, list[Argument]]]:
    messages: list[tuple[str, list[Argument]]] = []
    rest = packet[16:]
    while rest:
        (size,) = struct.unpack_from(">i", rest)
        if not 0 < size <= len(rest) - 4:
            raise ValueError("an element is cut off")
        messages += decode(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return messages


def _string(data: bytes) -> tuple[str, bytes]:
    end = data.index(b"\0")
    return data[:end].decode(), data[(end // 4 + 1) * 4 :]


def _argument(tag: str, data: bytes) -> tuple[Argument, bytes]:
    if tag in "if":
        return struct.unpack_from(f">{tag}", data)[0], data[4:]
    if tag == "s":
        return _string(data)
    if tag == "b":
        (size,) = struct.unpack_from(">i", data)
        if not 0 <= size <= len(data) - 4:
            raise ValueError("a blob is cut off")
        return data[4 : 4 + size], data[4 + len(padded(data[4 : 4 + size])) :]
    raise ValueError(f"unknown type {tag!r}")


async def main(port: int) -> None:
    async with open_endpoint("127.0.0.1", port) as endpoint:
        print(f"listening on port {endpoint.local_address[1]}", flush=True)
        async for datagram in endpoint:
            try:
                messages = decode(datagram.data)
            except OscError as error:
                print(error, flush=True)
                continue
            for path, arguments in messages:
                print(path, *arguments, flush=True)
                if path == "/ping":
                    await datagram.reply(encode("/pong", *arguments))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 9000))
