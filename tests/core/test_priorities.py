"""Whose turn it is: what is urgent goes first, nothing starves, and shares are fair."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from aerogram import delivery
from aerogram.config import Config
from aerogram.core import wire
from aerogram.core.channel import WEIGHT_LIMIT, ChannelSpec
from aerogram.core.outgoing import Outgoing
from aerogram.core.priorities import STARVATION_PACKETS, URGENT_PACKETS
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair, Side

RECORD_BYTES = 16 * 1024 * 1024
LINK = Link(delay=0.02, rate_bytes_per_second=2_000_000, queue_bytes=1 << 22)


def spec(name: str, priority: int = 0, weight: int = 1, kind: str = "reliable") -> ChannelSpec:
    return ChannelSpec(name, getattr(delivery, kind)(), priority, weight=weight)


def opened(*specs: ChannelSpec, link: Link = LINK, config: Config | None = None) -> Pair:
    pair = Pair(specs, link=link, back=Link(delay=0.02), config=config)
    pair.open()
    return pair


class Watch:
    """Which channels each packet of the client carries, in order."""

    def __init__(self, pair: Pair) -> None:
        self.packets: list[Counter[int]] = []
        self._client = pair.client
        pair.on_packet = self._note

    def _note(self, side: Side, packet: bytes, now: float) -> None:
        if side is not self._client or packet[0] & 0xFE != wire.DATA:
            return
        carried: Counter[int] = Counter()
        for frame in wire.decode_frames_untrusted(packet[wire.DATA_HEADER_BYTES : -4]):
            if isinstance(frame, wire.Messages):
                carried[frame.channel] += sum(map(len, frame.payloads))
            elif isinstance(frame, wire.Fragment):
                carried[frame.channel] += len(frame.data)
        self.packets.append(carried)

    def share(self, channel: int) -> int:
        return sum(packet[channel] for packet in self.packets)


def fill(pair: Pair, name: str, size: int, count: int) -> None:
    for _ in range(count):
        pair.client.send(name, bytes(size))


@pytest.mark.parametrize("seed", range(10))
def test_an_urgent_message_passes_a_record_in_flight(seed: int) -> None:
    pair = opened(spec("bulk"), spec("urgent", 1))
    pair.client.send("bulk", bytes(RECORD_BYTES))
    pair.run(seconds=0.5 + random.Random(seed).random())
    watch = Watch(pair)
    pair.client.send("urgent", bytes(64))
    urgent = pair.client.channel("urgent").identity
    pair.run(lambda: any(packet[urgent] for packet in watch.packets), 1.0)
    before = next(i for i, packet in enumerate(watch.packets) if packet[urgent])
    assert before <= 2


def test_it_does_not_wait_for_the_congestion_window_either() -> None:
    pair = opened(spec("bulk"), spec("urgent", 1))
    pair.client.send("bulk", bytes(RECORD_BYTES))
    pair.run(seconds=0.5)
    sent_at = pair.now
    connection = pair.client.connection
    window = Config().congestion_window_bytes
    assert connection.bytes_in_flight > window - 1200
    watch = Watch(pair)
    urgent = pair.client.channel("urgent").identity
    for _ in range(100):
        pair.client.send("urgent", bytes(1000))
    pair.run(seconds=0.0)
    assert pair.now == sent_at
    assert 1 <= sum(bool(packet[urgent]) for packet in watch.packets) <= URGENT_PACKETS + 1
    assert connection.bytes_in_flight <= window + URGENT_PACKETS * 1200


def test_what_is_not_urgent_keeps_to_the_window() -> None:
    pair = opened(spec("bulk"), spec("other"))
    pair.client.send("bulk", bytes(RECORD_BYTES))
    pair.run(seconds=0.5)
    pair.client.send("other", bytes(64))
    pair.run(seconds=0.0)
    assert pair.client.connection.bytes_in_flight <= Config().congestion_window_bytes


def test_a_higher_level_goes_first() -> None:
    pair = opened(spec("low"), spec("high", 5), spec("middle", 2))
    for name in ("low", "middle", "high"):
        fill(pair, name, 100, 500)
    watch = Watch(pair)
    assert pair.settle()
    names = {pair.client.channel(name).identity: name for name in ("low", "middle", "high")}
    most = [names[packet.most_common(1)[0][0]] for packet in watch.packets if packet]
    for name, next_name in (("high", "middle"), ("middle", "low")):
        own = [index for index, first in enumerate(most) if first == name]
        others = [index for index, first in enumerate(most) if first == next_name]
        assert sum(index < max(own) for index in others) <= len(own) // 8


def test_a_lower_level_does_not_starve() -> None:
    pair = opened(spec("low"), spec("lower", -1), spec("high", 1))
    for name in ("high", "low", "lower"):
        pair.client.send(name, bytes(4_000_000))
    watch = Watch(pair)
    pair.run(seconds=1.0)
    carrying = [packet for packet in watch.packets if packet]
    assert STARVATION_PACKETS == 16, "as `Channel.priority` says"
    assert len(carrying) > 10 * STARVATION_PACKETS
    for name in ("low", "lower"):
        identity = pair.client.channel(name).identity
        places = [index for index, packet in enumerate(carrying) if packet[identity]]
        gaps = [after - before for before, after in pairwise(places)]
        assert max(gaps) <= STARVATION_PACKETS + 2
    high = pair.client.channel("high").identity
    assert watch.share(high) > 0.8 * sum(sum(packet.values()) for packet in carrying)
    starving = [packet[high] == 0 for packet in carrying]
    assert not any(a and b for a, b in pairwise(starving))


@pytest.mark.parametrize(("size", "link"), [(64, LINK), (900, LINK), (4_000_000, LINK)])
def test_channels_of_one_priority_share_by_weight(size: int, link: Link) -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    config = Config(channel_window_bytes=1 << 24)
    pair = opened(*(spec(name, weight=w) for name, w in weights.items()), link=link, config=config)
    for name in weights:
        fill(pair, name, size, 4_000_000 // size)
    watch = Watch(pair)
    pair.run(seconds=1.5)
    shares = {name: watch.share(pair.client.channel(name).identity) for name in weights}
    assert min(shares.values()) > 100_000
    for name, weight in weights.items():
        assert shares[name] / sum(shares.values()) == pytest.approx(weight / 8, rel=0.1)


def test_few_messages_of_many_channels_take_turns() -> None:
    specs = [spec(str(index)) for index in range(50)]
    pair = opened(*specs)
    for _ in range(20):
        for each in specs:
            pair.client.send(each.name, bytes(200))
    watch = Watch(pair)
    assert pair.settle()
    carrying = [packet for packet in watch.packets if packet]
    half = carrying[: len(carrying) // 2]
    sent = Counter({each: sum(packet[each] for packet in half) for each in range(50)})
    assert max(sent.values()) - min(sent.values()) <= 2 * 1200
    assert len(pair.server.received) == 1000


def test_a_channel_without_credit_holds_up_no_other() -> None:
    config = Config(channel_window_bytes=8192)
    pair = opened(spec("stuck", 3), spec("free"), config=config)
    pair.server.consumes = False
    fill(pair, "stuck", 500, 100)
    pair.run(seconds=1.0)
    stuck = len(pair.server.payloads("stuck"))
    assert 0 < stuck < 17
    for _ in range(10):
        pair.client.send("free", bytes(500))
        pair.run(seconds=0.2)
    assert len(pair.server.payloads("free")) == 10
    channel = pair.client.channel("stuck")
    assert channel.starved
    assert all(
        channel not in level.ring for level in pair.client.connection._sender.schedule.levels
    )
    pair.server.consumes = True
    [stuck_there] = [
        c for c in pair.server.connection.receiver._channels.values() if c.name == "stuck"
    ]
    pair.server.connection.consumed(stuck_there, stuck * 532)
    assert pair.settle()
    assert len(pair.server.payloads("stuck")) == 100


def test_credit_wakes_a_channel_whose_messages_have_all_expired() -> None:
    config = Config(channel_window_bytes=8192)
    pair = opened(spec("stuck"), config=config)
    pair.server.consumes = False
    for _ in range(30):
        pair.client.send("stuck", bytes(500), deadline=pair.now + 5.0)
    small: list[Outgoing] = []
    pair.run(seconds=1.0)
    left = pair.client.channel("stuck").credit_cost - pair.client.channel("stuck").sent_cost
    assert 100 < left < 532
    small.append(pair.client.send("stuck", bytes(10)))
    pair.run(seconds=0.5)
    assert pair.client.channel("stuck").starved
    pair.run(seconds=5.0)  # what is before it expires
    assert small[0].outcome == "delivered"


@pytest.mark.parametrize("seed", range(5))
def test_any_mixture_of_channels_arrives_whole(seed: int) -> None:
    generator = random.Random(seed)
    specs = [
        spec(str(index), generator.randrange(-2, 3), generator.choice((1, 1, 3, 200)), kind)
        for index, kind in enumerate(["ordered", "reliable"] * 10)
    ]
    config = Config(congestion_window_bytes=generator.choice((6000, 60_000)))
    link = Link(delay=0.01, jitter=0.01, loss=0.1, duplicate=0.05)
    pair = opened(*specs, link=link, config=config)
    sent: Counter[str] = Counter()
    for _ in range(1500):
        name = generator.choice(specs).name
        size = generator.choice((0, 10, 64, 1100, 1300, 5000))
        pair.client.send(name, sent[name].to_bytes(4, "big") + bytes(size))
        sent[name] += 1
    assert pair.settle(120.0)
    for each in specs:
        got = [int.from_bytes(payload[:4], "big") for payload in pair.server.payloads(each.name)]
        if each.delivery.code == "reliable":
            got.sort()
        assert got == [*range(sent[each.name])]
    assert pair.client.connection._sender.schedule.levels == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0},
        {"weight": WEIGHT_LIMIT + 1},
        {"when_full": "never"},
        {"queue_messages": 0},
        {"queue_bytes": -1},
    ],
)
def test_a_channel_that_cannot_be_raises_where_it_is_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="|".join(wrong)):
        ChannelSpec("x", delivery.ordered(), **wrong)  # type: ignore[arg-type]
