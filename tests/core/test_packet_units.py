"""What a sender builds is what a receiver takes: every packet, and all that was queued."""

from __future__ import annotations

import random
from collections import deque

import pytest

from aerogram.config import Config
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec, SendChannel
from aerogram.core.connection import Connection, Shared
from aerogram.core.delivery import preset
from aerogram.core.keys import Aead, PacketProtection
from aerogram.core.memory import EndpointMemory
from aerogram.core.outgoing import Outgoing
from aerogram.core.wire import TransportParameters

CONFIG = Config(congestion_window_bytes=1 << 24)
PEER = TransportParameters(
    max_record_bytes=1 << 20, channel_window_bytes=1 << 24, max_datagram_bytes=1200
)
PACKETS_LIMIT = 5000


class Side:
    """A connection whose packets are opened as they leave."""

    def __init__(self) -> None:
        keys = bytes(32)
        shared = Shared(CONFIG, {}, EndpointMemory(CONFIG), deque(), bytes, [])
        self.connection = Connection(
            shared,
            protection=PacketProtection(keys, keys, Aead.NONE),
            local_cid=bytes(8),
            remote_cid=bytes(8),
            address=("peer", 1),
            peer=PEER,
            peer_key=None,
            now=0.0,
        )
        self.connection.opened()
        self.opener = PacketProtection(keys, keys, Aead.NONE)
        self.numbers: list[int] = []

    def channel(self, name: str) -> SendChannel:
        delivery = preset("reliable")
        assert delivery is not None
        return self.connection.open_channel(ChannelSpec(name, delivery))

    def send(self, channel: SendChannel, size: int) -> None:
        self.connection.send(channel, Outgoing(bytes(size)))

    def hear(self, number: int, frames: bytes) -> None:
        packet = PacketProtection(bytes(32), bytes(32), Aead.NONE).seal(bytes(8), number, frames)
        assert self.connection.receive_packet(packet, ("peer", 1), 0.0)

    def frames(self, now: float = 0.0) -> list[list[wire.Frame]]:
        """The frames of every packet that is ready; each must be one that a receiver takes."""
        packets: list[list[wire.Frame]] = []
        while sealed := self.connection.transmit(now):
            for packet in sealed:
                number, plaintext = self.opener.open(packet)
                self.numbers.append(number)
                packets.append(wire.decode_frames_untrusted(plaintext))
            assert len(packets) < PACKETS_LIMIT, packets[-1]
        return packets


def count(packets: list[list[wire.Frame]], kind: type[wire.Frame]) -> int:
    return sum(isinstance(frame, kind) for frames in packets for frame in frames)


def messages(packets: list[list[wire.Frame]]) -> list[tuple[int, int]]:
    return [
        (frame.channel, frame.first_number + index)
        for frames in packets
        for frame in frames
        if isinstance(frame, wire.Messages)
        for index in range(len(frame.payloads))
    ]


def test_empty_messages_fill_packets_up_to_the_limit() -> None:
    side = Side()
    channel = side.channel("a")
    for _ in range(1000):
        side.send(channel, 0)
    packets = side.frames()
    assert messages(packets) == [(0, number) for number in range(1000)]
    assert len(packets) == 5


def test_many_channels_with_little_to_say_share_packets() -> None:
    side = Side()
    for index in range(100):
        side.send(side.channel(f"{index}"), 1)
    packets = side.frames()
    assert sorted(messages(packets)) == [(index, 0) for index in range(100)]
    assert len(packets) < 12


@pytest.mark.parametrize("seed", range(20))
def test_messages_with_all_sorts_of_deadlines_and_a_ping_fit(seed: int) -> None:
    generator = random.Random(seed)
    side = Side()
    channel = side.channel("a")
    kinds = generator.choice((1, 2, 5, 20, 100))
    for _ in range(400):
        deadline = 10.0 + generator.randrange(kinds) / 100 if generator.random() < 0.8 else None
        side.connection.send(channel, Outgoing(b"", deadline))
    side.connection.ping(lambda: None)
    packets = side.frames()
    assert messages(packets) == [(0, number) for number in range(400)]
    assert count(packets, wire.Ping) == 1


def test_many_refusals_take_several_packets_and_the_ack_comes_last() -> None:
    side = Side()
    side.hear(0, wire.encode_channel(0, "unheard of", "Strange/once"))
    for number in range(1, 200):
        header = wire.encode_messages_header(0, number - 1, 1)
        side.hear(3 * number, header + wire.LENGTH_PREFIX[0])
    packets = side.frames()
    assert count(packets, wire.Refuse) == 199
    # What is refused is not acknowledged before.
    assert count(packets, wire.Ack) == 1
    assert isinstance(packets[-1][-1], wire.Ack)


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_fits(seed: int) -> None:
    generator = random.Random(seed)
    side = Side()
    channels = [side.channel(str(index)) for index in range(generator.choice((1, 5, 60)))]
    sent = generator.choice((50, 2000))
    for _ in range(sent):
        size = generator.choice((0, 0, 1, 1, 2, 60, 70, generator.randrange(3000)))
        side.send(generator.choice(channels), size)
    for number in range(0, generator.choice((1, 200)), 3):
        side.hear(number, wire.PING)
    side.connection.ping()
    packets = side.frames()
    ends = sum(
        isinstance(frame, wire.Fragment) and frame.offset + len(frame.data) == frame.total_bytes
        for frames in packets
        for frame in frames
    )
    assert len(messages(packets)) + ends == sent


@pytest.mark.parametrize("seed", range(5))
def test_what_is_sent_again_fits_too(seed: int) -> None:
    generator = random.Random(seed)
    side = Side()
    channels = [side.channel(str(index)) for index in range(3)]
    for _ in range(600):
        side.send(generator.choice(channels), generator.choice((0, 1, 1, 1300, 2560)))
    first = side.frames()
    # Every second packet is lost: their messages no longer follow on.
    ranges = [(number, number) for number in reversed(side.numbers) if number % 2]
    for index, start in enumerate(range(0, len(ranges), 60)):
        some = ranges[start : start + 60]
        side.hear(index, wire.encode_ack(some[0][1], 0, some))
    again = side.frames(1.0)
    assert 0 < len(messages(again)) < len(messages(first))
    assert 0 < count(again, wire.Fragment) < count(first, wire.Fragment)


def test_the_first_message_of_a_channel_leaves_whatever_its_size() -> None:
    for size in range(1000, 1300):
        side = Side()
        side.send(side.channel("with quite a long name"), size)
        packets = side.frames()
        assert messages(packets) or count(packets, wire.Fragment), size
