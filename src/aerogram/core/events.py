"""What the core tells the shell. Plain data, polled from the endpoint in the order it happened.

These are no dataclasses: compiled, a dataclass needs the classes of its fields when it is made,
and `Connection` is made from these.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aerogram.core.channel import ReceiveChannel, Run, SendChannel
    from aerogram.core.connection import Connection
    from aerogram.core.handshake import ClientHandshake
    from aerogram.errors import ConnectFailed


class CloseCode(IntEnum):
    """Why a session ended, on the wire and in events. 256 and up are the application's."""

    NO_ERROR = 0
    PROTOCOL_VIOLATION = 1
    CHANNEL_MISMATCH = 2
    IDLE = 3
    RESTARTED = 4
    LIMIT = 5
    GOING_AWAY = 6
    KEY_LIMIT = 7


class RefuseCode(IntEnum):
    """Why a message that arrived was not taken."""

    UNKNOWN_TAG = 1
    REJECTED = 2
    UNKNOWN_CHANNEL = 3
    HANDLER_FAILED = 4
    UNDECODABLE = 5


REASON_BYTES: Final = 256
"""Longest reason that is sent with one of these; a frame takes 1024."""


def clipped(reason: str) -> str:
    """A reason as it fits on the wire."""
    return reason.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore")


class SessionOpened:
    """Both sides have proved who they are."""

    __slots__ = ("connection", "handshake")

    def __init__(self, connection: Connection, handshake: ClientHandshake | None) -> None:
        self.connection = connection
        self.handshake = handshake
        """The handshake that this answers, at the client; None at the server."""


class ConnectFailure:
    """A client's handshake ended without a session."""

    __slots__ = ("error", "handshake")

    def __init__(self, handshake: ClientHandshake, error: ConnectFailed) -> None:
        self.handshake = handshake
        self.error = error
        """What the one who wanted to connect is told."""


MERGED_RUN_MESSAGES: Final = 256
"""Runs of packets that arrive together are merged up to this length: whoever handles a run takes
a break after it."""


class MessagesReceived:
    """Messages that their channel hands over, in the channel's order."""

    __slots__ = ("channel", "connection", "runs")

    def __init__(self, connection: Connection, channel: ReceiveChannel, runs: list[Run]) -> None:
        self.connection = connection
        self.channel = channel
        self.runs = runs

    def follows(self, runs: list[Run]) -> None:
        """More was handed over before anybody took this: what follows on makes one run."""
        first, messages, cost = runs[0]
        last_first, last_messages, last_cost = self.runs[-1]
        count = len(last_messages)
        if (
            len(runs) > 1
            or first < 0
            or first != last_first + count
            or count + len(messages) > MERGED_RUN_MESSAGES
        ):
            self.runs.extend(runs)
            return
        last_messages.extend(messages)
        self.runs[-1] = (last_first, last_messages, last_cost + cost)


class MessageRefused:
    """The peer did not take a message."""

    __slots__ = ("channel_name", "code", "connection", "reason")

    def __init__(self, connection: Connection, channel_name: str, code: int, reason: str) -> None:
        self.connection = connection
        self.channel_name = channel_name
        self.code = code
        self.reason = reason


class PolicyFailed:
    """An ordering or a retry policy that the user wrote did what it must not; the session lives."""

    __slots__ = ("channel_name", "connection", "error")

    def __init__(self, connection: Connection, channel_name: str, error: Exception) -> None:
        self.connection = connection
        self.channel_name = channel_name
        self.error = error


class ChannelHasRoom:
    """A sender that found the queue full may go on."""

    __slots__ = ("channel", "connection")

    def __init__(self, connection: Connection, channel: SendChannel) -> None:
        self.connection = connection
        self.channel = channel


class Drained:
    """Everything that was sent is acknowledged, or has ended otherwise."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


class SessionEnded:
    """The session is over."""

    __slots__ = ("by_peer", "code", "connection", "reason")

    def __init__(self, connection: Connection, code: int, reason: str, by_peer: bool) -> None:
        self.connection = connection
        self.code = code
        self.reason = reason
        self.by_peer = by_peer


Event = (
    SessionOpened
    | ConnectFailure
    | MessagesReceived
    | MessageRefused
    | PolicyFailed
    | ChannelHasRoom
    | Drained
    | SessionEnded
)
