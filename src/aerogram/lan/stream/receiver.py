"""The receiving side of a multicast session, without I/O.

It notices what is missing by the sequences of packets and by heartbeats, asks for it (`gaps`), puts
messages together (`assembly`), and says what is lost for good: what the sender holds no more, and
what this program was too slow to take.

Call `poll_transmit` after anything else and when `poll_timeout` says; it returns the datagrams to
send to the group. `take` returns what there is to show.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from aerogram.errors import CryptoError, DecodeError
from aerogram.lan.stream import wire
from aerogram.lan.stream.assembly import AsItArrives, Assembly, Gap, GapReason, InOrder, Item
from aerogram.lan.stream.config import MulticastConfig
from aerogram.lan.stream.gaps import Gaps
from aerogram.lan.stream.keys import GroupKeys, UnknownEpoch
from aerogram.lan.stream.timing import TokenBucket

Order = Literal["ordered", "as it arrives"]
"""How messages are shown: strictly in the sender's order, or each as soon as it is whole."""

SEQUENCE_JUMP_LIMIT: Final = 1 << 20
"""A sender that names a packet so far ahead is no sender of ours: it holds fewer."""
UNREADABLE_LIMIT: Final = 256
"""Packets kept that need a key which is on its way; the rest is asked for again."""
REPORTERS_PER_SECOND: Final = 200
"""Reports that a sender gets: in a larger group each receiver reports more rarely."""
SPREAD_SECONDS_PER_MEMBER: Final = 1e-4
"""What all members do upon one packet, they spread over this times their number."""


@dataclass(slots=True)
class ReceiverStats:
    """What a receiver has counted.

    Once the stream has ended, `messages_received + messages_lost` is how many it was sent since it
    joined; before, what is missing or waits for its turn is in neither.
    """

    messages_received: int = 0
    """Ready for the program, and not lost to it afterwards."""
    messages_lost: int = 0
    """Lost for good; each is in a `Gap`."""
    messages_overrun: int = 0
    """Of these, those that this program was too slow to take."""
    messages_undecodable: int = 0
    """Received, but the program could not read them; each was shown as a `Gap`."""
    packets_received: int = 0
    """With data, each counted once."""
    packets_repaired: int = 0
    """Of these, those that came as repairs."""
    packets_duplicate: int = 0
    """Came again: repairs for others."""
    packets_lost: int = 0
    """Never came, and never will."""
    nacks_sent: int = 0
    nacks_saved: int = 0
    """Not sent, since another receiver had asked first."""
    nacks_capped: int = 0
    """Put off by the limit of `nacks_per_second`."""
    dropped_foreign: int = 0
    """Datagrams of other streams, or of no stream."""
    dropped_unauthentic: int = 0
    """From nobody in the group, or repeated."""
    dropped_invalid: int = 0
    """From the group, but against the protocol."""
    dropped_unreadable: int = 0
    """Sealed with a key that had not come yet, beyond what is kept."""


class StreamReceiver:
    """A receiver of one stream, from `sequence` and `message` on.

    `next_sequence` is how far the sender was when it let this receiver in. `uniform` returns random
    numbers from 0 to 1.
    """

    def __init__(
        self,
        config: MulticastConfig,
        keys: GroupKeys,
        stream: bytes,
        identity: int,
        *,
        sequence: int,
        message: int,
        next_sequence: int,
        rtt: float,
        members: int,
        order: Order,
        uniform: Callable[[], float],
        now: float,
    ) -> None:
        self.stats = ReceiverStats()
        self.keys = keys
        self.stream = stream
        self.identity = identity
        self.has_ended = False
        """The sender has ended the stream and nothing is missing any more."""
        self.needs_key = False
        """A packet has come that is sealed with a key to be asked for."""
        self.heard_at = now
        """When the sender was heard last."""
        self._config = config
        self._uniform = uniform
        self._start = sequence
        self._was_heard = False
        self._newest = 0
        self._newest_at = now
        self._next = sequence
        self._next_message = message
        self._oldest = sequence
        self._is_last = False
        self._gaps = Gaps(rtt, members, config.backoff_factor, uniform)
        self._describe_group(rtt, members)
        make = InOrder if order == "ordered" else AsItArrives
        self._assembly: Assembly = make(sequence, message, config.max_message_bytes)
        self._ready: deque[Item] = deque()
        self._ready_bytes = 0
        self._overrun: Gap | None = None
        self._unreadable: deque[bytes] = deque()
        per_second = config.nacks_per_second
        self._nacks = TokenBucket(per_second, max(per_second / 4, 1.0), now)
        self._report_at = now + self._report_interval()
        self._reports_at: int | None = None
        self._expects(next_sequence, now)

    # What it knows

    @property
    def first_missing(self) -> int:
        """It has every packet below this one, or has given it up."""
        first = self._gaps.first
        return self._next if first is None else first

    def echo(self, now: float) -> wire.Echo:
        """What a report says of how far it is."""
        return wire.Echo(self.first_missing, self._newest, now - self._newest_at)

    @property
    def rtt(self) -> float:
        """The round trip of the group in seconds."""
        return self._gaps.rtt

    @property
    def missing(self) -> int:
        """Packets that are known to be missing now."""
        return self._gaps.missing

    def spread(self) -> float:
        """A random time to wait with what all members would do at once."""
        return self._uniform() * self._gaps.members * SPREAD_SECONDS_PER_MEMBER

    # Receiving

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take a datagram that was sent to the group."""
        stats = self.stats
        try:
            header = wire.split_untrusted(datagram)
        except DecodeError:
            stats.dropped_foreign += 1
            return
        if header.stream != self.stream:
            stats.dropped_foreign += 1
            return
        if header.origin == self.identity:
            return  # what this receiver has sent itself
        try:
            body = self.keys.open(datagram, header, now)
            self._take_body(header, body, now)
        except UnknownEpoch:
            self._keep_unreadable(datagram)
        except CryptoError:
            stats.dropped_unauthentic += 1
        except DecodeError:
            stats.dropped_invalid += 1

    def install_keys(self, keys: list[tuple[int, bytes, int]], now: float) -> bool:
        """Take keys, oldest first, and read what waited for them. False: none of them is new."""
        installed = [self.keys.install(*key, now) for key in keys]
        self.needs_key = False
        waiting, self._unreadable = self._unreadable, deque()
        for datagram in waiting:
            self.receive_datagram(datagram, now)
        return any(installed)

    def _keep_unreadable(self, datagram: bytes) -> None:
        self.needs_key = True
        if len(self._unreadable) >= UNREADABLE_LIMIT:
            self.stats.dropped_unreadable += 1
            return
        self._unreadable.append(datagram)

    def _take_body(self, header: wire.Header, body: bytes, now: float) -> None:
        is_nack = header.kind == wire.NACK
        if is_nack == (header.origin == wire.SENDER):
            raise DecodeError("members send NACKs, and nobody else")
        if is_nack:
            if self._gaps.heard(wire.decode_nack(body).ranges, now):
                self.stats.nacks_saved += 1
            return
        if header.kind == wire.HEARTBEAT:
            self._take_heartbeat(wire.decode_heartbeat(body), now)
        else:
            is_repair = header.kind == wire.REPAIR
            self._take_segment(wire.decode_segment(body), now, is_repair=is_repair)
        if not self._was_heard:
            self._was_heard = True
            self._report_at = min(self._report_at, now + self.spread())
        self.heard_at = now
        if header.number > self._newest:
            self._newest = header.number
            self._newest_at = now

    def _take_segment(self, segment: wire.Segment, now: float, *, is_repair: bool) -> None:
        sequence, stats = segment.sequence, self.stats
        if sequence >= self._next + SEQUENCE_JUMP_LIMIT:
            raise DecodeError("a sequence is too far ahead")
        if is_repair:
            self._gaps.repaired(sequence, now)
        if sequence < self._next:
            if not self._gaps.filled(sequence):
                stats.packets_duplicate += sequence >= self._start
                return
        else:
            if sequence > self._next and self._gaps.is_full:
                return  # as if it was lost, until there is room to remember what is missing
            self._expects(sequence, now)
            self._next = sequence + 1
        stats.packets_received += 1
        stats.packets_repaired += is_repair
        self._next_message = max(self._next_message, segment.next_message)
        self._show(self._assembly.take(segment))
        while self._assembly.held_bytes > self._config.receive_buffer_bytes:
            given_up, items = self._assembly.relieve()
            stats.packets_lost += self._gaps.given_up_below(given_up)
            self._show(items)
        self._note_end(now)

    def _expects(self, next_sequence: int, now: float) -> None:
        """Everything below has been sent."""
        if next_sequence > self._next:
            self._gaps.noticed(self._next, next_sequence - 1, now)
            self._next = next_sequence

    def _take_heartbeat(self, heartbeat: wire.Heartbeat, now: float) -> None:
        if heartbeat.next_sequence >= self._next + SEQUENCE_JUMP_LIMIT:
            raise DecodeError("a sequence is too far ahead")
        gaps = self._gaps
        self._describe_group(heartbeat.rtt, heartbeat.members)
        if not gaps.is_full:
            self._expects(heartbeat.next_sequence, now)
        self._next_message = max(self._next_message, heartbeat.next_message)
        if heartbeat.oldest_sequence > self._oldest:
            self._oldest = heartbeat.oldest_sequence
            self._give_up_below(self._oldest, heartbeat.oldest_message, GapReason.EVICTED)
        if heartbeat.flags & wire.REPAIRED and len(gaps):
            gaps.all_repaired(now)
        if heartbeat.flags & wire.END:
            self._is_last = True
        if heartbeat.flags & wire.REPORT:
            self._reports_at = heartbeat.next_sequence
        self._note_end(now)

    def _describe_group(self, rtt: float, members: int) -> None:
        """Take what the sender says of the group, within what this side takes for possible."""
        config, gaps = self._config, self._gaps
        gaps.rtt = min(max(rtt, config.rtt_seconds_min), config.rtt_seconds_max)
        gaps.members = min(max(members, 1), config.members_limit)

    def _give_up_below(self, sequence: int, message: int, reason: GapReason) -> None:
        self.stats.packets_lost += self._gaps.given_up_below(sequence)
        self._show(self._assembly.give_up_below(sequence, message, reason))

    def _note_end(self, now: float) -> None:
        """With nothing missing, tell a sender that asks, and end with a stream that has ended."""
        if len(self._gaps):
            return
        if self._is_last:
            self.has_ended = True
        if self._reports_at is not None and self._next >= self._reports_at:
            self._reports_at = None
            self._report_at = min(self._report_at, now + self.spread())

    def abandon(self) -> None:
        """Nothing more will come: show what there is, and what is missing of it as lost."""
        self._give_up_below(self._next, self._next_message, GapReason.ENDED)

    # Showing

    def take(self) -> Item | None:
        """The next message, or a gap where some are lost; None if there is nothing to show now."""
        if self._overrun is not None:
            gap, self._overrun = self._overrun, None
            return gap
        if not self._ready:
            return None
        item = self._ready.popleft()
        if not isinstance(item, Gap):
            self._ready_bytes -= len(item.payload)
        return item

    def _show(self, items: list[Item]) -> None:
        for item in items:
            self._ready.append(item)
            if isinstance(item, Gap):
                self.stats.messages_lost += item.count
            else:
                self.stats.messages_received += 1
                self._ready_bytes += len(item.payload)
        config = self._config
        while len(self._ready) > 1 and (
            len(self._ready) > config.receive_queue_messages
            or self._ready_bytes > config.receive_queue_bytes
        ):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """The program is too slow: what it has not taken becomes one gap at the front."""
        item = self._ready.popleft()
        if isinstance(item, Gap):
            first, last, count = item.first, item.last, item.count
        else:
            first, last, count = item.number, item.number, 1
            self._ready_bytes -= len(item.payload)
            self.stats.messages_received -= 1
            self.stats.messages_lost += 1
            self.stats.messages_overrun += 1
        before = self._overrun
        if before is not None:
            first, last = min(first, before.first), max(last, before.last)
            count += before.count
        self._overrun = Gap(first, last, count, GapReason.OVERRUN)

    # Sending

    def poll_transmit(self, now: float) -> list[bytes]:
        """Return what is to be sent to the group now: a NACK, or nothing."""
        self.keys.forget_expired(now)
        ranges = self._gaps.ask(now)
        if not ranges:
            return []
        if not self._nacks.take(1.0, now):
            self.stats.nacks_capped += 1
            self._gaps.postpone(ranges, self._nacks.ready_at(1.0, now))
            return []
        self.stats.nacks_sent += 1
        nack = wire.Nack(self.echo(now), ranges)
        return [self.keys.seal(wire.NACK, wire.encode_nack(nack))]

    def poll_timeout(self) -> float:
        """When to call `poll_transmit`, or look at the clocks below; not later than that."""
        times = [self._report_at, self.silent_at]
        if self._gaps.due is not None:
            times.append(self._gaps.due)
        return min(times)

    @property
    def silent_at(self) -> float:
        """When the stream counts as lost unless the sender is heard before."""
        return self.heard_at + self._config.silence_seconds

    def report_due(self, now: float) -> bool:
        """Whether it is time to tell the sender how this receiver fares; asks once each time."""
        if now < self._report_at:
            return False
        self._report_at = now + self._report_interval()
        return True

    def _report_interval(self) -> float:
        """Random within a quarter, so that receivers that joined together do not report together.

        In large groups longer, so that the sender gets no more than it can take.
        """
        shared = self._gaps.members / REPORTERS_PER_SECOND
        return max(self._config.report_seconds, shared) * (0.875 + 0.25 * self._uniform())
