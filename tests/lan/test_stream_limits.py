"""What strangers, former and bad members, and slow programs can do to a stream: little."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from aerogram.errors import MessageTooLarge
from aerogram.lan.stream import receiver as receiver_module
from aerogram.lan.stream import sender as sender_module
from aerogram.lan.stream import wire
from aerogram.lan.stream.assembly import GapReason
from aerogram.lan.stream.config import MulticastConfig
from aerogram.lan.stream.keys import GroupKeys
from tests.lan.world import KEY, STREAM, World

SECOND = bytes([7]) * 32
CONFIG = MulticastConfig()


def payloads(count: int) -> list[bytes]:
    return [b"%06d" % n + bytes(500) for n in range(count)]


def forger(origin: int, key: bytes = KEY, stream: bytes = STREAM) -> GroupKeys:
    keys = GroupKeys(stream, origin, 2.0)
    keys.install(0, key, 0, 0.0)
    for _ in range(1000):
        keys.seal(wire.DATA, b"")  # so that its numbers are new to all
    return keys


# Strangers


def attack(world: World, chance: random.Random) -> None:
    """Bring to everybody what was sent before, whole, broken and cut off."""
    for _, datagram in chance.sample(world.sent, 5):
        broken = bytearray(datagram)
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        for copy in (datagram, bytes(broken), datagram[: chance.randrange(len(datagram))]):
            for target in (world.sender, *(node.receiver for node in world.nodes)):
                target.receive_datagram(copy, world.now)


def lossy_run(*, attacked: bool) -> World:
    world, chance = World(1), random.Random(9)
    for _ in range(3):
        world.add(loss=0.1)
    world.send(*payloads(200))
    world.run(1)
    for node in world.nodes:
        node.loss = 0.0  # a replay of what never came would be its first delivery
    for step in range(100 if attacked else 0):
        world.at(1.0 + step * 0.01, lambda: attack(world, chance))
    world.run(2)
    return world


def test_forged_and_replayed_packets_change_nothing() -> None:
    quiet, noisy = lossy_run(attacked=False), lossy_run(attacked=True)
    assert quiet.sent == noisy.sent
    # What was lost on the way and is replayed late is authentic, and repaired already.
    dropped = ("dropped_foreign", "dropped_unauthentic", "dropped_unreadable", "packets_duplicate")
    for before, after in zip(quiet.nodes, noisy.nodes, strict=True):
        assert before.items == after.items
        assert after.receiver.stats.dropped_unauthentic > 100
        harmless = {name: getattr(before.receiver.stats, name) for name in dropped}
        assert replace(after.receiver.stats, **harmless) == before.receiver.stats


def test_packets_of_other_streams_and_keys_are_dropped() -> None:
    world = World(2)
    node = world.add()
    body = wire.encode_whole(0, 0, [b"forged"])
    for keys in (forger(0, SECOND), forger(0, stream=b"stream 2")):
        node.receiver.receive_datagram(keys.seal(wire.DATA, body), world.now)
    world.flush_node(node)
    assert node.items == []
    assert node.receiver.stats.dropped_unauthentic == 1
    assert node.receiver.stats.dropped_foreign == 1
    for junk in (b"", b"\xb0", bytes(100)):
        node.receiver.receive_datagram(junk, world.now)
        world.sender.receive_datagram(junk, world.now)
    assert node.receiver.stats.dropped_foreign == 4
    assert world.sender.stats.dropped_foreign == 3


def test_a_replayed_request_is_no_second_one() -> None:
    world = World(3)
    node = world.add()
    world.run(1)
    recorded: list[bytes] = []
    world.drop = lambda datagram, to: datagram[0] == wire.DATA
    world.multicast, send = (  # type: ignore[method-assign]
        lambda datagram, source: (recorded.append(datagram), send(datagram, source)),
        world.multicast,
    )
    world.send(b"lost")
    world.run(1)
    [nack] = [datagram for datagram in recorded if datagram[0] == wire.NACK]
    before = replace(world.sender.stats)
    for _ in range(100):
        world.sender.receive_datagram(nack, world.now)
    world.flush_sender()
    world.run(0.015)
    assert world.sender.stats.packets_repaired == before.packets_repaired == 1
    assert world.sender.stats.dropped_unauthentic == before.dropped_unauthentic + 100
    assert node.messages == [b"lost"]


# New keys


@pytest.mark.parametrize("after", [0.0, 0.05, 0.5])
def test_after_a_new_key_the_others_lose_nothing_and_the_expelled_reads_nothing(
    after: float,
) -> None:
    world = World(4)
    nodes = [world.add(loss=0.05) for _ in range(3)]
    expelled = world.add()
    sent = payloads(300)
    world.send(*sent[:100])
    world.run(0.02)
    world.sender.dismiss(expelled.member.identity)
    world.rekey(SECOND, to=nodes, after=after)
    already = len(world.sent)
    world.send(*sent[100:])
    world.run(5)
    for node in nodes:
        assert node.messages == sent
        assert node.receiver.keys.epoch == 1
    assert expelled.messages == sent[: len(expelled.messages)]
    in_time = {
        payload
        for _, datagram in world.sent[:already]
        if datagram[0] in (wire.DATA, wire.REPAIR)
        for payload in wire.decode_segment(world.body_of(datagram)).payloads
    }
    assert {*expelled.messages} <= in_time
    assert expelled.receiver.needs_key


def test_what_needs_a_key_that_does_not_come_is_bounded() -> None:
    world = World(5)
    node = world.add()
    world.run(1)
    world.rekey(SECOND, to=[node], after=3.0)
    world.send(*payloads(1500))
    world.run(2.5)
    assert node.messages == []
    assert node.receiver.needs_key
    assert len(node.receiver._unreadable) == receiver_module.UNREADABLE_LIMIT
    assert node.receiver.stats.dropped_unreadable > 0
    world.run(5)
    assert node.messages == payloads(1500)


def test_a_key_is_due_when_somebody_leaves_but_not_too_often() -> None:
    world = World(6)
    nodes = [world.add() for _ in range(3)]
    sender = world.sender
    world.run(1)
    assert not sender.needs_key(world.now)
    world.remove(nodes[0])
    assert sender.needs_key(world.now)
    world.rekey(SECOND, to=nodes[1:])
    world.remove(nodes[1])
    assert not sender.needs_key(world.now)
    timeout = sender.poll_timeout(world.now)
    assert timeout is not None
    assert timeout <= world.now + CONFIG.rekey_seconds_min
    world.run(CONFIG.rekey_seconds_min)
    assert sender.needs_key(world.now)


def test_a_worn_key_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "REKEY_PACKETS", 100)
    world = World(7)
    world.add()
    assert not world.sender.needs_key(0.0)
    world.send(*payloads(300))
    world.run(1)
    assert world.sender.needs_key(world.now)


# Bad members


def nack(keys: GroupKeys, *ranges: tuple[int, int]) -> bytes:
    return keys.seal(wire.NACK, wire.encode_nack(wire.Nack(wire.Echo(0, 0, 0.0), ranges)))


def test_requests_are_capped_for_each_member_and_for_the_group() -> None:
    config = replace(CONFIG, nacks_per_second=10.0, nacks_per_second_of_group=50.0)
    world = World(8, config=config)
    nodes = [world.add() for _ in range(5)]
    world.send(*payloads(10))
    world.run(1)
    keys = [forger(node.member.identity) for node in nodes]
    for _ in range(100):
        world.sender.receive_datagram(nack(keys[0], (0, 3)), world.now)
    assert nodes[0].member.nacks == 20
    assert nodes[0].member.nacks_capped == 80
    for each in keys[1:]:
        for _ in range(100):
            world.sender.receive_datagram(nack(each, (0, 3)), world.now)
    assert world.sender.stats.nacks_received == 50
    assert world.sender.stats.nacks_capped == 450


def test_one_request_asks_for_a_bounded_number_of_packets() -> None:
    world = World(9)
    node = world.add()
    world.send(*[bytes(1100) for _ in range(6000)])
    world.run(5)
    keys = forger(node.member.identity)
    world.sender.receive_datagram(nack(keys, (0, 60_000)), world.now)
    assert world.sender.stats.packets_asked == sender_module.NACK_SEQUENCES_LIMIT


def test_repairs_take_turns_with_new_data() -> None:
    config = replace(CONFIG, rate_bytes_per_second=200_000)
    world = World(10, config=config)
    node = world.add()
    world.send(*payloads(400))
    world.run(5)
    keys = forger(node.member.identity)
    world.sender.receive_datagram(nack(keys, (0, 199)), world.now)
    world.run(0.05)
    start = len(world.sent)
    world.send(*payloads(400))
    world.run(0.5)
    kinds = [datagram[0] for _, datagram in world.sent[start : start + 60]]
    assert 20 <= kinds.count(wire.DATA) <= 40
    assert 20 <= kinds.count(wire.REPAIR) <= 40


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (wire.DATA, b"short"),
        (wire.DATA, wire.encode_whole(receiver_module.SEQUENCE_JUMP_LIMIT, 0, [b"far"])),
        (wire.HEARTBEAT, b""),
        (
            wire.HEARTBEAT,
            wire.encode_heartbeat(
                wire.Heartbeat(0, 0, receiver_module.SEQUENCE_JUMP_LIMIT, 0, 0.1, 1, 0)
            ),
        ),
        (wire.NACK, wire.encode_nack(wire.Nack(wire.Echo(0, 0, 0.0), [(0, 0)]))),
    ],
    ids=["cut off", "far ahead", "empty", "heartbeat far ahead", "request of a sender"],
)
def test_what_is_sealed_but_cannot_be_is_dropped(kind: int, body: bytes) -> None:
    world = World(11)
    node = world.add()
    node.receiver.receive_datagram(forger(0).seal(kind, body), world.now)
    assert node.receiver.stats.dropped_invalid == 1
    assert node.receiver.missing == 0


def test_members_cannot_send_data_in_their_own_name() -> None:
    world = World(12)
    node, other = world.add(), world.add()
    packet = forger(other.member.identity).seal(wire.DATA, wire.encode_whole(0, 0, [b"x"]))
    node.receiver.receive_datagram(packet, world.now)
    world.sender.receive_datagram(packet, world.now)
    assert node.receiver.stats.dropped_invalid == 1
    assert world.sender.stats.dropped_invalid == 1


def test_who_has_left_is_not_heard() -> None:
    world = World(13)
    world.add()
    gone = world.add()
    world.send(*payloads(10))
    world.run(1)
    world.remove(gone)
    world.sender.receive_datagram(nack(forger(gone.member.identity), (0, 3)), world.now)
    assert world.sender.stats.dropped_unauthentic == 1
    assert world.sender.stats.packets_asked == 0


def test_a_member_that_lies_about_time_slows_no_more_than_the_limit() -> None:
    world = World(14)
    node = world.add()
    world.run(1)
    for age in (float("nan"), float("inf"), -1.0, 1e9):
        world.sender.heard(node.member, wire.Echo(0, 0, age), world.now)
    world.run(1)
    assert world.sender.members.rtt < 0.05
    for _ in range(100):
        world.sender.heard(node.member, wire.Echo(1 << 40, 0, 0.0), world.now + 1e6)
    world.sender.members.measure()
    assert world.sender.members.rtt == CONFIG.rtt_seconds_max
    assert node.member.first_missing == 0


# Slow programs and full buffers


def unread(world: World, **limits: Any) -> Any:
    """A node whose program takes nothing, and what takes it then."""
    node = world.add()
    receiver = node.receiver
    receiver._config = replace(CONFIG, **limits)
    take, receiver.take = receiver.take, lambda: None  # type: ignore[method-assign]
    return node, take


@pytest.mark.parametrize(
    "limits", [{"receive_queue_messages": 10}, {"receive_queue_bytes": 10 * 506}]
)
def test_a_slow_program_loses_the_oldest_and_is_told(limits: dict[str, int]) -> None:
    world = World(15)
    node, take = unread(world, **limits)
    world.send(*payloads(100))
    world.run(1)
    gap = take()
    assert (gap.first, gap.last, gap.count, gap.reason) == (0, 89, 90, GapReason.OVERRUN)
    shown = [take() for _ in range(11)]
    assert [item.number for item in shown[:10]] == [*range(90, 100)]
    assert shown[10] is None
    stats = node.receiver.stats
    assert (stats.messages_received, stats.messages_lost, stats.messages_overrun) == (10, 90, 90)


def test_what_waits_behind_a_gap_is_bounded() -> None:
    config = replace(CONFIG, receive_buffer_bytes=50_000, max_message_bytes=40_000)
    world = World(16, config=config)
    node = world.add()
    world.run(1)
    world.drop = lambda datagram, to: (
        datagram[0] == wire.REPAIR
        or (datagram[0] == wire.DATA and world.sequence_of(datagram) == 3)
    )
    world.send(*payloads(400))
    world.run(1)
    assert node.receiver._assembly.held_bytes <= 50_000
    [gap] = node.gaps
    assert gap.reason is GapReason.OVERRUN
    assert len(node.messages) + gap.count == 400
    assert node.receiver.missing == 0
    assert node.receiver.stats.packets_lost == 1


def test_gaps_that_cannot_be_remembered_are_seen_later(monkeypatch: pytest.MonkeyPatch) -> None:
    from aerogram.lan.stream import gaps as gaps_module

    monkeypatch.setattr(gaps_module, "GAPS_LIMIT", 5)
    world = World(17)
    node = world.add(loss=0.4)
    world.send(*payloads(200))
    world.run(20)
    assert node.messages == payloads(200)


def test_a_message_larger_than_the_limit_is_refused_at_once() -> None:
    world = World(18)
    world.sender.check_size(CONFIG.max_message_bytes)
    with pytest.raises(MessageTooLarge):
        world.sender.check_size(CONFIG.max_message_bytes + 1)


def test_the_queue_is_bounded_but_takes_one_large_message() -> None:
    world = World(19, config=replace(CONFIG, send_queue_bytes=1000, send_queue_messages=3))
    sender = world.sender
    assert sender.has_room(100_000)
    sender.send(bytes(900))
    assert sender.has_room(100)
    assert not sender.has_room(101)
    sender.send(b"")
    sender.send(b"")
    assert not sender.has_room(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"datagram_bytes": 1199},
        {"datagram_bytes": 65508},
        {"rate_bytes_per_second": 0},
        {"rate_bytes_per_second": float("nan")},
        {"hold_seconds": -1.0},
        {"max_message_bytes": 5 * 1024 * 1024},
        {"receive_buffer_bytes": 1000},
        {"heartbeat_seconds_min": 2.0},
        {"rtt_seconds_min": 3.0},
        {"members_limit": 0},
    ],
)
def test_a_config_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="_"):
        MulticastConfig(**wrong)  # type: ignore[arg-type]
