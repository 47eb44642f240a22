"""Building packets: what goes into the next one, in which order, and how it is laid out.

Rules: a packet is built from the sender's queues and sealed at once; everything it carries is
noted in its `SentPacket`. Acknowledgements come first, then control frames, then messages by the
priority of their channels. While more waits than one packet takes, packets are filled to the same
size, so that the kernel can take a whole run in one call (UDP_SEGMENT).
"""

from __future__ import annotations

from typing import Final

from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core import wire
from aerogram.core.channel import Outgoing, OutgoingRecord, Piece, SendChannel
from aerogram.core.fragments import SMALLEST_FRAGMENT_BYTES
from aerogram.core.receiver import Receiver
from aerogram.core.recovery import SentPacket
from aerogram.core.sender import HEADER_ROOM_BYTES, Sender

PREFIXES: Final = wire.LENGTH_PREFIX


class Packer:
    """Builds the packets of one connection."""

    __slots__ = ("_sender",)

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def build(self, receiver: Receiver, now: float, *, close: bytes | None = None) -> bytes | None:
        """The next packet, sealed, or None if there is nothing that may be sent now."""
        packet = SentPacket(self._sender.next_number, now)
        parts: list[bytes] = []
        room = self._sender.payload_room
        may_send = close is None and self._window_allows()
        wants = may_send and (self._sender.ping_due or self._sender.has_work())
        if receiver.ack_wanted(now) or (receiver.ack_pending and (wants or close is not None)):
            ack = receiver.take_ack(now)
            packet.acknowledges = receiver.largest
            parts.append(ack)
            room -= len(ack)
        if close is not None:
            parts.append(close)
            room -= len(close)
        elif may_send:
            room = self._fill_controls(packet, parts, room, receiver)
            if wants:
                room = self._fill_messages(packet, parts, room, now)
        if not parts:
            return None
        return self._seal(packet, parts)

    def alone(self, frame: bytes) -> bytes:
        """A packet with this one frame, which is not repeated if it is lost."""
        sender = self._sender
        packet = SentPacket(sender.next_number, 0.0)
        return self._seal(packet, [frame])

    def _window_allows(self) -> bool:
        if self._sender.probes_due > 0:
            return True
        room = self._sender.controller.window_bytes - self._sender.recovery.bytes_in_flight
        return room >= self._sender.payload_room

    def _seal(self, packet: SentPacket, parts: list[bytes]) -> bytes:
        sealed = self._sender.protection.seal(
            self._sender.remote_cid, packet.number, b"".join(parts)
        )
        packet.size = len(sealed)
        self._sender.packet_sent(packet)
        return sealed

    def _fill_controls(
        self, packet: SentPacket, parts: list[bytes], room: int, receiver: Receiver
    ) -> int:
        frames_left = _units_left(packet, parts) // wire.FRAME_UNITS
        for channel in receiver.channels_with_credit():
            if room < HEADER_ROOM_BYTES or frames_left == 0:
                return room
            frames_left -= 1
            frame = receiver.take_credit(channel)
            packet.credits.append(channel)
            packet.ack_eliciting = True
            parts.append(frame)
            room -= len(frame)
        controls = self._sender.controls
        while controls and len(controls[0]) <= room and frames_left > 0:
            frames_left -= 1
            frame = controls.popleft()
            packet.controls.append(frame)
            packet.ack_eliciting = True
            parts.append(frame)
            room -= len(frame)
        return room

    def _fill_messages(self, packet: SentPacket, parts: list[bytes], room: int, now: float) -> int:
        for channel in self._sender.busy():
            room = self._fill_channel(channel, packet, parts, room, now)
            if room < HEADER_ROOM_BYTES:
                break
        sender = self._sender
        if sender.ping_due and room > 0 and (sender.pings or not packet.ack_eliciting):
            parts.append(wire.PING)
            room -= len(wire.PING)
            packet.ack_eliciting = True
            packet.pings, sender.pings = sender.pings, []
        if room > 0 and packet.ack_eliciting and self._sender.has_work() and self._window_allows():
            # Equal sizes let the kernel take the whole run in one call (UDP_SEGMENT).
            parts.append(bytes(room))
            room = 0
        return room

    def _fill_channel(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int, now: float
    ) -> int:
        announced = 0
        if _units_left(packet, parts) <= 2 * wire.FRAME_UNITS:
            return room
        if not channel.announced:
            frame = wire.encode_channel(channel.identity, channel.name, channel.delivery.code)
            if len(frame) + HEADER_ROOM_BYTES > room:
                return room
            parts.append(frame)
            announced = len(frame)
            room -= announced
        before = room
        room = self._fill_lost_pieces(channel, packet, parts, room, now)
        if channel.resend:
            room = self._fill_resends(channel, packet, parts, room, now)
        if channel.queue:
            room = self._fill_queued(channel, packet, parts, room, now)
        if room == before:
            if announced:
                parts.pop()
            return room + announced
        if announced:
            packet.announces.append(channel)
        packet.ack_eliciting = True
        return room

    def _fill_queued(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int, now: float
    ) -> int:
        """Messages that leave for the first time: the hot loop of sending."""
        queue = channel.queue
        number = channel.next_number
        credit = channel.credit_cost - channel.sent_cost if channel.resends else 1 << 62
        run: list[Outgoing] = []
        stop = number + max(_units_left(packet, parts) - wire.FRAME_UNITS, 0)
        slot = len(parts)
        parts.append(b"")
        room -= HEADER_ROOM_BYTES
        freed = spent = 0
        limit = self._sender.largest_whole
        while queue:
            message = queue[0]
            if message.outcome is not None:
                queue.popleft()
                freed += len(message.payload)
                continue
            payload = message.payload
            size = len(payload)
            if size > limit:
                break
            prefix = PREFIXES[size]
            need = size + len(prefix)
            cost = size + MESSAGE_OVERHEAD_BYTES
            if need > room or cost > credit or number == stop:
                break
            queue.popleft()
            room -= need
            credit -= cost
            spent += cost
            freed += size
            message.number = number
            message.attempts = 1
            message.first_sent_at = message.last_sent_at = now
            number += 1
            parts.append(prefix)
            parts.append(payload)
            run.append(message)
        room += HEADER_ROOM_BYTES
        channel.queued_bytes -= freed
        if run:
            header = wire.encode_messages_header(channel.identity, channel.next_number, len(run))
            parts[slot] = header
            room -= len(header)
            packet.runs.append((channel, run))
            channel.next_number = number
            channel.sent_cost += spent
            if not channel.by_loss_only:
                self._sender.ask_policy(channel, run)
        if channel.wants_room:
            self._sender.check_room(channel)
        if queue and len(queue[0].payload) > limit:
            room = self._fill_record(channel, packet, parts, room, now)
        return room

    def _fill_resends(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int, now: float
    ) -> int:
        """Whole messages that leave again; a run ends where their numbers do not follow on."""
        resend = channel.resend
        while resend and room > HEADER_ROOM_BYTES:
            run: list[Outgoing] = []
            body: list[bytes] = []
            count = _units_left(packet, parts) - wire.FRAME_UNITS
            left = room - HEADER_ROOM_BYTES
            while resend:
                message = resend[0]
                if message.outcome is not None:
                    resend.popleft()
                    message.in_resend = False
                    continue
                need = len(message.payload) + len(PREFIXES[len(message.payload)])
                if need > left or len(run) >= count:
                    break
                if run and message.number != run[-1].number + 1:
                    break
                resend.popleft()
                left -= need
                message.in_resend = False
                message.attempts += 1
                message.last_sent_at = now
                body.append(PREFIXES[len(message.payload)])
                body.append(message.payload)
                run.append(message)
            if not run:
                return room
            header = wire.encode_messages_header(channel.identity, run[0].number, len(run))
            parts.append(header)
            parts.extend(body)
            room = left + HEADER_ROOM_BYTES - len(header)
            packet.runs.append((channel, run))
            self._sender.stats.messages_resent += len(run)
            if not channel.by_loss_only:
                self._sender.ask_policy(channel, run)
        return room

    def _fill_record(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int, now: float
    ) -> int:
        """The next fragment of the record at the head of the queue."""
        if _units_left(packet, parts) < wire.FRAME_UNITS:
            return room
        message = channel.queue[0]
        total = len(message.payload)
        record = message.record
        starts = record is None
        sent_bytes = 0 if record is None else record.sent_bytes
        length = min(room - HEADER_ROOM_BYTES, total - sent_bytes)
        if channel.resends:
            credit = channel.credit_cost - channel.sent_cost
            length = min(length, credit - (MESSAGE_OVERHEAD_BYTES if starts else 0))
        if length <= 0 or (length < SMALLEST_FRAGMENT_BYTES and sent_bytes + length < total):
            return room
        if record is None:
            record = self._begin_record(channel, message, now)
        record.sent_bytes += length
        channel.sent_cost += length + (MESSAGE_OVERHEAD_BYTES if starts else 0)
        piece = Piece(channel, message, sent_bytes, sent_bytes + length)
        if record.sent_bytes == total:
            channel.queue.popleft()
            channel.queued_bytes -= total
            if channel.wants_room:
                self._sender.check_room(channel)
        return self._put_piece(piece, packet, parts, room, now)

    def _begin_record(self, channel: SendChannel, message: Outgoing, now: float) -> OutgoingRecord:
        record = message.record = OutgoingRecord()
        message.number = channel.next_number
        message.attempts = 1
        message.first_sent_at = now
        channel.next_number += 1
        if not channel.by_loss_only:
            self._sender.ask_policy(channel, [message])
        return record

    def _put_piece(
        self, piece: Piece, packet: SentPacket, parts: list[bytes], room: int, now: float
    ) -> int:
        message = piece.message
        message.last_sent_at = now
        piece.queued = False
        header = wire.encode_fragment_header(
            piece.channel.identity,
            message.number,
            len(message.payload),
            piece.start,
            piece.end - piece.start,
        )
        parts.append(header)
        parts.append(message.payload[piece.start : piece.end])
        packet.pieces.append(piece)
        return room - len(header) - (piece.end - piece.start)

    def _fill_lost_pieces(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int, now: float
    ) -> int:
        lost = channel.lost_pieces
        while lost:
            piece = lost[0]
            record = piece.message.record
            assert record is not None
            if piece.message.outcome is not None or record.acknowledged.covers(
                piece.start, piece.end - 1
            ):
                lost.popleft().queued = False
                continue
            if piece.end - piece.start + HEADER_ROOM_BYTES > room:
                return room
            if _units_left(packet, parts) < wire.FRAME_UNITS:
                return room
            lost.popleft()
            self._sender.stats.messages_resent += 1
            room = self._put_piece(piece, packet, parts, room, now)
        return room


def _units_left(packet: SentPacket, parts: list[bytes]) -> int:
    """What a receiver still takes in this packet (`wire.PACKET_UNITS_LIMIT`), less a PING.

    A message is two parts, a fragment too, any other frame is one.
    """
    messages = sum(len(run) for _, run in packet.runs)
    frames = len(parts) - 2 * messages - len(packet.pieces)
    left = wire.PACKET_UNITS_LIMIT - wire.FRAME_UNITS * (frames + 1) - messages
    if packet.acknowledges >= 0:
        left -= len(parts[0])  # an ACK range is at least as many bytes as it is units
    return left
