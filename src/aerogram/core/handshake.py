"""From the first INIT to a connection: both sides of the handshake, around Noise.

The client keeps one `ClientHandshake` until a RESP answers it; the server answers an INIT at once
and keeps no more than a half-open connection. Rules: checks go from cheap to dear (size, version,
mac1, cookie, and only then a Diffie-Hellman), and whatever fails one of them gets no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aerogram.config import SMALLEST_DATAGRAM_BYTES, SMALLEST_WINDOW_BYTES, Cipher, Config
from aerogram.core import wire
from aerogram.core.keys import (
    Aead,
    Identity,
    PacketProtection,
    checksummed,
    mac1,
    mac1_key,
    mac1_matches,
    psk_identifier,
    without_checksum,
)
from aerogram.core.noise import HandshakeState
from aerogram.core.path import Address
from aerogram.core.wire import Mode, TransportParameters
from aerogram.errors import CryptoError, DecodeError, NoCommonCipher

PATTERNS: Final = {Mode.PSK: "NNpsk0", Mode.PINNED: "IK"}
"""Noise patterns by mode (RFC-like names of the Noise specification, §7)."""
CIPHERS: Final[dict[Cipher, Aead]] = {
    "aes-256-gcm": Aead.AES_256_GCM,
    "chacha20-poly1305": Aead.CHACHA20_POLY1305,
}
"""What `Config.ciphers` stands for."""
FIRST_RESEND_SECONDS: Final = 0.25
"""An unanswered INIT is sent again after this; doubled each time up to `LAST_RESEND_SECONDS`."""
LAST_RESEND_SECONDS: Final = 1.0
RETRIES_LIMIT: Final = 3
"""A client follows so many RETRYs of one handshake: a token may be worthless when it arrives."""
ACK_DELAY_MICROSECONDS_LIMIT: Final = (1 << 14) * 1000
"""RFC 9000 §18.2: a peer that may hold back acknowledgements so long cannot be worked with."""


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """What a server lets clients use; each part that is None or False is off."""

    identity: Identity | None
    psk: bytes | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class ClientSecurity:
    """How a client recognises its server."""

    mode: Mode
    identity: Identity | None = None
    """The client's own key, shown to a server whose key is pinned."""
    server_key: bytes | None = None
    psk: bytes | None = None

    def mac1_key(self) -> bytes:
        """The key of the first cheap check; it takes knowledge of the server to make it."""
        return _mac1_key(self.mode, self.server_key, self.psk)


def _mac1_key(mode: Mode, public_key: bytes | None, psk: bytes | None) -> bytes:
    if mode is Mode.PINNED and public_key is not None:
        return mac1_key(public_key)
    if mode is Mode.PSK and psk is not None:
        return mac1_key(psk_identifier(psk))
    return mac1_key(b"insecure")


def _prologue(mode: Mode, client_cid: bytes) -> bytes:
    return b"aerogram1" + bytes((wire.VERSION, mode)) + client_cid


def _protocol_name(mode: Mode) -> str:
    return f"Noise_{PATTERNS[mode]}_25519_ChaChaPoly_BLAKE2s"


def local_parameters(config: Config, aead: Aead) -> TransportParameters:
    """What this side tells the other about itself."""
    return TransportParameters(
        max_record_bytes=config.largest_payload_bytes,
        channel_window_bytes=config.channel_window_bytes,
        idle_timeout_milliseconds=int(config.idle_timeout_seconds * 1000),
        max_datagram_bytes=config.datagram_bytes,
        max_ack_delay_microseconds=int(config.max_ack_delay_seconds * 1_000_000),
        aead=int(aead),
    )


def decode_peer_parameters(data: bytes) -> TransportParameters:
    """The peer's parameters, checked for values that no session can work with."""
    peer = wire.decode_parameters_untrusted(data)
    if peer.channel_window_bytes < SMALLEST_WINDOW_BYTES:
        raise DecodeError("the peer's window is too small")
    if peer.max_datagram_bytes < SMALLEST_DATAGRAM_BYTES:
        raise DecodeError("the peer takes no whole packet")
    if peer.max_ack_delay_microseconds >= ACK_DELAY_MICROSECONDS_LIMIT:
        raise DecodeError("the peer holds acknowledgements back for too long")
    return peer


def idle_seconds(config: Config, peer: TransportParameters) -> float:
    """The lower of both sides' idle timeouts; 0 means none."""
    theirs = peer.idle_timeout_milliseconds / 1000
    timeouts = [seconds for seconds in (config.idle_timeout_seconds, theirs) if seconds > 0]
    return min(timeouts) if timeouts else float("inf")


def keepalive_seconds(config: Config, idle_timeout_seconds: float) -> float:
    """How long a quiet session goes without a PING; infinite if that is turned off.

    At most half of what either side takes for the end (RFC 9000 §10.1.2), so that a PING that is
    lost can be sent again.
    """
    if config.keepalive_seconds <= 0:
        return float("inf")
    return min(config.keepalive_seconds, idle_timeout_seconds / 2)


@dataclass(slots=True)
class Established:
    """What a finished handshake yields."""

    protection: PacketProtection
    peer: TransportParameters
    peer_key: bytes | None
    remote_cid: bytes


class ClientHandshake:
    """A client's side, from the first INIT to the RESP that opens the session."""

    __slots__ = (
        "_ciphers",
        "_interval",
        "_mode",
        "_noise",
        "_noise_message",
        "_retries",
        "_security",
        "_sent_mac1",
        "_token",
        "address",
        "cid",
        "deadline",
        "expires_at",
        "owner",
        "timeout_seconds",
    )

    def __init__(
        self,
        config: Config,
        security: ClientSecurity,
        address: Address,
        cid: bytes,
        ephemeral: bytes,
        now: float,
        timeout_seconds: float,
    ) -> None:
        self._security = security
        self._mode = security.mode
        self._token = b""
        self._retries = 0
        self._sent_mac1 = b""
        """Of the INIT that was sent last."""
        self._interval = FIRST_RESEND_SECONDS
        self.address = address
        self.cid = cid
        self.deadline = now
        self.timeout_seconds = timeout_seconds
        self.expires_at = now + timeout_seconds
        self.owner: Any = None
        secure = security.mode is not Mode.INSECURE
        self._ciphers = config.ciphers
        proposed = CIPHERS[config.ciphers[0]] if secure else Aead.NONE
        parameters = local_parameters(config, proposed).encode()
        self._noise: HandshakeState | None = None
        self._noise_message = parameters
        if secure:
            self._noise = self._start_noise(ephemeral)
            self._noise_message = self._noise.write_message(parameters)

    def _start_noise(self, ephemeral: bytes) -> HandshakeState:
        security = self._security
        identity = security.identity
        return HandshakeState(
            _protocol_name(self._mode),
            initiator=True,
            prologue=_prologue(self._mode, self.cid),
            ephemeral_private=ephemeral,
            static=identity.static if identity is not None else None,
            remote_static=security.server_key,
            psk=security.psk,
        )

    def init(self, now: float) -> bytes:
        """The INIT packet to send now; sets when to send it again."""
        self.deadline = min(now + self._interval, self.expires_at)
        self._interval = min(2 * self._interval, LAST_RESEND_SECONDS)
        body = wire.encode_init(self._mode, self.cid, self._token, self._noise_message)
        self._sent_mac1 = mac1(self._security.mac1_key(), body)
        return body + self._sent_mac1

    def retry(self, packet: wire.Retry, data: bytes, now: float) -> None:
        """The server wants a proof of our address first; the next INIT has it.

        Raises `CryptoError` if this does not answer the INIT that was sent last: it is forged, or
        was changed on its way, or was for an earlier one. A genuine one may still come.
        """
        if not mac1_matches(self._security.mac1_key(), data, self._sent_mac1):
            raise CryptoError("a RETRY that answers no INIT of ours")
        if self._retries < RETRIES_LIMIT:
            self._retries += 1
            self._token = packet.token
            self.deadline = now

    def respond(self, packet: wire.Resp) -> Established:
        """Take the RESP. Raises `CryptoError` or `DecodeError`; a genuine one may still come.

        Raises `NoCommonCipher` for a genuine one that names a cipher which is not wanted here.
        """
        if self._noise is None:
            peer = decode_peer_parameters(without_checksum(packet.noise, self.cid))
            _check_aead(peer, secure=False)
            return _established(PacketProtection(bytes(32), bytes(32), Aead.NONE), peer, None)
        noise = self._noise.copy()
        peer = decode_peer_parameters(noise.read_message(packet.noise))
        to_server, to_client = noise.split()
        protection = PacketProtection(to_server, to_client, _chosen(peer, self._ciphers))
        return _established(protection, peer, self._security.server_key)


def _check_aead(peer: TransportParameters, *, secure: bool) -> None:
    """A peer may neither turn encryption off nor pretend that it is on. Raises `DecodeError`."""
    if (peer.aead != Aead.NONE) != secure:
        raise DecodeError("the peer names no AEAD that is allowed here")


def _chosen(peer: TransportParameters, ciphers: Sequence[Cipher]) -> Aead:
    """What the server chose, if the client wants that. Raises `NoCommonCipher`."""
    _check_aead(peer, secure=True)
    for cipher, aead in CIPHERS.items():
        if aead == peer.aead:
            if cipher in ciphers:
                return aead
            raise NoCommonCipher(f"the server seals packets with {cipher}: see Config.ciphers")
    raise DecodeError("the peer names an AEAD that is unknown here")


def _agreed(peer: TransportParameters, ciphers: Sequence[Cipher]) -> Aead:
    """What the client proposes, if the server has that; else what the server likes best."""
    for cipher in ciphers:
        if CIPHERS[cipher] == peer.aead:
            return CIPHERS[cipher]
    return CIPHERS[ciphers[0]]


def _established(
    protection: PacketProtection, peer: TransportParameters, peer_key: bytes | None
) -> Established:
    if len(peer.connection_id) != wire.CID_BYTES:
        raise DecodeError("the peer names no connection id")
    return Established(protection, peer, peer_key, peer.connection_id)


class ServerHandshake:
    """A server's side: pure functions of one INIT and the server's secrets."""

    __slots__ = ("_config", "_keys", "_security")

    def __init__(self, config: Config, security: ServerSecurity) -> None:
        self._config = config
        self._security = security
        self._keys: dict[Mode, bytes] = {}
        if security.identity is not None:
            public = security.identity.public_bytes
            self._keys[Mode.PINNED] = _mac1_key(Mode.PINNED, public, None)
        if security.psk is not None:
            self._keys[Mode.PSK] = _mac1_key(Mode.PSK, None, security.psk)
        if security.insecure:
            self._keys[Mode.INSECURE] = _mac1_key(Mode.INSECURE, None, None)

    def mac1_key(self, mode: Mode) -> bytes | None:
        """The key of the first check, or None if this mode is off."""
        return self._keys.get(mode)

    def respond(
        self, init: wire.Init, cid: bytes, reset: bytes, ephemeral: bytes
    ) -> tuple[bytes, Established]:
        """The RESP to an INIT whose mac1 was right. Raises `CryptoError` or `DecodeError`."""
        mode = Mode(init.mode)
        if mode is Mode.INSECURE:
            peer = decode_peer_parameters(init.noise)
            _check_aead(peer, secure=False)
            answer = checksummed(self._parameters(Aead.NONE, cid, reset), init.client_cid)
            protection = PacketProtection(bytes(32), bytes(32), Aead.NONE)
            peer_key = None
        else:
            noise = self._start_noise(mode, init.client_cid, ephemeral)
            peer = decode_peer_parameters(noise.read_message(init.noise))
            _check_aead(peer, secure=True)
            aead = _agreed(peer, self._config.ciphers)
            answer = noise.write_message(self._parameters(aead, cid, reset))
            to_server, to_client = noise.split()
            protection = PacketProtection(to_client, to_server, aead)
            peer_key = noise.remote_static
        resp = wire.encode_resp(init.client_cid, answer)
        if len(resp) > SMALLEST_DATAGRAM_BYTES:
            raise CryptoError("the answer is larger than the question")
        return resp, Established(protection, peer, peer_key, init.client_cid)

    def _parameters(self, aead: Aead, cid: bytes, reset: bytes) -> bytes:
        parameters = local_parameters(self._config, aead)
        parameters.connection_id = cid
        parameters.reset_token = reset
        return parameters.encode()

    def _start_noise(self, mode: Mode, client_cid: bytes, ephemeral: bytes) -> HandshakeState:
        identity = self._security.identity
        return HandshakeState(
            _protocol_name(mode),
            initiator=False,
            prologue=_prologue(mode, client_cid),
            ephemeral_private=ephemeral,
            static=identity.static if identity is not None and mode is Mode.PINNED else None,
            psk=self._security.psk if mode is Mode.PSK else None,
        )
