"""What one member can make the sender send: no more than the stream's rate, and for no longer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from aerogram.lan.stream import wire
from aerogram.lan.stream.config import MulticastConfig
from tests.lan.test_stream_limits import forger, nack
from tests.lan.world import Node, World

RATE = 200_000.0
CONFIG = MulticastConfig(rate_bytes_per_second=RATE)
FLOOD_SECONDS = 10.0
PAYLOADS = [b"%06d" % number + bytes(500) for number in range(800)]


def flooded(world: World, bad: Node, seconds: float) -> None:
    """Let a member, who has the key, ask for all that there is a hundred times a second."""
    keys = forger(bad.member.identity)

    def ask() -> None:
        world.sender.receive_datagram(nack(keys, (0, world.sender.history.next)), world.now)
        world.flush_sender()

    for step in range(int(seconds * 100)):
        world.at(world.now + step / 100, ask)


def test_a_flood_of_requests_is_answered_no_faster_than_the_rate() -> None:
    world = World(1, config=CONFIG)
    good, bad = world.add(), world.add()
    world.send(*PAYLOADS)
    world.run(5)
    sender, before = world.sender, replace(world.sender.stats)
    flooded(world, bad, FLOOD_SECONDS)
    world.run(FLOOD_SECONDS)
    stats = sender.stats
    assert 0 < stats.bytes_repaired - before.bytes_repaired < 1.02 * RATE * FLOOD_SECONDS
    assert stats.nacks_received <= 2.2 * CONFIG.nacks_per_second * FLOOD_SECONDS
    assert len(sender._repairs) + len(sender._asked) <= 2 * sender.history.next
    assert good.messages == PAYLOADS
    world.run(5)  # and when it is over, it is over
    repaired = sender.stats.packets_repaired
    world.run(30)
    assert sender.stats.packets_repaired == repaired


def test_a_flood_of_requests_leaves_new_messages_half_of_the_rate() -> None:
    world = World(2, config=CONFIG)
    good, bad = world.add(), world.add()
    world.send(*PAYLOADS[:400])
    world.run(3)
    flooded(world, bad, FLOOD_SECONDS)
    world.run(0.5)
    world.send(*PAYLOADS[400:])
    alone = sum(map(len, PAYLOADS[400:])) / RATE
    world.run(2.5 * alone)
    assert good.messages == PAYLOADS


def test_a_member_that_hears_nothing_costs_nothing() -> None:
    def sent_bytes(*, with_deaf: bool) -> int:
        world = World(3, config=CONFIG)
        good = world.add()
        if with_deaf:
            deaf = world.add(loss=1.0)
        world.send(*PAYLOADS)
        world.run(9)  # then the program of who heard nothing is told
        assert good.messages == PAYLOADS
        if with_deaf:
            assert [node for _, node, _ in world.nacks] == []
            assert deaf.receiver.missing == 0
        assert world.sender.stats.packets_repaired == 0
        return world.sender.stats.bytes_sent

    assert sent_bytes(with_deaf=True) < 1.01 * sent_bytes(with_deaf=False)


def test_a_member_whose_repairs_never_come_is_repaired_ever_more_rarely() -> None:
    world = World(4, config=CONFIG)
    unlucky, good = world.add(), world.add()
    world.drop = lambda datagram, node: (
        node is unlucky
        and datagram[0] in (wire.DATA, wire.REPAIR)
        and world.sequence_of(datagram) in (3, 4, 5)
    )
    world.send(*PAYLOADS)
    world.run(120)
    assert good.messages == PAYLOADS
    repaired = [at for at, datagram in world.sent if datagram[0] == wire.REPAIR]
    assert len(repaired) < 3 * 170
    per_minute = Counter(at // 60 for at in repaired)
    assert per_minute[1] <= per_minute[0]
