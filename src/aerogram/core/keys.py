"""Keys after, before and beside the handshake: packets, replays, identities, cookies, resets.

Rules: no key and packet number are ever used twice, and keys end before their limits (RFC 9001
§6.6); what is not authentic raises `CryptoError` and changes nothing but a counter; comparisons
with secrets take constant time; each use of a secret has a label of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from aerogram.config import MESSAGES_LIMIT
from aerogram.core.noise import KEY_BYTES, TAG_BYTES, KeyPair
from aerogram.core.wire import CID_BYTES, DATA, DATA_HEADER_BYTES, MAC1_BYTES, RESET_TOKEN_BYTES
from aerogram.errors import CryptoError

PACKETS_LIMIT: Final = MESSAGES_LIMIT
"""Packet numbers end here: acknowledgements name them as variable-length integers."""
REKEY_PACKETS: Final = 1 << 20
"""A sender changes its key after so many packets, an eighth of what AES-GCM allows."""
CLOSING_PACKETS: Final = 1024
"""Left over when a session is told to end, for what it still has to say: one turn and CLOSE."""
REPLAY_WINDOW_PACKETS: Final = 4088
"""How far behind the newest a packet may arrive: 512 bytes of bits, less the byte in progress."""
TOKEN_LIFETIME_SECONDS: Final = 120
"""How long an address counts as proven; the key behind the tokens changes as often (WireGuard)."""
USED_TOKENS_LIMIT: Final = 4096
"""Tokens remembered as used, per key. Beyond, a token may serve twice, still from its address."""

_HEADER: Final = struct.Struct(f">B{CID_BYTES}sQ")
_NUMBER: Final = struct.Struct(">Q")
_NUMBER_AT: Final = 1 + CID_BYTES
_NONCE_PREFIX: Final = bytes(4)
_CHECKSUM_BYTES: Final = 4
_REPLAY_BYTES: Final = REPLAY_WINDOW_PACKETS // 8 + 1
_TOKEN_LIFETIME_MILLISECONDS: Final = TOKEN_LIFETIME_SECONDS * 1000

Cipher = Callable[[bytes, bytes, bytes], bytes]
"""Seals or opens: nonce, data, associated data. Opening raises `InvalidTag`."""


class Aead(IntEnum):
    """How packets are protected; the values are those of the transport parameter."""

    NONE = 0
    """Plain text with a checksum, which keeps out accidents but nobody."""
    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


KEY_PACKETS: Final[dict[Aead, int]] = {
    Aead.NONE: PACKETS_LIMIT,
    Aead.AES_256_GCM: 1 << 23,
    Aead.CHACHA20_POLY1305: PACKETS_LIMIT,
}
"""Packets that one key may seal (RFC 9001 §6.6)."""
FORGERIES: Final[dict[Aead, int]] = {
    Aead.NONE: PACKETS_LIMIT,
    Aead.AES_256_GCM: 1 << 52,
    Aead.CHACHA20_POLY1305: 1 << 36,
}
"""Forged packets that the keys of one session may be tried on (RFC 9001 §6.6)."""


class Identity:
    """A lasting X25519 key pair by which others recognise this side."""

    __slots__ = ("static",)

    def __init__(self, static: KeyPair) -> None:
        self.static = static

    @classmethod
    def from_private_bytes(cls, private_bytes: bytes) -> Identity:
        """From 32 secret bytes; random ones make a new identity. Raises `ValueError`."""
        return cls(KeyPair(private_bytes))

    @property
    def private_bytes(self) -> bytes:
        """The secret half, to be stored."""
        return self.static.private_bytes

    @property
    def public_bytes(self) -> bytes:
        """The half to show to others: 32 bytes."""
        return self.static.public_bytes

    def __repr__(self) -> str:
        return f"<Identity {self.public_bytes.hex()}>"


def _checksum_seal(_nonce: bytes, data: bytes, header: bytes) -> bytes:
    return data + zlib.crc32(data, zlib.crc32(header)).to_bytes(_CHECKSUM_BYTES, "big")


def _checksum_open(nonce: bytes, data: bytes, header: bytes) -> bytes:
    plaintext = data[:-_CHECKSUM_BYTES]
    if _checksum_seal(nonce, plaintext, header) != data:
        raise InvalidTag
    return plaintext


def _sealer(aead: Aead, key: bytes) -> Cipher:
    if aead is Aead.NONE:
        return _checksum_seal
    return AESGCM(key).encrypt if aead is Aead.AES_256_GCM else ChaCha20Poly1305(key).encrypt


def _opener(aead: Aead, key: bytes) -> Cipher:
    if aead is Aead.NONE:
        return _checksum_open
    return AESGCM(key).decrypt if aead is Aead.AES_256_GCM else ChaCha20Poly1305(key).decrypt


def next_key(key: bytes) -> bytes:
    """The key of the next phase: HKDF-Expand with SHA-256, one block (RFC 5869 §2.3)."""
    return hmac.digest(key, b"aerogram1 next key\x01", "sha256")


class PacketProtection:
    """Seals and opens the DATA packets of one session, and changes its keys (after RFC 9001 §6).

    Each direction has keys of its own. The lowest bit of a packet's first byte is its key phase. A
    sender enters the next phase after `rekey_packets`, but only once the peer has acknowledged a
    packet of the present one. So a peer is never ahead by more than one phase, and the bit and the
    number tell which key to take: the present, the next, or the one before for what comes late.
    """

    __slots__ = (
        "_aead",
        "_confirmed",
        "_forged",
        "_next_open",
        "_open",
        "_phase_first",
        "_previous_open",
        "_receive_bit",
        "_receive_first",
        "_receive_key",
        "_rekey_at",
        "_rekey_packets",
        "_seal",
        "_send_key",
        "_smallest_bytes",
        "_stop_at",
        "_type",
        "_unused",
        "overhead_bytes",
    )

    def __init__(
        self,
        send_key: bytes,
        receive_key: bytes,
        aead: Aead,
        *,
        rekey_packets: int = REKEY_PACKETS,
    ) -> None:
        """Keys have 32 bytes. `rekey_packets` is this side's own affair."""
        assert 0 < rekey_packets <= REKEY_PACKETS
        self._aead = aead
        self.overhead_bytes = _CHECKSUM_BYTES if aead is Aead.NONE else TAG_BYTES
        """What sealing adds to the header and the plaintext."""
        self._smallest_bytes = DATA_HEADER_BYTES + self.overhead_bytes
        self._rekey_packets = PACKETS_LIMIT if aead is Aead.NONE else rekey_packets
        self._forged = 0
        self._receive_bit = 0
        self._receive_first = 0
        self._receive_key = receive_key
        self._open = _opener(aead, receive_key)
        self._previous_open: Cipher | None = None
        self._next_open: Cipher | None = None
        self._unused = 0
        self._type = DATA
        self._begin_phase(send_key, 0)
        # The handshake has shown that the peer holds the first keys.
        self._confirmed = True

    def _begin_phase(self, key: bytes, first: int) -> None:
        self._send_key = key
        self._seal = _sealer(self._aead, key)
        self._confirmed = False
        self._phase_first = first
        self._rekey_at = min(first + self._rekey_packets, PACKETS_LIMIT)
        self._stop_at = min(first + KEY_PACKETS[self._aead], PACKETS_LIMIT)

    @property
    def exhausted(self) -> bool:
        """The session has to end: `CLOSING_PACKETS` are left, or too many were forged."""
        if self._unused >= self._stop_at - CLOSING_PACKETS:
            return True
        return self._forged >= FORGERIES[self._aead]

    def acknowledged(self, number: int) -> None:
        """The peer has acknowledged a packet of this number, so it has entered its key phase."""
        if number >= self._phase_first:
            self._confirmed = True

    def seal(self, remote_cid: bytes, number: int, plaintext: bytes) -> bytes:
        """The packet. Numbers ascend; raises `CryptoError` for one used before, or past the end."""
        if number < self._unused or number >= self._rekey_at:
            self._check_number(number)
        self._unused = number + 1
        header = _HEADER.pack(self._type, remote_cid, number)
        return header + self._seal(_NONCE_PREFIX + header[_NUMBER_AT:], plaintext, header)

    def _check_number(self, number: int) -> None:
        if number < self._unused:
            raise CryptoError("a packet number must not be used twice")
        if number >= PACKETS_LIMIT:
            raise CryptoError("packet numbers are used up")
        if self._confirmed:
            self._type ^= 1
            self._begin_phase(next_key(self._send_key), number)
        elif number >= self._stop_at:
            raise CryptoError("the key is used up and the peer has not confirmed it")

    def open(self, packet: bytes) -> tuple[int, bytes]:
        """The number and plaintext of a packet. Raises `CryptoError` if it is not authentic."""
        if len(packet) < self._smallest_bytes:
            raise CryptoError("the packet is too short")
        nonce = packet[_NUMBER_AT:DATA_HEADER_BYTES]
        number: int = _NUMBER.unpack(nonce)[0]
        if number >= PACKETS_LIMIT:
            raise CryptoError("no packet has this number")
        is_other_phase = packet[0] & 1 != self._receive_bit
        cipher = self._other_phase(number) if is_other_phase else self._open
        try:
            plaintext = cipher(
                _NONCE_PREFIX + nonce, packet[DATA_HEADER_BYTES:], packet[:DATA_HEADER_BYTES]
            )
        except InvalidTag:
            self._forged += 1
            raise CryptoError("the packet is not authentic") from None
        if is_other_phase and number >= self._receive_first:
            self._follow(cipher, number)
        return number, plaintext

    def _other_phase(self, number: int) -> Cipher:
        """The cipher before the present one, or the one that follows."""
        if self._aead is Aead.NONE:
            raise CryptoError("plain text has no key phases")
        if number < self._receive_first:
            assert self._previous_open is not None
            return self._previous_open
        if self._next_open is None:
            # Kept, so that forged packets cost no more than others (RFC 9001 §6.3).
            self._next_open = _opener(self._aead, next_key(self._receive_key))
        return self._next_open

    def _follow(self, cipher: Cipher, number: int) -> None:
        """A packet of the next phase was authentic: the peer has entered it."""
        self._receive_bit ^= 1
        self._receive_first = number
        self._receive_key = next_key(self._receive_key)
        self._previous_open, self._open, self._next_open = self._open, cipher, None


class ReplayWindow:
    """Which packet numbers came before, as a ring of bits (RFC 6479)."""

    __slots__ = ("_bits", "_largest")

    def __init__(self) -> None:
        self._bits = bytearray(_REPLAY_BYTES)
        self._largest = -1

    def accept(self, number: int) -> bool:
        """True once for each number that is not too old to tell; it then counts as seen."""
        largest = self._largest
        at = number >> 3
        if number > largest:
            self._largest = number
            newest = largest >> 3
            if at > newest:
                self._clear(newest + 1, at)
        elif largest - number > REPLAY_WINDOW_PACKETS:
            return False
        at %= _REPLAY_BYTES
        bit = 1 << (number & 7)
        seen = self._bits[at]
        if seen & bit:
            return False
        self._bits[at] = seen | bit
        return True

    def _clear(self, first: int, last: int) -> None:
        if last - first >= _REPLAY_BYTES:
            self._bits = bytearray(_REPLAY_BYTES)
            return
        for at in range(first, last + 1):
            self._bits[at % _REPLAY_BYTES] = 0


def mac1_key(known: bytes) -> bytes:
    """The key of mac1, from something that only those know who know the server."""
    return hashlib.blake2s(b"aerogram1 mac1" + known).digest()


def mac1(key: bytes, body: bytes) -> bytes:
    """The first check of an INIT: 16 bytes, cheap to make and to test."""
    return hashlib.blake2s(body, key=key, digest_size=MAC1_BYTES).digest()


def mac1_matches(key: bytes, packet: bytes, answered: bytes = b"") -> bool:
    """True if the packet ends with the mac1 of all before it, and of what it answers."""
    body, own = packet[:-MAC1_BYTES], packet[-MAC1_BYTES:]
    return hmac.compare_digest(mac1(key, body + answered), own)


def checksummed(parameters: bytes, cid: bytes) -> bytes:
    """The transport parameters of a RESP that is plain text, with what catches accidents."""
    return _checksum_seal(b"", parameters, cid)


def without_checksum(data: bytes, cid: bytes) -> bytes:
    """The transport parameters of a RESP that is plain text. Raises `CryptoError`."""
    try:
        return _checksum_open(b"", data, cid)
    except InvalidTag:
        raise CryptoError("a RESP with a wrong checksum") from None


def psk_identifier(psk: bytes) -> bytes:
    """What names a pre-shared key without being it. Raises `ValueError` unless it has 32 bytes."""
    if len(psk) != KEY_BYTES:
        raise ValueError(f"a pre-shared key has {KEY_BYTES} random bytes, not {len(psk)}")
    return hashlib.blake2s(b"aerogram1 psk" + psk).digest()


def reset_token(secret: bytes, cid: bytes) -> bytes:
    """What proves that the sender of a RESET issued this connection id (RFC 9000 §10.3.2)."""
    return hmac.digest(secret, b"aerogram1 reset" + cid, "sha256")[:RESET_TOKEN_BYTES]


class _TokenKey:
    """The key of one period, and the tokens of that period that have served."""

    __slots__ = ("period", "secret", "used")

    def __init__(self, period: int, secret: bytes) -> None:
        self.period = period
        self.secret = secret
        self.used: set[bytes] = set()


class RetryTokens:
    """Cookies that prove an address without any state for those who never answer.

    A token is the time and a MAC over it, the address and the client's connection id. Keys form a
    one-way chain, one for each period of `TOKEN_LIFETIME_SECONDS`; the last two are kept.
    """

    __slots__ = ("_current", "_previous")

    def __init__(self, secret: bytes) -> None:
        """32 random bytes, of this endpoint alone."""
        self._current = _TokenKey(-PACKETS_LIMIT, secret)
        self._previous = self._current

    def mint(self, where: bytes, cid: bytes, now: float) -> bytes:
        """A token for a client at this address: 24 bytes."""
        milliseconds = int(now * 1000)
        self._rotate(milliseconds)
        issued = milliseconds.to_bytes(8, "big", signed=True)
        return issued + _token_mac(self._current, issued, where, cid)

    def verify(self, token: bytes, where: bytes, cid: bytes, now: float) -> bool:
        """True once for a token that was minted here for the same client and is not too old."""
        if len(token) != 8 + TAG_BYTES:
            return False
        milliseconds = int(now * 1000)
        self._rotate(milliseconds)
        issued = int.from_bytes(token[:8], "big", signed=True)
        if not 0 <= milliseconds - issued <= _TOKEN_LIFETIME_MILLISECONDS:
            return False
        current = issued // _TOKEN_LIFETIME_MILLISECONDS == self._current.period
        key = self._current if current else self._previous
        if not hmac.compare_digest(_token_mac(key, token[:8], where, cid), token[8:]):
            return False
        if token in key.used:
            return False
        if len(key.used) < USED_TOKENS_LIMIT:
            key.used.add(token)
        return True

    def _rotate(self, milliseconds: int) -> None:
        period = milliseconds // _TOKEN_LIFETIME_MILLISECONDS
        if period > self._current.period:
            label = b"aerogram1 cookie" + period.to_bytes(8, "big", signed=True)
            secret = hmac.digest(self._current.secret, label, "sha256")
            self._previous = self._current
            self._current = _TokenKey(period, secret)


def _token_mac(key: _TokenKey, issued: bytes, where: bytes, cid: bytes) -> bytes:
    data = issued + len(cid).to_bytes(1, "big") + cid + where
    return hashlib.blake2s(data, key=key.secret, digest_size=TAG_BYTES).digest()
