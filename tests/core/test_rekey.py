"""Key phases and key limits: what a pair of peers can rely on over any network."""

from __future__ import annotations

import random
from collections import deque

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from aerogram.core.keys import (
    CLOSING_PACKETS,
    FORGERIES,
    KEY_PACKETS,
    PACKETS_LIMIT,
    REKEY_PACKETS,
    Aead,
    PacketProtection,
    next_key,
)
from aerogram.errors import CryptoError

CID = bytes(range(8))
ONE, TWO = bytes(range(32)), bytes(range(32, 64))
SECRET = [Aead.AES_256_GCM, Aead.CHACHA20_POLY1305]


def pair(
    aead: Aead = Aead.AES_256_GCM, *, rekey_packets: int = REKEY_PACKETS
) -> tuple[PacketProtection, PacketProtection]:
    return (
        PacketProtection(ONE, TWO, aead, rekey_packets=rekey_packets),
        PacketProtection(TWO, ONE, aead, rekey_packets=rekey_packets),
    )


def phase(packet: bytes) -> int:
    return packet[0] & 1


def flip(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


# -- limits


@pytest.mark.parametrize("aead", [*Aead])
def test_a_number_is_used_once(aead: Aead) -> None:
    sender, _ = pair(aead)
    sender.seal(CID, 5, b"")
    for number in (5, 4, 0):
        with pytest.raises(CryptoError, match="twice"):
            sender.seal(CID, number, b"")
    sender.seal(CID, 6, b"")


@pytest.mark.parametrize("aead", [*Aead])
def test_the_end_of_the_numbers_is_seen_coming(aead: Aead) -> None:
    sender, receiver = pair(aead)
    sender.seal(CID, PACKETS_LIMIT - CLOSING_PACKETS - 2, b"")
    assert not sender.exhausted
    sender.seal(CID, PACKETS_LIMIT - CLOSING_PACKETS - 1, b"")
    assert sender.exhausted
    last = sender.seal(CID, PACKETS_LIMIT - 1, b"bye")
    assert receiver.open(last) == (PACKETS_LIMIT - 1, b"bye")
    with pytest.raises(CryptoError, match="used up"):
        sender.seal(CID, PACKETS_LIMIT, b"")


def test_a_key_that_the_peer_never_confirms_comes_to_its_end() -> None:
    sender, _ = pair()
    start = REKEY_PACKETS
    sender.seal(CID, start, b"")
    end = start + KEY_PACKETS[Aead.AES_256_GCM]
    sender.seal(CID, end - CLOSING_PACKETS - 2, b"")
    assert not sender.exhausted
    sender.seal(CID, end - CLOSING_PACKETS - 1, b"")
    assert sender.exhausted
    sender.seal(CID, end - 1, b"")
    with pytest.raises(CryptoError, match="used up"):
        sender.seal(CID, end, b"")


@pytest.mark.parametrize("aead", SECRET)
def test_too_many_forgeries_end_the_session(aead: Aead) -> None:
    sender, receiver = pair(aead)
    forged = flip(sender.seal(CID, 0, b""), 150)
    receiver._forged = FORGERIES[aead] - 1
    assert not receiver.exhausted
    with pytest.raises(CryptoError):
        receiver.open(forged)
    assert receiver.exhausted


# -- key changes


def test_a_sender_changes_its_key_after_so_many_packets() -> None:
    sender, receiver = pair(rekey_packets=4)
    phases = []
    for number in range(12):
        packet = sender.seal(CID, number, b"frames")
        phases.append(phase(packet))
        assert receiver.open(packet) == (number, b"frames")
        sender.acknowledged(number)
    assert phases == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert phase(receiver.seal(CID, 0, b"")) == 0


def test_the_next_key_is_hkdf_of_the_one_before() -> None:
    sender, _ = pair(rekey_packets=1)
    sender.seal(CID, 0, b"")
    packet = sender.seal(CID, 1, b"frames")
    info = HKDFExpand(algorithm=SHA256(), length=32, info=b"aerogram1 next key")
    key = info.derive(ONE)
    assert key == next_key(ONE)
    plaintext = AESGCM(key).decrypt(bytes(4) + packet[9:17], packet[17:], packet[:17])
    assert plaintext == b"frames"


def test_a_phase_that_is_not_confirmed_is_not_left() -> None:
    sender, receiver = pair(rekey_packets=2)
    packets = [sender.seal(CID, number, b"") for number in range(20)]
    assert [phase(packet) for packet in packets] == [0, 0] + [1] * 18
    sender.acknowledged(1)
    assert phase(sender.seal(CID, 20, b"")) == 1
    assert receiver.open(packets[19]) == (19, b"")
    sender.acknowledged(19)
    last = sender.seal(CID, 21, b"")
    assert phase(last) == 0
    assert receiver.open(last) == (21, b"")


def test_packets_of_the_phase_before_may_come_late() -> None:
    sender, receiver = pair(rekey_packets=3)
    packets = [sender.seal(CID, number, bytes((number,))) for number in range(6)]
    for number in (1, 4, 0, 5, 2, 3):
        assert receiver.open(packets[number]) == (number, bytes((number,)))


def test_a_forged_phase_changes_nothing() -> None:
    sender, receiver = pair(rekey_packets=3)
    packets = [sender.seal(CID, number, b"") for number in range(6)]
    for number in range(6):
        for forged in (flip(packets[number], 7), flip(packets[5], 200), flip(packets[0], 200)):
            with pytest.raises(CryptoError):
                receiver.open(flip(forged, 0))
        assert receiver.open(packets[number]) == (number, b"")


def test_a_peer_cannot_be_two_phases_ahead() -> None:
    receiver = PacketProtection(TWO, ONE, Aead.AES_256_GCM)
    sender = PacketProtection(ONE, TWO, Aead.AES_256_GCM, rekey_packets=1)
    packets = []
    for number in range(3):
        packets.append(sender.seal(CID, number, b""))
        sender.acknowledged(number)
    with pytest.raises(CryptoError):
        receiver.open(packets[2])
    assert receiver.open(packets[1]) == (1, b"")
    assert receiver.open(packets[2]) == (2, b"")
    with pytest.raises(CryptoError):
        receiver.open(packets[0])


def test_plain_text_has_no_phases() -> None:
    sender, receiver = pair(Aead.NONE, rekey_packets=1)
    packets = [sender.seal(CID, number, b"") for number in range(3)]
    assert [phase(packet) for packet in packets] == [0, 0, 0]
    liar = PacketProtection(ONE, TWO, Aead.NONE)
    liar._type |= 1
    with pytest.raises(CryptoError):
        receiver.open(liar.seal(CID, 0, b""))


class Chain:
    """The keys of one direction, worked out beside the code under test."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.bit = 0
        self.used: set[tuple[bytes, bytes]] = set()

    def check(self, packet: bytes) -> None:
        """The packet's key is the present one or the next, never with a nonce used before."""
        if phase(packet) != self.bit:
            self.bit ^= 1
            self.key = next_key(self.key)
        nonce = bytes(4) + packet[9:17]
        AESGCM(self.key).decrypt(nonce, packet[17:], packet[:17])
        assert (self.key, nonce) not in self.used
        self.used.add((self.key, nonce))


class Side:
    """A peer that says in each packet which one it got last."""

    def __init__(self, protection: PacketProtection, key: bytes) -> None:
        self.protection = protection
        self.chain = Chain(key)
        self.arriving: deque[bytes] = deque(maxlen=64)
        self.next_number = 0
        self.largest = -1
        self.opened = 0

    def send(self) -> bytes:
        number = self.next_number
        self.next_number += 1
        packet = self.protection.seal(CID, number, (self.largest + 1).to_bytes(8, "big"))
        self.chain.check(packet)
        return packet

    def receive(self, packet: bytes, rekey_packets: int) -> None:
        try:
            number, plaintext = self.protection.open(packet)
        except CryptoError:
            # Only a packet of a phase long gone is of no more use.
            assert int.from_bytes(packet[9:17], "big") < self.largest - rekey_packets
            return
        self.opened += 1
        self.largest = max(self.largest, number)
        self.protection.acknowledged(int.from_bytes(plaintext, "big") - 1)


@pytest.mark.parametrize("seed", range(30))
def test_no_key_and_nonce_are_used_twice_on_a_bad_network(seed: int) -> None:
    rng = random.Random(seed)
    loss = rng.choice([0.0, 0.1, 0.5, 0.8])
    rekey_packets = rng.choice([1, 3, 10])
    one, two = pair(rekey_packets=rekey_packets)
    sides = (Side(one, ONE), Side(two, TWO))
    for _ in range(2000):
        index = int(rng.random() < 0.3)
        packet = sides[index].send()
        if rng.random() >= loss:
            sides[1 - index].arriving.append(packet)
        for side in sides:
            for _ in range(rng.choice([0, 1, 1, 2])):
                if side.arriving:
                    newest = rng.random() < 0.3
                    arrived = side.arriving[-1] if newest else side.arriving.popleft()
                    side.receive(arrived, rekey_packets)
    for side in sides:
        assert len(side.chain.used) == side.next_number
        assert len({key for key, _ in side.chain.used}) >= 10
        assert side.opened > 100
