"""The sending side of a connection: queues in, sealed packets out, every message accounted for.

Rules: a message gets its number when it first leaves, so what is given up before leaves no gap.
Frames are sent again, packets never (RFC 9002 §3). A lost packet's messages go back to their
channels, where the retry policy has the say. Every message ends through `Outcomes`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Final

from aerogram.config import MESSAGE_OVERHEAD_BYTES, RECORD_HEAD_BYTES, Config
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec, SendChannel
from aerogram.core.congestion import Controller
from aerogram.core.keys import PacketProtection
from aerogram.core.lifetimes import ENTRY_BYTES, HEADER_BYTES
from aerogram.core.outcomes import Outcomes
from aerogram.core.outgoing import Outcome, Outgoing, Piece
from aerogram.core.pacing import Pacer, RateLimit
from aerogram.core.priorities import Schedule
from aerogram.core.receiver import Receiver
from aerogram.core.recovery import Recovery, SentPacket
from aerogram.core.repair import Repair
from aerogram.core.stats import ConnectionStats
from aerogram.errors import InvalidMessage, MessageTooLarge

HEADER_ROOM_BYTES: Final = 32
"""The most that the header of a MESSAGES or FRAGMENT frame takes, apart from the data."""


class Sender:
    """Builds the packets of one connection and decides what must be sent again."""

    __slots__ = (
        "admitted_bytes",
        "channels",
        "config",
        "controller",
        "controls",
        "largest_whole",
        "next_number",
        "outcomes",
        "overhead_bytes",
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
        "repair",
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
        self.overhead_bytes = wire.DATA_HEADER_BYTES + protection.overhead_bytes
        self.payload_room = datagram_bytes - self.overhead_bytes
        # The receiver tells of credit for half a window at least, so that more may be left untold.
        credit_at_least = peer.channel_window_bytes // 2 - MESSAGE_OVERHEAD_BYTES
        self.largest_whole = min(len(wire.LENGTH_PREFIX) - 1, credit_at_least)
        """Larger messages go in fragments."""
        self.repair = Repair(self)

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

    def turn_away(self, message: Outgoing, now: float) -> None:
        """A message cannot be queued. Raises `MessageTooLarge`, or loses it: the session has ended.

        That was in this turn, and its user is not told yet.
        """
        size = len(message.payload)
        if size > self.peer_max_record_bytes:
            raise MessageTooLarge(
                f"{size - RECORD_HEAD_BYTES} bytes; the peer takes "
                f"{max(0, self.peer_max_record_bytes - RECORD_HEAD_BYTES)} at most"
            )
        self.outcomes.lose(message, now)

    def expires(self, channel: SendChannel, message: Outgoing, deadline: float) -> None:
        """Give a message up at a time of the endpoint's clock."""
        self.repair.expiries.add(deadline, channel, message)
        channel.is_timed = True
        channel.is_plain = False

    def supersede(self, channel: SendChannel, key: Hashable, message: Outgoing, now: float) -> None:
        """A message was queued: an older one with the same key needs not arrive any more.

        If that is on its way, it is delivered or, once it is known to be lost, superseded.
        """
        older = channel.replace(key, message)
        if older is None or older.outcome is not None:
            return
        if older.has_left and not older.awaits_resend:
            older.make_history().is_superseded = True
        else:
            self.repair.give_up(channel, older, Outcome.SUPERSEDED, now)

    def in_flight(self) -> int:
        """Messages without an outcome, counted one by one: the ledger's other side."""
        alive: dict[int, Outgoing] = {}
        for channel in self.channels:
            for message in [*channel.queue, *channel.resend]:
                alive[id(message)] = message
            for piece in channel.lost_pieces:
                alive[id(piece.message)] = piece.message
        for packet in self.recovery.unanswered():
            for _, run in packet.runs:
                for message in run:
                    alive[id(message)] = message
            for piece in packet.pieces:
                alive[id(piece.message)] = piece.message
        for message in self.repair.waiting():
            alive[id(message)] = message
        return sum(1 for message in alive.values() if message.outcome is None)

    def abandon(self, now: float) -> None:
        """The connection ends: everything without an outcome is lost, and no more is queued."""
        self.admitted_bytes = -1
        for channel in self.channels:
            for message in [*channel.queue, *channel.resend]:
                self.outcomes.finish(channel, message, Outcome.LOST, now)
            for piece in channel.lost_pieces:
                self.outcomes.finish(channel, piece.message, Outcome.LOST, now)
            channel.queue.clear()
            channel.resend.clear()
            channel.lost_pieces.clear()
        for packet in self.recovery.unanswered():
            for channel, run in packet.runs:
                for message in run:
                    self.outcomes.finish(channel, message, Outcome.LOST, now)
            for piece in packet.pieces:
                self.outcomes.finish(piece.channel, piece.message, Outcome.LOST, now)
        self.repair.abandon(now)
        self.recovery.abandon()

    @property
    def drained(self) -> bool:
        """True if nothing waits and nothing is unacknowledged."""
        if self.recovery.sent or self.controls or self.skips or self.repair.waiting():
            return False
        if self.recovery.doubtful and self.in_flight():
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

    def controls_fill(self, room: int) -> bool:
        """True if the acknowledgement has to wait for a packet that they leave room in.

        What is refused must not be acknowledged before.
        """
        most = wire.PACKET_UNITS_LIMIT // wire.FRAME_UNITS
        return 2 * len(self.controls) > most or 2 * sum(map(len, self.controls)) > room

    # -- what the peer says

    def acknowledged(self, ack: wire.Ack, receiver: Receiver, now: float) -> None:
        """Take an ACK frame. Raises `DecodeError` if it acknowledges what was never sent."""
        recovery = self.recovery
        delay = ack.delay_microseconds / 1_000_000
        newly = recovery.acknowledged(ack.ranges, delay, self.next_number, now)
        if recovery.doubtful:
            for packet in recovery.arrived_after_all(ack.ranges, now):
                self.stats.packets_overtaken += 1
                self._packet_delivered(packet, now)
            self.repair.end_doubts(now)
        if not newly:
            return
        self.protection.acknowledged(ack.ranges[0][1])
        for packet in newly:
            self.controller.acknowledged(packet.size, packet.sent_at, now)
            receiver.peer_knows(packet.acknowledges)
            if packet.extras is not None:
                for answered in packet.extras.pings:
                    answered()
            self._packet_delivered(packet, now)
        self.repair.detect_lost(now)

    def _packet_delivered(self, packet: SentPacket, now: float) -> None:
        packet.ended_at = now
        for _, run in packet.runs:
            self._run_delivered(run, packet)
        if packet.extras is not None:
            for channel in packet.extras.announces:
                channel.announced = True
            for piece in packet.extras.pieces:
                self._piece_delivered(piece, now)
        packet.unload()

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
        for packet in self.recovery.unanswered():
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
        result = self.repair.next_due()
        paced = None if self.pacer is None else self.pacer.waits_until
        if paced is not None and (result is None or paced < result):
            result = paced
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
        self.repair.handle_timeout(now)

    def path_changed(self, now: float) -> None:
        """The peer is reached again: what went astray does not wait for a timeout grown long."""
        self.recovery.pto_count = 0
        if self.recovery.sent:
            self.repair.probe(now)
