"""No datagram ends an example: whatever strangers send, the next one is still answered."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from pathlib import Path

import pytest

from aerogram import open_endpoint
from tests.forging import send_from_port_0
from tests.test_protocol_examples import TIMEOUT_SECONDS, example

HOST = "127.0.0.1"
MUTANTS = 400

DNS = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\4game\7example\0\0\1\0\1"
OSC = b"/ping\0\0\0,ifs\0\0\0\0\0\0\0\7\x3f\0\0\0text\0\0\0\0"
SEEDS = {
    "tftp_server.py": [
        b"\0\1file\0octet\0",
        b"\0\1file\0octet\0blksize\0" + b"9" * 5000 + b"\0",
        b"\0\1" + b"a" * 300 + b"\0octet\0",
        b"\0\1\xff\0octet\0",
    ],
    "dns_stub.py": [DNS],
    "osc_server.py": [OSC, b"#bundle\0" + bytes(8) + struct.pack(">i", len(OSC)) + OSC]
    + [b"#bundle\0" + bytes(8) + b"\0\0\x10\0"] * 2,
    "statsd_server.py": [
        b"hits:3|c\nlevel:-2|g\nload:40|ms\nusers:ada|s",
        *(b"x:1e999|c", b"x:nan|ms", b"y:no|ms", b"x:1|c|@0", b"x:" + b"9" * 5000 + b"|c"),
    ],
    "syslog_server.py": [
        b"<11>1 2026-01-01T00:00:00Z h p 1 - - text",
        b"<11>Jan  1 00:00:00 h prog[1]: text",
        b"<11>Jan  1 00:00:00 h " + b"a" * 60_000,  # slow to match, if the pattern lets it
        b"<11>1 2026-01-01T00:00:00Z h p 1 - " + b"[]" * 20_000,
    ],
}

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


def mutants(seeds: list[bytes], chance: random.Random) -> list[bytes]:
    made: list[bytes] = []
    for _ in range(MUTANTS):
        mutant = bytearray(chance.choice(seeds)[:400])
        for _ in range(chance.randrange(1, 6)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        made.append(bytes(mutant[: chance.randrange(len(mutant) + 1)]))
    return made


QUESTIONS = {
    "tftp_server.py": (b"\0\1file\0octet\0", b"\0\3\0\1content"),
    "dns_stub.py": (DNS, b"\x12\x34\x85"),
    "osc_server.py": (OSC, b"/pong"),
}
LINES = {
    "syslog_server.py": (b"<11>Jan  1 00:00:00 h prog: the end", "the end"),
    "statsd_server.py": (b"end:7|g", "end is 7"),
}


async def answers(question: bytes, answer: bytes, port: int) -> None:
    """Ask until it is answered: what came before may have filled a buffer."""
    async with open_endpoint(HOST) as asking, asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            await asking.send(question, (HOST, port))
            with contextlib.suppress(TimeoutError):
                if (await asking.receive(timeout=0.5)).data.startswith(answer):
                    return


@pytest.mark.parametrize("name", SEEDS)
async def test_no_datagram_ends_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    arguments = [str(tmp_path)] if name == "tftp_server.py" else []
    async with example(name, *arguments) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for seed in SEEDS[name]:
                client.sendto(seed, (HOST, server.port))
                send_from_port_0(seed[:1400], server.port)
            for mutant in mutants(SEEDS[name], random.Random(1)):
                client.sendto(mutant, (HOST, server.port))
            if name in QUESTIONS:
                await answers(*QUESTIONS[name], server.port)
                return
            data, wanted = LINES[name]
            line = ""
            while wanted not in line:
                client.sendto(data, (HOST, server.port))
                line = await server.line()
