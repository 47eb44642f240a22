"""Building packets: what goes into the next one, in which order, and how it is laid out.

Rules: a packet is built from the sender's queues and sealed at once; everything it carries is
noted in its `SentPacket`. Acknowledgements come first, then control frames, then messages by the
priority of their channels. While more waits than one packet takes, packets are filled to the same
size, so that the kernel can take a whole run in one call (UDP_SEGMENT).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core import wire
from aerogram.core.channel import SendChannel
from aerogram.core.fragments import SMALLEST_FRAGMENT_BYTES
from aerogram.core.lifetimes import ENTRY_BYTES, HEADER_BYTES, Lifetimes
from aerogram.core.outgoing import Outgoing, OutgoingRecord, Piece
from aerogram.core.priorities import MISFITS_LIMIT, URGENT_PACKETS, Level, may_send
from aerogram.core.receiver import Receiver
from aerogram.core.recovery import SentPacket
from aerogram.core.sender import HEADER_ROOM_BYTES, Sender

PREFIXES: Final = wire.LENGTH_PREFIX

LIFETIME_ROOM_BYTES: Final = HEADER_BYTES + ENTRY_BYTES
"""The most that a LIFETIMES frame of one message takes."""
RECORD_UNITS: Final = 2 * wire.FRAME_UNITS + wire.LIFETIME_UNITS
"""What a FRAGMENT frame costs, with a LIFETIMES frame of one message before it."""


class Packer:
    """Builds the packets of one connection."""

    __slots__ = ("_sender",)

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def build(self, receiver: Receiver, now: float) -> bytes | None:
        """The next packet, sealed, or None if there is nothing that may be sent now."""
        sender = self._sender
        wants = sender.ping_due or sender.schedule.levels != []
        controls = bool(sender.controls or sender.skips or receiver.credits_due)
        ack = receiver.ack_wanted(now)
        if not (wants or controls or ack):
            return None
        room = sender.payload_room
        window = sender.controller.window_bytes - sender.recovery.bytes_in_flight
        may_leave = window >= room or sender.probes_due > 0
        wants = wants and may_leave
        urgent_only = False
        if not may_leave and sender.schedule.is_urgent:
            may_leave = wants = urgent_only = self._allowance_allows(window)
        if may_leave and sender.pacer is not None:
            may_leave = wants = (wants or controls) and sender.pacer.may_send(now)
        packet = SentPacket(sender.next_number, now)
        parts: list[bytes] = []
        ack = ack or (wants and receiver.ack_pending)
        if ack and not (may_leave and sender.controls and sender.controls_fill(room)):
            room -= self._put_ack(packet, parts, receiver, now)
        if may_leave and controls:
            room = self._fill_controls(packet, parts, room, receiver)
        if wants:
            room = self._fill_messages(packet, parts, room, urgent_only=urgent_only)
            if room > 0 and packet.ack_eliciting and self._pads(window):
                # Equal sizes let the kernel take the whole run in one call (UDP_SEGMENT).
                parts.append(bytes(room))
        return self._seal(packet, parts) if parts else None

    def build_close(self, receiver: Receiver, now: float, close: bytes) -> bytes:
        """A packet with a CLOSE frame, which needs no room in the window."""
        packet = SentPacket(self._sender.next_number, now)
        parts: list[bytes] = []
        if receiver.ack_pending:
            self._put_ack(packet, parts, receiver, now)
        parts.append(close)
        return self._seal(packet, parts)

    def _put_ack(
        self, packet: SentPacket, parts: list[bytes], receiver: Receiver, now: float
    ) -> int:
        ack = receiver.take_ack(now)
        packet.acknowledges = receiver.largest
        packet.units += wire.FRAME_UNITS + len(ack) // wire.ACK_UNIT_BYTES
        parts.append(ack)
        return len(ack)

    def alone(self, frame: bytes) -> bytes:
        """A packet with this one frame, which is not repeated if it is lost."""
        sender = self._sender
        packet = SentPacket(sender.next_number, 0.0)
        return self._seal(packet, [frame])

    def _allowance_allows(self, window: int) -> bool:
        """The window is full; what is urgent may exceed it a little."""
        sender = self._sender
        room = window + URGENT_PACKETS * sender.payload_room
        return room >= sender.payload_room and sender.schedule.has_work(sender.largest_whole, 0)

    def _pads(self, window: int) -> bool:
        """False for the last packet of a run, and where each byte counts against a limit."""
        sender = self._sender
        return (
            sender.schedule.levels != []
            and sender.pacer is None
            and window >= 2 * sender.payload_room + sender.overhead_bytes
        )

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
        due, controls = receiver.credits_due, self._sender.controls
        while due and room >= HEADER_ROOM_BYTES and packet.units_left >= wire.FRAME_UNITS:
            channel = due.pop()
            frame = receiver.take_credit(channel)
            packet.make_extras().credits.append(channel)
            packet.ack_eliciting = True
            room -= _put_frame(packet, parts, frame)
        place = 0
        while controls and len(controls[0]) <= room and packet.units_left >= wire.FRAME_UNITS:
            frame = controls.popleft()
            packet.make_extras().controls.append(frame)
            packet.ack_eliciting = True
            room -= _put_frame(packet, parts, frame)
            parts.insert(place, parts.pop())  # a REFUSE goes before the ACK of its message
            place += 1
        if self._sender.skips:
            room = self._fill_skips(packet, parts, room)
        return room

    def _fill_skips(self, packet: SentPacket, parts: list[bytes], room: int) -> int:
        """What was given up, each after the announcement of its channel."""
        skips = self._sender.skips
        while skips and packet.units_left >= 2 * wire.FRAME_UNITS:
            channel, frame = skips[0]
            is_known = channel.announced or packet.announces(channel)
            if len(frame) + (0 if is_known else len(channel.announcement)) > room:
                break
            if not is_known:
                room -= _put_frame(packet, parts, channel.announcement)
                packet.make_extras().announces.append(channel)
            room -= _put_frame(packet, parts, frame)
            packet.make_extras().skips.append(skips.popleft())
            packet.ack_eliciting = True
        return room

    def _fill_messages(
        self, packet: SentPacket, parts: list[bytes], room: int, *, urgent_only: bool
    ) -> int:
        sender = self._sender
        levels = sender.schedule.levels
        if len(levels) > 1:
            levels = sender.schedule.turn()
        for level in levels:
            if urgent_only and level.priority <= 0:
                continue
            room = self._fill_level(level, packet, parts, room)
            if room < HEADER_ROOM_BYTES:
                break
        if sender.ping_due and room > 0 and (sender.pings or not packet.ack_eliciting):
            room -= _put_frame(packet, parts, wire.PING)
            packet.ack_eliciting = True
            packet.make_extras().pings, sender.pings = sender.pings, []
        return room

    def _fill_level(self, level: Level, packet: SentPacket, parts: list[bytes], room: int) -> int:
        """Channels of one priority, each once, until the packet is full."""
        sender = self._sender
        ring = level.ring
        index = misfits = 0
        for _ in range(len(ring)):
            channel = ring[index]
            before = room
            room = self._fill_channel(channel, packet, parts, room)
            if room == before:
                misfits += 1
            else:
                level.got = True
            if not (channel.queue or channel.resend or channel.lost_pieces) or (
                room == before and not may_send(channel, sender.largest_whole)
            ):
                sender.schedule.remove(level, index)
            elif len(ring) == 1 or not level.served(index, before - room):
                index += 1
            if room < HEADER_ROOM_BYTES or misfits == MISFITS_LIMIT:
                break
        return room

    def _fill_channel(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int
    ) -> int:
        announced = 0
        if packet.units_left <= 2 * wire.FRAME_UNITS:
            return room
        if not channel.announced and not packet.announces(channel):
            if len(channel.announcement) + HEADER_ROOM_BYTES > room:
                return room
            announced = _put_frame(packet, parts, channel.announcement)
            room -= announced
        before = room
        if channel.lost_pieces:
            room = self._fill_lost_pieces(channel, packet, parts, room)
        if channel.resend:
            room = self._fill_resends(channel, packet, parts, room)
        if channel.queue:
            room = self._fill_queued(channel, packet, parts, room)
        if room < before:
            packet.ack_eliciting = True
            if announced:
                packet.make_extras().announces.append(channel)
            return room
        if announced:
            packet.units -= wire.FRAME_UNITS
            parts.pop()
        return room + announced

    def _fill_queued(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int
    ) -> int:
        """Messages that leave for the first time: the hot path of sending."""
        before = room
        if channel.is_plain:
            room = self._fill_equal(channel, packet, parts, room)
        if room == before:
            room = self._fill_mixed(channel, packet, parts, room)
        if channel.wants_room:
            self._sender.outcomes.check_room(channel)
        queue, largest_whole = channel.queue, self._sender.largest_whole
        if queue and len(queue[0].payload) > largest_whole:
            message = channel.head()
            if message is not None and len(message.payload) > largest_whole:
                room = self._fill_record(channel, packet, parts, room)
        return room

    def _fill_equal(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int
    ) -> int:
        """As many messages as fit, if they are all of one size; else none are taken."""
        queue = channel.queue
        size = len(queue[0].payload)
        count = min(packet.units_left - wire.FRAME_UNITS, len(queue))
        if count < 2 or size > self._sender.largest_whole:
            return room
        prefix = PREFIXES[size]
        room_each = size + len(prefix)
        count = min(count, (room - HEADER_ROOM_BYTES) // room_each)
        if channel.resends:
            credit = channel.credit_cost - channel.sent_cost
            count = min(count, credit // (size + MESSAGE_OVERHEAD_BYTES))
        if count < 2 or len(queue[count - 1].payload) != size:
            return room
        popleft = queue.popleft
        run = [popleft() for _ in range(count)]
        payloads = [message.payload for message in run if message.outcome is None]
        if [*map(len, payloads)].count(size) != count:
            queue.extendleft(reversed(run))
            return room
        header = wire.encode_messages_header(channel.identity, channel.next_number, count)
        parts += (header, prefix, prefix.join(payloads))
        self._note_sent(channel, packet, run, size * count)
        return room - len(header) - room_each * count

    def _fill_mixed(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int
    ) -> int:
        """As many messages as fit, whatever their sizes."""
        credit = channel.credit_cost - channel.sent_cost if channel.resends else 1 << 62
        count = packet.units_left - wire.FRAME_UNITS
        lifetimes = Lifetimes(packet.sent_at) if channel.is_timed else None
        run = self._take_mixed(channel, room - HEADER_ROOM_BYTES, credit, count, lifetimes)
        if not run:
            return room
        if lifetimes is not None:
            room -= _put_lifetimes(packet, parts, channel, run[0].number, lifetimes)
        header = wire.encode_messages_header(channel.identity, channel.next_number, len(run))
        body = [part for m in run for part in (PREFIXES[len(m.payload)], m.payload)]
        parts.append(header)
        parts.extend(body)
        self._note_sent(channel, packet, run, sum([len(message.payload) for message in run]))
        return room - len(header) - sum(map(len, body))

    def _take_mixed(
        self,
        channel: SendChannel,
        space: int,
        credit: int,
        count: int,
        lifetimes: Lifetimes | None,
    ) -> list[Outgoing]:
        """As many messages as fit, whatever their sizes; those that have ended are dropped."""
        run: list[Outgoing] = []
        limit = self._sender.largest_whole
        while (message := channel.head()) is not None:
            size = len(message.payload)
            if size > limit:
                break
            space -= size + len(PREFIXES[size])
            if lifetimes is not None:
                space -= lifetimes.room_for(message)
            credit -= size + MESSAGE_OVERHEAD_BYTES
            units = len(run) if lifetimes is None else len(run) + lifetimes.units_with_another
            if space < 0 or credit < 0 or units >= count:
                break
            channel.queue.popleft()
            message.number = channel.next_number + len(run)
            run.append(message)
            if lifetimes is not None:
                lifetimes.add(message)
        return run

    def _note_sent(
        self, channel: SendChannel, packet: SentPacket, run: list[Outgoing], size: int
    ) -> None:
        number = channel.next_number
        for message in run:
            message.number = number
            message.carrier = packet
            number += 1
        channel.next_number = number
        channel.queued_bytes -= size
        channel.sent_cost += size + MESSAGE_OVERHEAD_BYTES * len(run)
        packet.units += wire.FRAME_UNITS + len(run)
        packet.runs.append((channel, run))
        if not channel.by_loss_only:
            for message in run:
                self._sender.repair.ask_policy(channel, message, packet.sent_at)

    def _fill_resends(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int
    ) -> int:
        """Whole messages that leave again; a run ends where their numbers do not follow on."""
        resend = channel.resend
        while resend and room > HEADER_ROOM_BYTES:
            lifetimes = Lifetimes(packet.sent_at) if channel.is_timed else None
            count = packet.units_left - wire.FRAME_UNITS
            run = _take_resends(resend, room - HEADER_ROOM_BYTES, count, lifetimes)
            if not run:
                return room
            if lifetimes is not None:
                room -= _put_lifetimes(packet, parts, channel, run[0].number, lifetimes)
            header = wire.encode_messages_header(channel.identity, run[0].number, len(run))
            body = [part for m in run for part in (PREFIXES[len(m.payload)], m.payload)]
            parts.append(header)
            parts.extend(body)
            room -= len(header) + sum(map(len, body))
            for message in run:
                message.leaves_again(packet)
            packet.units += wire.FRAME_UNITS + len(run)
            packet.runs.append((channel, run))
            self._sender.stats.messages_resent += len(run)
            if not channel.by_loss_only:
                for message in run:
                    self._sender.repair.ask_policy(channel, message, packet.sent_at)
        return room

    def _fill_record(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int
    ) -> int:
        """The next fragment of the record at the head of the queue."""
        if packet.units_left < RECORD_UNITS:
            return room
        message = channel.queue[0]
        total = len(message.payload)
        record = message.record
        starts = record is None
        sent_bytes = 0 if record is None else record.sent_bytes
        header_room = HEADER_ROOM_BYTES
        if message.deadline is not None:
            header_room += LIFETIME_ROOM_BYTES
        length = min(room - header_room, total - sent_bytes)
        if channel.resends:
            credit = channel.credit_cost - channel.sent_cost
            length = min(length, credit - (MESSAGE_OVERHEAD_BYTES if starts else 0))
        if length <= 0 or (length < SMALLEST_FRAGMENT_BYTES and sent_bytes + length < total):
            return room
        if record is None:
            record = self._begin_record(channel, message, packet)
        record.sent_bytes += length
        channel.sent_cost += length + (MESSAGE_OVERHEAD_BYTES if starts else 0)
        piece = Piece(channel, message, sent_bytes, sent_bytes + length)
        if record.sent_bytes == total:
            channel.queue.popleft()
            channel.queued_bytes -= total
            if channel.wants_room:
                self._sender.outcomes.check_room(channel)
        return self._put_piece(piece, packet, parts, room)

    def _begin_record(
        self, channel: SendChannel, message: Outgoing, packet: SentPacket
    ) -> OutgoingRecord:
        record = message.record = OutgoingRecord(packet.sent_at)
        message.number = channel.next_number
        message.carrier = packet
        channel.next_number += 1
        return record

    def _put_piece(self, piece: Piece, packet: SentPacket, parts: list[bytes], room: int) -> int:
        message = piece.message
        message.carrier = packet
        piece.leaves(packet.sent_at)
        if not piece.channel.by_loss_only:
            self._sender.repair.ask_policy(piece.channel, piece, packet.sent_at)
        if message.deadline is not None and (
            room >= LIFETIME_ROOM_BYTES + HEADER_ROOM_BYTES + piece.end - piece.start
        ):
            lifetimes = Lifetimes(packet.sent_at)
            lifetimes.add(message)
            room -= _put_lifetimes(packet, parts, piece.channel, message.number, lifetimes)
        header = wire.encode_fragment_header(
            piece.channel.identity,
            message.number,
            len(message.payload),
            piece.start,
            piece.end - piece.start,
        )
        parts.append(header)
        parts.append(message.payload[piece.start : piece.end])
        packet.units += wire.FRAME_UNITS
        packet.make_extras().pieces.append(piece)
        return room - len(header) - (piece.end - piece.start)

    def _fill_lost_pieces(
        self, channel: SendChannel, packet: SentPacket, parts: list[bytes], room: int
    ) -> int:
        lost = channel.lost_pieces
        while lost:
            piece = lost[0]
            if piece.outcome is not None:
                lost.popleft().queued = False
                continue
            if piece.end - piece.start + HEADER_ROOM_BYTES > room:
                return room
            if packet.units_left < RECORD_UNITS:
                return room
            lost.popleft()
            self._sender.stats.messages_resent += 1
            room = self._put_piece(piece, packet, parts, room)
        return room


def _put_frame(packet: SentPacket, parts: list[bytes], frame: bytes) -> int:
    """Add a frame; return its size."""
    packet.units += wire.FRAME_UNITS
    parts.append(frame)
    return len(frame)


def _take_resends(
    resend: deque[Outgoing], space: int, count: int, lifetimes: Lifetimes | None
) -> list[Outgoing]:
    """Messages that fit and whose numbers follow on; those that have ended are dropped."""
    run: list[Outgoing] = []
    while resend:
        message = resend[0]
        if message.outcome is not None:
            resend.popleft()
            continue
        space -= len(message.payload) + len(PREFIXES[len(message.payload)])
        units = len(run)
        if lifetimes is not None:
            space -= lifetimes.room_for(message)
            units += lifetimes.units_with_another
        if space < 0 or units >= count or (run and message.number != run[-1].number + 1):
            break
        run.append(resend.popleft())
        if lifetimes is not None:
            lifetimes.add(message)
    return run


def _put_lifetimes(
    packet: SentPacket,
    parts: list[bytes],
    channel: SendChannel,
    first_number: int,
    lifetimes: Lifetimes,
) -> int:
    """Add the frame that goes before messages with deadlines; return its size, 0 without any."""
    frame = lifetimes.frame(channel.identity, first_number)
    if frame:
        parts.append(frame)
        packet.units += lifetimes.units
    return len(frame)
