"""Every exception that Aerogram raises, in one tree under `AerogramError`.

Rules: a user's mistake is also a `ValueError` or `TypeError`; a peer's mistake never raises in user
code but ends the session with a typed reason; `DecodeError` is the one exception that parsers of
untrusted bytes may raise.
"""

from __future__ import annotations


class AerogramError(Exception):
    """The base of all exceptions of this package."""


class InvalidAddress(AerogramError, ValueError):
    """An address, host, port, server key or `aerogram://` URL that cannot be used."""


class InvalidMessage(AerogramError, TypeError):
    """A value that cannot be sent: its type is unknown, or it cannot be encoded."""


class MessageTooLarge(AerogramError, ValueError):
    """A record is larger than what the receiver, or one datagram, takes."""


class ServerIdentityRequired(AerogramError, ValueError):
    """`connect` was not told how to recognise the server."""


class InsecureRefused(AerogramError, ValueError):
    """Plain text was asked for on an address that is not loopback, and not forced."""


class EndpointClosed(AerogramError):
    """The datagram endpoint has been closed, or its socket broke."""


class DecodeError(AerogramError):
    """Bytes from the network do not follow the format. The only error that parsers raise."""


class CryptoError(AerogramError):
    """A packet or handshake message is not authentic."""


class ConnectFailed(AerogramError):
    """No session could be established."""


class NoCommonCipher(ConnectFailed):
    """The server seals packets with nothing that this side's `Config.ciphers` has in it."""


class HandshakeTimeout(ConnectFailed, TimeoutError):
    """The server did not answer the handshake in time, or answered nothing authentic."""


class SessionClosed(AerogramError):
    """The session has ended. Its subclasses say why; `code` and `reason` are the wire's."""

    def __init__(self, reason: str = "", *, code: int = 0) -> None:
        super().__init__(reason or type(self).__doc__)
        self.reason = reason
        self.code = code


class ClosedLocally(SessionClosed):
    """This side closed the session."""


class ClosedByPeer(SessionClosed):
    """The peer closed the session."""


class IdleTimeout(SessionClosed):
    """Nothing authentic arrived from the peer for the idle timeout."""


class PeerRestarted(SessionClosed):
    """The peer has lost the state of this session, as after a restart."""


class PeerProtocolError(SessionClosed):
    """The peer broke the protocol, or says that this side did."""


class ChannelMismatch(SessionClosed):
    """Both peers know a channel of this name, with different deliveries."""


class KeyLimitReached(SessionClosed):
    """The packet numbers of this session are used up."""


class QueueFull(AerogramError):
    """`send_nowait` found no room on the channel. `send` would have waited for it."""


class DeliveryFailed(AerogramError):
    """A message did not reach the peer. `outcome` says how it ended."""

    def __init__(self, outcome: str, reason: str = "") -> None:
        super().__init__(f"{outcome}: {reason}" if reason else outcome)
        self.outcome = outcome
        self.reason = reason


class DeliveryTimeout(DeliveryFailed, TimeoutError):
    """The peer did not confirm the message in the time given; it may still arrive."""


class RequestFailed(AerogramError):
    """The peer could not answer: its handler raised, or no handler takes this request."""


class RequestTimeout(RequestFailed, TimeoutError):
    """No answer came in the time given."""


class Rejected(AerogramError):
    """Raised by a handler or middleware to refuse a message; the peer is told the reason.

    At the peer, a refused request raises `Rejected` with the same reason.
    """

    def __init__(self, reason: object = "") -> None:
        self.reason = str(reason)
        """What the peer is told; anything else than a str is made one."""
        super().__init__(self.reason)
