"""The protocol of multicast sessions in virtual time, without sockets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aerogram.lan.stream import wire
from aerogram.lan.stream.assembly import GapReason
from aerogram.lan.stream.config import MulticastConfig
from tests.lan.world import Node, World

DATA, REPAIR, HEARTBEAT = wire.DATA, wire.REPAIR, wire.HEARTBEAT


def payloads(count: int, size: int = 1000) -> list[bytes]:
    return [b"%06d" % n + bytes(size - 6) for n in range(count)]


def kinds(world: World, kind: int) -> list[tuple[float, bytes]]:
    return [(at, datagram) for at, datagram in world.sent if datagram[0] == kind]


@pytest.mark.parametrize("seed", range(3))
def test_all_receivers_complete_and_repairs_stay_near_what_was_lost(seed: int) -> None:
    world = World(seed)
    for _ in range(8):
        world.add(loss=0.05)
    sent = payloads(1000)
    world.send(*sent)
    world.run(10)
    for node in world.nodes:
        assert node.messages == sent
        assert node.gaps == []
    # Of 1000 packets 337 are lost to somebody, and 5 % of the repairs again.
    assert world.sender.stats.packets_repaired < 450
    assert world.sender.stats.packets_sent == 1000
    assert len(world.nacks) < 8 * 40


def test_one_bad_member_completes_and_the_others_do_not_notice() -> None:
    sent = payloads(1000)
    latest: dict[float, float] = {}
    for loss in (0.05, 0.6):
        world = World(3)
        world.add(loss=loss)
        good = [world.add(loss=0.05) for _ in range(7)]
        for n, payload in enumerate(sent):
            world.at(n * 0.001, lambda world=world, payload=payload: world.send(payload))
        world.run(1.0)
        latest[loss] = world.now
        while not all(len(node.messages) == 1000 for node in good):
            world.run(0.01)
        latest[loss] = world.now
        world.run(10)
        assert all(node.messages == sent for node in world.nodes)
        # A packet takes 1 / (1 - loss) tries in the mean, the first of which is not a repair.
        assert world.sender.stats.packets_repaired < (450 if loss < 0.5 else 1900)
    assert latest[0.6] < latest[0.05] + 0.5


@pytest.mark.parametrize("order", ["ordered", "as it arrives"])
def test_large_messages_and_small_ones_come_whole(order: str) -> None:
    world = World(4)
    nodes = [world.add(loss=0.1, order=order) for _ in range(3)]  # type: ignore[arg-type]
    sent = [b"%d" % n + bytes([n]) * size for n, size in enumerate([0, 10, 100_000, 5, 3000] * 8)]
    world.send(*sent)
    world.run(10)
    for node in nodes:
        assert sorted(node.messages) == sorted(sent)
        assert order != "ordered" or node.messages == sent


def test_as_it_arrives_no_message_waits_for_a_lost_one() -> None:
    world = World(5)
    ordered, arriving = world.add(), world.add(order="as it arrives")
    sent = payloads(10)
    world.run(1)
    world.lose(0)
    world.send(*sent)
    world.run(0.015)
    assert arriving.messages == sent[1:]
    assert ordered.messages == []
    world.run(2)
    assert arriving.messages == [*sent[1:], sent[0]]
    assert ordered.messages == sent


def test_a_loss_at_the_end_is_seen_by_the_heartbeat() -> None:
    world = World(6)
    node = world.add()
    world.run(1)
    world.drop = lambda datagram, node: datagram[0] == DATA
    world.send(*payloads(3))
    world.run(0.5)
    assert node.messages == payloads(3)


def test_heartbeats_become_rare_while_nothing_is_sent() -> None:
    world = World(7)
    world.add()
    world.send(b"x")
    world.run(61)
    beats = [at for at, _ in kinds(world, HEARTBEAT)]
    assert len([at for at in beats if at < 1]) >= 4
    assert len([at for at in beats if 1 < at <= 61]) <= 61


def test_a_late_joiner_starts_where_it_likes() -> None:
    world = World(8)
    early = world.add(loss=0.05)
    sent = payloads(200)
    world.send(*sent[:100])
    world.run(1)
    newest, oldest = world.add(loss=0.05), world.add(loss=0.05, start="oldest")
    world.send(*sent[100:])
    world.run(5)
    assert early.messages == oldest.messages == sent
    assert newest.messages == sent[100:]
    assert newest.member.first_message == 100


def test_a_late_joiner_gets_more_than_one_request_can_ask_for() -> None:
    world = World(8)
    world.add()
    sent = [b"%06d" % n + bytes(1000) for n in range(6000)]
    world.send(*sent)
    world.run(3)
    late = world.add(start="oldest")
    world.run(5)
    assert late.messages == sent
    assert len(world.nacks) < 30


def test_a_late_joiner_gets_no_more_than_is_held() -> None:
    config = MulticastConfig(buffer_messages=50)
    world = World(9, config=config)
    world.add()
    world.send(*payloads(200))
    world.run(1)
    late = world.add(start="oldest")
    world.run(2)
    assert late.messages == payloads(200)[150:]
    assert late.gaps == []


def test_what_the_sender_holds_no_more_is_told_as_lost() -> None:
    config = MulticastConfig(buffer_messages=20, hold_seconds=0.0)
    world = World(10, config=config)
    good, cut_off = world.add(), world.add()
    world.run(1)
    world.send(*payloads(10))
    world.run(1)
    cut_off.loss = 1.0
    for _ in range(10):
        world.send(*payloads(10))
        world.run(0.1)
    cut_off.loss = 0.0
    world.send(b"end")
    world.run(5)
    assert len(good.messages) == 111
    [gap] = cut_off.gaps
    assert gap.reason is GapReason.EVICTED
    assert len(cut_off.messages) + gap.count == 111
    assert gap.first == 10
    assert cut_off.messages[-1] == b"end"
    stats = cut_off.receiver.stats
    assert (stats.messages_received, stats.messages_lost) == (111 - gap.count, gap.count)
    assert stats.packets_lost > 0


def test_a_sender_waits_for_repairs_before_it_forgets() -> None:
    config = MulticastConfig(buffer_messages=20)
    world = World(11, config=config)
    nodes = [world.add(loss=0.3) for _ in range(3)]
    world.send(*payloads(300))
    world.run(60)
    for node in nodes:
        assert node.messages == payloads(300)


def test_nobody_can_stop_the_stream_by_asking_for_ever() -> None:
    config = MulticastConfig(buffer_messages=20, hold_seconds=0.4)
    world = World(12, config=config)
    good, deaf = world.add(), world.add()
    world.run(1)
    world.drop = lambda datagram, node: node is deaf and datagram[0] != HEARTBEAT
    world.send(*payloads(1000))
    world.run(1000 / 20 * 0.5)
    assert good.messages == payloads(1000)
    assert sum(gap.count for gap in deaf.gaps) > 950


def test_the_sender_keeps_to_its_rate() -> None:
    config = MulticastConfig(rate_bytes_per_second=100_000)
    world = World(13, config=config)
    for _ in range(4):
        world.add(loss=0.2)
    started = world.now
    world.send(*payloads(300))
    world.run(20)
    sent = [(at, len(d)) for at, d in world.sent if d[0] != HEARTBEAT]
    for index in range(0, len(sent), 37):
        at = sent[index][0]
        size = sum(size for when, size in sent if at <= when < at + 1.0)
        assert size <= 100_000 + 5000
    assert all(node.messages == payloads(300) for node in world.nodes)
    assert sent[-1][0] - started > 300 * 1000 / 100_000


def test_small_messages_share_packets() -> None:
    world = World(14)
    node = world.add()
    world.send(*[b"%03d" % n for n in range(100)])
    world.run(1)
    assert node.messages == [b"%03d" % n for n in range(100)]
    # The first goes at once; the others have waited for nothing but this turn.
    assert world.sender.stats.packets_sent <= 3


def test_members_tell_how_far_they_are() -> None:
    world = World(15)
    nodes = [world.add(loss=0.1) for _ in range(5)]
    world.send(*payloads(100))
    world.sender.ask_for_reports(world.now)
    assert not world.sender.is_complete
    world.run(2)
    assert world.sender.is_complete
    for node in nodes:
        assert node.member.first_missing == 100
        assert node.member.rtt == pytest.approx(0.02, abs=0.005)


def test_an_ended_stream_ends_for_those_who_have_everything() -> None:
    world = World(16)
    good, cut_off = world.add(loss=0.1), world.add()
    world.run(1)
    cut_off.loss = 1.0
    world.send(*payloads(50))
    world.sender.end(world.now)
    world.flush_sender()
    world.run(2)
    assert good.receiver.has_ended
    assert good.messages == payloads(50)
    assert not cut_off.receiver.has_ended
    assert cut_off.receiver.silent_at < world.now + 10
    cut_off.loss = 0.0
    world.run(3)
    assert cut_off.receiver.has_ended
    assert cut_off.messages == payloads(50)


def test_an_abandoned_receiver_shows_what_it_lacks() -> None:
    world = World(17)
    node = world.add()
    world.run(1)
    world.drop = lambda datagram, node: (
        datagram[0] == REPAIR or (datagram[0] == DATA and world.sequence_of(datagram) % 2 == 0)
    )
    world.send(*payloads(10))
    world.run(3)
    assert node.messages == []
    node.receiver.abandon()
    world.flush_node(node)
    assert node.messages == payloads(10)[1::2]
    assert sum(gap.count for gap in node.gaps) == 5
    assert {gap.reason for gap in node.gaps} == {GapReason.ENDED}


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[tuple[float, bytes]]:
        world = World(seed)
        for _ in range(4):
            world.add(loss=0.2)
        world.send(*payloads(100))
        world.run(5)
        return world.sent

    assert run(1) == run(1)
    assert run(1) != run(2)


def shared_loss(world: World, every: int) -> None:
    """Every so many new packets nobody gets."""

    def drop(datagram: bytes, node: Node | None) -> bool:
        return datagram[0] == DATA and wire.split_untrusted(datagram).number % every == 0

    world.drop = drop


@pytest.mark.parametrize("members", [10, 1000])
def test_nacks_stay_few_however_many_lose_a_packet(members: int) -> None:
    config = replace(MulticastConfig(), report_seconds=1000.0, heartbeat_seconds_max=10.0)
    world = World(members, config=config)
    for _ in range(members):
        world.add()
    world.run(0.5)
    shared_loss(world, 3)
    lost: list[int] = []
    for n in range(6):
        before = len(world.nacks)
        number = world.sender.keys.next_number
        world.send(b"%d" % n)
        world.run(1.0)
        if number % 3 == 0:
            lost.append(len(world.nacks) - before)
        else:
            assert len(world.nacks) == before
    assert len(lost) == 2
    assert min(lost) >= 1
    assert max(lost) <= 12
    assert sum(lost) / len(lost) <= 6
    assert all(len(node.messages) == 6 for node in world.nodes)
    assert world.sender.stats.packets_repaired == len(lost)
