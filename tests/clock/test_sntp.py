"""SNTP: our client and server with each other, with forgers, and with chronyd."""

from __future__ import annotations

import asyncio
import math
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerogram.clock import packet, sntp
from aerogram.clock.packet import Mode, NtpPacket, decode_untrusted, from_timestamp, to_timestamp
from aerogram.errors import DecodeError
from aerogram.io.opening import open_endpoint
from tests.forging import CAN_FORGE, send_from_port_0

OFFSET = 1234.5
LOOPBACK = "127.0.0.1"


def shifted() -> float:
    return time.time() + OFFSET


async def test_the_offset_of_a_server_is_found_within_its_bound() -> None:
    async with sntp.serve_time(LOOPBACK, 0, clock=shifted, limit=None) as server:
        found = await sntp.query(*server.address[:2])
    assert abs(found.offset - OFFSET) <= found.error_bound < 0.5
    assert found.exchanges == 4
    assert (found.stratum, found.reference_id) == (8, b"LOCL")
    assert server.stats.answered == 4


async def test_a_clock_that_is_set_back_meanwhile_spoils_nothing() -> None:
    reads = 0

    def set_back() -> float:
        nonlocal reads
        reads += 1
        return time.time() - (3600.0 if reads > 3 else 0.0)

    async with sntp.serve_time(LOOPBACK, 0, limit=None) as server:
        found = await sntp.query(*server.address[:2], samples=8, clock=set_back)
    assert abs(found.offset - 3600.0) <= found.error_bound < 0.5
    assert 0.0 <= found.delay < 5.0


async def test_an_answer_is_no_larger_than_its_question() -> None:
    async with (
        sntp.serve_time(LOOPBACK, 0) as server,
        open_endpoint(LOOPBACK) as client,
    ):
        for size in (0, 1, 47):
            await client.send(bytes((0x23,)) + bytes(size - 1 if size else 0), server.address)
        await client.send(NtpPacket(transmit=7).encode(), server.address)
        answer = await client.receive(timeout=5)
        assert len(answer.data) == packet.PACKET_BYTES
        assert decode_untrusted(answer.data).origin == 7
        assert server.stats.malformed >= 2


@pytest.mark.skipif(not CAN_FORGE, reason="only root can forge datagrams")
async def test_a_question_from_nowhere_ends_no_server() -> None:
    async with sntp.serve_time(LOOPBACK, 0, limit=None) as server:
        send_from_port_0(NtpPacket(transmit=7).encode(), server.address[1])
        await sntp.query(*server.address[:2], samples=1)
        assert server.stats.answered == 2


async def test_who_asks_too_often_is_told_once_and_then_not_at_all() -> None:
    limit = sntp.RateLimit(burst=2, interval_seconds=1000.0)
    async with sntp.serve_time(LOOPBACK, 0, limit=limit) as server:
        with pytest.raises(sntp.KissOfDeath) as refused:
            await sntp.query(*server.address[:2], samples=3)
        assert refused.value.code == "RATE"
        with pytest.raises(TimeoutError):
            await sntp.query(*server.address[:2], timeout=0.05, tries=2)
        assert (server.stats.answered, server.stats.limited, server.stats.silenced) == (2, 1, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_the_askers_that_a_server_remembers_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sntp, "ADDRESSES_LIMIT", 4)
    limit = sntp.RateLimit(burst=1, interval_seconds=1000.0)
    async with sntp.serve_time("0.0.0.0", 0, limit=limit) as server:
        for number in (1, 2, 3, 4, 1, 5, 6, 7, 8, 1):
            async with open_endpoint(f"127.0.0.{number}") as client:
                await client.send(NtpPacket(transmit=7).encode(), (LOOPBACK, server.address[1]))
                await client.receive(timeout=5)
        assert (server.stats.answered, server.stats.limited) == (9, 1)
        assert len(server._askers) == 4


async def test_times_that_cannot_be_are_refused() -> None:
    for interval in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="interval"):
            sntp.RateLimit(interval_seconds=interval)
    for timeout in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="timeout"):
            await sntp.query(LOOPBACK, 9, timeout=timeout)


async def test_answers_to_other_questions_are_ignored() -> None:
    async with open_endpoint(LOOPBACK) as forger:

        async def answer_wrongly() -> None:
            question = await forger.receive(timeout=5)
            asked = decode_untrusted(question.data)
            right = NtpPacket(
                mode=Mode.SERVER, stratum=1, origin=asked.transmit,
                receive=to_timestamp(5e8), transmit=to_timestamp(5e8),
            )  # fmt: skip
            for wrong in (
                b"",
                right.encode()[:40],
                NtpPacket(mode=Mode.SERVER, stratum=1, origin=1, transmit=1).encode(),
                NtpPacket(mode=Mode.CLIENT, stratum=1, origin=asked.transmit).encode(),
            ):
                await question.reply(wrong)
            async with open_endpoint(LOOPBACK) as stranger:
                await stranger.send(right.encode(), question.address)

        answering = asyncio.create_task(answer_wrongly())
        with pytest.raises(TimeoutError):
            await sntp.query(*forger.local_address[:2], timeout=0.2, tries=1)
        await answering


@pytest.mark.parametrize(
    "answer",
    [
        {"leap": packet.UNSYNCHRONISED, "stratum": 2},
        {"stratum": 16},
        {"stratum": 2, "transmit": 0},
    ],
)
async def test_a_server_that_does_not_know_the_time_is_an_error(answer: dict[str, int]) -> None:
    async with open_endpoint(LOOPBACK) as server:

        async def respond() -> None:
            question = await server.receive(timeout=5)
            asked = decode_untrusted(question.data)
            fields = {"receive": 1 << 60, "transmit": 1 << 60, **answer}
            reply = NtpPacket(mode=Mode.SERVER, origin=asked.transmit, **fields)
            await question.reply(reply.encode())

        responding = asyncio.create_task(respond())
        with pytest.raises(sntp.SntpError):
            await sntp.query(*server.local_address[:2], timeout=5)
        await responding


@given(st.floats(-2e9, 6e9))
def test_timestamps_survive_the_wire_in_every_era(seconds: float) -> None:
    assert from_timestamp(to_timestamp(seconds), seconds + 1e6) == pytest.approx(seconds, abs=1e-6)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_packet_or_an_error(data: bytes) -> None:
    try:
        found = decode_untrusted(data)
    except DecodeError:
        return
    assert decode_untrusted(found.encode()) == found


def test_the_layout_is_that_of_the_rfc() -> None:
    encoded = NtpPacket(
        leap=1, version=4, mode=3, stratum=2, poll=6, precision=-20, root_delay=1.5,
        root_dispersion=0.25, reference_id=b"LOCL", reference=1, origin=2, receive=3, transmit=4,
    ).encode()  # fmt: skip
    assert encoded == (
        bytes((0b01_100_011, 2, 6, 256 - 20))
        + struct.pack("!II", 0x18000, 0x4000)
        + b"LOCL"
        + struct.pack("!QQQQ", 1, 2, 3, 4)
    )


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@needs("chronyd")
@pytest.mark.long
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_chronyd_takes_the_time_from_our_server(tmp_path: Path) -> None:
    async with sntp.serve_time(LOOPBACK, 0, clock=shifted, limit=None) as server:
        chronyd = await asyncio.create_subprocess_exec(
            "chronyd", "-Q", "-t", "15", "-U",
            f"server 127.0.0.1 port {server.address[1]} iburst maxdelay 1", "cmdport 0",
            f"pidfile {tmp_path}/chronyd.pid",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(chronyd.communicate(), 30)
    found = re.search(r"System clock wrong by (-?[0-9.]+) seconds", output.decode())
    assert found, output.decode()
    assert float(found.group(1)) == pytest.approx(OFFSET, abs=0.05)


@needs("chronyd")
@pytest.mark.long
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_our_client_takes_the_time_from_chronyd(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    chronyd = await asyncio.create_subprocess_exec(
        "chronyd", "-x", "-d", "-U", f"port {port}", "bindaddress 127.0.0.1", "local stratum 5",
        "allow 127.0.0.1", "cmdport 0", f"pidfile {tmp_path}/chronyd.pid",
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        found = await sntp.query(LOOPBACK, port, timeout=1.0, tries=6)
        assert found.stratum == 5
        assert abs(found.offset) <= found.error_bound + 0.01
    finally:
        chronyd.terminate()
        await asyncio.wait_for(chronyd.wait(), 10)
