"""Round-trip times and loss detection: RFC 9002 sections 5 and 6 for one packet number space.

Pure bookkeeping: it is told what was sent and what was acknowledged, and answers which packets
are acknowledged, which are lost, and when to look again. What a packet carried is the
connection's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aerogram.core import wire
from aerogram.errors import DecodeError

if TYPE_CHECKING:
    from aerogram.core.channel import SendChannel
    from aerogram.core.incoming import ReceiveChannel
    from aerogram.core.outgoing import Outgoing, Piece

PACKET_THRESHOLD: Final = 3
"""RFC 9002 §6.1.1."""
TIME_THRESHOLD: Final = 9 / 8
"""RFC 9002 §6.1.2."""
GRANULARITY_SECONDS: Final = 0.001
"""RFC 9002 §6.1.2."""
SPARSE_AFTER: Final = 4
"""So many numbers for each packet in flight, and not every number is looked at any more."""
LARGEST_PACKET_THRESHOLD: Final = 512
"""On a path that changes the order of packets, more overtake one before it is taken to be lost."""
LARGEST_TIME_THRESHOLD: Final = 2.0
"""The same in round trips."""
DOUBTFUL_LIMIT: Final = 1024
"""Packets declared lost of which it is remembered what they carried."""
FORGETTING: Final = 32
"""Each packet that is lost for certain takes this part of what both thresholds were raised by."""
PACKETS_KEPT_ROOM_FOR: Final = 1024
"""A table that held more packets in flight gives its memory back once it is empty."""
LONGEST_PTO_SECONDS: Final = 2.0
"""Backing off beyond this makes a link that heals look dead for as long again."""


class Rtt:
    """The round-trip time of a path, in seconds (RFC 9002 §5.3)."""

    __slots__ = ("latest", "minimum", "sampled", "smoothed", "variation")

    def __init__(self, initial: float) -> None:
        self.latest = initial
        self.minimum = initial
        self.smoothed = initial
        self.variation = initial / 2
        self.sampled = False

    def update(self, sample: float, ack_delay: float) -> None:
        """Take a sample; `ack_delay` is what the peer says it waited before acknowledging."""
        self.latest = sample
        if not self.sampled:
            self.sampled = True
            self.minimum = self.smoothed = sample
            self.variation = sample / 2
            return
        if sample < self.minimum:
            self.minimum = sample
        adjusted = sample - ack_delay if sample - ack_delay >= self.minimum else sample
        self.variation += (abs(self.smoothed - adjusted) - self.variation) / 4
        self.smoothed += (adjusted - self.smoothed) / 8

    @property
    def probe_timeout(self) -> float:
        """RFC 9002 §6.2.1, without the peer's acknowledgement delay."""
        return self.smoothed + max(4 * self.variation, GRANULARITY_SECONDS)


class SentPacket:
    """A packet in flight and what it carried, so that it can be carried again."""

    __slots__ = (
        "ack_eliciting",
        "acknowledges",
        "delivered_before",
        "ended_at",
        "extras",
        "number",
        "runs",
        "sent_at",
        "size",
        "units",
    )

    def __init__(self, number: int, sent_at: float) -> None:
        self.number = number
        self.sent_at = sent_at
        self.ended_at = 0.0
        """When it was acknowledged; 0 before, and for one that was lost."""
        self.size = 0
        self.delivered_before = 0
        """What the peer had acknowledged when it left."""
        self.units = 0
        """What its frames cost of `wire.PACKET_UNITS_LIMIT`."""
        self.ack_eliciting = False
        self.acknowledges = -1
        self.runs: list[tuple[SendChannel, list[Outgoing]]] = []
        self.extras: Extras | None = None
        """What else it carried, if anything."""

    def make_extras(self) -> Extras:
        """What it carries beside whole messages, none so far if this is the first of it."""
        extras = self.extras
        if extras is None:
            extras = self.extras = Extras()
        return extras

    @property
    def pieces(self) -> list[Piece]:
        """The fragments that it carried."""
        return [] if self.extras is None else self.extras.pieces

    def announces(self, channel: SendChannel) -> bool:
        """True if the peer learns from it which channel this is."""
        return self.extras is not None and channel in self.extras.announces

    def unload(self) -> None:
        """Forget its messages: they know their packet, and no cycle is left to be collected."""
        self.runs = []
        if self.extras is not None:
            self.extras.pieces = []

    @property
    def units_left(self) -> int:
        """What a receiver still takes in this packet, less a PING."""
        return wire.PACKET_UNITS_LIMIT - wire.FRAME_UNITS - self.units


class Extras:
    """What few packets carry beside whole messages. Most have none, and cost the less."""

    __slots__ = ("announces", "controls", "credits", "pieces", "pings", "skips")

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.controls: list[bytes] = []
        self.skips: list[tuple[SendChannel, bytes]] = []
        self.credits: list[ReceiveChannel] = []
        self.announces: list[SendChannel] = []
        self.pings: list[Callable[[], None]] = []


class Recovery:
    """The packets in flight of one connection."""

    __slots__ = (
        "_answered_at",
        "_most",
        "_packet_threshold",
        "_time_threshold",
        "bytes_in_flight",
        "delivered_bytes",
        "delivery_rate",
        "doubtful",
        "eliciting_in_flight",
        "largest_acked",
        "last_eliciting_at",
        "loss_time",
        "max_ack_delay",
        "pto_count",
        "rtt",
        "sent",
    )

    def __init__(self, initial_rtt_seconds: float, max_ack_delay_seconds: float) -> None:
        self.rtt = Rtt(initial_rtt_seconds)
        self.max_ack_delay = max_ack_delay_seconds
        self.sent: dict[int, SentPacket] = {}
        self._most = 0
        """About the most packets that were in flight since there were none."""
        self.bytes_in_flight = 0
        self.delivered_bytes = 0
        self.delivery_rate = 0.0
        """Bytes a second that the peer acknowledged while something was in flight; smoothed."""
        self.eliciting_in_flight = 0
        self.largest_acked = -1
        self._answered_at = 0.0
        self.last_eliciting_at = 0.0
        self.loss_time: float | None = None
        self.pto_count = 0
        self._packet_threshold = PACKET_THRESHOLD
        self._time_threshold = TIME_THRESHOLD
        self.doubtful: dict[int, SentPacket] = {}
        """Packets that were declared lost lately, and may yet turn out to have arrived."""

    def packet_sent(self, packet: SentPacket) -> None:
        """Remember an acknowledgement-eliciting packet; others are not tracked."""
        if not self.sent:
            self._answered_at = packet.sent_at
        self.sent[packet.number] = packet
        packet.delivered_before = self.delivered_bytes
        self.bytes_in_flight += packet.size
        self.eliciting_in_flight += 1
        self.last_eliciting_at = packet.sent_at

    def acknowledged(
        self, ranges: list[tuple[int, int]], ack_delay: float, next_number: int, now: float
    ) -> list[SentPacket]:
        """The packets that these ranges newly acknowledge, ascending within each range.

        Raises `DecodeError` if a number was never sent (RFC 9000 §13.1). The work is bounded by
        the packets in flight, whatever the ranges claim.
        """
        largest = ranges[0][1]
        if largest >= next_number:
            raise DecodeError("acknowledgement of a packet that was never sent")
        newly: list[SentPacket] = []
        sent = self.sent
        if sent:
            self._most = max(self._most, len(sent))
            for number in _claimed(sent, ranges):
                packet = sent.pop(number, None)
                if packet is not None:
                    newly.append(packet)
                    self.bytes_in_flight -= packet.size
                    self.delivered_bytes += packet.size
        if not newly:
            return newly
        self.eliciting_in_flight -= len(newly)
        if largest > self.largest_acked:
            self.largest_acked = largest
            self._sample(newly, largest, ack_delay, now)
        self.pto_count = 0
        self._answered_at = now
        if not sent and self._most > PACKETS_KEPT_ROOM_FOR:
            self._most = 0
            sent.clear()  # a dictionary keeps its table, however few are left in it
        return newly

    @property
    def answered_at(self) -> float:
        """When the peer last acknowledged something or began to owe it; infinity if it does not."""
        return self._answered_at if self.sent else math.inf

    def _sample(self, newly: list[SentPacket], largest: int, ack_delay: float, now: float) -> None:
        # RFC 9002 §5.1: only if the largest acknowledged packet is newly acknowledged.
        for packet in newly:
            if packet.number == largest:
                elapsed = now - packet.sent_at
                self.rtt.update(elapsed, min(ack_delay, self.max_ack_delay))
                if elapsed > 0.0:
                    self._sample_rate((self.delivered_bytes - packet.delivered_before) / elapsed)
                return

    def _sample_rate(self, sample: float) -> None:
        if self.delivery_rate == 0.0:
            self.delivery_rate = sample
        self.delivery_rate += (sample - self.delivery_rate) / 8

    def detect_lost(self, now: float) -> list[SentPacket]:
        """Take out and return the packets that are lost by now (RFC 9002 §6.1)."""
        self.loss_time = None
        lost: list[SentPacket] = []
        if not self.sent:
            return lost
        rtt = self.rtt
        delay = max(self._time_threshold * max(rtt.latest, rtt.smoothed), GRANULARITY_SECONDS)
        largest = self.largest_acked
        for packet in self.sent.values():
            if packet.number > largest:
                break
            # The same sum as the deadline: `sent_at <= now - delay` may be false by a rounding when
            # the timer fires exactly on time, and then it would be due again at once.
            lost_at = packet.sent_at + delay
            if lost_at <= now or largest >= packet.number + self._packet_threshold:
                lost.append(packet)
            elif self.loss_time is None or lost_at < self.loss_time:
                self.loss_time = lost_at
        for packet in lost:
            del self.sent[packet.number]
            self.bytes_in_flight -= packet.size
            self.eliciting_in_flight -= 1
            packet.ended_at = now
            self.doubtful[packet.number] = packet
        return lost

    # -- packets that were overtaken

    def arrived_after_all(self, ranges: list[tuple[int, int]], now: float) -> list[SentPacket]:
        """The packets that these ranges acknowledge although they were declared lost.

        The network changes the order of packets, so the thresholds are raised: with what is sent
        again for nothing, a link can be filled (RFC 9002 §6.1 lets both adapt).
        """
        found: list[SentPacket] = []
        for number in _claimed(self.doubtful, ranges):
            packet = self.doubtful.pop(number, None)
            if packet is not None:
                found.append(packet)
                self._learn_disorder(packet, now)
        return found

    def _learn_disorder(self, packet: SentPacket, now: float) -> None:
        overtaken_by = self.largest_acked - packet.number
        if overtaken_by >= self._packet_threshold:
            self._packet_threshold = min(overtaken_by + 1, LARGEST_PACKET_THRESHOLD)
        usual = max(self.rtt.latest, self.rtt.smoothed)
        took = (now - packet.sent_at) / max(usual, GRANULARITY_SECONDS)
        if took > self._time_threshold:
            self._time_threshold = min(took, LARGEST_TIME_THRESHOLD)

    def end_doubts(self, now: float) -> list[SentPacket]:
        """Take out and return the packets that are lost for certain; each lowers the thresholds."""
        ended: list[SentPacket] = []
        doubt = self._doubt_seconds()
        for packet in self.doubtful.values():
            # The same sum as in `deadline`, or a rounding could keep the timer firing.
            is_fresh = packet.ended_at + doubt > now
            if is_fresh and len(self.doubtful) - len(ended) <= DOUBTFUL_LIMIT:
                break
            ended.append(packet)
        for packet in ended:
            del self.doubtful[packet.number]
            packet.ended_at = 0.0
            raised = self._packet_threshold - PACKET_THRESHOLD
            self._packet_threshold -= -(-raised // FORGETTING)
            self._time_threshold -= (self._time_threshold - TIME_THRESHOLD) / FORGETTING
        if ended and not self.doubtful:
            self.doubtful.clear()  # gives its table back
        return ended

    def _doubt_seconds(self) -> float:
        return min(self.rtt.probe_timeout + self.max_ack_delay, LONGEST_PTO_SECONDS)

    def unanswered(self) -> list[SentPacket]:
        """All packets of which it is not certain whether they arrived."""
        return [*self.sent.values(), *self.doubtful.values()]

    def abandon(self) -> None:
        """Nothing is waited for any more."""
        self.sent.clear()
        self.doubtful.clear()

    # -- time

    def deadline(self) -> float | None:
        """When there is something to do: a probe, losses, or the end of a doubt."""
        due = self.probe_at() if self.loss_time is None else self.loss_time
        if not self.doubtful:
            return due
        ends_at = next(iter(self.doubtful.values())).ended_at + self._doubt_seconds()
        return ends_at if due is None or ends_at < due else due

    def probe_at(self) -> float | None:
        """When the probe timeout is due (RFC 9002 §6.2.1), if nothing is known to be lost."""
        if not self.sent:
            return None
        return self.last_eliciting_at + self.probe_timeout()

    def probe_timeout(self) -> float:
        """The probe timeout with its backoff, in seconds.

        It is bounded by the shortest round trip that was seen: a network that has held packets for
        seconds leaves an estimate behind that would be waited for long after it has healed.
        """
        base = self.rtt.probe_timeout + self.max_ack_delay
        if base < LONGEST_PTO_SECONDS and self.pto_count == 0:
            return base
        backed_off = base * float(1 << min(self.pto_count, 16))
        return min(backed_off, max(LONGEST_PTO_SECONDS, 3 * self.rtt.minimum))

    def oldest(self, count: int) -> list[SentPacket]:
        """Up to `count` of the packets that have been in flight longest."""
        result: list[SentPacket] = []
        for packet in self.sent.values():
            if len(result) == count:
                break
            result.append(packet)
        return result


def _claimed(sent: dict[int, SentPacket], ranges: list[tuple[int, int]]) -> list[int]:
    """Numbers that the ranges cover, among which are all of those in flight.

    Between the oldest in flight and the largest claimed there may be far more numbers than packets:
    most needed no acknowledgement, or have ended. Then the packets are looked through instead.
    """
    oldest = next(iter(sent))
    claimed: list[int] = []
    if ranges[0][1] - oldest < SPARSE_AFTER * len(sent):
        for low, high in ranges:
            if high < oldest:
                break
            claimed.extend(range(max(low, oldest), high + 1))
        return claimed
    remaining = [*ranges]
    low, high = remaining.pop()
    for number in sent:
        while number > high:
            if not remaining:
                return claimed
            low, high = remaining.pop()
        if number >= low:
            claimed.append(number)
    return claimed
