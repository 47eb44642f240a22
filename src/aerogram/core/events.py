"""What the core tells the shell. Plain data, polled from the endpoint in the order it happened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aerogram.core.channel import ReceiveChannel, Run, SendChannel
    from aerogram.core.connection import Connection
    from aerogram.core.handshake import ClientHandshake


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


@dataclass(slots=True)
class SessionOpened:
    """Both sides have proved who they are."""

    connection: Connection
    handshake: ClientHandshake | None
    """The handshake that this answers, at the client; None at the server."""


@dataclass(slots=True)
class ConnectFailure:
    """A client's handshake ended without a session."""

    handshake: ClientHandshake
    reason: str


@dataclass(slots=True)
class MessagesReceived:
    """Messages that their channel hands over, in the channel's order."""

    connection: Connection
    channel: ReceiveChannel
    runs: list[Run]


@dataclass(slots=True)
class MessageRefused:
    """The peer did not take a message."""

    connection: Connection
    channel_name: str
    code: int
    reason: str


@dataclass(slots=True)
class ChannelHasRoom:
    """A sender that found the queue full may go on."""

    connection: Connection
    channel: SendChannel


@dataclass(slots=True)
class Drained:
    """Everything that was sent is acknowledged, or has ended otherwise."""

    connection: Connection


@dataclass(slots=True)
class SessionEnded:
    """The session is over."""

    connection: Connection
    code: int
    reason: str
    by_peer: bool


Event = (
    SessionOpened
    | ConnectFailure
    | MessagesReceived
    | MessageRefused
    | ChannelHasRoom
    | Drained
    | SessionEnded
)
