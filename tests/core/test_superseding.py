"""Messages that supersede others: what is out of date is neither sent again nor shown."""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Any

import pytest

from aerogram import delivery
from aerogram.config import MESSAGE_OVERHEAD_BYTES, Config
from aerogram.core.channel import COMPACT_AFTER, ChannelSpec
from aerogram.core.delivery import NewestPerKey
from aerogram.core.outgoing import Outcome, Outgoing
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair

BAD = Link(delay=0.03, jitter=0.02, loss=0.2, duplicate=0.1, reorder=0.1, reorder_delay=0.05)


def first_byte(message: Any) -> Hashable:
    return message[0]


def whole(payload: bytes) -> bytes:
    return payload


POSITION = ChannelSpec("position", delivery.reliable_sequenced())
PRICES = ChannelSpec("prices", delivery.latest(key=first_byte), view=whole)


def opened(*, link: Link | None = None, seed: int = 0, config: Config | None = None) -> Pair:
    pair = Pair([POSITION, PRICES], link=link, seed=seed, config=config)
    pair.open()
    return pair


def number(payload: bytes) -> int:
    return int.from_bytes(payload[1:5], "big")


def price(symbol: int, value: int, size: int = 20) -> bytes:
    return bytes((symbol,)) + value.to_bytes(4, "big") + bytes(size)


def outcomes(messages: list[Outgoing]) -> list[str]:
    return [str(message.outcome) for message in messages]


def test_of_what_waits_only_the_newest_leaves() -> None:
    pair = opened()
    sent = [pair.client.send("position", price(0, value)) for value in range(100)]
    assert pair.settle()
    assert [number(p) for p in pair.server.payloads("position")] == [99]
    assert outcomes(sent) == ["superseded"] * 99 + ["delivered"]


def test_of_what_waits_only_the_newest_of_each_key_leaves() -> None:
    pair = opened()
    for value in range(100):
        pair.client.send("prices", price(value % 3, value))
    assert pair.settle()
    assert sorted(number(p) for p in pair.server.payloads("prices")) == [97, 98, 99]
    stats = pair.client.connection.stats
    assert (stats.messages_superseded, stats.messages_delivered) == (97, 3)


def test_a_key_keeps_its_place_in_the_queue() -> None:
    """So that one which changes all the time is not always sent to the end."""
    pair = opened()
    for symbol in range(5):
        pair.client.send("prices", price(symbol, 0))
    for value in range(1, 50):
        pair.client.send("prices", price(0, value))
    assert pair.settle()
    shown = pair.server.payloads("prices")
    assert [(p[0], number(p)) for p in shown] == [(0, 49), (1, 0), (2, 0), (3, 0), (4, 0)]


@pytest.mark.parametrize("name", ["position", "prices"])
@pytest.mark.parametrize("seed", range(5))
def test_the_newest_arrives_and_nothing_older_is_shown_after_it(name: str, seed: int) -> None:
    pair = opened(link=BAD, seed=seed)
    generator = random.Random(seed)
    last: dict[int, int] = {}
    count = 600
    sent: list[Outgoing] = []

    def send(value: int) -> None:
        symbol = generator.randrange(4) if name == "prices" else 0
        last[symbol] = value
        sent.append(pair.client.send(name, price(symbol, value)))

    for value in range(count):
        pair.at(pair.now + value * 0.005, lambda value=value: send(value))
    assert pair.run(lambda: len(sent) == count and pair.server is not None, 10.0)
    assert pair.settle()
    shown: dict[int, list[int]] = {}
    for payload in pair.server.payloads(name):
        shown.setdefault(payload[0], []).append(number(payload))
    for symbol, values in shown.items():
        assert values == sorted(set(values))
        assert values[-1] == last[symbol]
    assert set(shown) == set(last)
    stats = pair.client.connection.stats
    assert stats.messages_superseded > 0
    assert stats.messages_sent == stats.messages_ended == count


def test_a_superseded_message_that_was_lost_is_not_sent_again() -> None:
    pair = opened(link=Link(delay=0.05))
    pair.cut()
    old = pair.client.send("position", price(0, 1, size=500))
    pair.run(seconds=0.001)
    new = pair.client.send("position", price(0, 2, size=500))
    pair.run(seconds=0.001)
    pair.heal()
    assert old.outcome is None  # it may have arrived
    assert pair.settle()
    assert old.outcome is Outcome.SUPERSEDED
    assert new.outcome is Outcome.DELIVERED
    assert [number(p) for p in pair.server.payloads("position")] == [2]
    assert old.attempts == 1


def test_what_is_superseded_costs_no_credit_in_the_end() -> None:
    """A stream goes on for ever although most of what it sends is lost."""
    config = Config(channel_window_bytes=8192)
    pair = opened(link=Link(delay=0.02, loss=0.2), config=config, seed=3)
    count, size = 2000, 1000
    for value in range(count):
        pair.at(
            pair.now + value * 0.01, lambda v=value: pair.client.send("position", price(0, v, size))
        )
    assert pair.run(lambda: pair.client.connection.stats.messages_sent == count, 30.0)
    assert pair.settle()
    assert number(pair.server.payloads("position")[-1]) == count - 1
    assert len(pair.server.payloads("position")) > count / 4
    assert pair.client.connection.stats.messages_superseded > count / 10


def test_a_superseded_record_is_given_up_half_way() -> None:
    config = Config(congestion_window_bytes=20_000)
    pair = opened(link=Link(delay=0.05), config=config)
    big = pair.client.send("prices", price(7, 1, size=200_000))
    pair.run(seconds=0.2)
    small = pair.client.send("prices", price(7, 2))
    assert big.outcome is Outcome.SUPERSEDED
    assert pair.settle()
    assert small.outcome is Outcome.DELIVERED
    assert [number(p) for p in pair.server.payloads("prices")] == [2]
    assert pair.server.connection.stats.messages_skipped == 1
    assert pair.client.connection.stats.bytes_sent < 150_000


def test_half_a_record_gives_back_no_more_credit_than_it_took() -> None:
    config = Config(congestion_window_bytes=20_000)
    window = config.channel_window_bytes
    pair = opened(link=Link(delay=0.05), config=config)
    channel = pair.client.channel("prices")
    for value in range(10):
        pair.client.send("prices", price(7, value, size=200_000))
        pair.run(seconds=0.2)
        assert channel.credit_cost - channel.sent_cost <= window
    pair.client.send("prices", price(7, 10))
    assert pair.settle()
    assert pair.client.connection.stats.messages_superseded == 10
    assert window // 2 <= channel.credit_cost - channel.sent_cost <= window


def test_what_a_retry_policy_wants_to_send_later_is_superseded_then() -> None:
    class Later:
        def next_try(self, sent: delivery.Sent, rtt: delivery.Rtt) -> float:
            return sent.last_sent_at + 0.5

    own = delivery.Delivery(delivery.NewestWins, Later(), name="own", key=first_byte)
    pair = Pair([ChannelSpec("own", own, view=whole)], link=Link(delay=0.05))
    pair.open()
    pair.cut()
    old = pair.client.send("own", price(0, 1))
    pair.run(seconds=0.1)
    pair.client.send("own", price(0, 2))
    pair.run(seconds=0.1)
    pair.heal()
    assert pair.settle()
    assert (old.outcome, old.attempts) == (Outcome.SUPERSEDED, 1)
    assert [number(p) for p in pair.server.payloads("own")] == [2]


def test_a_record_that_supersedes_one_arrives_whole() -> None:
    pair = opened()
    for value in range(3):
        pair.client.send("prices", price(1, value, size=5000))
        pair.client.send("prices", price(2, value, size=5000))
    assert pair.settle()
    assert [(p[0], number(p)) for p in pair.server.payloads("prices")] == [(1, 2), (2, 2)]


def test_a_queue_is_as_long_as_what_is_alive_in_it() -> None:
    pair = opened()
    pair.cut()
    channel = pair.client.channel("prices")
    for value in range(10_000):
        pair.client.send("prices", price(value % 10, value))
        pair.run(seconds=0.0)
    assert len(channel.queue) <= 2 * COMPACT_AFTER + 20
    assert channel.queued_bytes <= 10 * 25
    pair.heal()
    assert pair.settle()
    assert channel.queued_bytes == 0


def test_memory_for_keys_is_bounded_at_both_ends() -> None:
    spec = ChannelSpec("many", delivery.latest(key=lambda m: m[1:5], keys=50), view=whole)
    pair = Pair([spec], link=Link(delay=0.01, loss=0.1))
    pair.open()
    for value in range(2000):
        pair.client.send("many", price(0, value))
    assert pair.settle()
    newest = pair.client.channel("many").newest
    assert newest is not None
    assert len(newest) <= 50
    assert sorted(number(p) for p in pair.server.payloads("many")) == [*range(2000)]
    ordering = NewestPerKey(first_byte, 2)
    for sequence, symbol in enumerate((1, 2, 3)):
        assert ordering.arrived(sequence, bytes((symbol,)))
    assert not ordering.arrived(1, b"\x02")
    assert ordering.arrived(0, b"\x01")  # forgotten, so it may be shown again


def test_what_has_arrived_is_not_kept() -> None:
    pair = opened(link=Link(delay=0.01))
    for value in range(300):
        pair.client.send("prices", price(value % 200, value, size=1000))
        pair.run(seconds=0.05)
    newest = pair.client.channel("prices").newest
    assert newest is not None
    assert len(newest) < 10


def test_a_key_that_cannot_be_one_is_the_senders_mistake() -> None:
    spec = ChannelSpec("bad", delivery.latest(key=lambda m: [m]), view=whole)
    pair = Pair([spec])
    pair.open()
    with pytest.raises(TypeError):
        pair.client.send("bad", b"x")
    assert pair.client.connection.messages_in_flight == 0


def test_equal_keys_make_equal_deliveries() -> None:
    assert delivery.latest(key=first_byte) == delivery.latest(key=first_byte)
    assert delivery.latest(key=first_byte) != delivery.latest(key=number)
    with pytest.raises(ValueError, match="keys= is 1 to"):
        delivery.latest(key=first_byte, keys=0)


def test_superseding_goes_with_any_ordering_and_retry() -> None:
    spec = ChannelSpec(
        "own", delivery.Delivery(delivery.InOrder, key=first_byte, name="own"), view=whole
    )
    pair = Pair([spec], link=Link(delay=0.02, loss=0.3), seed=1)
    pair.open()
    for value in range(500):
        pair.at(pair.now + value * 0.002, lambda v=value: pair.client.send("own", price(v % 2, v)))
    assert pair.run(lambda: pair.client.connection.stats.messages_sent == 500, 10.0)
    assert pair.settle()
    shown = [number(p) for p in pair.server.payloads("own")]
    assert shown == sorted(set(shown))
    assert {498, 499} <= set(shown)
    assert pair.client.connection.stats.messages_superseded > 0


def test_credit_counts_what_has_not_come_too() -> None:
    """So a peer cannot make a receiver remember gaps without end."""
    from aerogram.core import wire

    config = Config(channel_window_bytes=4096)
    pair = opened(config=config)
    channel = pair.client.channel("position")
    pair.client.send("position", b"first")
    assert pair.settle()
    gap = 4096 // MESSAGE_OVERHEAD_BYTES
    channel.next_number += gap
    pair.client.send("position", b"second")
    pair.run(seconds=1.0)
    assert pair.server.ended is not None
    assert "more was sent than credit" in pair.server.ended.reason
    for cost in (0, MESSAGE_OVERHEAD_BYTES - 1):
        pair = opened()
        channel = pair.client.channel("position")
        pair.client.send("position", b"first")
        assert pair.settle()
        pair.client.connection._sender.skips.append((channel, wire.encode_skip(0, 5, cost)))
        pair.client.send("position", b"second")
        pair.run(seconds=1.0)
        assert pair.server.ended is not None
        assert "skipped" in pair.server.ended.reason


def test_a_peer_learns_a_channel_before_what_was_given_up_on_it() -> None:
    """Even if no packet of the channel has arrived before."""
    pair = opened(link=Link(delay=0.05))
    pair.cut()
    pair.client.send("position", price(0, 1), deadline=pair.now + 0.01)
    pair.run(seconds=0.1)
    pair.heal()
    assert pair.settle()
    pair.client.send("position", price(0, 2))
    assert pair.settle()
    assert pair.server.ended is None
    assert [number(p) for p in pair.server.payloads("position")] == [2]


def test_what_arrived_is_delivered_whatever_came_after_it() -> None:
    pair = opened(link=Link(delay=0.05))
    sent = []
    for value in range(50):
        sent.append(pair.client.send("position", price(0, value)))
        pair.run(seconds=0.01)
    assert pair.settle()
    assert outcomes(sent) == ["delivered"] * 50
    assert [number(p) for p in pair.server.payloads("position")] == [*range(50)]
