"""The handshake against the public vectors, an independent implementation, and hostile peers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from aerogram.core.noise import MESSAGE_BYTES_MAX, PATTERNS, HandshakeState, KeyPair
from aerogram.errors import CryptoError

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "noise.json"
NAMES = [*PATTERNS]
SUITES = ["ChaChaPoly_BLAKE2s", "AESGCM_SHA256", "ChaChaPoly_SHA256", "AESGCM_BLAKE2s"]

P = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER = [
    (value | high_bit << 255).to_bytes(32, "little")
    for value in (0, 1, *ORDER_8, P - 1, P, P + 1)
    for high_bit in (0, 1)  # which X25519 does not look at (RFC 7748 §5)
]
"""Every X25519 input of low order, canonical or not: the shared secret is zero."""
KNOWN_BAD = [
    value.to_bytes(32, "little")
    for value in (
        *(0, 1, *ORDER_8, P - 1, P, P + 1),
        *(P + ORDER_8[0], P + ORDER_8[1], 2 * P - 1, 2 * P, 2 * P + 1),
    )
]
"""The twelve usually listed; the last five are of low order only where the high bit counts."""


@dataclass
class Keys:
    """What two peers need for any pattern, from one seed."""

    seed: int
    psk: bytes = field(init=False)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.psk = rng.randbytes(32)
        self.static = (KeyPair(rng.randbytes(32)), KeyPair(rng.randbytes(32)))
        self.ephemeral = (rng.randbytes(32), rng.randbytes(32))


def state(name: str, keys: Keys, *, initiator: bool, prologue: bytes = b"p") -> HandshakeState:
    mine = 0 if initiator else 1
    return HandshakeState(
        name if name.startswith("Noise_") else f"Noise_{name}_25519_ChaChaPoly_BLAKE2s",
        initiator=initiator,
        prologue=prologue,
        ephemeral_private=keys.ephemeral[mine],
        static=keys.static[mine],
        remote_static=keys.static[1].public_bytes if initiator else None,
        psk=keys.psk,
    )


def pair(name: str, keys: Keys) -> tuple[HandshakeState, HandshakeState]:
    return state(name, keys, initiator=True), state(name, keys, initiator=False)


def pair_before(name: str, index: int, seed: int = 1) -> tuple[HandshakeState, HandshakeState]:
    """The writer and the reader of message `index`, all before it exchanged."""
    writer, reader = pair(name, Keys(seed))
    for number in range(index):
        reader.read_message(writer.write_message(b"payload %d" % number))
        writer, reader = reader, writer
    return writer, reader


def every_message() -> list[tuple[str, int]]:
    return [(name, index) for name in NAMES for index in range(len(PATTERNS[name].messages))]


def finishes(writer: HandshakeState, reader: HandshakeState, message: bytes) -> bool:
    """True if both sides end with the same keys after the reader was given `message`."""
    try:
        reader.read_message(message)
        while not (writer.finished and reader.finished):
            writer, reader = reader, writer
            reader.read_message(writer.write_message(b"rest"))
    except CryptoError:
        return False
    return writer.split() == reader.split()


# -- against the public vectors


def load_vectors() -> list[dict[str, Any]]:
    if not VECTORS.exists():
        return []
    vectors: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8"))["vectors"]
    return vectors


def from_vector(vector: dict[str, Any], *, initiator: bool) -> HandshakeState:
    side = "init" if initiator else "resp"

    def of(key: str) -> bytes | None:
        text = vector.get(f"{side}_{key}")
        return bytes.fromhex(text) if text is not None else None

    static = of("static")
    ephemeral = of("ephemeral")
    assert ephemeral is not None
    psks = vector.get(f"{side}_psks")
    return HandshakeState(
        vector["protocol_name"],
        initiator=initiator,
        prologue=of("prologue") or b"",
        ephemeral_private=ephemeral,
        static=KeyPair(static) if static is not None else None,
        remote_static=of("remote_static"),
        psk=bytes.fromhex(psks[0]) if psks else None,
    )


def transport(protocol_name: str, key: bytes, count: int, plaintext: bytes) -> bytes:
    """A transport message as the specification has it (§5.1, §12)."""
    if "AESGCM" in protocol_name:
        return AESGCM(key).encrypt(bytes(4) + count.to_bytes(8, "big"), plaintext, b"")
    return ChaCha20Poly1305(key).encrypt(bytes(4) + count.to_bytes(8, "little"), plaintext, b"")


def check_transport(vector: dict[str, Any], keys: tuple[bytes, bytes], first: int) -> None:
    sent = [0, 0]
    for index, message in enumerate(vector["messages"][first:], first):
        sealed = transport(
            vector["protocol_name"],
            keys[index % 2],
            sent[index % 2],
            bytes.fromhex(message["payload"]),
        )
        sent[index % 2] += 1
        assert sealed.hex() == message["ciphertext"]


@pytest.mark.skipif(not VECTORS.exists(), reason="the public vectors are not beside this clone")
def test_the_vectors_cover_every_pattern() -> None:
    names = {vector["protocol_name"] for vector in load_vectors()}
    suites = ("ChaChaPoly_BLAKE2s", "AESGCM_SHA256")
    assert {f"Noise_{name}_25519_{suite}" for name in NAMES for suite in suites} <= names


@pytest.mark.skipif(not VECTORS.exists(), reason="the public vectors are not beside this clone")
@pytest.mark.parametrize("vector", load_vectors(), ids=lambda vector: vector["protocol_name"])
def test_public_vector(vector: dict[str, Any]) -> None:
    writer = from_vector(vector, initiator=True)
    reader = from_vector(vector, initiator=False)
    messages = vector["messages"]
    count = 0
    while not writer.finished:
        payload = bytes.fromhex(messages[count]["payload"])
        message = writer.write_message(payload)
        assert message.hex() == messages[count]["ciphertext"]
        assert reader.read_message(message) == payload
        writer, reader = reader, writer
        count += 1
    assert writer.handshake_hash == reader.handshake_hash
    assert writer.handshake_hash.hex() == vector["handshake_hash"]
    assert writer.split() == reader.split()
    check_transport(vector, writer.split(), count)


# -- against an independent implementation


def peer_connection(name: str, keys: Keys, *, initiator: bool) -> Any:
    connection_module = pytest.importorskip("noise.connection", reason="noiseprotocol is missing")
    keypair = connection_module.Keypair
    peer = connection_module.NoiseConnection.from_name(name.encode())
    mine = 0 if initiator else 1
    peer.set_as_initiator() if initiator else peer.set_as_responder()
    peer.set_prologue(b"p")
    pattern = PATTERNS[name.split("_")[1]]
    if pattern.uses_psk:
        peer.set_psks(keys.psk)
    if pattern.sends_static(initiator=initiator):
        peer.set_keypair_from_private_bytes(keypair.STATIC, keys.static[mine].private_bytes)
    if pattern.knows_responder and initiator:
        peer.set_keypair_from_public_bytes(keypair.REMOTE_STATIC, keys.static[1].public_bytes)
    peer.start_handshake()
    return peer


@pytest.mark.parametrize("initiator", [True, False], ids=["as initiator", "as responder"])
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("name", NAMES)
def test_shakes_hands_with_another_implementation(name: str, suite: str, initiator: bool) -> None:
    protocol = f"Noise_{name}_25519_{suite}"
    keys = Keys(5)
    ours = state(protocol, keys, initiator=initiator)
    peer = peer_connection(protocol, keys, initiator=not initiator)
    we_write = initiator
    while not ours.finished:
        if we_write:
            assert bytes(peer.read_message(ours.write_message(b"ours"))) == b"ours"
        else:
            assert ours.read_message(bytes(peer.write_message(b"theirs"))) == b"theirs"
        we_write = not we_write
    assert peer.handshake_finished
    assert peer.get_handshake_hash() == ours.handshake_hash
    to_responder, to_initiator = ours.split()
    send_key, receive_key = (
        (to_responder, to_initiator) if initiator else (to_initiator, to_responder)
    )
    assert peer.decrypt(transport(protocol, send_key, 0, b"first")) == b"first"
    assert bytes(peer.encrypt(b"answer")) == transport(protocol, receive_key, 0, b"answer")


# -- what each side learns


@pytest.mark.parametrize("name", NAMES)
def test_each_side_learns_the_static_keys_that_the_pattern_sends(name: str) -> None:
    keys = Keys(2)
    initiator, responder = pair(name, keys)
    writer, reader = initiator, responder
    while not writer.finished:
        assert reader.read_message(writer.write_message(b"\0\1")) == b"\0\1"
        writer, reader = reader, writer
    knows_server = name != "NNpsk0"
    knows_client = name in ("XX", "IK", "IKpsk2")
    assert initiator.remote_static == (keys.static[1].public_bytes if knows_server else None)
    assert responder.remote_static == (keys.static[0].public_bytes if knows_client else None)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_can_fail_without_harm_to_the_original(name: str) -> None:
    writer, reader = pair_before(name, 1)
    message = writer.write_message(b"answer")
    spoiled = message[:-1] + bytes((message[-1] ^ 1,))
    for _ in range(3):
        with pytest.raises(CryptoError):
            reader.copy().read_message(spoiled)
    copy = reader.copy()
    assert copy.read_message(message) == reader.read_message(message) == b"answer"
    if reader.finished:
        assert copy.split() == reader.split() == writer.split()


# -- negatives


@pytest.mark.parametrize(("name", "index"), every_message())
def test_no_bit_of_a_message_can_be_flipped(name: str, index: int) -> None:
    writer, reader = pair_before(name, index)
    message = writer.write_message(b"some payload")
    assert finishes(writer.copy(), reader.copy(), message)
    for bit in range(8 * len(message)):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not finishes(writer.copy(), reader.copy(), bytes(flipped)), bit


@pytest.mark.parametrize(("name", "index"), every_message())
def test_no_message_can_be_cut_or_grown(name: str, index: int) -> None:
    writer, reader = pair_before(name, index)
    message = writer.write_message(b"some payload")
    for size in range(len(message)):
        assert not finishes(writer.copy(), reader.copy(), message[:size]), size
    assert not finishes(writer.copy(), reader.copy(), message + b"\0")


@pytest.mark.parametrize(("name", "index"), every_message())
def test_the_message_of_another_handshake_is_refused(name: str, index: int) -> None:
    writer, reader = pair_before(name, index)
    writer.write_message(b"some payload")
    if index:
        foreign = pair_before(name, index, seed=3)[0].write_message(b"some payload")
        assert not finishes(writer.copy(), reader.copy(), foreign)
    for other in range(len(PATTERNS[name].messages)):
        if other != index:
            swapped = pair_before(name, other)[0].write_message(b"some payload")
            assert not finishes(writer.copy(), reader.copy(), swapped), other


@pytest.mark.parametrize("name", NAMES)
def test_prologues_have_to_agree(name: str) -> None:
    keys = Keys(4)
    writer = state(name, keys, initiator=True, prologue=b"version 1")
    reader = state(name, keys, initiator=False, prologue=b"version 2")
    assert not finishes(writer, reader, writer.write_message(b""))


@pytest.mark.parametrize("name", ["NNpsk0", "NKpsk0", "IKpsk2"])
def test_pre_shared_keys_have_to_agree(name: str) -> None:
    keys, wrong = Keys(6), Keys(6)
    wrong.psk = bytes(32)
    writer = state(name, keys, initiator=True)
    reader = state(name, wrong, initiator=False)
    assert not finishes(writer, reader, writer.write_message(b""))


@pytest.mark.parametrize("name", ["NKpsk0", "IK", "IKpsk2"])
def test_only_the_holder_of_the_pinned_key_can_answer(name: str) -> None:
    keys, wrong = Keys(7), Keys(7)
    wrong.static = (keys.static[0], KeyPair(bytes(range(32))))
    writer = state(name, keys, initiator=True)
    reader = state(name, wrong, initiator=False)
    with pytest.raises(CryptoError):
        reader.read_message(writer.write_message(b""))


def test_the_longest_message_is_read_and_one_byte_more_is_not() -> None:
    writer, reader = pair("XX", Keys(8))
    payload = bytes(MESSAGE_BYTES_MAX - 32)
    with pytest.raises(ValueError, match="65536 bytes"):
        writer.copy().write_message(payload + b"\0")
    message = writer.write_message(payload)
    with pytest.raises(CryptoError):
        reader.copy().read_message(message + b"\0")
    assert reader.read_message(message) == payload


# -- low-order points


def with_public_key(key: KeyPair, public_bytes: bytes) -> KeyPair:
    """A key pair whose holder claims another public key."""
    liar = KeyPair(key.private_bytes)
    liar.public_bytes = public_bytes
    return liar


def take_and_answer(reader: HandshakeState, message: bytes) -> None:
    """Where no secret depends on a key of the message yet, the answer is the first to need it."""
    reader.read_message(message)
    reader.write_message(b"answer")


def liars() -> Iterator[tuple[str, int, str]]:
    for name, index in every_message():
        for token in PATTERNS[name].messages[index]:
            if token in ("e", "s"):
                yield name, index, token


def test_no_secret_is_agreed_with_a_point_of_low_order() -> None:
    assert len(set(LOW_ORDER)) == 14
    for point in LOW_ORDER:
        with pytest.raises(CryptoError):
            KeyPair(bytes(range(32))).exchange(point)


def told_a_lie(name: str, index: int, token: str, point: bytes) -> tuple[Any, Any, bytes]:
    """The liar holds every secret that it may hold, so all before the point is authentic."""
    writer, reader = pair_before(name, index)
    if token == "e":
        writer._ephemeral = with_public_key(writer._ephemeral, point)
    else:
        writer._static = with_public_key(writer._own_static(), point)
    return writer, reader, writer.write_message(b"lie")


@pytest.mark.parametrize(("name", "index", "token"), [*liars()])
def test_a_low_order_point_is_refused(name: str, index: int, token: str) -> None:
    for point in LOW_ORDER:
        _, reader, message = told_a_lie(name, index, token, point)
        with pytest.raises(CryptoError, match="public key"):
            take_and_answer(reader, message)


@pytest.mark.parametrize(("name", "index", "token"), [*liars()])
def test_no_known_bad_point_makes_a_handshake(name: str, index: int, token: str) -> None:
    assert len(set(KNOWN_BAD)) == 12
    for point in KNOWN_BAD:
        writer, reader, message = told_a_lie(name, index, token, point)
        assert not finishes(writer, reader, message), point.hex()


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_a_low_order_point_is_no_key_to_pin(point: bytes) -> None:
    keys = Keys(9)
    client = HandshakeState(
        "Noise_IK_25519_ChaChaPoly_BLAKE2s",
        initiator=True,
        prologue=b"",
        ephemeral_private=keys.ephemeral[0],
        static=keys.static[0],
        remote_static=point,
    )
    with pytest.raises(CryptoError):
        client.write_message(b"")


# -- the user's mistakes


@pytest.mark.parametrize(
    "name",
    [
        "Noise_KK_25519_ChaChaPoly_BLAKE2s",
        "Noise_IK_448_ChaChaPoly_BLAKE2s",
        "Noise_IK_25519_ChaChaPoly_SHA512",
        "Noise_IK_25519_AESCCM_SHA256",
        "IK",
    ],
)
def test_an_unknown_protocol_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no such handshake"):
        HandshakeState(name, initiator=True, prologue=b"", ephemeral_private=bytes(32))


@pytest.mark.parametrize(
    ("name", "initiator", "change", "says"),
    [
        ("IK", True, {"static": None}, "static key"),
        ("IK", False, {"static": None}, "static key"),
        ("NKpsk0", False, {"static": None}, "static key"),
        ("XX", True, {"static": None}, "static key"),
        ("IK", True, {"remote_static": None}, "server's key"),
        ("IK", True, {"remote_static": bytes(31)}, "server's key"),
        ("NNpsk0", True, {"psk": None}, "pre-shared key"),
        ("NNpsk0", False, {"psk": bytes(33)}, "pre-shared key"),
        ("IKpsk2", True, {"psk": b""}, "pre-shared key"),
    ],
)
def test_a_missing_key_is_named(
    name: str, initiator: bool, change: dict[str, bytes | None], says: str
) -> None:
    keys = Keys(10)
    arguments: dict[str, Any] = {
        "static": keys.static[0],
        "remote_static": keys.static[1].public_bytes,
        "psk": keys.psk,
    }
    with pytest.raises(ValueError, match=says):
        HandshakeState(
            f"Noise_{name}_25519_ChaChaPoly_BLAKE2s",
            initiator=initiator,
            prologue=b"",
            ephemeral_private=bytes(32),
            **(arguments | change),
        )
