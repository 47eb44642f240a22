"""A read-only TFTP server (RFC 1350 with RFC 2347/2348 options): one task for each transfer.

`python examples/tftp_server.py FOLDER [PORT]`, then `curl tftp://127.0.0.1:6969/name`. Each
transfer has an endpoint of its own, as the RFC wants it, and a retry policy of its own: a block is
sent again until it is acknowledged, waiting twice as long each time, and given up after `TRIES`.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from pathlib import Path

from aerogram import Datagram, DatagramEndpoint, InvalidAddress, open_endpoint

READ, WRITE, DATA, ACK, ERROR, OACK = range(1, 7)
NOT_FOUND, ACCESS_VIOLATION, ILLEGAL_OPERATION = 1, 2, 4
FIRST_WAIT_SECONDS = 0.25
TRIES = 6
TRANSFERS_LIMIT = 64


class Refused(Exception):
    """The transfer cannot be; the client is told `code` and the text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.packet = struct.pack("!HH", ERROR, code) + text.encode() + b"\0"


def asked(request: bytes, folder: Path) -> tuple[bytes, int, bool]:
    """(content, block size, whether the size was negotiated). Raises `Refused`."""
    operation = int.from_bytes(request[:2], "big")
    fields = request[2:].split(b"\0")[:-1]
    if operation == WRITE:
        raise Refused(ACCESS_VIOLATION, "this server is read-only")
    if operation != READ or len(fields) < 2:
        raise Refused(ILLEGAL_OPERATION, "only read requests")
    path = (folder / fields[0].decode("utf-8", "replace").lstrip("/")).resolve()
    try:
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise Refused(NOT_FOUND, "no such file")
        content = path.read_bytes()
    except OSError as error:  # a name that is too long, a file that may not be read
        raise Refused(NOT_FOUND, error.strerror or "no such file") from error
    options = dict(zip(fields[2::2], fields[3::2], strict=False))
    size = options.get(b"blksize", b"")[:5]
    if not size.isdigit():
        return content, 512, False
    return content, min(max(int(size), 8), 1400), True


async def confirmed(
    endpoint: DatagramEndpoint, request: Datagram, packet: bytes, block: int
) -> bool:
    """Send until the client acknowledges this block; False if it never does."""
    wait = FIRST_WAIT_SECONDS
    for _ in range(TRIES):
        await endpoint.send(packet, request.address)
        try:
            async with asyncio.timeout(wait):
                async for answer in endpoint:
                    if answer.address != request.address:
                        continue
                    if answer.data == struct.pack("!HH", ACK, block & 0xFFFF):
                        return True
                    if answer.data[:2] == struct.pack("!H", ERROR):
                        return False
        except TimeoutError:
            wait *= 2
    return False


async def transfer(request: Datagram, folder: Path) -> None:
    async with open_endpoint("127.0.0.1") as endpoint:
        try:
            content, size, negotiated = asked(request.data, folder)
        except Refused as refused:
            await endpoint.send(refused.packet, request.address)
            return
        if negotiated:
            options = struct.pack("!H", OACK) + b"blksize\0" + str(size).encode() + b"\0"
            if not await confirmed(endpoint, request, options, 0):
                return
        for number, start in enumerate(range(0, len(content) + 1, size), 1):
            block = struct.pack("!HH", DATA, number & 0xFFFF) + content[start : start + size]
            if not await confirmed(endpoint, request, block, number):
                return


async def serve(request: Datagram, folder: Path) -> None:
    """One transfer that harms no other: whoever asked may have gone, or never was there."""
    try:
        await transfer(request, folder)
    except (InvalidAddress, OSError) as error:
        print(f"no transfer to {request.address}: {error}", flush=True)


async def main(folder: Path, port: int) -> None:
    async with open_endpoint("127.0.0.1", port) as endpoint, asyncio.TaskGroup() as transfers:
        print(f"listening on port {endpoint.local_address[1]}", flush=True)
        running: set[asyncio.Task[None]] = set()
        async for request in endpoint:
            if len(running) < TRANSFERS_LIMIT:
                task = transfers.create_task(serve(request, folder))
                running.add(task)
                task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 6969))
