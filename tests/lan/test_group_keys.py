from __future__ import annotations

import pytest

from aerogram.errors import CryptoError
from aerogram.lan.stream import keys as keys_module
from aerogram.lan.stream import wire
from aerogram.lan.stream.keys import GroupKeys, UnknownEpoch

STREAM = b"stream 1"
FIRST, SECOND, THIRD = (bytes([n]) * 32 for n in (1, 2, 3))
GRACE = 2.0


def ring(origin: int, *secrets: bytes) -> GroupKeys:
    made = GroupKeys(STREAM, origin, GRACE)
    for epoch, secret in enumerate(secrets):
        made.install(epoch, secret, 0, 0.0)
    return made


def opened(by: GroupKeys, packet: bytes, now: float = 0.0) -> bytes:
    return by.open(packet, wire.split_untrusted(packet), now)


def test_a_member_reads_the_sender_and_other_members() -> None:
    sender, ada, ben = ring(0, FIRST), ring(1, FIRST), ring(2, FIRST)
    assert opened(ada, sender.seal(wire.DATA, b"data")) == b"data"
    assert opened(ada, ben.seal(wire.NACK, b"nack")) == b"nack"
    assert opened(sender, ben.seal(wire.NACK, b"again")) == b"again"


def test_no_two_packets_have_a_nonce_in_common() -> None:
    sender, ada = ring(0, FIRST), ring(1, FIRST)
    packets = [sender.seal(wire.DATA, b"x") for _ in range(3)]
    sender.install(1, SECOND, 3, 0.0)
    packets += [sender.seal(wire.REPAIR, b"x") for _ in range(3)]
    packets += [ada.seal(wire.NACK, b"x") for _ in range(3)]
    assert len({packet[13:25] for packet in packets}) == len(packets)


def test_forged_packets_are_refused_whatever_was_changed() -> None:
    sender, ada = ring(0, FIRST), ring(1, FIRST)
    packet = sender.seal(wire.DATA, b"data")
    for at in range(13, len(packet)):
        forged = bytearray(packet)
        forged[at] ^= 1
        with pytest.raises(CryptoError):
            opened(ada, bytes(forged))
    assert opened(ada, packet) == b"data"
    with pytest.raises(CryptoError):
        opened(ada, ring(0, SECOND).seal(wire.DATA, b"data"))


def test_a_packet_counts_once() -> None:
    sender, ada = ring(0, FIRST), ring(1, FIRST)
    first, second = sender.seal(wire.DATA, b"1"), sender.seal(wire.DATA, b"2")
    assert opened(ada, second) == b"2"
    assert opened(ada, first) == b"1"  # the network may reorder the sender's
    for packet in (first, second):
        with pytest.raises(CryptoError):
            opened(ada, packet)


def test_of_a_member_only_newer_packets_count() -> None:
    sender, ada = ring(0, FIRST), ring(1, FIRST)
    old, new = ada.seal(wire.NACK, b"1"), ada.seal(wire.NACK, b"2")
    assert opened(sender, new) == b"2"
    for packet in (old, new):
        with pytest.raises(CryptoError):
            opened(sender, packet)


def test_a_newer_key_is_unknown_until_it_is_installed() -> None:
    sender, ada = ring(0, FIRST), ring(1, FIRST)
    sender.seal(wire.DATA, b"0")
    sender.install(1, SECOND, sender.next_number, 0.0)
    packet = sender.seal(wire.DATA, b"1")
    with pytest.raises(UnknownEpoch):
        opened(ada, packet)
    assert ada.install(*sender.since(0)[0], 0.0)
    assert not ada.install(*sender.since(0)[0], 0.0)
    assert opened(ada, packet) == b"1"


def test_an_old_key_opens_what_is_on_its_way_and_for_a_short_time_only() -> None:
    sender, ada = ring(0, FIRST), ring(1, FIRST)
    early, late = sender.seal(wire.DATA, b"0"), sender.seal(wire.DATA, b"1")
    sender.install(1, SECOND, sender.next_number, 0.0)
    ada.install(*sender.since(0)[0], 0.0)
    assert opened(ada, early, GRACE - 0.01) == b"0"
    with pytest.raises(CryptoError):
        opened(ada, late, GRACE)


def test_who_has_only_an_old_key_cannot_send_with_it() -> None:
    sender, ada, expelled = ring(0, FIRST), ring(1, FIRST), ring(0, FIRST)
    expelled.seal(wire.DATA, b"0")
    sender.install(1, SECOND, 1, 0.0)
    ada.install(*sender.since(0)[0], 0.0)
    with pytest.raises(CryptoError):
        opened(ada, expelled.seal(wire.DATA, b"forged"))


def test_a_key_that_is_used_up_seals_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "KEY_PACKETS_LIMIT", 2)
    sender = ring(0, FIRST)
    assert sender.seal(wire.DATA, b"1") and sender.seal(wire.DATA, b"2")
    with pytest.raises(CryptoError):
        sender.seal(wire.DATA, b"3")
    sender.install(1, SECOND, sender.next_number, 0.0)
    assert sender.seal(wire.DATA, b"3")


def test_keys_and_origins_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "ORIGINS_LIMIT", 2)
    sender = ring(0, *[bytes([n]) * 32 for n in range(20)])
    assert len(sender.since(-1)) == keys_module.KEYS_LIMIT
    for origin in (1, 2, 3):
        member = GroupKeys(STREAM, origin, GRACE)
        member.install(19, bytes([19]) * 32, 0, 0.0)
        assert opened(sender, member.seal(wire.NACK, b"")) == b""
    assert len(sender._last_numbers) == 2


def test_expired_keys_are_forgotten() -> None:
    sender = ring(0, FIRST, SECOND, THIRD)
    sender.forget_expired(GRACE - 0.01)
    assert [epoch for epoch, _, _ in sender.since(-1)] == [0, 1, 2]
    sender.forget_expired(GRACE)
    assert [epoch for epoch, _, _ in sender.since(-1)] == [2]
