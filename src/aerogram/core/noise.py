"""The Noise Protocol Framework, revision 34: key agreement for the handshake, and nothing more.

One table says what the patterns exchange; one loop writes and one reads. Rules: whatever the peer
sent, only `CryptoError` escapes; private keys are arguments, so that nothing here is random; what
goes on the wire is exactly what the Noise specification says, so that its vectors hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from aerogram.errors import CryptoError

KEY_BYTES: Final = 32
"""Of X25519 keys either way, cipher keys, hashes and pre-shared keys alike (Noise §4, §12)."""
TAG_BYTES: Final = 16
MESSAGE_BYTES_MAX: Final = 65535
"""Noise §3: the longest handshake message."""

EPHEMERAL: Final = "e"
STATIC: Final = "s"
PSK: Final = "psk"
"""Tokens that are not a Diffie-Hellman of two keys (Noise §7.1, §9.3)."""

_IPAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OPAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_KEY_PADDING: Final = bytes(64 - KEY_BYTES)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A handshake pattern (Noise §7): tokens by message, the initiator's first."""

    messages: tuple[tuple[str, ...], ...]
    knows_responder: bool = False
    """The responder's static key is a pre-message (`<- s`)."""

    @property
    def uses_psk(self) -> bool:
        """A pre-shared key takes part, so ephemeral keys are also mixed into the key (§9.2)."""
        return any(PSK in tokens for tokens in self.messages)

    def sends_static(self, *, initiator: bool) -> bool:
        """This side sends its static key, or a peer knows it beforehand."""
        mine = self.messages[0 if initiator else 1 :: 2]
        return any(STATIC in tokens for tokens in mine) or (self.knows_responder and not initiator)


PATTERNS: Final[dict[str, Pattern]] = {
    "NNpsk0": Pattern((("psk", "e"), ("e", "ee"))),
    "XX": Pattern((("e",), ("e", "ee", "s", "es"), ("s", "se"))),
    "NKpsk0": Pattern((("psk", "e", "es"), ("e", "ee")), knows_responder=True),
    "IK": Pattern((("e", "es", "s", "ss"), ("e", "ee", "se")), knows_responder=True),
    "IKpsk2": Pattern((("e", "es", "s", "ss"), ("e", "ee", "se", "psk")), knows_responder=True),
}

HASHES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "BLAKE2s": lambda data: hashlib.blake2s(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


class KeyPair:
    """An X25519 key pair (Noise §4.1)."""

    __slots__ = ("_private", "public_bytes")

    def __init__(self, private_bytes: bytes) -> None:
        """Raises `ValueError` unless there are 32 bytes."""
        self._private = X25519PrivateKey.from_private_bytes(private_bytes)
        self.public_bytes = self._private.public_key().public_bytes_raw()

    @property
    def private_bytes(self) -> bytes:
        """The secret half: 32 bytes."""
        return self._private.private_bytes_raw()

    def exchange(self, public_bytes: bytes) -> bytes:
        """The shared secret with the holder of a public key.

        Raises `CryptoError` for points of low order, whose secret would be known to everybody.
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public_bytes))
        except ValueError:
            raise CryptoError("not a usable public key") from None


class SymmetricState:
    """The running hash, the chaining key and the cipher of a handshake (Noise §5.1, §5.2)."""

    __slots__ = ("_aes", "_chaining_key", "_cipher", "_hash", "_nonce", "handshake_hash")

    def __init__(self, protocol_name: bytes, cipher: str, hash_name: str) -> None:
        self._aes = cipher == "AESGCM"
        self._hash = HASHES[hash_name]
        self._cipher: AESGCM | ChaCha20Poly1305 | None = None
        self._nonce = 0
        fits = len(protocol_name) <= KEY_BYTES
        initial = protocol_name.ljust(KEY_BYTES, b"\0") if fits else self._hash(protocol_name)
        self.handshake_hash: bytes = initial
        self._chaining_key: bytes = initial

    def copy_from(self, other: SymmetricState) -> None:
        """Take over another's state; the two then go separate ways."""
        self._cipher = other._cipher
        self._nonce = other._nonce
        self.handshake_hash = other.handshake_hash
        self._chaining_key = other._chaining_key

    def _hmac(self, key: bytes, data: bytes) -> bytes:
        # RFC 2104 on a 64-byte block. `hmac.digest` takes five times as long for BLAKE2s.
        padded = key + _KEY_PADDING
        inner = self._hash(padded.translate(_IPAD) + data)
        return self._hash(padded.translate(_OPAD) + inner)

    def _hkdf(self, material: bytes, count: int) -> list[bytes]:
        """Noise §4.3: two or three outputs from the chaining key and some input."""
        key = self._hmac(self._chaining_key, material)
        output = b""
        outputs: list[bytes] = []
        for index in range(1, count + 1):
            output = self._hmac(key, output + bytes((index,)))
            outputs.append(output)
        return outputs

    def _set_key(self, key: bytes) -> None:
        self._cipher = AESGCM(key) if self._aes else ChaCha20Poly1305(key)
        self._nonce = 0

    def _next_nonce(self) -> bytes:
        number = self._nonce
        self._nonce += 1
        return bytes(4) + number.to_bytes(8, "big" if self._aes else "little")

    def mix_hash(self, data: bytes) -> None:
        """Bind the handshake to bytes that both sides have seen."""
        self.handshake_hash = self._hash(self.handshake_hash + data)

    def mix_key(self, material: bytes) -> None:
        """Let the keys that follow depend on a secret."""
        self._chaining_key, key = self._hkdf(material, 2)
        self._set_key(key)

    def mix_key_and_hash(self, material: bytes) -> None:
        """The same for a pre-shared key, which the hash also depends on."""
        self._chaining_key, extra, key = self._hkdf(material, 3)
        self.mix_hash(extra)
        self._set_key(key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Seal, once there is a key."""
        cipher = self._cipher
        if cipher is not None:
            plaintext = cipher.encrypt(self._next_nonce(), plaintext, self.handshake_hash)
        self.mix_hash(plaintext)
        return plaintext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """Open, once there is a key. Raises `CryptoError`."""
        plaintext = ciphertext
        if self._cipher is not None:
            try:
                plaintext = self._cipher.decrypt(
                    self._next_nonce(), ciphertext, self.handshake_hash
                )
            except InvalidTag:
                raise CryptoError("the handshake message is not authentic") from None
        self.mix_hash(ciphertext)
        return plaintext

    @property
    def static_key_bytes(self) -> int:
        """What a static public key takes in a message at this point."""
        return KEY_BYTES if self._cipher is None else KEY_BYTES + TAG_BYTES

    def split(self) -> tuple[bytes, bytes]:
        """Noise §5.2: the two transport keys, the initiator's first."""
        first, second = self._hkdf(b"", 2)
        return first, second


class HandshakeState:
    """One side of a handshake (Noise §5.3). After a `CryptoError` it is of no more use.

    Raises `ValueError` for a protocol that is not supported, a key of the wrong size, or one that
    the pattern needs and is not there. Keys that the pattern has no use for are left out.
    """

    __slots__ = (
        "_ephemeral",
        "_initiator",
        "_messages",
        "_pattern",
        "_protocol_name",
        "_psk",
        "_remote_ephemeral",
        "_static",
        "_symmetric",
        "remote_static",
    )

    def __init__(
        self,
        protocol_name: str,
        *,
        initiator: bool,
        prologue: bytes,
        ephemeral_private: bytes | KeyPair,
        static: KeyPair | None = None,
        remote_static: bytes | None = None,
        psk: bytes | None = None,
    ) -> None:
        self._pattern, cipher, hash_name = _parse(protocol_name)
        self._protocol_name = protocol_name
        self._initiator = initiator
        if isinstance(ephemeral_private, bytes):
            ephemeral_private = KeyPair(ephemeral_private)
        self._ephemeral = ephemeral_private
        self._static = static
        self._psk = psk
        self._remote_ephemeral = b""
        knows = initiator and self._pattern.knows_responder
        self.remote_static: bytes | None = remote_static if knows else None
        """The peer's static key: given, or received and then proven to be the peer's."""
        self._messages = 0
        self._check_keys()
        self._symmetric = SymmetricState(protocol_name.encode(), cipher, hash_name)
        self._symmetric.mix_hash(prologue)
        if self._pattern.knows_responder:
            key = self.remote_static if initiator else self._own_static().public_bytes
            assert key is not None
            self._symmetric.mix_hash(key)

    def _check_keys(self) -> None:
        pattern = self._pattern
        if pattern.sends_static(initiator=self._initiator) and self._static is None:
            raise ValueError("this handshake needs a static key of this side")
        known = self.remote_static or b""
        if self._initiator and pattern.knows_responder and len(known) != KEY_BYTES:
            raise ValueError("this handshake needs the server's key, which has 32 bytes")
        if pattern.uses_psk and (self._psk is None or len(self._psk) != KEY_BYTES):
            raise ValueError("this handshake needs a pre-shared key of 32 bytes")

    def copy(self) -> HandshakeState:
        """An independent copy, so that a forged message can be tried without harm.

        Never write different payloads from two copies: their nonces would be the same.
        """
        result = HandshakeState(
            self._protocol_name,
            initiator=self._initiator,
            prologue=b"",
            ephemeral_private=self._ephemeral,
            static=self._static,
            remote_static=self.remote_static,
            psk=self._psk,
        )
        result.remote_static = self.remote_static
        result._remote_ephemeral = self._remote_ephemeral
        result._messages = self._messages
        result._symmetric.copy_from(self._symmetric)
        return result

    @property
    def finished(self) -> bool:
        """Every message of the pattern was written or read."""
        return self._messages == len(self._pattern.messages)

    @property
    def handshake_hash(self) -> bytes:
        """What both sides have seen so far; of a finished handshake, unique to it (§11.2)."""
        return self._symmetric.handshake_hash

    def split(self) -> tuple[bytes, bytes]:
        """Two 32-byte keys: initiator to responder, and responder to initiator."""
        assert self.finished
        return self._symmetric.split()

    def write_message(self, payload: bytes) -> bytes:
        """The next message. Raises `CryptoError` if a key that the peer sent is of no use."""
        symmetric = self._symmetric
        parts: list[bytes] = []
        for token in self._take_tokens(mine=True):
            if token == EPHEMERAL:
                parts.append(self._ephemeral.public_bytes)
                self._mix_ephemeral(self._ephemeral.public_bytes)
            elif token == STATIC:
                parts.append(symmetric.encrypt_and_hash(self._own_static().public_bytes))
            else:
                self._mix_secret(token)
        parts.append(symmetric.encrypt_and_hash(payload))
        message = b"".join(parts)
        if len(message) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a handshake message of {len(message)} bytes")
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the peer's next message. Raises `CryptoError`."""
        if len(message) > MESSAGE_BYTES_MAX:
            raise CryptoError("the handshake message is too long")
        symmetric = self._symmetric
        at = 0
        for token in self._take_tokens(mine=False):
            if token == EPHEMERAL:
                self._remote_ephemeral = _piece(message, at, KEY_BYTES)
                at += KEY_BYTES
                self._mix_ephemeral(self._remote_ephemeral)
            elif token == STATIC:
                size = symmetric.static_key_bytes
                self.remote_static = symmetric.decrypt_and_hash(_piece(message, at, size))
                at += size
            else:
                self._mix_secret(token)
        return symmetric.decrypt_and_hash(message[at:])

    def _take_tokens(self, *, mine: bool) -> tuple[str, ...]:
        index = self._messages
        assert index < len(self._pattern.messages), "the handshake is finished"
        assert (index % 2 == 0) == (self._initiator == mine), "it is the other side's turn"
        self._messages += 1
        return self._pattern.messages[index]

    def _own_static(self) -> KeyPair:
        assert self._static is not None
        return self._static

    def _mix_ephemeral(self, public_bytes: bytes) -> None:
        self._symmetric.mix_hash(public_bytes)
        if self._pattern.uses_psk:
            self._symmetric.mix_key(public_bytes)

    def _mix_secret(self, token: str) -> None:
        """`psk`, or two letters: the initiator's key and the responder's."""
        if token == PSK:
            assert self._psk is not None
            self._symmetric.mix_key_and_hash(self._psk)
            return
        mine, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        own = self._ephemeral if mine == "e" else self._own_static()
        remote = self._remote_ephemeral if theirs == "e" else self.remote_static
        assert remote is not None
        self._symmetric.mix_key(own.exchange(remote))


def _piece(message: bytes, at: int, size: int) -> bytes:
    piece = message[at : at + size]
    if len(piece) != size:
        raise CryptoError("the handshake message is too short")
    return piece


def _parse(protocol_name: str) -> tuple[Pattern, str, str]:
    """The pattern, cipher and hash of `Noise_<pattern>_25519_<cipher>_<hash>` (Noise §8)."""
    parts = protocol_name.split("_")
    if len(parts) == 5 and parts[0] == "Noise" and parts[2] == "25519":
        _, name, _, cipher, hash_name = parts
        if name in PATTERNS and cipher in ("ChaChaPoly", "AESGCM") and hash_name in HASHES:
            return PATTERNS[name], cipher, hash_name
    raise ValueError(f"no such handshake here: {protocol_name!r}")
