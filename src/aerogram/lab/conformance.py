"""Does a delivery keep what it promises? The suite that ours pass, for one of your own.

A `Policy` is a delivery with its promises written down. It is examined in three ways: its ordering
alone, shown numbers in every disorder that a network can make; its retry policy alone, whose
messages are never acknowledged; and both together between two programs on bad networks. What is
broken is named by one of `PROPERTIES`. `pytest --aerogram-policy module:name` runs this as tests.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal, cast

from aerogram import delivery as presets
from aerogram import messages as codec
from aerogram.app import App
from aerogram.channels import Channel
from aerogram.client import connect
from aerogram.config import Config
from aerogram.core.delivery import Delivery, HoldingOrdering
from aerogram.core.recovery import Rtt
from aerogram.lab.link import Burst, Link
from aerogram.lab.nat import Nat
from aerogram.lab.network import Network
from aerogram.lab.simulation import simulate
from aerogram.messages import Message
from aerogram.receipts import Receipt
from aerogram.server import serve
from aerogram.session import Session

TWICE: Final = "delivers twice"
DISORDER: Final = "delivers out of promised order"
HOLDS: Final = "holds without bound"
ETERNAL: Final = "never gives up"
LOSES: Final = "loses what it promised"
INVENTS: Final = "hands over what it was not given"
FAILS: Final = "raises, or answers what is no answer"
PROPERTIES: Final = (TWICE, DISORDER, HOLDS, ETERNAL, LOSES, INVENTS, FAILS)

MESSAGES: Final = 60
"""In each disorder that an ordering is shown."""
TRIES_LIMIT: Final = 2000
"""Transmissions after which a policy that promised to give up has not."""
WORLD_MESSAGES: Final = 300
WORLD_LIMIT_SECONDS: Final = 300.0
SETTLE_SECONDS: Final = 20.0
TICK_SECONDS: Final = 0.01
"""Between two handfuls of messages, so that trouble in their midst meets some on their way."""
MESSAGES_PER_TICK: Final = 10
TROUBLE_AT: Final = WORLD_MESSAGES // 2
BLACK_OUT_SECONDS: Final = 2.0
CLIENT: Final = "client-1"


@dataclass(frozen=True, slots=True)
class World:
    """A network between two programs, and what happens to it while messages are on their way."""

    link: Link
    trouble: Literal["none", "black-out", "rebind"] = "none"


WORLDS: Final = (
    World(Link(delay=0.02)),
    World(Link(delay=0.02, jitter=0.03, loss=0.2, duplicate=0.2)),
    World(Link(delay=0.02, burst=Burst(enter=0.05, leave=0.2), reorder=0.1, reorder_delay=0.2)),
    World(Link(delay=0.02, loss=0.02), "black-out"),
    World(Link(delay=0.02, loss=0.02), "rebind"),
)
"""A seed takes the one whose place it is, modulo their count."""


class Probe(Message):
    """What policies are shown unless they need messages of their own."""

    number: int
    entity: int


def probe(number: int) -> Probe:
    """The message with this number, about one of four entities."""
    return Probe(number, number % 4)


def entity_of(message: Any) -> int:
    """What a probe is about."""
    return int(message.entity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What a delivery says of itself."""

    order: Literal["strict", "newest", "none"] = "none"
    """`strict`: as sent. `newest`: never older than one of its key that was shown before."""
    reliable: bool = False
    """Every message is shown, with `newest` the last one of each key, unless it was given up."""
    gives_up_after_seconds: float | None = None
    """A message that is never acknowledged has an end by then; None is never."""
    key: Callable[[Any], object] | None = None
    """What `newest` compares among; None compares all."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A delivery and its promises. `message` makes the message with a number; all must differ."""

    delivery: Delivery
    promises: Promises
    message: Callable[[int], Message] = probe


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken: the property's name, and how."""

    broken: str
    detail: str


PRESETS: Final = {
    "unreliable": Policy(presets.unreliable(), Promises()),
    "sequenced": Policy(presets.sequenced(), Promises(order="newest")),
    "reliable": Policy(presets.reliable(), Promises(reliable=True)),
    "ordered": Policy(presets.ordered(), Promises(order="strict", reliable=True)),
    "reliable_sequenced": Policy(
        presets.reliable_sequenced(), Promises(order="newest", reliable=True)
    ),
    "latest": Policy(
        presets.latest(key=entity_of), Promises(order="newest", reliable=True, key=entity_of)
    ),
}


def examine(policy: Policy, *, seeds: Iterable[int] = range(len(WORLDS))) -> list[Violation]:
    """Everything that is broken, each property once. An empty list is a policy that conforms."""
    numbers = [*seeds]
    found = [
        *_examine_ordering(policy, numbers),
        *_examine_retry(policy),
        *(v for seed in numbers for v in _examine_world(policy, seed)),
    ]
    first: dict[str, Violation] = {}
    for violation in found:
        first.setdefault(violation.broken, violation)
    return [first[name] for name in PROPERTIES if name in first]


# -- the ordering alone


@dataclass(slots=True)
class _Shown:
    """What an ordering has handed over, checked as it comes."""

    policy: Policy
    given: dict[int, Any] = field(default_factory=dict[int, Any])
    shown: list[int] = field(default_factory=list[int])
    newest: dict[object, int] = field(default_factory=dict[object, int])

    def take(self, messages: Iterable[Any]) -> Iterator[Violation]:
        numbers = {id(message): number for number, message in self.given.items()}
        for message in messages:
            number = numbers.get(id(message))
            if number is None:
                yield Violation(INVENTS, f"{message!r}")
                continue
            if number in self.shown:
                yield Violation(TWICE, f"number {number}")
                continue
            yield from self._in_order(number, message)
            self.shown.append(number)

    def _in_order(self, number: int, message: Any) -> Iterator[Violation]:
        promises = self.policy.promises
        if promises.order == "none":
            return
        key = promises.key(message) if promises.key and promises.order == "newest" else None
        if number < self.newest.get(key, -1):
            yield Violation(DISORDER, f"number {number} after {self.newest[key]}")
        self.newest[key] = max(number, self.newest.get(key, -1))


def _examine_ordering(policy: Policy, seeds: list[int]) -> Iterator[Violation]:
    for seed in seeds:
        for reach in (1, 5, MESSAGES):
            try:
                yield from _disorder(policy, Random(f"{seed} {reach}"), reach)
            except Exception as error:  # the policy's
                yield Violation(FAILS, f"its ordering raised {type(error).__name__}: {error}")


def _disorder(policy: Policy, random: Random, reach: int) -> Iterator[Violation]:
    """Show all numbers, each displaced by up to `reach`; some are skipped where that can be."""
    ordering = policy.delivery.ordering()
    holds = hasattr(ordering, "skipped")
    shown = _Shown(policy)
    order = sorted(range(MESSAGES), key=lambda number: number + random.random() * reach)
    skipped = {number for number in order if holds and random.random() < 0.1}
    for number in order:
        if number in skipped:
            yield from shown.take(cast("HoldingOrdering", ordering).skipped(number))
            continue
        shown.given[number] = policy.message(number)
        yield from shown.take(ordering.arrived(number, shown.given[number]))
    yield from _left_out(policy, shown, holds=holds)


def _left_out(policy: Policy, shown: _Shown, *, holds: bool) -> Iterator[Violation]:
    missing = set(shown.given) - set(shown.shown)
    if not missing:
        return
    if holds:
        yield Violation(HOLDS, f"{len(missing)} messages, with nothing left to wait for")
    elif policy.promises.order != "newest":
        yield Violation(LOSES, f"its ordering dropped number {min(missing)}")
    elif policy.promises.reliable and _last_of_each_key(policy) & missing:
        yield Violation(LOSES, "its ordering dropped the newest of a key")


def _last_of_each_key(policy: Policy, count: int = MESSAGES) -> set[int]:
    key = policy.promises.key
    last: dict[object, int] = {}
    for number in range(count):
        last[key(policy.message(number)) if key else None] = number
    return set(last.values())


# -- the retry policy alone


@dataclass(slots=True)
class _Unanswered:
    """A message that is sent again and again."""

    first_sent_at: float
    last_sent_at: float
    attempts: int


def _examine_retry(policy: Policy) -> Iterator[Violation]:
    if not policy.delivery.resends:
        if policy.promises.reliable:
            yield Violation(LOSES, "it sends once and promises that all arrive")
        return
    rtt = Rtt(0.05)
    sent = _Unanswered(10.0, 10.0, 1)
    for _ in range(TRIES_LIMIT):
        try:
            due = cast("object", policy.delivery.retry.next_try(sent, rtt))
        except Exception as error:  # the policy's
            yield Violation(FAILS, f"its retry raised {type(error).__name__}: {error}")
            return
        if due is None:
            yield from _gave_up(policy, sent)
            return
        if isinstance(due, bool) or not isinstance(due, int | float) or math.isnan(due):
            yield Violation(FAILS, f"its retry answered {due!r}, which is no time")
            return
        # Loss detection answers for infinity: a probe timeout that doubles, at most 2 s (RFC 9002).
        pause = min(rtt.probe_timeout * (1 << min(sent.attempts, 6)), 2.0)
        sent.last_sent_at = sent.last_sent_at + pause if due == math.inf else max(due, 10.0)
        sent.attempts += 1
    deadline = policy.delivery.deadline_seconds
    if policy.promises.gives_up_after_seconds is not None and deadline is None:
        yield Violation(ETERNAL, f"sent {TRIES_LIMIT} times")


def _gave_up(policy: Policy, sent: _Unanswered) -> Iterator[Violation]:
    limit = policy.promises.gives_up_after_seconds
    took = sent.last_sent_at - sent.first_sent_at
    if limit is None and policy.promises.reliable:
        yield Violation(LOSES, f"given up after {sent.attempts} tries, which it did not say")
    elif limit is not None and took > limit:
        yield Violation(ETERNAL, f"given up after {took:.1f} s and not {limit:g}")


# -- both, between two programs


def _examine_world(policy: Policy, seed: int) -> list[Violation]:
    world = WORLDS[seed % len(WORLDS)]
    return simulate(_world(policy, world, seed), limit=WORLD_LIMIT_SECONDS + 100.0, seed=seed)


async def _world(policy: Policy, world: World, seed: int) -> list[Violation]:
    sent = [policy.message(number) for number in range(WORLD_MESSAGES)]
    numbers = {codec.encode(message): number for number, message in enumerate(sent)}
    channel = Channel("policy", policy.delivery, carries=[type(sent[0])])
    app: App[None, None] = App(channels=[channel])
    arrived = _Shown(policy)
    found: list[Violation] = []

    @app.on(type(sent[0]))
    async def see(_session: Session[None], message: Message) -> None:
        number = numbers[codec.encode(message)]
        if number in arrived.shown:
            found.append(Violation(TWICE, f"number {number}, seed {seed}"))
        arrived.given[number] = message
        found.extend(arrived.take([message]))

    network = Network(seed=seed, link=world.link)
    nat = network.nat(CLIENT) if world.trouble == "rebind" else None
    config = Config(handshake_timeout_seconds=60.0)
    client = App(channels=[channel])
    async with (
        serve(app, "server", 1, network=network, config=config) as server,
        connect(server.address, app=client, network=network, config=config) as session,
    ):
        receipts: list[Receipt] = []
        for number, message in enumerate(sent):
            if number == TROUBLE_AT:
                _make_trouble(world, network, nat)
            receipts.append(await session.send(message))
            if number % MESSAGES_PER_TICK == MESSAGES_PER_TICK - 1:
                await asyncio.sleep(TICK_SECONDS)
        await _settle(receipts)
        found.extend(_outcomes(policy, session, server.sessions, arrived))
    return found


def _make_trouble(world: World, network: Network, nat: Nat | None) -> None:
    """The client's next packets come from another port, or for a while nothing passes."""
    if nat is not None:
        nat.rebind_port()
    elif world.trouble == "black-out":
        network.partition(CLIENT, "server")
        loop = asyncio.get_running_loop()
        loop.call_later(BLACK_OUT_SECONDS, network.repair, CLIENT, "server")


async def _settle(receipts: list[Receipt]) -> None:
    """Wait until every message has an outcome, or long enough for any that will get one."""
    for _ in range(int(SETTLE_SECONDS * 10)):
        if all(receipt.outcome is not None for receipt in receipts):
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)


def _outcomes(
    policy: Policy, session: Session[Any], peers: list[Session[Any]], arrived: _Shown
) -> Iterator[Violation]:
    stats, promises = session.stats, policy.promises
    faults = stats.policy_faults + sum(peer.stats.policy_faults for peer in peers)
    if faults:
        yield Violation(FAILS, f"{faults} answers that no policy may give")
    if stats.messages_in_flight and promises.gives_up_after_seconds is not None:
        yield Violation(ETERNAL, f"{stats.messages_in_flight} messages without an end")
    if not promises.reliable or promises.gives_up_after_seconds is not None:
        return
    wanted = set(range(WORLD_MESSAGES))
    if promises.order == "newest":
        wanted = _last_of_each_key(policy, WORLD_MESSAGES)
    missing = wanted - set(arrived.shown)
    if missing:
        yield Violation(LOSES, f"{len(missing)} messages were never shown, first {min(missing)}")
