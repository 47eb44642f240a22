"""An asyncio datagram framework: reliable, ordered, encrypted messages over UDP."""

from __future__ import annotations

from aerogram import delivery
from aerogram.app import App
from aerogram.channels import Channel
from aerogram.client import connect
from aerogram.config import Config
from aerogram.core.budget import Budget
from aerogram.core.channel import Outcome
from aerogram.core.incoming import IncomingRecord
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
    EndpointClosed,
    HandshakeTimeout,
    IdleTimeout,
    InsecureRefused,
    InvalidAddress,
    InvalidMessage,
    KeyLimitReached,
    MessageTooLarge,
    NoCommonCipher,
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
from aerogram.io.datagram import Datagram, DatagramStats
from aerogram.io.endpoint import DatagramEndpoint, SendOptions
from aerogram.io.fanout import FanOut
from aerogram.io.icmp import IcmpReason, IcmpReport
from aerogram.io.inherited import sockets_from_systemd
from aerogram.io.interfaces import Interface, interfaces
from aerogram.io.multicast import Membership
from aerogram.io.opening import open_endpoint
from aerogram.messages import Message, Request, Stream, Topic, Untyped, Upload
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
    "DatagramStats",
    "DecodeError",
    "DeliveryFailed",
    "DeliveryTimeout",
    "EndpointClosed",
    "FanOut",
    "Group",
    "GroupOutcome",
    "HandshakeTimeout",
    "IcmpReason",
    "IcmpReport",
    "Identity",
    "IdleTimeout",
    "IncomingRecord",
    "InsecureRefused",
    "Interface",
    "InvalidAddress",
    "InvalidMessage",
    "KeyLimitReached",
    "Membership",
    "Message",
    "MessageTooLarge",
    "Next",
    "NoCommonCipher",
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
    "SendOptions",
    "Server",
    "ServerIdentityRequired",
    "Session",
    "SessionClock",
    "SessionClosed",
    "Stream",
    "Topic",
    "Untyped",
    "Upload",
    "connect",
    "delivery",
    "interfaces",
    "new_identity",
    "open_endpoint",
    "read_identity",
    "serve",
    "serve_datagrams",
    "sockets_from_systemd",
    "write_identity",
]
