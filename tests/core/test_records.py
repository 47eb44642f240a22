"""Large records: whole or not at all, repaired piece by piece, and within their limits."""

from __future__ import annotations

import random

import pytest

from aerogram import delivery
from aerogram.config import RECORD_HEAD_BYTES, Config
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec
from aerogram.core.incoming import IncomingRecord
from aerogram.core.outgoing import Outcome
from aerogram.core.wire import Mode
from aerogram.errors import MessageTooLarge
from aerogram.lab.link import Burst, Link
from aerogram.lab.pair import Pair

NAMES = ["unreliable", "sequenced", "reliable", "ordered", "reliable_sequenced"]
MEBIBYTE = 1024 * 1024
BAD = Link(
    delay=0.01,
    jitter=0.01,
    loss=0.03,
    burst=Burst(enter=0.005, leave=0.2),
    duplicate=0.05,
    corrupt=0.02,
)


def opened(
    *, link: Link | None = None, seed: int = 0, config: Config | None = None, mode: Mode = Mode.PSK
) -> Pair:
    specs = [ChannelSpec(name, getattr(delivery, name)()) for name in NAMES]
    pair = Pair(specs, link=link or Link(delay=0.01), seed=seed, config=config, mode=mode)
    pair.open()
    return pair


def budget_left(pair: Pair) -> int:
    return pair.server.endpoint._shared.budget.left_bytes


@pytest.mark.parametrize("name", ["reliable", "ordered"])
@pytest.mark.parametrize("seed", range(3))
def test_records_arrive_byte_for_byte_over_a_bad_network(name: str, seed: int) -> None:
    generator = random.Random(f"{name} {seed}")
    pair = opened(link=BAD, seed=seed)
    sent = [
        generator.randbytes(generator.choice((0, 1, 1100, 1200, 20_000, 150_000)))
        for _ in range(12)
    ]
    pair.at(pair.now + 0.3, pair.rebind)
    pair.at(pair.now + 0.6, lambda: pair.cut(0.5))
    for record in sent:
        pair.client.send(name, record)
    assert pair.settle(120.0)
    received = pair.server.payloads(name)
    if name == "reliable":
        received, sent = sorted(received), sorted(sent)
    assert received == sent
    assert budget_left(pair) == Config().reassembly_bytes_per_endpoint


def test_only_what_was_lost_is_sent_again() -> None:
    pair = opened(link=Link(delay=0.01, loss=0.02), seed=1)
    pair.client.send("reliable", bytes(4 * MEBIBYTE))
    assert pair.settle()
    assert pair.client.connection.stats.bytes_sent < 1.1 * 4 * MEBIBYTE


@pytest.mark.parametrize("name", ["unreliable", "sequenced"])
def test_an_unreliable_record_is_shown_whole_or_not_at_all(name: str) -> None:
    generator = random.Random(1)
    pair = opened(link=Link(delay=0.01, loss=0.01), seed=1)
    sent = [generator.randbytes(60_000) for _ in range(60)]
    messages = [pair.client.send(name, record) for record in sent]
    assert pair.settle()
    received = pair.server.payloads(name)
    assert 10 < len(received) < 55
    assert set(received) <= set(sent)
    shown = {sent.index(record) for record in received}
    delivered = {n for n, message in enumerate(messages) if message.outcome is Outcome.DELIVERED}
    assert delivered <= shown
    pair.run(seconds=Config().reassembly_timeout_seconds + 1)
    assert budget_left(pair) == Config().reassembly_bytes_per_endpoint
    assert pair.server.connection.stats.messages_dropped_partial > 5


def test_work_and_memory_grow_with_the_size_and_no_faster() -> None:
    """Counted in packets and copies, so that no clock is needed."""
    packets = []
    for size in (4 * MEBIBYTE, 16 * MEBIBYTE):
        pair = opened(mode=Mode.INSECURE)
        pair.server.keeps_messages = False
        pair.client.send("reliable", bytes(size))
        assert pair.settle()
        packets.append(pair.traffic[0].sent)
        assert pair.server.connection.stats.messages_received == 1
        channel = pair.client.channel("reliable")
        assert not channel.lost_pieces
    assert packets[1] < 4.1 * packets[0]


@pytest.mark.long
def test_a_record_of_64_mebibytes_arrives() -> None:
    limit = 64 * MEBIBYTE
    config = Config(max_record_bytes=limit)
    pair = opened(config=config, link=Link(delay=0.005, loss=0.01))
    record = random.Random(1).randbytes(limit)
    pair.client.send("ordered", record)
    assert pair.settle(120.0)
    assert pair.server.payloads("ordered") == [record]


def test_the_receivers_limit_is_known_to_the_sender() -> None:
    small = Config(max_record_bytes=10_000)
    pair = Pair([ChannelSpec("a", delivery.ordered())], server_config=small)
    pair.open()
    with pytest.raises(MessageTooLarge, match="10000"):
        pair.client.send("a", bytes(10_002))
    pair.client.send("a", bytes(10_001))  # a byte of it tells what it is
    assert pair.settle()
    assert len(pair.server.payloads("a")) == 1
    most = 1 << 30
    limits = Config(
        max_record_bytes=most,
        reassembly_bytes_per_session=most,
        reassembly_bytes_per_endpoint=most,
    )
    assert limits.max_record_bytes == most
    with pytest.raises(ValueError, match="max_record_bytes is 1 to 1073741824"):
        Config(max_record_bytes=(1 << 30) + 1)


# -- progress


def test_a_sender_can_see_how_far_a_record_has_come() -> None:
    pair = opened(link=Link(delay=0.01, loss=0.05), seed=3)
    message = pair.client.send("reliable", bytes(500_000))
    counts: list[int] = []
    message.make_history().progress = counts.append
    assert pair.settle()
    assert counts == sorted(set(counts))
    assert len(counts) > 300
    assert counts[-1] == 500_000


def test_a_receiver_can_see_what_is_on_its_way() -> None:
    config = Config(congestion_window_bytes=20_000)
    pair = opened(config=config)
    seen: list[IncomingRecord] = []
    pair.server.connection.receiver.watcher = seen.append
    pair.client.send("reliable", bytes(200_000))
    pair.run(seconds=0.1)
    [half] = pair.server.connection.receiver.unfinished()
    assert (half.channel, half.number, half.total_bytes) == ("reliable", 0, 200_000)
    assert 20_000 < half.received_bytes < 200_000
    assert seen[-1] == half
    assert pair.settle()
    assert pair.server.connection.receiver.unfinished() == []
    assert [record.received_bytes for record in seen] == sorted(r.received_bytes for r in seen)
    assert seen[-1].received_bytes == 200_000


# -- attacks (fragments that claim more than they bring)


class Attacker:
    """A client that says what it likes."""

    def __init__(self, *, config: Config | None = None) -> None:
        self.pair = opened(config=config, mode=Mode.INSECURE)
        for name in NAMES:
            self.pair.client.send(name, b"")
        assert self.pair.settle()
        self.channels = {name: self.pair.client.channel(name).identity for name in NAMES}

    def say(self, *frames: bytes) -> None:
        sender = self.pair.client.connection._sender
        for frame in frames:
            sender.controls.append(frame)
            self.pair.client.connection.touch()
            self.pair.run(seconds=0.0)
        self.pair.run(seconds=0.02)

    def fragment(self, name: str, number: int, total: int, offset: int, size: int) -> bytes:
        header = wire.encode_fragment_header(self.channels[name], number, total, offset, size)
        return header + bytes(size)

    @property
    def held(self) -> int:
        return Config().reassembly_bytes_per_endpoint - budget_left(self.pair)


@pytest.mark.parametrize("name", ["unreliable", "reliable"])
@pytest.mark.parametrize(
    "second",
    [(500, 0, 300), (1000, 100, 300), (1000, 300, 100), (1000, 200, 500)],
    ids=["another size", "overlap", "too small", "overlap after"],
)
def test_fragments_that_disagree_end_the_session(name: str, second: tuple[int, int, int]) -> None:
    attacker = Attacker()
    attacker.say(attacker.fragment(name, 5, 1000, 0, 300))
    attacker.say(attacker.fragment(name, 5, *second))
    assert attacker.pair.server.ended is not None
    assert attacker.held == 0


@pytest.mark.parametrize("name", ["unreliable", "reliable"])
def test_a_record_beyond_the_limit_ends_the_session(name: str) -> None:
    attacker = Attacker()
    attacker.say(attacker.fragment(name, 5, (1 << 32) - 1, 0, 300))
    assert attacker.pair.server.ended is not None
    assert "limit" in attacker.pair.server.ended.reason


def test_memory_is_in_proportion_to_what_arrived() -> None:
    attacker = Attacker()
    for number in range(10, 40):
        attacker.say(attacker.fragment("unreliable", number, 16 * MEBIBYTE, 0, 1000))
    assert attacker.pair.server.ended is None
    assert 30 * 1000 <= attacker.held <= 30 * 3000


def test_unfinished_records_are_bounded_for_a_session() -> None:
    config = Config(max_record_bytes=MEBIBYTE, reassembly_bytes_per_session=MEBIBYTE)
    attacker = Attacker(config=config)
    for number in range(10, 3000):
        name = ("unreliable", "sequenced")[number % 2]
        attacker.say(attacker.fragment(name, number, 2000, 0, 1000))
    assert attacker.pair.server.ended is None
    assert attacker.held <= MEBIBYTE + RECORD_HEAD_BYTES
    assert attacker.pair.server.connection.stats.messages_dropped_partial > 1500


def test_unfinished_records_are_given_up_in_time() -> None:
    attacker = Attacker()
    attacker.say(attacker.fragment("unreliable", 10, 2000, 0, 1000))
    assert attacker.held > 0
    attacker.pair.run(seconds=Config().reassembly_timeout_seconds + 0.1)
    assert attacker.held == 0


def test_a_session_that_ends_gives_all_memory_back() -> None:
    attacker = Attacker()
    attacker.say(attacker.fragment("unreliable", 10, 2000, 0, 1000))
    attacker.say(attacker.fragment("reliable", 10, MEBIBYTE, 0, 1000))
    assert attacker.held > MEBIBYTE
    attacker.pair.server.connection.close(0, "", attacker.pair.now)
    assert attacker.held == 0
