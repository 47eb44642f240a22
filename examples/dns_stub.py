"""A DNS server for a few names of one's own (RFC 1035): `python examples/dns_stub.py [PORT]`.

Middleware in one line: every question passes `allowed` before it is answered, and what is not a
question of ours gets silence, as strangers should.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
import sys

from aerogram import Datagram, open_endpoint

NAMES = {"game.example": "192.0.2.7", "chat.example": "192.0.2.8", "six.example": "2001:db8::7"}
TYPES = {1: 4, 28: 6}
"""A and AAAA, and the IP version of each."""
TTL_SECONDS = 60
ANSWER, RECURSION_DESIRED, AUTHORITATIVE = 0x8000, 0x0100, 0x0400
NO_SUCH_NAME = 3


def question_of(data: bytes) -> tuple[int, int, str, int, bytes]:
    """(id, flags, name, type, the question as it stands). Raises `ValueError` or `struct.error`."""
    identity, flags, questions, _, _, _ = struct.unpack_from("!6H", data)
    if flags & ANSWER or questions != 1:
        raise ValueError("not one question")
    labels: list[str] = []
    position = 12
    while (size := data[position]) != 0:
        if size > 63 or position + size >= len(data):
            raise ValueError("a label is too long")
        labels.append(data[position + 1 : position + 1 + size].decode("ascii").lower())
        position += 1 + size
    kind, _ = struct.unpack_from("!HH", data, position + 1)
    return identity, flags, ".".join(labels), kind, data[12 : position + 5]


def answer_to(data: bytes) -> bytes:
    identity, flags, name, kind, question = question_of(data)
    known = NAMES.get(name)
    records = b""
    if known is not None and TYPES.get(kind) == ipaddress.ip_address(known).version:
        address = ipaddress.ip_address(known).packed
        records = struct.pack("!HHHIH", 0xC00C, kind, 1, TTL_SECONDS, len(address)) + address
    code = 0 if known is not None else NO_SUCH_NAME
    flags = ANSWER | AUTHORITATIVE | flags & RECURSION_DESIRED | code
    header = struct.pack("!6H", identity, flags, 1, int(bool(records)), 0, 0)
    return header + question + records


def allowed(datagram: Datagram) -> bool:
    return ipaddress.ip_address(str(datagram.address[0])).is_loopback


async def main(port: int) -> None:
    async with open_endpoint("127.0.0.1", port) as endpoint:
        print(f"listening on port {endpoint.local_address[1]}", flush=True)
        async for datagram in endpoint:
            if not allowed(datagram):
                continue
            try:
                answer = answer_to(datagram.data)
            except (ValueError, IndexError, struct.error):
                continue
            await datagram.reply(answer)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5353))
