"""An asyncio datagram framework: reliable, ordered, encrypted messages over UDP."""

from __future__ import annotations

from aerogram import delivery
from aerogram.app import App
from aerogram.channels import Channel
from aerogram.client import connect
from aerogram.config import Config
from aerogram.core.budget import Budget
from aerogram.core.channel import Outcome
from aerogram.core.keys import Identity
from aerogram.errors import (
    AerogramError,
    ChannelMismatch,
    ClosedByPeer,
    ClosedLocally,
    ConnectFailed,
    DecodeError,
    DeliveryFailed,
    DeliveryTimeout,
    HandshakeTimeout,
    IdleTimeout,
    InsecureRefused,
    InvalidAddress,
    InvalidMessage,
    KeyLimitReached,
    MessageTooLarge,
    PeerProtocolError,
    PeerRestarted,
    QueueFull,
    Rejected,
    RequestFailed,
    RequestTimeout,
    ServerIdentityRequired,
    SessionClosed,
)
from aerogram.group_sending import GroupOutcome
from aerogram.groups import Group, Presence, PresenceEvent
from aerogram.identity import new_identity, read_identity, write_identity
from aerogram.io.datagram import Datagram
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.opening import open_endpoint
from aerogram.messages import Message, Request, Stream, Topic, Untyped
from aerogram.receipts import Receipt
from aerogram.routes import Next
from aerogram.server import Server, serve, serve_datagrams
from aerogram.session import Session
from aerogram.session_clock import SessionClock

__all__ = [
    "AerogramError",
    "App",
    "Budget",
    "Channel",
    "ChannelMismatch",
    "ClosedByPeer",
    "ClosedLocally",
    "Config",
    "ConnectFailed",
    "Datagram",
    "DatagramEndpoint",
    "DecodeError",
    "DeliveryFailed",
    "DeliveryTimeout",
    "Group",
    "GroupOutcome",
    "HandshakeTimeout",
    "Identity",
    "IdleTimeout",
    "InsecureRefused",
    "InvalidAddress",
    "InvalidMessage",
    "KeyLimitReached",
    "Message",
    "MessageTooLarge",
    "Next",
    "Outcome",
    "PeerProtocolError",
    "PeerRestarted",
    "Presence",
    "PresenceEvent",
    "QueueFull",
    "Receipt",
    "Rejected",
    "Request",
    "RequestFailed",
    "RequestTimeout",
    "Server",
    "ServerIdentityRequired",
    "Session",
    "SessionClock",
    "SessionClosed",
    "Stream",
    "Topic",
    "Untyped",
    "connect",
    "delivery",
    "new_identity",
    "open_endpoint",
    "read_identity",
    "serve",
    "serve_datagrams",
    "write_identity",
]
