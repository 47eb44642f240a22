"""The sending side of a connection: queues in, sealed packets out, every message accounted for.

Rules: a message gets its number when it first leaves, so what is given up before leaves no gap.
Frames are sent again, packets never (RFC 9002 §3). A lost packet's messages go back to their
channels, where the retry policy has the say. Every message ends through `Outcomes`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final

from aerogram.config import MESSAGE_OVERHEAD_BYTES, Config
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec, SendChannel
from aerogram.core.congestion import Controller
from aerogram.core.keys import PacketProtection
from aerogram.core.lifetimes import ENTRY_BYTES, HEADER_BYTES
from aerogram.core.outcomes import Outcomes
from aerogram.core.outgoing import Outcome, Outgoing, Piece
from aerogram.core.pacing import Pacer, RateLimit
from aerogram.core.policies import BrokenPolicy, Fault, next_try
from aerogram.core.priorities import Schedule
from aerogram.core.receiver import Receiver
from aerogram.core.recovery import Recovery, SentPacket
from aerogram.core.reminders import Reminders
from aerogram.core.stats import ConnectionStats
from aerogram.errors import InvalidMessage

LAST_TRY_PROBES: Final = 3
"""What was sent for the last time is lost after so many probe timeouts at the latest (RFC 9002
§7.6.1 has as many), even if nothing else is acknowledged that would prove it."""
HEADER_ROOM_BYTES: Final = 32
"""The most that the header of a MESSAGES or FRAGMENT frame takes, apart from the data."""


class Sender:
    """Builds the packets of one connection and decides what must be sent again."""

    __slots__ = (
        "_expiries",
        "_retries",
        "admitted_bytes",
        "channels",
        "config",
        "controller",
        "controls",
        "faults",
        "largest_whole",
        "next_number",
        "outcomes",
        "pacer",
        "payload_room",
        "peer_max_record_bytes",
        "peer_window_bytes",
        "ping_due",
        "pings",
        "probes_due",
        "protection",
        "recovery",
        "remote_cid",
        "schedule",
        "skips",
        "stats",
    )

    def __init__(
        self,
        config: Config,
        controller: Controller,
        protection: PacketProtection,
        remote_cid: bytes,
        peer: wire.TransportParameters,
        stats: ConnectionStats,
    ) -> None:
        self.config = config
        self.controller = controller
        self.protection = protection
        self.remote_cid = remote_cid
        self.stats = stats
        self.peer_max_record_bytes = peer.max_record_bytes
        self.admitted_bytes = peer.max_record_bytes
        """The largest message that is queued; -1 once the connection has ended."""
        self.peer_window_bytes = peer.channel_window_bytes
        self.recovery = Recovery(
            config.initial_rtt_seconds, peer.max_ack_delay_microseconds / 1_000_000
        )
        self.channels: list[SendChannel] = []
        self.controls: deque[bytes] = deque()
        self.skips: deque[tuple[SendChannel, bytes]] = deque()
        """SKIP frames, which the peer understands once it knows their channel."""
        self.next_number = 0
        self.probes_due = 0
        self.ping_due = False
        self.pings: list[Callable[[], None]] = []
        """Called when the peer has acknowledged a PING that leaves from now on."""
        self.schedule = Schedule()
        self.outcomes = Outcomes(stats, self.schedule)
        self.pacer: Pacer | None = None
        """The limits that the user has set, if any."""
        datagram_bytes = min(config.datagram_bytes, peer.max_datagram_bytes)
        self.payload_room = datagram_bytes - wire.DATA_HEADER_BYTES - protection.overhead_bytes
        # The receiver tells of credit for half a window at least, so that more may be left untold.
        credit_at_least = peer.channel_window_bytes // 2 - MESSAGE_OVERHEAD_BYTES
        self.largest_whole = min(len(wire.LENGTH_PREFIX) - 1, credit_at_least)
        """Larger messages go in fragments."""
        self.faults: list[tuple[str, Fault]] = []
        """What retry policies did wrong, with their channels' names, until the caller takes it."""
        self._expiries: Reminders[Outgoing] = Reminders()
        self._retries: Reminders[Outgoing | Piece] = Reminders()

    # -- what the user does

    def open_channel(self, spec: ChannelSpec) -> SendChannel:
        """A new channel to the peer; it is announced with its first message.

        Raises `InvalidMessage` if there are as many as the peer may be expected to take.
        """
        if len(self.channels) >= self.config.channels_per_session:
            limit = self.config.channels_per_session
            raise InvalidMessage(f"{limit} channels are open: see Config.channels_per_session")
        channel = SendChannel(len(self.channels), spec, self.peer_window_bytes, self.config)
        # A whole message, with the two bytes of its size, has to fit beside the announcement and
        # what tells its lifetime.
        largest = self.payload_room - HEADER_ROOM_BYTES - len(channel.announcement) - 2
        self.largest_whole = min(self.largest_whole, largest - HEADER_BYTES - ENTRY_BYTES)
        self.channels.append(channel)
        return channel

    def expires(self, channel: SendChannel, message: Outgoing, deadline: float) -> None:
        """Give a message up at a time of the endpoint's clock."""
        self._expiries.add(deadline, channel, message)
        channel.is_timed = True
        channel.is_plain = False

    def supersede(self, channel: SendChannel, key: Hashable, message: Outgoing, now: float) -> None:
        """A message was queued: an older one with the same key needs not arrive any more.

        If that is on its way, the peer is told once it is known to be lost; mostly it is not.
        """
        older = channel.replace(key, message)
        if older is None or older.outcome is not None:
            return
        self.outcomes.finish(channel, older, Outcome.SUPERSEDED, now)
        if older.record is not None or older.awaits_resend:
            self._tell_skipped(channel, older)

    def in_flight(self) -> int:
        """Messages without an outcome, counted one by one: the ledger's other side."""
        alive: dict[int, Outgoing] = {}
        for channel in self.channels:
            for message in [*channel.queue, *channel.resend]:
                alive[id(message)] = message
            for piece in channel.lost_pieces:
                alive[id(piece.message)] = piece.message
        for packet in self.recovery.sent.values():
            for _, run in packet.runs:
                for message in run:
                    alive[id(message)] = message
            for piece in packet.pieces:
                alive[id(piece.message)] = piece.message
        for late in self._retries.alive():
            message = late.message if isinstance(late, Piece) else late
            alive[id(message)] = message
        return sum(1 for message in alive.values() if message.outcome is None)

    def abandon(self, now: float) -> None:
        """The connection ends: everything without an outcome is lost."""
        for channel in self.channels:
            for message in [*channel.queue, *channel.resend]:
                self.outcomes.finish(channel, message, Outcome.LOST, now)
            for piece in channel.lost_pieces:
                self.outcomes.finish(channel, piece.message, Outcome.LOST, now)
            channel.queue.clear()
            channel.resend.clear()
            channel.lost_pieces.clear()
        for packet in self.recovery.sent.values():
            for channel, run in packet.runs:
                for message in run:
                    self.outcomes.finish(channel, message, Outcome.LOST, now)
            for piece in packet.pieces:
                self.outcomes.finish(piece.channel, piece.message, Outcome.LOST, now)
        for channel, late in self._retries.take_due(math.inf):
            message = late.message if isinstance(late, Piece) else late
            self.outcomes.finish(channel, message, Outcome.LOST, now)
        self.recovery.sent.clear()
        self._expiries.clear()

    @property
    def drained(self) -> bool:
        """True if nothing waits and nothing is unacknowledged."""
        if self.recovery.sent or self.controls or self.skips or self._retries.alive():
            return False
        return not any(channel.has_work for channel in self.channels)

    def mark_busy(self, channel: SendChannel) -> None:
        """The channel has something to send."""
        if not channel.busy:
            self.schedule.add(channel)
        elif channel.starved:
            self.schedule.wake(channel)

    def packet_sent(self, packet: SentPacket) -> None:
        """A packet was sealed and is about to leave."""
        self.next_number += 1
        self.stats.packets_sent += 1
        self.stats.bytes_sent += packet.size
        if self.pacer is not None:
            self.pacer.sent(packet.size, packet.sent_at)
        if packet.ack_eliciting:
            self.ping_due = False
            if self.probes_due > 0:
                self.probes_due -= 1
            self.recovery.packet_sent(packet)

    # -- what the peer says

    def acknowledged(self, ack: wire.Ack, receiver: Receiver, now: float) -> None:
        """Take an ACK frame. Raises `DecodeError` if it acknowledges what was never sent."""
        recovery = self.recovery
        delay = ack.delay_microseconds / 1_000_000
        newly = recovery.acknowledged(ack.ranges, delay, self.next_number, now)
        if not newly:
            return
        self.protection.acknowledged(ack.ranges[0][1])
        for packet in newly:
            packet.ended_at = now
            self.controller.acknowledged(packet.size, packet.sent_at, now)
            receiver.peer_knows(packet.acknowledges)
            for channel in packet.announces:
                channel.announced = True
            for answered in packet.pings:
                answered()
            for _, run in packet.runs:
                self._run_delivered(run, packet)
            for piece in packet.pieces:
                self._piece_delivered(piece, now)
            packet.runs = []  # messages know their packet: no cycle is left to be collected
        for packet in recovery.detect_lost(now):
            self._packet_lost(packet, now)

    def _run_delivered(self, run: list[Outgoing], packet: SentPacket) -> None:
        delivered = 0
        outcome = Outcome.DELIVERED
        for message in run:
            if message.outcome is None:
                message.outcome = outcome
                if message.carrier is not packet:
                    message.make_history().ended_at = packet.ended_at
                delivered += 1
                if message.observer is not None:
                    message.observer()
        self.stats.messages_delivered += delivered

    def _piece_delivered(self, piece: Piece, now: float) -> None:
        record = piece.message.record
        assert record is not None
        if not record.acknowledged.add(piece.start, piece.end - 1):
            return
        record.acknowledged_bytes += piece.end - piece.start
        message = piece.message
        progress = None if message.history is None else message.history.progress
        if progress is not None and message.outcome is None:
            progress(record.acknowledged_bytes)
        if record.acknowledged_bytes == len(message.payload):
            self.outcomes.finish(piece.channel, message, Outcome.DELIVERED, now)

    def credit(self, identity: int, limit: int) -> None:
        """Take a CREDIT frame; a lower limit than before is an old one."""
        if identity < len(self.channels):
            channel = self.channels[identity]
            channel.credit_cost = max(channel.credit_cost, limit)
            self.schedule.wake(channel)

    def refused(self, frames: list[wire.Refuse], now: float) -> None:
        """Take the REFUSE frames of a packet: a message that still has no outcome has this one.

        All at once: to find one message takes a look at every packet in flight.
        """
        reasons: dict[int, dict[int, str]] = {}
        for frame in frames:
            reasons.setdefault(frame.channel, {})[frame.number] = frame.reason
        for packet in self.recovery.sent.values():
            for channel, run in packet.runs:
                refused = reasons.get(channel.identity)
                if refused is not None:
                    self._refuse(channel, run, refused, now)
            for piece in packet.pieces:
                refused = reasons.get(piece.channel.identity)
                if refused is not None:
                    self._refuse(piece.channel, [piece.message], refused, now)

    def _refuse(
        self, channel: SendChannel, run: list[Outgoing], reasons: dict[int, str], now: float
    ) -> None:
        first = run[0].number
        numbers = reasons if len(reasons) < len(run) else range(first, first + len(run))
        for number in numbers:
            if number in reasons and 0 <= number - first < len(run):
                message = run[number - first]
                if message.outcome is None:
                    message.make_history().reason = reasons[number]
                    self.outcomes.finish(channel, message, Outcome.REFUSED, now)

    # -- time

    def deadline(self) -> float | None:
        """When `handle_timeout` has something to do."""
        result = self.recovery.deadline()
        paced = None if self.pacer is None else self.pacer.waits_until
        for due in (self._retries.next_due(), self._expiries.next_due(), paced):
            if due is not None and (result is None or due < result):
                result = due
        return result

    def limit_rate(self, limit: RateLimit) -> None:
        """Keep to a limit from now on, beside those that there are."""
        if self.pacer is None:
            self.pacer = Pacer(self.config.datagram_bytes)
        self.pacer.add(limit)

    def lift_limit(self, limit: RateLimit) -> None:
        """Keep to a limit no longer."""
        if self.pacer is not None:
            self.pacer.discard(limit)

    def handle_timeout(self, now: float) -> None:
        """Declare losses, send probes, expire messages, retry those whose policy says now."""
        recovery = self.recovery
        if recovery.loss_time is not None and recovery.loss_time <= now:
            for packet in recovery.detect_lost(now):
                self._packet_lost(packet, now)
        else:
            deadline = recovery.deadline()
            if deadline is not None and deadline <= now:
                self._probe(now)
        self.expire(now)
        for channel, late in self._retries.take_due(now):
            self._try_again(channel, late, now)

    def _try_again(self, channel: SendChannel, late: Outgoing | Piece, now: float) -> None:
        """The time has come that a retry policy has set, or it had set none and waited enough."""
        if isinstance(late, Piece):
            if late.is_last_try:
                self._piece_lost(late, now)
            else:
                self._piece_again(late)
        elif late.make_history().is_last_try:
            self._message_lost(channel, late, now)
        else:
            self._send_again(channel, late)

    def _probe(self, now: float) -> None:
        """RFC 9002 §6.2.4: send what is oldest again, without calling it lost."""
        recovery = self.recovery
        recovery.pto_count += 1
        self.stats.probe_timeouts += 1
        count = 1 if recovery.pto_count == 1 else 2
        for packet in recovery.oldest(count):
            for channel, run in packet.runs:
                for message in run:
                    if message.outcome is None and _by_loss(channel, message):
                        self._send_again(channel, message)
            for piece in packet.pieces:
                if piece.outcome is None and _by_loss(piece.channel, piece):
                    self._piece_again(piece)
            self._controls_lost(packet)
        recovery.last_eliciting_at = now
        self.probes_due = count
        self.ping_due = True

    def path_changed(self, now: float) -> None:
        """The peer is reached again: what went astray does not wait for a timeout grown long."""
        self.recovery.pto_count = 0
        if self.recovery.sent:
            self._probe(now)

    def expire(self, now: float) -> None:
        """Give up the messages whose deadline has passed."""
        for channel, message in self._expiries.take_due(now):
            self.outcomes.finish(channel, message, Outcome.EXPIRED, now)
            self._tell_skipped(channel, message)

    # -- losses

    def _packet_lost(self, packet: SentPacket, now: float) -> None:
        self.stats.packets_lost += 1
        self.controller.lost(packet.size, packet.sent_at, now)
        for channel, run in packet.runs:
            for message in run:
                if message.carrier is packet:
                    self._message_lost(channel, message, now)
        for piece in packet.pieces:
            self._piece_lost(piece, now)
        packet.runs = []
        self._controls_lost(packet)

    def _message_lost(self, channel: SendChannel, message: Outgoing, now: float) -> None:
        if message.outcome is not None:
            if message.outcome is Outcome.SUPERSEDED:
                self._tell_skipped(channel, message)
        elif _by_loss(channel, message):
            self._send_again(channel, message)
        elif not _by_policy(message):
            self.outcomes.finish(channel, message, Outcome.LOST, now)
            self._tell_skipped(channel, message)

    def _piece_lost(self, piece: Piece, now: float) -> None:
        if piece.outcome is not None:
            return
        if _by_loss(piece.channel, piece):
            self._piece_again(piece)
        elif not _by_policy(piece):
            self.outcomes.finish(piece.channel, piece.message, Outcome.LOST, now)
            self._tell_skipped(piece.channel, piece.message)

    def _controls_lost(self, packet: SentPacket) -> None:
        self.controls.extend(packet.controls)
        self.skips.extend(packet.skips)
        for channel in packet.credits:
            channel.owe_credit()
        if packet.pings:
            self.pings.extend(packet.pings)
            self.ping_due = True
        packet.pings = []
        packet.controls = []
        packet.skips = []
        packet.credits = []

    def _send_again(self, channel: SendChannel, message: Outgoing) -> None:
        history = message.make_history()
        if history.awaits_resend:
            return
        history.awaits_resend = True
        channel.resend.append(message)
        self.mark_busy(channel)

    def _piece_again(self, piece: Piece) -> None:
        if not piece.queued:
            piece.queued = True
            piece.channel.lost_pieces.append(piece)
            self.mark_busy(piece.channel)

    def _tell_skipped(self, channel: SendChannel, message: Outgoing) -> None:
        history = message.make_history()
        if message.number < 0 or not channel.resends or history.is_skipped:
            return
        history.is_skipped = True
        cost = MESSAGE_OVERHEAD_BYTES + len(message.payload)
        if message.record is not None:
            cost = MESSAGE_OVERHEAD_BYTES + message.record.sent_bytes
        frame = wire.encode_skip(channel.identity, message.number, cost)
        self.skips.append((channel, frame))

    def ask_policy(self, channel: SendChannel, sent: Outgoing | Piece, now: float) -> None:
        """Let the retry policy say when what leaves now is to leave again.

        What it says goes before loss detection. Faulty answers leave it to that.
        """
        plan = sent if isinstance(sent, Piece) else sent.make_history()
        try:
            due = next_try(channel.delivery.retry, sent, self.recovery.rtt, now)
        except BrokenPolicy as error:
            self.faults.append((channel.name, Fault(error)))
            due = math.inf
        plan.is_last_try = due is None
        plan.by_policy = due is not None and due != math.inf
        if due is None:
            self._retries.add(now + LAST_TRY_PROBES * self.recovery.probe_timeout(), channel, sent)
        elif plan.by_policy:
            self._retries.add(due, channel, sent)


def _by_loss(channel: SendChannel, sent: Outgoing | Piece) -> bool:
    """True if it is to be sent again when it is lost."""
    if channel.by_loss_only:
        return channel.resends
    plan = sent if isinstance(sent, Piece) else sent.make_history()
    return not plan.is_last_try and not plan.by_policy


def _by_policy(sent: Outgoing | Piece) -> bool:
    """True if the retry policy has set a time at which it is sent again."""
    plan = sent if isinstance(sent, Piece) else sent.history
    return plan is not None and plan.by_policy
