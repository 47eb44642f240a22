"""What is done about messages that may not have arrived: sent again, waited for, or given up.

Rules: frames are sent again, packets never (RFC 9002 §3). A lost packet's messages go back to their
channels, where the retry policy has the say. What is not sent again is lost only when its packet
has been in doubt for a while: a packet that was overtaken by others looks lost and is not, and then
its messages are delivered after all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core import wire
from aerogram.core.channel import SendChannel
from aerogram.core.outgoing import Outcome, Outgoing, Piece
from aerogram.core.policies import BrokenPolicy, Fault, next_try
from aerogram.core.recovery import DOUBTFUL_LIMIT, SentPacket
from aerogram.core.reminders import Reminders

if TYPE_CHECKING:
    from aerogram.core.sender import Sender

LAST_TRY_PROBES: Final = 3
"""What was sent for the last time is lost after so many probe timeouts at the latest (RFC 9002
§7.6.1 has as many), even if nothing else is acknowledged that would prove it."""


class Repair:
    """Deals with the losses of one connection, and with the times that messages have."""

    __slots__ = ("_retries", "_sender", "expiries", "faults")

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.expiries: Reminders[Outgoing] = Reminders()
        self._retries: Reminders[Outgoing | Piece] = Reminders()
        self.faults: list[tuple[str, Fault]] = []
        """What retry policies did wrong, with their channels' names, until the caller takes it."""

    # -- time

    def next_due(self) -> float | None:
        """When `handle_timeout` has something to do."""
        result = self._sender.recovery.deadline()
        for reminders in (self._retries, self.expiries):
            due = reminders.next_due() if reminders.heap else None
            if due is not None and (result is None or due < result):
                result = due
        return result

    def handle_timeout(self, now: float) -> None:
        """Declare losses, send probes, expire messages, retry those whose policy says now."""
        recovery = self._sender.recovery
        if recovery.loss_time is not None:
            if recovery.loss_time <= now:
                self.detect_lost(now)
        else:
            probe_at = recovery.probe_at()
            if probe_at is not None and probe_at <= now:
                self.probe(now)
        self.end_doubts(now)
        self.expire(now)
        for channel, late in self._retries.take_due(now):
            self._try_again(channel, late, now)

    def expire(self, now: float) -> None:
        """Give up the messages whose deadline has passed."""
        if not self.expiries.heap:
            return
        for channel, message in self.expiries.take_due(now):
            self.give_up(channel, message, Outcome.EXPIRED, now)

    def waiting(self) -> list[Outgoing]:
        """Messages that a retry policy is to have sent again later."""
        return [late.message if isinstance(late, Piece) else late for late in self._retries.alive()]

    def abandon(self, now: float) -> None:
        """The connection ends: what a retry policy wanted to send again is lost."""
        for channel, late in self._retries.take_due(math.inf):
            message = late.message if isinstance(late, Piece) else late
            self._sender.outcomes.finish(channel, message, Outcome.LOST, now)
        self.expiries.clear()

    # -- policies

    def ask_policy(self, channel: SendChannel, sent: Outgoing | Piece, now: float) -> None:
        """Let the retry policy say when what leaves now is to leave again.

        What it says goes before loss detection. Faulty answers leave it to that.
        """
        recovery = self._sender.recovery
        plan = sent if isinstance(sent, Piece) else sent.make_history()
        try:
            due = next_try(channel.delivery.retry, sent, recovery.rtt, now)
        except BrokenPolicy as error:
            self.faults.append((channel.name, Fault(error)))
            due = math.inf
        plan.is_last_try = due is None
        plan.by_policy = due is not None and due != math.inf
        if due is None:
            self._retries.add(now + LAST_TRY_PROBES * recovery.probe_timeout(), channel, sent)
        elif plan.by_policy:
            self._retries.add(due, channel, sent)

    def _try_again(self, channel: SendChannel, late: Outgoing | Piece, now: float) -> None:
        """The time has come that a retry policy has set, or it had set none and waited enough."""
        plan = late if isinstance(late, Piece) else late.make_history()
        message = late.message if isinstance(late, Piece) else late
        if is_superseded(message):
            self.give_up(channel, message, Outcome.SUPERSEDED, now)
        elif plan.is_last_try:
            self.give_up(channel, message, Outcome.LOST, now)
        elif isinstance(late, Piece):
            self._piece_again(late)
        else:
            self._send_again(channel, late)

    # -- losses

    def detect_lost(self, now: float) -> None:
        """Deal with the packets that are lost by now."""
        recovery = self._sender.recovery
        for packet in recovery.detect_lost(now):
            self._packet_lost(packet, now)
        if len(recovery.doubtful) > DOUBTFUL_LIMIT:
            self.end_doubts(now)

    def _packet_lost(self, packet: SentPacket, now: float) -> None:
        sender = self._sender
        sender.stats.packets_lost += 1
        sender.controller.lost(packet.size, packet.sent_at, now)
        for channel, run in packet.runs:
            for message in run:
                if message.outcome is None and message.carrier is packet:
                    if is_superseded(message):
                        self.give_up(channel, message, Outcome.SUPERSEDED, now)
                    elif by_loss(channel, message):
                        self._send_again(channel, message)
        for piece in packet.pieces:
            if piece.outcome is None:
                if is_superseded(piece.message):
                    self.give_up(piece.channel, piece.message, Outcome.SUPERSEDED, now)
                elif by_loss(piece.channel, piece):
                    self._piece_again(piece)
        self._controls_lost(packet)

    def end_doubts(self, now: float) -> None:
        """What is not sent again and has been missing for long enough is lost."""
        for packet in self._sender.recovery.end_doubts(now):
            for channel, run in packet.runs:
                for message in run:
                    if message.carrier is packet and not is_tried(channel, message):
                        self.give_up(channel, message, Outcome.LOST, now)
            for piece in packet.pieces:
                if piece.outcome is None and not is_tried(piece.channel, piece):
                    self.give_up(piece.channel, piece.message, Outcome.LOST, now)
            packet.unload()

    def probe(self, now: float) -> None:
        """RFC 9002 §6.2.4: send what is oldest again, without calling it lost."""
        sender, recovery = self._sender, self._sender.recovery
        recovery.pto_count += 1
        sender.stats.probe_timeouts += 1
        count = 1 if recovery.pto_count == 1 else 2
        for packet in recovery.oldest(count):
            for channel, run in packet.runs:
                for message in run:
                    if message.outcome is None and by_loss(channel, message):
                        self._send_again(channel, message)
            for piece in packet.pieces:
                if piece.outcome is None and by_loss(piece.channel, piece):
                    self._piece_again(piece)
            self._controls_lost(packet)
        recovery.last_eliciting_at = now
        sender.probes_due = count
        sender.ping_due = True

    def _controls_lost(self, packet: SentPacket) -> None:
        sender, extras = self._sender, packet.extras
        if extras is None:
            return
        sender.controls.extend(extras.controls)
        sender.skips.extend(extras.skips)
        for channel in extras.credits:
            channel.owe_credit()
        if extras.pings:
            sender.pings.extend(extras.pings)
            sender.ping_due = True
        extras.pings = []
        extras.controls = []
        extras.skips = []
        extras.credits = []

    def _send_again(self, channel: SendChannel, message: Outgoing) -> None:
        history = message.make_history()
        if history.awaits_resend:
            return
        history.awaits_resend = True
        channel.resend.append(message)
        self._sender.mark_busy(channel)

    def _piece_again(self, piece: Piece) -> None:
        if not piece.queued:
            piece.queued = True
            piece.channel.lost_pieces.append(piece)
            self._sender.mark_busy(piece.channel)

    # -- giving up

    def give_up(
        self, channel: SendChannel, message: Outgoing, outcome: Outcome, now: float
    ) -> None:
        """End a message that is not to arrive any more, unless it has ended."""
        if message.outcome is None:
            self._sender.outcomes.finish(channel, message, outcome, now)
            self.tell_skipped(channel, message)

    def tell_skipped(self, channel: SendChannel, message: Outgoing) -> None:
        """Tell the peer, once, that a message which has its number will not come."""
        history = message.make_history()
        if message.number < 0 or not channel.resends or history.is_skipped:
            return
        history.is_skipped = True
        cost = MESSAGE_OVERHEAD_BYTES + len(message.payload)
        if message.record is not None:
            cost = MESSAGE_OVERHEAD_BYTES + message.record.sent_bytes
        frame = wire.encode_skip(channel.identity, message.number, cost)
        self._sender.skips.append((channel, frame))


def by_loss(channel: SendChannel, sent: Outgoing | Piece) -> bool:
    """True if it is to be sent again when it is lost."""
    if is_superseded(sent.message if isinstance(sent, Piece) else sent):
        return False
    if channel.by_loss_only:
        return channel.resends
    plan = sent if isinstance(sent, Piece) else sent.make_history()
    return not plan.is_last_try and not plan.by_policy


def is_tried(channel: SendChannel, sent: Outgoing | Piece) -> bool:
    """True if it is to be sent again, now or when its retry policy has said."""
    if channel.by_loss_only:
        return channel.resends
    plan = sent if isinstance(sent, Piece) else sent.make_history()
    return not plan.is_last_try


def is_superseded(message: Outgoing) -> bool:
    """True if a newer message has come in the meantime."""
    return message.history is not None and message.history.is_superseded
