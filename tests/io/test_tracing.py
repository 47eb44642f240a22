"""Every datagram of real sockets is told to who watches, with what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aerogram import App, Config, Datagram, DatagramEndpoint, Session, connect, serve
from aerogram.io.opening import open_endpoint
from aerogram.io.protocol import PacketProtocol
from aerogram.io.sockets import Address
from aerogram.io.traced import TracedBatchTransport
from aerogram.io.tracing import Tracer
from aerogram.lab import Network, Trace
from aerogram.server import serve_datagrams
from tests.io.endpoints import (
    EVERY_TRANSPORT,
    HOST,
    LINUX,
    PATIENCE,
    Kind,
    RefusingSocket,
    opened,
    take,
    until,
)
from tests.io.fakes import Recorder

TSHARK = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def told(trace: Trace, fate: str) -> list[bytes]:
    """The datagrams with this fate, in the order in which they were told."""
    return [entry.data or b"" for entry in trace.entries if entry.fate == fate]


@EVERY_TRANSPORT
async def test_what_is_sent_and_received_is_told_with_both_addresses(kind: Kind) -> None:
    trace = Trace(keep_packets=True)
    async with opened(kind=kind, trace=trace) as endpoint, opened() as peer:
        await endpoint.send(b"ping", peer.local_address)
        await (await peer.receive(timeout=PATIENCE)).reply(b"pong")
        await endpoint.receive(timeout=PATIENCE)
        here, there = endpoint.local_address, peer.local_address
    ping, pong = trace.entries
    assert (ping.fate, ping.source, ping.destination, ping.data) == ("sent", here, there, b"ping")
    assert (pong.fate, pong.source, pong.destination, pong.data) == (
        "received", there, here, b"pong",
    )  # fmt: skip
    assert 0 == ping.at <= pong.at < PATIENCE
    assert (ping.sender, ping.receiver, pong.sender) == ("here", "there", "there")


@EVERY_TRANSPORT
async def test_each_way_to_send_is_told_datagram_by_datagram(kind: Kind) -> None:
    trace = Trace(keep_packets=True)
    async with opened(kind=kind, trace=trace) as endpoint, opened() as peer:
        run = [b"%03d" % number for number in range(100)] + [b"x"]
        await endpoint.send_run(run, peer.local_address)
        fan_out = await endpoint.send_many(b"many", [peer.local_address] * 3 + [(HOST, 0)])
        assert endpoint.send_nowait(b"at once", peer.local_address)
        assert fan_out.sent == 3
        assert told(trace, "sent") == [*run, b"many", b"many", b"many", b"at once"]
        assert trace.sent == endpoint.stats.sent == 105
        assert await take(peer, 105) == told(trace, "sent")


@EVERY_TRANSPORT
async def test_a_run_that_comes_is_told_datagram_by_datagram(kind: Kind) -> None:
    trace = Trace(keep_packets=True)
    async with opened(kind=kind, trace=trace) as endpoint, opened() as peer:
        run = [b"%03d" % number for number in range(100)]
        await peer.send_run(run, endpoint.local_address)
        assert await take(endpoint, 100) == run == told(trace, "received")
        assert trace.received == endpoint.stats.received


async def test_a_run_that_is_kept_whole_is_told_as_its_records() -> None:
    trace = Trace(keep_packets=True)
    async with opened(keep_runs=True, trace=trace) as endpoint, opened() as peer:
        await peer.send_run([b"%03d" % number for number in range(20)], endpoint.local_address)
        await until(lambda: trace.received == 20)


@EVERY_TRANSPORT
async def test_what_the_queue_drops_is_told_with_the_reason(kind: Kind) -> None:
    trace = Trace(keep_packets=True)
    async with opened(kind=kind, trace=trace, receive_queue_datagrams=2) as endpoint:
        async with opened() as peer:
            for number in range(5):
                await peer.send(b"%d" % number, endpoint.local_address)
            await until(lambda: endpoint.stats.received == 5)
        assert await endpoint.receive() is not None
    assert told(trace, "received") == [b"0", b"1", b"2", b"3", b"4"]
    assert trace.dropped == {"the queue is full": 3, "closed": 1}
    stats = endpoint.stats
    assert (stats.dropped_oldest, stats.dropped_at_close) == (3, 1)


@EVERY_TRANSPORT
async def test_what_the_system_refuses_is_told_with_its_words(kind: Kind) -> None:
    trace = Trace(keep_packets=True)
    async with opened(kind=kind, trace=trace) as endpoint:
        with pytest.raises(ValueError, match="too long"):
            await endpoint.send(bytes(65508), endpoint.local_address)
        await endpoint.send(b"fine", endpoint.local_address)
    assert trace.dropped["Message too long"] == 1
    assert told(trace, "sent") == [b"fine"]


@LINUX
async def test_what_a_firewall_takes_and_what_has_no_room_is_told() -> None:
    trace = Trace()
    sock = RefusingSocket([errno.EPERM, errno.EAGAIN, errno.EAGAIN])
    async with open_endpoint(socket=sock, trace=trace) as endpoint:
        await endpoint.send(b"firewall", endpoint.local_address)
        assert not endpoint.send_nowait(b"no room", endpoint.local_address)
        await endpoint.send(b"waits", endpoint.local_address)
        assert endpoint.stats.send_lost == endpoint.stats.send_full == 1
        assert await take(endpoint, 1) == [b"waits"]
    assert trace.dropped == {"Operation not permitted": 1, "no room": 1}
    assert trace.sent == 1


@LINUX
async def test_icmp_errors_and_what_was_cut_off_are_remarks(tmp_path: Path) -> None:
    trace = Trace()
    async with opened(trace=trace) as endpoint:
        async with opened() as gone:
            address = gone.local_address
        await endpoint.send(b"x", address)
        await until(lambda: endpoint.stats.icmp_reports)
    assert f"port unreachable, says {HOST}: {HOST} port {address[1]}" in trace.as_text()
    path = str(tmp_path / "socket")
    async with open_endpoint(path=path, trace=trace) as local:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
            sender.sendto(bytes(100_000), path)
            sender.sendto(b"whole", path)
        assert await take(local, 1) == [b"whole"]
    assert "1 datagrams were truncated and dropped" in trace.as_text()


@LINUX
async def test_what_the_kernel_drops_is_a_remark() -> None:
    trace = Trace()
    async with (
        open_endpoint(
            HOST, config=Config(socket_buffer_bytes=4096), overflow="block", trace=trace
        ) as endpoint,
        opened() as peer,
    ):
        await peer.send_many(bytes(1000), [endpoint.local_address] * 200)
    assert "datagrams were dropped by the kernel" in trace.as_text()


class Broken:
    """Watches once, and then fails."""

    def __init__(self) -> None:
        self.calls = 0

    def observe(self, at: float, *addresses: Any, **more: Any) -> None:
        self.calls += 1
        raise RuntimeError("on purpose")

    def remark(self, at: float, text: str) -> None:
        raise RuntimeError("on purpose")


@EVERY_TRANSPORT
async def test_a_trace_that_fails_harms_no_datagram(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    async with opened(kind=kind, trace=broken) as endpoint:
        for _ in range(3):
            await endpoint.send(b"x", endpoint.local_address)
        assert await take(endpoint, 3) == [b"x"] * 3
    assert broken.calls == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_what_is_no_trace_is_refused() -> None:
    app = App()
    address = "aerogram://127.0.0.1:9/#k=" + "a" * 52
    for opening in (
        lambda **how: open_endpoint(HOST, **how),
        lambda **how: serve(app, HOST, 0, **how),
        lambda **how: connect(address, **how),
    ):
        with pytest.raises(TypeError, match="observe"):
            opening(trace=5)
        with pytest.raises(ValueError, match="network"):
            opening(trace=Trace(), network=Network())


# Sessions


def echo_app() -> App[Any, Any]:
    app: App[Any, Any] = App()

    @app.on(bytes)
    async def echo(session: Session[Any], data: bytes) -> None:
        await session.send(data)

    @app.datagram(HOST, 0)
    async def shout(endpoint: DatagramEndpoint, datagram: Datagram) -> None:
        await datagram.reply(datagram.data.upper())

    return app


@EVERY_TRANSPORT
async def test_both_ends_of_a_session_tell_the_same_datagrams(kind: Kind) -> None:
    config = Config(transport=kind)
    served, connected = Trace(keep_packets=True), Trace(keep_packets=True)
    async with serve(echo_app(), config=config, trace=served) as server:
        async with connect(server.address, config=config, trace=connected) as session:
            for size in (10, 40_000):
                await session.send(bytes(size))
                assert await session.receive(bytes, timeout=PATIENCE) == bytes(size)
        stats = server.stats.transport
    assert served.sent == stats.datagrams_sent
    assert served.received == stats.datagrams_received
    assert told(connected, "received") == told(served, "sent")[: connected.received]
    assert told(served, "received") == told(connected, "sent")
    assert {entry.destination[1] for entry in served.entries if entry.fate == "received"} == {
        server.port
    }


@EVERY_TRANSPORT
async def test_what_a_server_does_not_take_is_told_with_the_reason(kind: Kind) -> None:
    trace = Trace(keep_packets=True)
    async with (
        serve(echo_app(), config=Config(transport=kind), trace=trace) as server,
        opened() as stranger,
    ):
        target: Address = (HOST, server.port)
        for junk in (b"\x00", b"\x03" + bytes(50), b"\xff" * 1300):
            await stranger.send(junk, target)
        await until(lambda: sum(trace.dropped.values()) == 3)
    assert trace.received == 0
    assert set(trace.dropped) <= {"malformed", "unknown connection", "unexpected"}
    assert len(told(trace, "dropped")) == 3


async def test_packets_that_wait_are_told_when_they_go_or_are_lost() -> None:
    trace = Trace(keep_packets=True)
    protocol = PacketProtocol(Recorder(), Config(transport_buffer_bytes=10))
    protocol.watch(Tracer(trace))
    loop = asyncio.get_running_loop()
    sock = RefusingSocket([errno.EAGAIN])
    sock.setblocking(False)
    transport = TracedBatchTransport(loop, sock, protocol, Config(transport_buffer_bytes=10))
    transport.start()
    here = sock.getsockname()
    protocol.send_run([b"12345", b"67890", b"too much"], here)
    assert trace.dropped == {"no room": 1}
    await until(lambda: trace.sent == 2)
    assert told(trace, "sent") == [b"12345", b"67890"]
    transport.close()
    protocol.send_run([b"late"], here)
    assert trace.dropped["closed"] == 1


async def test_handlers_of_datagrams_are_watched_with_their_server() -> None:
    trace = Trace()
    async with serve_datagrams(echo_app(), trace=trace) as [endpoint], opened() as client:
        await client.send(b"x", endpoint.local_address)
        assert await take(client, 1) == [b"X"]
    assert (trace.sent, trace.received) == (1, 1)


# What comes out


async def traced_exchange(trace: Trace, host: str = HOST) -> None:
    async with opened(host, trace=trace) as endpoint, opened(host) as peer:
        await endpoint.send(b"question", peer.local_address)
        await (await peer.receive(timeout=PATIENCE)).reply(b"answer")
        await endpoint.receive(timeout=PATIENCE)
        with contextlib.suppress(ValueError):
            await endpoint.send(bytes(65508), peer.local_address)


async def test_as_text_and_as_json() -> None:
    trace = Trace(keep_packets=True)
    await traced_exchange(trace)
    lines = trace.as_text().splitlines()
    assert lines[0].startswith("      0.000000  here 127.0.0.1:")
    assert [line.split("B  ")[1] for line in lines[:3]] == [
        "sent", "received", "dropped: Message too long",
    ]  # fmt: skip
    assert lines[3:5] == ["sent 1, received 1", "dropped: 1 Message too long"]
    found = json.loads(trace.as_json())
    assert (found["sent"], found["received"]) == (1, 1)
    assert [entry["data"] for entry in found["entries"]][:2] == [b"question".hex(), b"answer".hex()]


@TSHARK
@pytest.mark.parametrize("host", [HOST, "::1"])
async def test_tshark_reads_a_capture_of_real_sockets(tmp_path: Path, host: str) -> None:
    trace = Trace(keep_packets=True)
    await traced_exchange(trace, host)
    path = tmp_path / "real.pcapng"
    assert trace.as_pcapng(path) == 2  # no IP packet holds the third
    fields = ["udp.length", "udp.checksum.status", "frame.packet_flags_direction", "frame.comment"]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-o", "udp.check_checksum:TRUE"]
    for field in [*fields, "frame.time_epoch"]:
        command += ["-e", field]
    run = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=True, timeout=60
    )
    first, second = (line.split("\t") for line in run.stdout.splitlines())
    good, inbound, outbound = "1", 1, 2
    assert first[:2] == ["16", good]
    assert second[:2] == ["14", good]
    assert [int(row[2], 0) for row in (first, second)] == [outbound, inbound]
    assert (first[3], second[3]) == ("here > there: sent", "there > here: received")
    assert 0 <= float(second[4]) - float(first[4]) < PATIENCE
    stat = path.stat()
    assert abs(float(first[4]) - stat.st_mtime) < 60
