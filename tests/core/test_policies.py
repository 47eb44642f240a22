"""Policies that users wrote: whatever they do, the session lives and every message has an end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import pytest

from aerogram import delivery
from aerogram.config import Config
from aerogram.core.channel import ChannelSpec
from aerogram.core.delivery import InOrder, UntilAcknowledged
from aerogram.core.events import MessageRefused, PolicyFailed
from aerogram.core.outgoing import Outcome
from aerogram.core.recovery import Rtt
from aerogram.delivery import Delivery, Sent
from aerogram.errors import DecodeError
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair

COUNT = 100


class Base:
    """A well-behaved ordering; others differ in one thing."""

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        return [message]


class Twice(Base):
    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        return [message, message]


class Again(Base):
    """Hands an old message over once more."""

    def __init__(self) -> None:
        self.first: Any = None

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        self.first = self.first or message
        return [message, self.first]


class Invented(Base):
    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        return [message, b"never sent", None, 3.5]


class Endless(Base):
    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        return itertools.repeat(message)


class Raises(Base):
    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        if sequence % 2:
            raise RuntimeError("on purpose")
        return [message]


class RaisesInTheMiddle(Base):
    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        yield message
        raise ZeroDivisionError


class Nothing(Base):
    def arrived(self, sequence: int, message: Any) -> Any:
        return None


class Keeps(Base):
    """Holds everything, for ever."""

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        return []

    def skipped(self, sequence: int) -> Iterable[Any]:
        return []


class SkipRaises(InOrder):
    def skipped(self, sequence: int) -> Iterable[Any]:
        raise KeyError(sequence)


ORDERINGS: list[tuple[type[Any], int, int]] = [
    # what it shows of the messages, and how many faults it makes
    (Base, COUNT, 0),
    (Twice, COUNT, COUNT),
    (Again, COUNT, COUNT),
    (Invented, COUNT, COUNT),
    (Endless, COUNT, COUNT),
    (Raises, COUNT // 2, COUNT // 2),
    (RaisesInTheMiddle, COUNT, COUNT),
    (Nothing, 0, COUNT),
    (SkipRaises, COUNT, 0),
]


def opened(
    what: Delivery, *, link: Link | None = None, view: Any = None, config: Config | None = None
) -> Pair:
    spec = ChannelSpec("a", what, view=view)
    pair = Pair([spec, ChannelSpec("b", delivery.ordered())], link=link, config=config, seed=5)
    pair.open()
    return pair


def payload(value: int) -> bytes:
    return b"%d" % value


def still_works(pair: Pair) -> bool:
    """The session lives: another channel still delivers."""
    pair.client.send("b", b"alive")
    assert pair.settle()
    return pair.server.ended is None and pair.server.payloads("b")[-1] == b"alive"


@pytest.mark.parametrize(("ordering", "shown", "faults"), ORDERINGS)
def test_an_ordering_cannot_break_a_session(ordering: type[Any], shown: int, faults: int) -> None:
    pair = opened(Delivery(ordering), config=Config(channel_window_bytes=4096))
    sent = [pair.client.send("a", payload(value)) for value in range(COUNT)]
    assert pair.settle()
    received = pair.server.payloads("a")
    assert received == [p for p in map(payload, range(COUNT)) if p in received]
    assert len(received) == shown
    stats = pair.server.connection.stats
    assert stats.policy_faults == faults
    assert sum(isinstance(event, PolicyFailed) for event in pair.server.events) == faults
    assert all(message.outcome is not None for message in sent)
    assert still_works(pair)


def test_what_an_ordering_raises_on_is_refused() -> None:
    pair = opened(Delivery(Raises))
    for value in range(4):
        pair.client.send("a", payload(value))
    assert pair.settle()
    refused = [event for event in pair.client.events if isinstance(event, MessageRefused)]
    assert len(refused) == 2
    assert "on purpose" not in refused[0].reason  # our code's errors are no business of the peer
    assert pair.server.connection.stats.messages_dropped_ordering == 2


def test_a_message_that_cannot_be_shown_to_an_ordering_is_refused() -> None:
    def view(data: bytes) -> Any:
        if data == b"2":
            raise DecodeError("no such thing")
        if data == b"3":
            raise RuntimeError("on purpose")
        return data.decode()

    pair = opened(Delivery(InOrder), view=view)
    for value in range(5):
        pair.client.send("a", payload(value))
    assert pair.settle()
    assert pair.server.payloads("a") == ["0", "1", "4"]  # it does not wait for the others
    refused = [event.reason for event in pair.client.events if isinstance(event, MessageRefused)]
    assert refused[0] == "no such thing"
    assert pair.server.connection.stats.policy_faults == 1
    assert still_works(pair)


def test_what_an_ordering_holds_takes_up_credit_and_no_more() -> None:
    pair = opened(Delivery(Keeps), config=Config(channel_window_bytes=8192))
    for value in range(1000):
        pair.client.send("a", payload(value))
    pair.run(seconds=5.0)
    [channel] = pair.server.connection.receiver._channels.values()
    assert channel.guard is not None
    assert 8192 - 100 < channel.guard.held_cost <= 8192
    pair.client.send("b", b"alive")
    pair.run(seconds=1.0)
    assert pair.server.payloads("b") == [b"alive"]


@pytest.mark.parametrize("ordering", [Keeps, InOrder])
def test_without_credit_an_ordering_holds_no_more_than_a_window(ordering: Any) -> None:
    """Where nothing is resent, a gap is never filled."""
    what = Delivery(ordering, delivery.Never())
    pair = opened(what, config=Config(channel_window_bytes=8192))
    pair.cut()
    pair.client.send("a", payload(0))
    pair.run(seconds=0.0)
    pair.heal()
    for value in range(2000):
        pair.client.send("a", payload(value))
        if value % 50 == 0:
            pair.run(seconds=0.01)
    pair.run(seconds=1.0)
    [channel] = pair.server.connection.receiver._channels.values()
    assert channel.guard is not None
    assert channel.guard.held_cost <= 8192
    assert pair.server.connection.stats.policy_faults > 1000
    assert still_works(pair)


def test_equal_small_values_are_told_apart() -> None:
    """An ordering that sees one object for several messages still hands each of them over."""
    pair = opened(Delivery(InOrder, name="own"), view=lambda data: True)
    for value in range(50):
        pair.client.send("a", payload(value))
    assert pair.settle()
    assert pair.server.received == [("a", number, True) for number in range(50)]
    [channel] = pair.server.connection.receiver._channels.values()
    assert channel.consumed_cost == channel.arrived_cost > 0


def test_an_ordering_that_cannot_be_made_refuses_its_channel() -> None:
    made = 0

    def make() -> Any:
        nonlocal made
        made += 1
        raise RuntimeError("on purpose")

    here, there = (
        ChannelSpec("a", Delivery(Base, name="own")),
        ChannelSpec("a", Delivery(make, name="own")),
    )
    pair = Pair([here], server_specs=[there])
    pair.open()
    message = pair.client.send("a", b"x")
    assert pair.settle()
    assert made == 1
    assert pair.server.ended is None
    assert message.outcome is not None
    assert pair.server.connection.stats.policy_faults == 1
    assert any(isinstance(event, MessageRefused) for event in pair.client.events)


def test_a_subclass_of_an_ordering_of_ours_is_asked() -> None:
    class Evens(InOrder):
        def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
            return [each for each in super().arrived(sequence, message) if each != b"1"]

    pair = opened(Delivery(Evens))
    for value in range(3):
        pair.client.send("a", payload(value))
    assert pair.settle()
    assert pair.server.payloads("a") == [b"0", b"2"]


# -- retry policies


class Retries:
    """Answers the same whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    def next_try(self, sent: Sent, rtt: Rtt) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(sent, rtt) if callable(self.answer) else self.answer


NONSENSE: list[Any] = [
    math.nan,
    "soon",
    b"",
    [],
    True,
    1j,
    RuntimeError("on purpose"),
    MemoryError(),
]


@pytest.mark.parametrize("answer", NONSENSE, ids=repr)
def test_a_retry_policy_without_an_answer_leaves_it_to_loss_detection(answer: Any) -> None:
    what = Delivery(delivery.InOrder, Retries(answer))
    pair = opened(what, link=Link(delay=0.02, loss=0.2))
    for value in range(COUNT):
        pair.client.send("a", payload(value))
    pair.client.send("a", bytes(20_000))
    assert pair.settle()
    assert pair.server.payloads("a") == [*map(payload, range(COUNT)), bytes(20_000)]
    assert pair.client.connection.stats.policy_faults > 0
    assert any(isinstance(event, PolicyFailed) for event in pair.client.events)
    assert still_works(pair)


@pytest.mark.parametrize("answer", [-math.inf, -1.0, 0, 0.0, lambda sent, rtt: sent.last_sent_at])
def test_a_retry_policy_that_wants_the_past_gets_it_soon(answer: Any) -> None:
    """And nothing spins: each further sending is a millisecond later at least."""
    retry = Retries(answer)
    pair = opened(Delivery(delivery.InOrder, retry), link=Link(delay=0.02))
    pair.client.send("a", b"x")
    assert pair.settle()
    assert pair.server.payloads("a") == [b"x"]
    assert 2 < retry.asked < 60


def test_a_time_that_a_policy_sets_goes_before_loss_detection() -> None:
    slow = Retries(lambda sent, rtt: sent.last_sent_at + 2.0)
    pair = opened(Delivery(delivery.AsItArrives, slow), link=Link(delay=0.02))
    pair.cut(0.01)
    started = pair.now
    lost = pair.client.send("a", b"lost")
    pair.run(seconds=0.02)
    for value in range(20):
        pair.client.send("a", payload(value))
        pair.run(seconds=0.01)
    assert pair.run(lambda: lost.outcome is not None, 10.0)
    assert lost.outcome is Outcome.DELIVERED
    assert lost.attempts == 2
    assert lost.last_sent_at == pytest.approx(started + 2.0, abs=0.01)


def test_a_policy_is_asked_about_each_piece_of_a_record() -> None:
    retry = Retries(lambda sent, rtt: sent.last_sent_at + 0.1 if sent.attempts < 9 else None)
    pair = opened(Delivery(delivery.InOrder, retry), link=Link(delay=0.02, loss=0.2))
    pair.client.send("a", bytes(100_000))
    assert pair.settle()
    assert [len(p) for p in pair.server.payloads("a")] == [100_000]
    assert retry.asked > 100


def test_a_policy_that_never_tries_again_loses_what_is_lost() -> None:
    once = Retries(None)
    pair = opened(Delivery(delivery.InOrder, once), link=Link(delay=0.02, loss=0.2))
    sent = [pair.client.send("a", bytes(900) + payload(value)) for value in range(COUNT)]
    record = pair.client.send("a", bytes(200_000))
    assert pair.settle()
    lost = [message for message in sent if message.outcome is Outcome.LOST]
    assert 5 < len(lost) < 50
    assert record.outcome is Outcome.LOST
    assert len(pair.server.payloads("a")) == COUNT - len(lost)
    assert all(message.attempts == 1 for message in sent)
    assert pair.server.connection.stats.messages_skipped == len(lost) + 1


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_probe_sends_nothing_that_has_no_attempt_left(attempts: int) -> None:
    pair = opened(delivery.reliable(attempts=attempts), link=Link(delay=0.02))
    pair.cut()
    message = pair.client.send("a", b"x")
    pair.run(seconds=5.0)
    assert message.attempts == attempts
    assert message.outcome is Outcome.LOST  # although nothing has been acknowledged since
    pair.heal()
    pair.client.send("a", b"y")
    assert pair.settle()
    assert pair.server.payloads("a") == [b"y"]


def test_a_class_with_attempts_of_its_own_is_asked() -> None:
    class Own(Retries):
        attempts = None

    retry = Own(math.inf)
    pair = opened(Delivery(delivery.InOrder, retry))
    pair.client.send("a", b"x")
    assert pair.settle()
    assert retry.asked == 1

    class Sub(UntilAcknowledged):
        asked = 0

        def next_try(self, sent: Sent, rtt: Rtt) -> float | None:
            Sub.asked += 1
            return super().next_try(sent, rtt)

    pair = opened(Delivery(delivery.InOrder, Sub()))
    pair.client.send("a", b"x")
    assert pair.settle()
    assert Sub.asked == 1
