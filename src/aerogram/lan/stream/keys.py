"""The keys of a group: sealing, opening, replays, and the change from one key to the next.

The sender makes a key for each epoch and hands it to each member over a session of its own. Its
packets say the epoch. Nonces are the origin and the packet number of the origin, which counts on
from key to key, so that no two packets of a group share one (NIST SP 800-38D §8.2.1).

A group key proves that somebody *of the group* sealed a packet, not which member: members can pass
for each other and for the sender. Who has no key can neither read nor forge nor replay.

Rules: what is not authentic raises `CryptoError` and changes nothing. After a new key, the one
before opens only what its sender had sealed by then, and only for the grace time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aerogram.core.keys import ReplayWindow
from aerogram.errors import AerogramError, CryptoError
from aerogram.lan.stream.wire import HEADER_BYTES, SENDER, Header

KEY_BYTES: Final = 32
KEYS_LIMIT: Final = 8
"""Keys at once: more epochs than these do not pass in a grace time that makes sense."""
KEY_PACKETS_LIMIT: Final = 1 << 23
"""Packets that one origin may seal with one key (RFC 9001 §6.6)."""
ORIGINS_LIMIT: Final = 8192
"""Members whose last number is remembered, twice the default of `members_limit`."""

_NONCE: Final = slice(13, HEADER_BYTES)
"""Origin and number, where the header has them: 12 bytes."""


class UnknownEpoch(AerogramError):
    """A packet was sealed with a key that this side does not have yet."""


class _Key:
    __slots__ = ("cipher", "ends_before", "expires_at", "secret", "start")

    def __init__(self, secret: bytes, start: int) -> None:
        self.secret = secret
        self.cipher = AESGCM(secret)
        self.start = start
        """The number of the sender's first packet with it."""
        self.ends_before: int | None = None
        self.expires_at: float | None = None


class GroupKeys:
    """The keys of one stream, on the sender's side or a member's."""

    __slots__ = (
        "_epoch",
        "_grace_seconds",
        "_keys",
        "_last_numbers",
        "_number",
        "_origin",
        "_sealed",
        "_stream",
        "_window",
    )

    def __init__(self, stream: bytes, origin: int, grace_seconds: float) -> None:
        self._stream = stream
        self._origin = origin
        self._grace_seconds = grace_seconds
        self._keys: dict[int, _Key] = {}
        self._epoch = -1
        self._number = 0
        self._sealed = 0
        self._window = ReplayWindow()
        self._last_numbers: OrderedDict[int, int] = OrderedDict()

    @property
    def epoch(self) -> int:
        """The newest one; packets are sealed with its key."""
        return self._epoch

    @property
    def next_number(self) -> int:
        """Of the next packet that is sealed here."""
        return self._number

    @property
    def sealed(self) -> int:
        """Packets sealed here with the newest key."""
        return self._sealed

    def install(self, epoch: int, secret: bytes, start: int, now: float) -> bool:
        """Take a key, and from now on use it if it is the newest. False: it is known already.

        `start` is the number of the sender's first packet with it.
        """
        if epoch in self._keys or epoch < self._epoch:
            return False
        newest = self._keys.get(self._epoch)
        if newest is not None:
            newest.ends_before = start
            newest.expires_at = now + self._grace_seconds
        self._keys[epoch] = _Key(secret, start)
        self._epoch = epoch
        self._sealed = 0
        self.forget_expired(now)
        while len(self._keys) > KEYS_LIMIT:
            del self._keys[min(self._keys)]
        return True

    def since(self, epoch: int) -> list[tuple[int, bytes, int]]:
        """Keys newer than that of an epoch: (epoch, secret, start), oldest first."""
        return [(e, key.secret, key.start) for e, key in sorted(self._keys.items()) if e > epoch]

    def forget_expired(self, now: float) -> None:
        """Forget the keys whose grace is over."""
        if len(self._keys) < 2:
            return
        for epoch, key in [*self._keys.items()]:
            if key.expires_at is not None and now >= key.expires_at:
                del self._keys[epoch]

    # Packets

    def seal(self, kind: int, body: bytes) -> bytes:
        """A packet. Raises `CryptoError` when the key is used up."""
        if self._sealed >= KEY_PACKETS_LIMIT:
            raise CryptoError("the group's key is used up")
        header = Header(kind, self._stream, self._epoch, self._origin, self._number).encode()
        self._number += 1
        self._sealed += 1
        return header + self._keys[self._epoch].cipher.encrypt(header[_NONCE], body, header)

    def open(self, packet: bytes, header: Header, now: float) -> bytes:
        """The body of a packet that came for the first time.

        Raises `UnknownEpoch` for a key that is yet to come, `CryptoError` for what is not
        authentic, comes again, or comes too late.
        """
        if header.epoch > self._epoch:
            raise UnknownEpoch(f"epoch {header.epoch}")
        key = self._keys.get(header.epoch)
        if key is None or (key.expires_at is not None and now >= key.expires_at):
            raise CryptoError("the key of that epoch has expired")
        if header.origin == SENDER:
            self._check_span(key, header.number)
        clear = packet[:HEADER_BYTES]
        try:
            body = key.cipher.decrypt(clear[_NONCE], packet[HEADER_BYTES:], clear)
        except InvalidTag:
            raise CryptoError("the packet is not authentic") from None
        if not self._is_new(header.origin, header.number):
            raise CryptoError("the packet has come before")
        return body

    def _check_span(self, key: _Key, number: int) -> None:
        if number < key.start or (key.ends_before is not None and number >= key.ends_before):
            raise CryptoError("the sender does not seal this number with that key")

    def _is_new(self, origin: int, number: int) -> bool:
        """Members' packets count only if newer than all before; the sender's may be reordered."""
        if origin == SENDER:
            return self._window.accept(number)
        if number <= self._last_numbers.get(origin, -1):
            return False
        self._last_numbers[origin] = number
        self._last_numbers.move_to_end(origin)
        if len(self._last_numbers) > ORIGINS_LIMIT:
            self._last_numbers.popitem(last=False)
        return True
