"""Full queues: what each channel makes of one, and that the books balance whatever happens."""

from __future__ import annotations

import random

import pytest

from aerogram import delivery
from aerogram.config import Config
from aerogram.core.channel import ChannelSpec, WhenFull
from aerogram.core.outcomes import QUEUE_FULL
from aerogram.core.outgoing import Outcome, Outgoing
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair, Side


def opened(
    when_full: WhenFull,
    *,
    messages: int | None = 10,
    size: int | None = None,
    config: Config | None = None,
    kind: str = "ordered",
) -> Pair:
    spec = ChannelSpec(
        "a",
        getattr(delivery, kind)(),
        when_full=when_full,
        queue_messages=messages,
        queue_bytes=size,
    )
    pair = Pair([spec], link=Link(delay=0.02), config=config)
    pair.open()
    return pair


def offer(pair: Pair, payload: bytes) -> Outgoing | None:
    """What a session does with a message, without a session."""
    connection, channel = pair.client.connection, pair.client.channel("a")
    if channel.is_full(len(payload)):
        if channel.when_full in ("block", "error"):
            return None
        if channel.when_full == "drop_newest":
            message = Outgoing(payload)
            connection.outcomes.turn_away(message, pair.now)
            return message
        connection.outcomes.make_room(channel, len(payload), pair.now)
    return pair.client.send("a", payload)


def flooded(pair: Pair, count: int = 30) -> list[Outgoing | None]:
    return [offer(pair, value.to_bytes(2, "big")) for value in range(count)]


def shown(pair: Pair) -> list[int]:
    return [int.from_bytes(payload[:2], "big") for payload in pair.server.payloads("a")]


def test_the_oldest_give_way() -> None:
    pair = opened("drop_oldest")
    sent = flooded(pair)
    assert pair.settle()
    assert shown(pair) == [*range(20, 30)]
    assert all(message is not None for message in sent)
    lost = [message for message in sent if message and message.outcome is Outcome.LOST]
    assert len(lost) == 20
    assert {message.reason for message in lost} == {QUEUE_FULL}


def test_the_newest_is_turned_away() -> None:
    pair = opened("drop_newest")
    sent = flooded(pair)
    assert pair.settle()
    assert shown(pair) == [*range(10)]
    assert [str(message and message.outcome) for message in sent[10:]] == ["lost"] * 20


def test_all_give_way_to_the_latest() -> None:
    pair = opened("latest")
    sent = flooded(pair, 32)
    assert pair.settle()
    assert shown(pair) == [30, 31]
    outcomes = [message.outcome for message in sent if message]
    assert outcomes == [Outcome.SUPERSEDED] * 30 + [Outcome.DELIVERED] * 2


@pytest.mark.parametrize("when_full", ["block", "error"])
def test_nothing_is_dropped_where_senders_wait_or_are_told(when_full: WhenFull) -> None:
    pair = opened(when_full)
    sent = flooded(pair)
    assert [message is None for message in sent] == [False] * 10 + [True] * 20
    assert pair.settle()
    assert shown(pair) == [*range(10)]


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest", "latest"])
def test_bytes_are_bounded_too(when_full: WhenFull) -> None:
    pair = opened(when_full, messages=None, size=1000)
    pair.cut()
    channel = pair.client.channel("a")
    generator = random.Random(1)
    for value in range(300):
        offer(pair, value.to_bytes(2, "big") + bytes(generator.randrange(900)))
        assert channel.queued_bytes <= 1000
        assert channel.queued_bytes == sum(
            len(m.payload) for m in channel.queue if m.outcome is None
        )
    pair.heal()
    assert pair.settle()
    stats = pair.client.connection.stats
    assert stats.messages_ended == stats.messages_sent == 300
    assert stats.messages_dropped_queue == 300 - stats.messages_delivered


def test_a_record_that_has_begun_is_not_dropped() -> None:
    config = Config(congestion_window_bytes=20_000)
    pair = opened("drop_oldest", messages=2, config=config)
    record = offer(pair, bytes(100_000))
    pair.run(seconds=0.05)
    others = [offer(pair, value.to_bytes(2, "big")) for value in range(1, 6)]
    assert pair.settle()
    assert record is not None
    assert record.outcome is Outcome.DELIVERED
    assert [len(payload) for payload in pair.server.payloads("a")] == [100_000, 2]
    assert [str(message and message.outcome) for message in others] == ["lost"] * 4 + ["delivered"]


def test_an_old_limit_takes_no_credit_back() -> None:
    pair = opened("block")
    channel, sender = pair.client.channel("a"), pair.client.connection._sender
    limit = channel.credit_cost + 1000
    sender.credit(channel.identity, limit)
    sender.credit(channel.identity, limit - 1)  # was overtaken on its way
    assert channel.credit_cost == limit


def test_credit_that_is_lost_is_given_again() -> None:
    pair = opened("block", messages=None, config=Config(channel_window_bytes=4096))
    lost = 0

    def loses(side: Side, packet: bytes) -> bool:
        nonlocal lost
        if side is pair.client or not pair.server.connection._sender.recovery.sent:
            return False
        *_, newest = pair.server.connection._sender.recovery.sent.values()
        has_credit = newest.extras is not None and len(newest.extras.credits) > 0
        lost += has_credit
        return has_credit and lost <= 3

    pair.loses = loses
    for number in range(40):
        pair.client.send("a", number.to_bytes(2, "big") + bytes(500))
    assert pair.settle()
    assert lost > 3
    assert shown(pair) == [*range(40)]


def test_an_empty_queue_takes_one_record_of_any_size() -> None:
    pair = opened("block", size=1000)
    assert offer(pair, bytes(50_000)) is not None
    assert offer(pair, b"x") is None
    assert pair.settle()
    assert len(pair.server.payloads("a")) == 1


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest", "latest", "block"])
@pytest.mark.parametrize("kind", ["unreliable", "ordered", "reliable_sequenced"])
@pytest.mark.parametrize("seed", range(2))
def test_the_books_balance(when_full: WhenFull, kind: str, seed: int) -> None:
    generator = random.Random(f"{seed} {when_full} {kind}")
    config = Config(congestion_window_bytes=4000)
    pair = opened(when_full, messages=20, config=config, kind=kind)
    pair.links[0].link = Link(delay=0.02, loss=0.1)
    sent: list[Outgoing] = []
    for value in range(800):
        message = offer(pair, value.to_bytes(2, "big") + bytes(generator.choice((0, 100, 2000))))
        if message is not None:
            sent.append(message)
        if generator.random() < 0.2:
            pair.run(seconds=generator.random() * 0.05)
        stats = pair.client.connection.stats
        in_flight = pair.client.connection.messages_in_flight
        assert stats.messages_sent == stats.messages_ended + in_flight == len(sent)
    assert pair.settle()
    channel = pair.client.channel("a")
    assert (channel.queued_bytes, pair.client.connection.messages_in_flight) == (0, 0)
    values = shown(pair)
    if kind != "unreliable":
        assert values == sorted(set(values))
    if kind == "ordered":
        delivered = [message for message in sent if message.outcome is Outcome.DELIVERED]
        assert values == [int.from_bytes(message.payload[:2], "big") for message in delivered]
