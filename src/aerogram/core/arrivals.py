"""What the frames of a packet make of a connection, one after the other.

Rules: the packet is authentic and new; what breaks the protocol raises `DecodeError` or
`ChannelDisagreement`, and the connection ends for it. Whatever a user's policy does wrong is
counted and told, and ends nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from aerogram.core import wire
from aerogram.core.events import (
    Event,
    MessageRefused,
    MessagesReceived,
    PolicyFailed,
    RefuseCode,
)
from aerogram.core.incoming import ReceiveChannel
from aerogram.core.path import Path
from aerogram.core.policies import Fault, Guard, Run
from aerogram.core.receiver import Receiver
from aerogram.core.sender import Sender
from aerogram.core.stats import ConnectionStats

if TYPE_CHECKING:
    from aerogram.core.connection import Connection


class Arrivals:
    """Takes apart what the peer of one connection sends."""

    __slots__ = ("_connection", "_events", "_path", "_receiver", "_sender", "_stats")

    def __init__(
        self,
        connection: Connection,
        sender: Sender,
        receiver: Receiver,
        path: Path,
        stats: ConnectionStats,
        events: deque[Event],
    ) -> None:
        self._connection = connection
        self._sender = sender
        self._receiver = receiver
        self._path = path
        self._stats = stats
        self._events = events

    def take(self, frames: list[wire.Frame], now: float) -> bool:
        """Take the frames of a packet; True if it is to be acknowledged."""
        eliciting = is_refused = False
        for frame in frames:
            if isinstance(frame, wire.Messages):
                channel, messages = self._receiver.messages(frame, now)
                eliciting = True
                self._hand_over(channel, messages)
            elif isinstance(frame, wire.Ack):
                self._sender.acknowledged(frame, self._receiver, now)
            elif isinstance(frame, wire.Fragment):
                eliciting = True
                channel, messages = self._receiver.fragment(frame, now)
                self._hand_over(channel, messages)
            elif isinstance(frame, wire.Close):
                self._connection.peer_closed(frame, now)
                return False
            elif isinstance(frame, wire.Time):
                self._connection.timing().question(frame, now)
            elif isinstance(frame, wire.TimeAnswer):
                self._connection.timing().answer(frame, now)
            elif isinstance(frame, wire.Refuse):
                eliciting = True
                if not is_refused:
                    is_refused = True
                    self._sender.refused([f for f in frames if isinstance(f, wire.Refuse)], now)
                self._tell_refused(frame)
            else:
                eliciting = True
                self._take_control(frame, now)
        return eliciting

    def _take_control(self, frame: wire.Frame, now: float) -> None:
        if isinstance(frame, wire.ChannelAnnounce):
            self._receiver.announced(frame)
            self.note_faults(self._receiver.faults)
        elif isinstance(frame, wire.Ping):
            self._receiver.acknowledge_at_once()
        elif isinstance(frame, wire.Credit):
            self._sender.credit(frame.channel, frame.limit)
        elif isinstance(frame, wire.Skip):
            channel, messages = self._receiver.skip(frame, now)
            self._hand_over(channel, messages)
        elif isinstance(frame, wire.Lifetimes):
            self._receiver.lifetimes(frame, self._sender.recovery.rtt, now)
        elif isinstance(frame, wire.PathChallenge):
            self._path.response = frame.data
        elif isinstance(frame, wire.PathResponse) and self._path.answered(frame.data):
            self._stats.path_changes += 1
            self._sender.path_changed(now)

    def _hand_over(self, channel: ReceiveChannel, runs: list[Run]) -> None:
        if not channel.known:
            self._refuse_unknown(channel, runs)
            return
        if channel.guard is not None and channel.guard.faults:
            self._ordering_failed(channel, channel.guard)
        if runs:
            for _, messages, _ in runs:
                self._stats.messages_received += len(messages)
            last = self._events[-1] if self._events else None
            if isinstance(last, MessagesReceived) and last.channel is channel and channel.resends:
                last.follows(runs)
            else:
                self._events.append(MessagesReceived(self._connection, channel, runs))

    def _refuse_unknown(self, channel: ReceiveChannel, runs: list[Run]) -> None:
        reason = f"no channel {channel.name!r} with delivery {channel.delivery_code!r} here"
        for first, messages, cost in runs:
            self._stats.messages_received_refused += len(messages)
            for number in range(first, first + len(messages)):
                self._connection.refuse(channel, number, RefuseCode.UNKNOWN_CHANNEL, reason)
            channel.consumed(cost)

    def _tell_refused(self, frame: wire.Refuse) -> None:
        channels = self._sender.channels
        name = channels[frame.channel].name if frame.channel < len(channels) else ""
        self._events.append(MessageRefused(self._connection, name, frame.code, frame.reason))

    # -- policies that went wrong

    def _ordering_failed(self, channel: ReceiveChannel, guard: Guard) -> None:
        """A user's ordering went wrong, or could not be shown a message: that is refused."""
        for fault in guard.faults:
            is_peers = fault.code == RefuseCode.UNDECODABLE
            if not is_peers:
                self._note_fault(channel.name, fault)
            if fault.number >= 0:
                self._stats.messages_dropped_ordering += 1
                reason = str(fault.error) if is_peers else "its channel's ordering failed"
                self._connection.refuse(channel, fault.number, fault.code, reason)
        guard.faults.clear()

    def note_faults(self, faults: list[tuple[str, Fault]]) -> None:
        """Count and tell what policies did wrong, by the names of their channels."""
        for channel_name, fault in faults:
            self._note_fault(channel_name, fault)
        faults.clear()

    def _note_fault(self, channel_name: str, fault: Fault) -> None:
        self._stats.policy_faults += 1
        self._events.append(PolicyFailed(self._connection, channel_name, fault.error))
