"""Packets, replays, cookies and the small MACs, mostly from the attacker's side."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from aerogram.core import wire
from aerogram.core.keys import (
    PACKETS_LIMIT,
    REPLAY_WINDOW_PACKETS,
    TOKEN_LIFETIME_SECONDS,
    USED_TOKENS_LIMIT,
    Aead,
    Identity,
    PacketProtection,
    ReplayWindow,
    RetryTokens,
    mac1,
    mac1_key,
    mac1_matches,
    psk_identifier,
    reset_token,
)
from aerogram.errors import CryptoError

CID = b"\x01\x02\x03\x04\x05\x06\x07\x08"
ONE, TWO = bytes(range(32)), bytes(range(32, 64))
SECRET = [Aead.AES_256_GCM, Aead.CHACHA20_POLY1305]
EVERY = [*Aead]


def pair(aead: Aead = Aead.AES_256_GCM) -> tuple[PacketProtection, PacketProtection]:
    return PacketProtection(ONE, TWO, aead), PacketProtection(TWO, ONE, aead)


def flip(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


# -- packets


@pytest.mark.parametrize("aead", EVERY)
@pytest.mark.parametrize("number", [0, 1, 255, 1 << 32, PACKETS_LIMIT - 1])
@pytest.mark.parametrize("plaintext", [b"", b"x", bytes(1159)])
def test_what_is_sealed_is_opened(aead: Aead, number: int, plaintext: bytes) -> None:
    sender, receiver = pair(aead)
    packet = sender.seal(CID, number, plaintext)
    assert len(packet) == wire.DATA_HEADER_BYTES + len(plaintext) + sender.overhead_bytes
    assert packet[0] & 0xFE == wire.DATA
    assert packet[1:9] == CID
    assert packet[9:17] == number.to_bytes(8, "big")
    assert receiver.open(packet) == (number, plaintext)


def test_a_packet_is_the_standard_aead_over_its_header() -> None:
    header = bytes((wire.DATA,)) + CID + (7).to_bytes(8, "big")
    nonce = bytes(4) + (7).to_bytes(8, "big")
    expected = {
        Aead.AES_256_GCM: AESGCM(ONE).encrypt(nonce, b"frames", header),
        Aead.CHACHA20_POLY1305: ChaCha20Poly1305(ONE).encrypt(nonce, b"frames", header),
    }
    for aead, sealed in expected.items():
        assert PacketProtection(ONE, TWO, aead).seal(CID, 7, b"frames") == header + sealed


@pytest.mark.parametrize("aead", EVERY)
def test_no_bit_of_a_packet_can_be_flipped(aead: Aead) -> None:
    sender, receiver = pair(aead)
    packet = sender.seal(CID, 77, b"some frames")
    for bit in range(8 * len(packet)):
        with pytest.raises(CryptoError):
            receiver.open(flip(packet, bit))
    assert receiver.open(packet) == (77, b"some frames")


@pytest.mark.parametrize("aead", EVERY)
def test_no_packet_can_be_cut_or_grown(aead: Aead) -> None:
    sender, receiver = pair(aead)
    packet = sender.seal(CID, 77, b"some frames")
    for spoiled in [packet[:size] for size in range(len(packet))] + [packet + b"\0"]:
        with pytest.raises(CryptoError):
            receiver.open(spoiled)


@pytest.mark.parametrize("aead", SECRET)
def test_a_packet_cannot_be_reflected_or_come_from_another_session(aead: Aead) -> None:
    sender, _ = pair(aead)
    packet = sender.seal(CID, 0, b"frames")
    with pytest.raises(CryptoError):
        sender.open(packet)
    with pytest.raises(CryptoError):
        PacketProtection(TWO, bytes(32), aead).open(packet)


@given(st.binary(max_size=100), st.sampled_from(EVERY), st.booleans())
def test_only_crypto_errors_come_of_what_strangers_send(
    data: bytes, aead: Aead, likely: bool
) -> None:
    _, receiver = pair(aead)
    packet = bytes((wire.DATA,)) + CID + data if likely else data
    with pytest.raises(CryptoError):
        receiver.open(packet)


def test_a_number_that_no_acknowledgement_could_name_is_refused() -> None:
    for number in (PACKETS_LIMIT, (1 << 64) - 1):
        header = bytes((wire.DATA,)) + CID + number.to_bytes(8, "big")
        sealed = AESGCM(ONE).encrypt(bytes(4) + header[9:], b"", header)
        with pytest.raises(CryptoError):
            pair()[1].open(header + sealed)


# -- replays

WINDOW = REPLAY_WINDOW_PACKETS
FAR = WINDOW + 1


def check(cases: list[tuple[int, bool]]) -> None:
    window = ReplayWindow()
    for index, (number, fresh) in enumerate(cases):
        assert window.accept(number) is fresh, (index, number)


def test_the_window_holds_what_it_promises() -> None:
    assert WINDOW >= 2048
    check([(WINDOW, True), (0, True), (0, False)])
    check([(WINDOW + 1, True), (0, False), (1, True)])


def test_replays_near_the_edges_of_the_window() -> None:
    near = [(0, True), (1, True), (1, False), (9, True), (8, True), (7, True), (7, False)]
    edge = [(FAR, True), (FAR - 1, True), (FAR - 1, False), (FAR - 2, True), (2, True), (2, False)]
    beyond = [(FAR + 16, True), (3, False), (FAR + 16, False)]
    jump = [
        (FAR * 4, True),
        (FAR * 4 - WINDOW, True),
        (10, False),
        (FAR * 4 - WINDOW, False),
        (FAR * 4 - FAR, False),
        (FAR * 4 - FAR - 1, False),
        (FAR * 4 - WINDOW + 1, True),
        (FAR * 4 + 1 - FAR, False),
        (0, False),
    ]
    end = [
        (PACKETS_LIMIT - 2, True),
        (PACKETS_LIMIT - 1, True),
        (PACKETS_LIMIT - 1, False),
        (PACKETS_LIMIT - 2, False),
        (PACKETS_LIMIT - 3, True),
        (0, False),
    ]
    check(near + edge + beyond + jump + end)


@pytest.mark.parametrize(
    "cases",
    [
        [(n, True) for n in range(1, WINDOW + 1)] + [(0, True), (0, False)],
        [(n, True) for n in range(2, WINDOW + 2)] + [(1, True), (0, False)],
        [(n, True) for n in range(WINDOW + 1, 0, -1)],
        [(n, True) for n in range(WINDOW + 2, 1, -1)] + [(0, False)],
        [(n, True) for n in range(WINDOW, 0, -1)] + [(FAR, True), (0, False)],
        [(n, True) for n in range(WINDOW, -1, -1)] + [(FAR, True), (1, False), (0, False)],
    ],
    ids=["up", "up from 2", "down", "down to 2", "down, then one", "down to 0, then one"],
)
def test_replays_in_bulk(cases: list[tuple[int, bool]]) -> None:
    check(cases)


@given(st.lists(st.integers(-20, 40) | st.integers(-WINDOW - 20, 2 * WINDOW), max_size=200))
def test_the_window_agrees_with_a_set(steps: list[int]) -> None:
    window = ReplayWindow()
    seen: set[int] = set()
    largest = -1
    for step in steps:
        number = max(0, largest + step)
        fresh = number not in seen and largest - number <= WINDOW
        assert window.accept(number) is fresh
        seen.add(number)
        largest = max(largest, number)


# -- cookies

HERE, ELSEWHERE = b"('192.0.2.1', 4000)", b"('192.0.2.1', 4001)"
OTHER_CID = bytes(8)


@pytest.mark.parametrize("start", [-500.5, 0.0, 119.999, 1e9])
def test_a_token_proves_an_address_once(start: float) -> None:
    tokens = RetryTokens(ONE)
    token = tokens.mint(HERE, CID, start)
    assert not tokens.verify(token, ELSEWHERE, CID, start)
    assert not tokens.verify(token, HERE, OTHER_CID, start)
    assert not tokens.verify(token, HERE + CID[:1], CID[1:], start)
    assert tokens.verify(token, HERE, CID, start + 0.1)
    assert not tokens.verify(token, HERE, CID, start + 0.2)
    assert not tokens.verify(token, HERE, CID, start + TOKEN_LIFETIME_SECONDS - 1)


@pytest.mark.parametrize("start", [0.0, 1.0, 60.0, 119.0, 120.0, 1e6 + 0.5])
def test_a_token_lasts_for_its_lifetime(start: float) -> None:
    for age, fresh in [(0.0, True), (TOKEN_LIFETIME_SECONDS, True)] + [
        (TOKEN_LIFETIME_SECONDS + seconds, False) for seconds in (0.01, 1, 60, 120, 1e5)
    ]:
        tokens = RetryTokens(ONE)
        token = tokens.mint(HERE, CID, start)
        assert tokens.verify(token, HERE, CID, start + age) is fresh, age
    assert not RetryTokens(ONE).verify(token, HERE, CID, start - 1)


def test_a_token_survives_one_change_of_the_key() -> None:
    tokens = RetryTokens(ONE)
    token = tokens.mint(HERE, CID, TOKEN_LIFETIME_SECONDS - 1.0)
    later = tokens.mint(HERE, CID, TOKEN_LIFETIME_SECONDS + 1.0)
    assert tokens.verify(token, HERE, CID, TOKEN_LIFETIME_SECONDS + 2.0)
    assert tokens.verify(later, HERE, CID, TOKEN_LIFETIME_SECONDS + 2.0)


def test_no_bit_of_a_token_can_be_flipped() -> None:
    tokens = RetryTokens(ONE)
    token = tokens.mint(HERE, CID, 10.0)
    spoiled = [flip(token, bit) for bit in range(8 * len(token))]
    spoiled += [token[:size] for size in range(len(token))] + [token + b"\0"]
    assert not any(tokens.verify(candidate, HERE, CID, 10.0) for candidate in spoiled)
    assert not RetryTokens(TWO).verify(token, HERE, CID, 10.0)
    assert tokens.verify(token, HERE, CID, 10.0)


def test_the_memory_of_used_tokens_is_bounded() -> None:
    tokens = RetryTokens(ONE)
    count = USED_TOKENS_LIMIT + 10
    cids = [n.to_bytes(8, "big") for n in range(count)]
    minted = [tokens.mint(HERE, cid, 1.0) for cid in cids]
    assert all(map(tokens.verify, minted, [HERE] * count, cids, [1.0] * count))
    again = [*map(tokens.verify, minted, [HERE] * count, cids, [1.0] * count)]
    assert again == [False] * USED_TOKENS_LIMIT + [True] * 10


# -- the small things


def test_mac1_takes_the_key_and_every_bit() -> None:
    key = mac1_key(b"server")
    packet = b"an INIT" + mac1(key, b"an INIT")
    assert len(packet) == 7 + wire.MAC1_BYTES
    assert mac1_matches(key, packet)
    assert not mac1_matches(mac1_key(b"other"), packet)
    assert not any(mac1_matches(key, flip(packet, bit)) for bit in range(8 * len(packet)))
    assert not any(mac1_matches(key, packet[:size]) for size in range(len(packet)))


def test_a_psk_has_a_name_that_does_not_give_it_away() -> None:
    assert psk_identifier(ONE) != psk_identifier(TWO)
    assert psk_identifier(ONE) not in (ONE, mac1_key(ONE))
    for size in (0, 16, 31, 33):
        with pytest.raises(ValueError, match="32 random bytes"):
            psk_identifier(bytes(size))


def test_a_reset_token_belongs_to_one_secret_and_one_connection() -> None:
    token = reset_token(ONE, CID)
    assert len(token) == wire.RESET_TOKEN_BYTES
    assert token == reset_token(ONE, CID)
    assert len({token, reset_token(TWO, CID), reset_token(ONE, OTHER_CID)}) == 3


def test_an_identity_is_its_private_key_and_shows_only_the_public_one() -> None:
    identity = Identity.from_private_bytes(ONE)
    again = Identity.from_private_bytes(identity.private_bytes)
    assert again.public_bytes == identity.public_bytes
    assert identity.static.public_bytes == identity.public_bytes
    assert identity.public_bytes.hex() in repr(identity)
    assert ONE.hex() not in repr(identity)
    with pytest.raises(ValueError, match="32"):
        Identity.from_private_bytes(bytes(31))
