from __future__ import annotations

import asyncio
import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aerogram.lab import Entry, Link, Network, simulate
from aerogram.lab.pcapng import ip_packet
from tests.lab.recorder import open_at

PERFECT = Link()


async def talk(network: Network) -> None:
    """Send a little of everything that a trace can hold."""
    a, b = network.host("a"), network.host("b")
    network.link(a, b, Link(delay=0.1, duplicate=1.0))
    await open_at(b, (b.ipv4, 1))
    await open_at(b, (b.ipv6, 1))
    sender, _ = await open_at(a, (a.ipv4, 7))
    sender6, _ = await open_at(a, (a.ipv6, 7))
    sender.sendto(b"twice", (b.ipv4, 1))
    sender6.sendto(b"six", (b.ipv6, 1))
    sender.sendto(b"nobody", (b.ipv4, 2))
    await asyncio.sleep(1.0)
    network.partition(a, b, both_ways=False)
    sender.sendto(b"cut", (b.ipv4, 1))
    await asyncio.sleep(1.0)


def traced(**options: Any) -> Network:
    network = Network(seed=1, **options)
    simulate(talk(network))
    return network


def test_every_fate_is_recorded_with_its_reason() -> None:
    trace = traced().trace
    datagrams = [entry for entry in trace.entries if entry.fate != "note"]
    assert datagrams[0] == Entry(
        0.1, 0.0, "a", ("10.0.0.1", 7), "b", ("10.0.0.2", 1), 5, "delivered", "", None
    )
    assert [(entry.size, entry.fate, entry.reason) for entry in datagrams] == [
        (5, "delivered", ""),
        (5, "delivered", "duplicate"),
        (3, "delivered", ""),
        (3, "delivered", "duplicate"),
        (6, "dropped", "port closed"),
        (6, "dropped", "port closed"),
        (3, "dropped", "partition"),
    ]
    assert (trace.sent, trace.duplicated, trace.delivered) == (4, 3, 4)
    assert trace.dropped == {"port closed": 2, "partition": 1}
    assert trace.remarks == {"duplicate": 2}


def test_the_hash_tells_any_difference() -> None:
    async def main(
        *,
        at: float = 1.0,
        port: int = 1,
        data: bytes = b"data",
        link: Link = PERFECT,
        note: str = "",
    ) -> str:
        network = Network(seed=1, link=link)
        a, b = network.host("a"), network.host("b")
        sender, _ = await open_at(a)
        await asyncio.sleep(at)
        sender.sendto(data, (b.ipv4, port))
        network.note(note)
        await asyncio.sleep(1.0)
        return network.trace.hash

    hashes = [
        simulate(main()),
        simulate(main(at=1.001)),
        simulate(main(port=2)),
        simulate(main(data=b"Data")),
        simulate(main(link=Link(loss=1.0))),
        simulate(main(link=Link(lose_every=1))),
        simulate(main(link=Link(delay=0.001))),
        simulate(main(note="different")),
    ]
    assert len(set(hashes)) == len(hashes)
    assert simulate(main()) == hashes[0]


def test_memory_is_bounded_and_the_hash_covers_all() -> None:
    everything, little = traced().trace, traced(trace_entries=2).trace
    assert len(little.entries) == 2
    assert little.entries == everything.entries[-2:]
    assert little.hash == everything.hash
    assert little.sent == everything.sent


def test_as_text_it_is_a_timeline() -> None:
    lines = traced().trace.as_text().splitlines()
    assert "      0.100000  a 10.0.0.1:7 > b 10.0.0.2:1  5 B  delivered in 100.000 ms" in lines
    assert (
        "      0.100000  a [fd00::1]:7 > b [fd00::2]:1  3 B  delivered in 100.000 ms, duplicate"
        in lines
    )
    assert "      1.000000  -- partition a > b" in lines
    assert "      1.000000  a 10.0.0.1:7 > b 10.0.0.2:1  3 B  dropped: partition" in lines
    assert lines[-4:-1] == [
        "sent 4, duplicated 3, delivered 4",
        "dropped: 1 partition, 2 port closed",
        "delivered, but: 2 duplicate",
    ]


def test_as_json_it_is_for_programs() -> None:
    trace = traced(keep_packets=True).trace
    loaded = json.loads(trace.as_json())
    assert loaded["hash"] == trace.hash
    assert loaded["dropped"] == {"partition": 1, "port closed": 2}
    assert len(loaded["entries"]) == len(trace.entries)
    assert loaded["entries"][-1] == {
        "at": 1.0,
        "sent_at": 1.0,
        "sender": "a",
        "source": "10.0.0.1:7",
        "receiver": "b",
        "destination": "10.0.0.2:1",
        "size": 3,
        "fate": "dropped",
        "reason": "partition",
        "data": b"cut".hex(),
    }


class Captured(NamedTuple):
    microseconds: int
    content: bytes
    comment: str
    direction: int


def read_pcapng(path: Path) -> list[Captured]:
    """Read a capture with one section and one interface, and check its structure."""
    content = path.read_bytes()
    blocks = []
    while content:
        kind, length = struct.unpack_from("<II", content)
        assert length % 4 == 0
        assert struct.unpack_from("<I", content, length - 4) == (length,)
        blocks.append((kind, content[8 : length - 4]))
        content = content[length:]
    (section, head), (interface, description), *packets = blocks
    assert section == 0x0A0D0D0A
    assert struct.unpack_from("<IHH", head) == (0x1A2B3C4D, 1, 0)
    assert interface == 1
    assert struct.unpack_from("<HHI", description) == (101, 0, 0)
    assert options(description[8:])[9] == b"\x09"
    assert {kind for kind, _ in packets} <= {6}
    return [read_packet(body) for _, body in packets]


def read_packet(body: bytes) -> Captured:
    interface, high, low, captured, original = struct.unpack_from("<IIIII", body)
    assert interface == 0
    assert captured == original
    found = options(body[20 + captured + -captured % 4 :])
    (flags,) = struct.unpack("<I", found[2])
    nanoseconds = high << 32 | low
    return Captured(nanoseconds // 1000, body[20 : 20 + captured], found[1].decode(), flags & 3)


def options(data: bytes) -> dict[int, bytes]:
    found = {}
    while True:
        code, length = struct.unpack_from("<HH", data)
        if code == 0:
            assert data[4:] == b""
            return found
        found[code] = data[4 : 4 + length]
        data = data[4 + length + -length % 4 :]


def ones_complement_sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_a_capture_has_every_packet_with_headers_and_fate(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    assert traced(keep_packets=True).trace.as_pcapng(path) == 7
    packets = read_pcapng(path)
    start = 1_767_225_600_000_000
    assert [packet.microseconds - start for packet in packets] == [100_000] * 6 + [1_000_000]
    assert [packet.direction for packet in packets] == [1, 1, 1, 1, 2, 2, 2]
    assert packets[0].comment == "a > b: delivered in 100.000 ms"
    assert packets[-1].comment == "a > b: dropped: partition"
    assert packets[0].content[28:] == b"twice"
    assert packets[2].content[48:] == b"six"


def test_a_capture_of_one_host_has_its_view(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    trace = traced(keep_packets=True).trace
    assert trace.as_pcapng(path, host="nobody") == 0
    assert read_pcapng(path) == []
    trace.as_pcapng(path, host="a")
    assert [packet.direction for packet in read_pcapng(path)] == [2] * 7
    trace.as_pcapng(path, host="b")
    assert [packet.direction for packet in read_pcapng(path)] == [1] * 7


def test_a_capture_needs_the_packets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_packets"):
        traced().trace.as_pcapng(tmp_path / "trace.pcapng")


@pytest.mark.parametrize("hosts", [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 1200, 65507])
def test_checksums_are_right(hosts: tuple[str, str], size: int) -> None:
    for fill in range(0, 256, 51):
        data = bytes([fill]) * size
        packet = ip_packet((hosts[0], 7), (hosts[1], 1), data, identification=size)
        is_ipv4 = packet[0] >> 4 == 4
        header, udp = (packet[:20], packet[20:]) if is_ipv4 else (packet[:40], packet[40:])
        if is_ipv4:
            assert ones_complement_sum(header) == 0xFFFF
            assert struct.unpack_from("!H", packet, 2) == (len(packet),)
        addresses = header[12:] if is_ipv4 else header[8:]
        pseudo = addresses + struct.pack("!II", len(udp), 17)
        assert struct.unpack_from("!H", udp, 6) != (0,)
        assert ones_complement_sum(pseudo + udp) == 0xFFFF


def test_a_checksum_that_comes_out_as_zero_is_sent_as_its_complement() -> None:
    for low in range(0x10000):
        packet = ip_packet(("10.0.0.1", 7), ("10.0.0.2", 1), struct.pack("!H", low))
        if packet[26:28] == b"\xff\xff":
            return
    raise AssertionError("none of all words gives a checksum of zero")


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_reads_a_capture(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    traced(keep_packets=True).trace.as_pcapng(path)
    fields = ["ip.src", "ipv6.src", "udp.srcport", "udp.dstport", "udp.length", "frame.comment"]
    checks = ["ip.checksum.status", "udp.checksum.status", "frame.packet_flags_direction"]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    for preference in ("ip.check_checksum:TRUE", "udp.check_checksum:TRUE"):
        command += ["-o", preference]
    for field in fields + checks:
        command += ["-e", field]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    rows = [line.split("|") for line in output.splitlines()]
    good = "1"
    assert rows[0][:6] == ["10.0.0.1", "", "7", "1", "13", "a > b: delivered in 100.000 ms"]
    assert rows[0][6:8] == [good, good]
    assert rows[2][:5] == ["", "fd00::1", "7", "1", "11"]
    assert rows[2][7] == good
    assert rows[-1][5] == "a > b: dropped: partition"
    assert [int(row[8], 0) for row in rows] == [1, 1, 1, 1, 2, 2, 2]
