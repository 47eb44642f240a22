"""The receiving side of a connection: which packets came, what they carried, what is owed back.

Rules: nothing here is kept beyond a limit. Duplicates go, gaps are remembered as ranges, fragments
are held in proportion to what arrived, and credit is granted for what handlers have consumed.
Whatever breaks the protocol raises `DecodeError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from aerogram.config import MESSAGE_OVERHEAD_BYTES, Config
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec
from aerogram.core.delivery import AsItArrives, Delivery, preset
from aerogram.core.fragments import Reassembly
from aerogram.core.incoming import IncomingRecord, ReceiveChannel
from aerogram.core.keys import ReplayWindow
from aerogram.core.memory import (
    UNFINISHED_OVERHEAD_BYTES,
    EndpointMemory,
    SessionMemory,
    memory_for_records,
)
from aerogram.core.policies import Fault, Run
from aerogram.core.ranges import RangeSet
from aerogram.core.recovery import Rtt
from aerogram.core.stats import ConnectionStats
from aerogram.errors import DecodeError

ACK_RANGES_LIMIT: Final = 64
"""Ranges kept and sent; older packets are acknowledged already or will be sent again."""
ACK_EVERY: Final = 2
"""Acknowledgement-eliciting packets after which an acknowledgement is sent (RFC 9000 §13.2.2)."""


RELIABLE: Final = Delivery(AsItArrives)
"""Stands in for a delivery that only the peer knows; its messages are refused one by one."""


class ChannelDisagreement(Exception):
    """Both sides know a channel by this name, with different deliveries."""


class Receiver:
    """What has arrived on one connection."""

    __slots__ = (
        "_ack_due",
        "_ack_now",
        "_budget",
        "_channels",
        "_config",
        "_eliciting",
        "_largest_at",
        "_lent_bytes",
        "_loose",
        "_loose_bytes",
        "_memory_bytes",
        "_ranges",
        "_replay",
        "_reserved_bytes",
        "_specs",
        "_stats",
        "_timed",
        "_waiting",
        "credits_due",
        "faults",
        "memory",
        "watcher",
    )

    def __init__(
        self,
        config: Config,
        specs: Mapping[str, ChannelSpec],
        budget: EndpointMemory,
        stats: ConnectionStats,
    ) -> None:
        self._config = config
        self._memory_bytes = memory_for_records(config.reassembly_bytes_per_session, config)
        self._specs = specs
        self._budget = budget
        self.memory = SessionMemory(config, budget)
        self._stats = stats
        self._replay = ReplayWindow()
        self._ranges = RangeSet()
        self._largest_at = 0.0
        self._eliciting = 0
        self._ack_now = False
        self._ack_due: float | None = None
        self._channels: dict[int, ReceiveChannel] = {}
        self.credits_due: list[ReceiveChannel] = []
        """Channels whose sender is to be told a new limit."""
        self.faults: list[tuple[str, Fault]] = []
        """What users' orderings did wrong that belongs to no message, until the caller takes it."""
        self.watcher: Callable[[IncomingRecord], None] | None = None
        """Told of each piece of a record that arrives; it must not raise."""
        self._timed: list[ReceiveChannel] = []
        """Channels that were told lifetimes in the packet that is being taken."""
        self._reserved_bytes = 0
        self._waiting: dict[tuple[int, int], tuple[ReceiveChannel, Reassembly]] = {}
        """Records that nobody has reserved memory for yet, by channel and number, oldest first."""
        self._loose: dict[tuple[int, int], tuple[ReceiveChannel, Reassembly]] = {}
        """Unfinished records of channels that do not resend, for which no credit was given."""
        self._loose_bytes = 0
        self._lent_bytes = 0
        """Of what is reserved, what the caller of this connection holds by itself."""

    # -- packets

    @property
    def largest(self) -> int:
        """The largest packet number that arrived, or -1."""
        return self._ranges.largest

    def packet_arrived(self, number: int) -> bool:
        """False if this packet came before, or is too old to tell (RFC 6479)."""
        return self._replay.accept(number)

    def packet_dropped(self) -> None:
        """There was no memory for the packet: it counts as one that was lost on its way."""
        self._stats.packets_dropped_memory += 1
        self._forget_lifetimes()

    def packet_taken(self, number: int, now: float, *, eliciting: bool) -> None:
        """The packet was authentic and its frames are processed: it is to be acknowledged."""
        if self._timed:
            self._forget_lifetimes()
        ranges = self._ranges
        expected = ranges.largest + 1
        ranges.add(number, number)
        if number >= expected:
            self._largest_at = now
        if len(ranges) > ACK_RANGES_LIMIT:
            ranges.keep_newest(ACK_RANGES_LIMIT)
        if not eliciting:
            return
        self._eliciting += 1
        if number != expected or self._eliciting >= ACK_EVERY:
            self._ack_now = True
        if self._ack_due is None:
            self._ack_due = now + self._config.max_ack_delay_seconds

    def acknowledge_at_once(self) -> None:
        """The peer waits for the acknowledgement of a PING."""
        self._ack_now = True

    @property
    def ack_pending(self) -> bool:
        """True if something acknowledgement-eliciting is not yet acknowledged."""
        return self._eliciting > 0

    def ack_wanted(self, now: float) -> bool:
        """True if an acknowledgement should leave now, even alone."""
        if self._ack_now or (self._ack_due is not None and self._ack_due <= now):
            # None arrived if the first packet had a PING and then broke the protocol.
            return len(self._ranges) > 0
        return False

    def take_ack(self, now: float) -> bytes:
        """The ACK frame for all that arrived."""
        delay = max(0.0, now - self._largest_at)
        self._eliciting = 0
        self._ack_now = False
        self._ack_due = None
        return wire.encode_ack(
            self._ranges.largest, int(delay * 1_000_000), self._ranges.descending()
        )

    def peer_knows(self, number: int) -> None:
        """The peer has an acknowledgement of everything up to `number` (RFC 9000 §13.2.4)."""
        if number > 0:
            self._ranges.forget_below(number)

    # -- channels

    def announced(self, frame: wire.ChannelAnnounce) -> None:
        """Take a CHANNEL frame. Raises `ChannelDisagreement` or `DecodeError`."""
        channel = self._channels.get(frame.channel)
        if channel is not None:
            if (channel.name, channel.delivery_code) != (frame.name, frame.code):
                raise DecodeError("a channel was announced twice, differently")
            return
        if frame.channel >= self._config.channels_per_session:
            raise DecodeError("more channels than the limit")
        try:
            spec = self._spec_for(frame.name, frame.code)
            channel = self._new_channel(frame.channel, spec, known=spec.delivery is not RELIABLE)
        except ChannelDisagreement:
            raise
        except Exception as error:  # a user's ordering that cannot be made
            self.faults.append((frame.name, Fault(error)))
            spec = ChannelSpec(frame.name, RELIABLE)
            channel = self._new_channel(frame.channel, spec, known=False)
        channel.delivery_code = frame.code
        self._channels[frame.channel] = channel
        self.memory.begin()

    def _spec_for(self, name: str, code: str) -> ChannelSpec:
        spec = self._specs.get(name)
        if spec is None:
            return ChannelSpec(name, preset(code) or RELIABLE)
        if spec.delivery.code != code:
            raise ChannelDisagreement(
                f"channel {name!r} is {spec.delivery.code!r} here and {code!r} at the peer"
            )
        return spec

    def _new_channel(self, identity: int, spec: ChannelSpec, *, known: bool) -> ReceiveChannel:
        window = self._config.channel_window_bytes
        return ReceiveChannel(identity, spec, window, self.credits_due, self.memory, known=known)

    def channel(self, identity: int) -> ReceiveChannel:
        """The channel with this number. Raises `DecodeError` if it was never announced."""
        channel = self._channels.get(identity)
        if channel is None:
            raise DecodeError("a message on a channel that was not announced")
        return channel

    def take_credit(self, channel: ReceiveChannel) -> bytes:
        """The CREDIT frame of a channel, which the caller has taken from `credits_due`."""
        channel.credit_due = False
        channel.granted_cost = max(channel.granted_cost, channel.next_grant)
        return wire.encode_credit(channel.identity, channel.granted_cost)

    # -- messages

    def messages(self, frame: wire.Messages, now: float) -> tuple[ReceiveChannel, list[Run]]:
        """Take a run of whole messages; return what is handed over.

        Raises `DecodeError`, or `NoMemory`.
        """
        channel = self.channel(frame.channel)
        memory = self.memory
        if memory.unread_bytes >= memory.free_bytes:
            memory.check(needed=frame.first_number < channel.received.largest)
        before = channel.arrived_cost
        messages, duplicates = channel.run_arrived(frame.first_number, frame.payloads, now)
        if channel.resends:
            memory.note(channel.arrived_cost - before)
        if duplicates:
            self._stats.messages_duplicate += duplicates
        if channel.deadlines or channel.late:
            messages = self._in_time(channel, messages, now)
        return channel, messages

    def lifetimes(self, frame: wire.Lifetimes, rtt: Rtt, now: float) -> None:
        """Take a LIFETIMES frame, which is about messages later in this packet.

        A message took about half a round trip to come; before that is measured, no time at all.
        Raises `DecodeError`.
        """
        channel = self.channel(frame.channel)
        sent_at = now - rtt.smoothed / 2 if rtt.sampled else now
        number = frame.first_number
        for count, milliseconds in frame.runs:
            if milliseconds:
                due = sent_at + milliseconds / 1000.0
                channel.lifetimes.update(dict.fromkeys(range(number, number + count), due))
            number += count
        self._timed.append(channel)

    def _forget_lifetimes(self) -> None:
        for channel in self._timed:
            channel.lifetimes.clear()
        self._timed.clear()

    def _in_time(self, channel: ReceiveChannel, runs: list[Run], now: float) -> list[Run]:
        if channel.deadlines:
            runs = channel.in_time(runs, now)
        if channel.late:
            self._stats.messages_expired_on_arrival += channel.late
            channel.late = 0
        return runs

    def skip(self, frame: wire.Skip, now: float) -> tuple[ReceiveChannel, list[Run]]:
        """Take a SKIP frame; return what it sets free. Raises `DecodeError`."""
        channel = self.channel(frame.channel)
        partial = channel.partial.get(frame.number)
        if partial is not None:
            self._forget(channel, frame.number, partial)
            if partial.counted_bytes:
                self.memory.note(partial.received_bytes - partial.counted_bytes)
        before = channel.arrived_cost
        released = channel.skipped(frame.number, frame.cost)
        self.memory.note(channel.arrived_cost - before)
        channel.check_credit()
        self._stats.messages_skipped += 1
        return channel, self._in_time(channel, released, now)

    # -- fragments

    def fragment(self, frame: wire.Fragment, now: float) -> tuple[ReceiveChannel, list[Run]]:
        """Take a piece of a record; return what is handed over.

        Raises `DecodeError`, or `NoMemory`.
        """
        channel = self.channel(frame.channel)
        if frame.total_bytes > self._config.largest_payload_bytes:
            raise DecodeError("a record is larger than the stated limit")
        if channel.resends and frame.number in channel.received:
            self._stats.messages_duplicate += 1
            return channel, []
        partial = channel.partial.get(frame.number)
        if partial is None:
            self.memory.check(needed=frame.number < channel.received.largest)
            partial = self._begin(channel, frame, now)
        elif not partial.reserved and not partial.counted_bytes:
            self.memory.check(needed=True)
        if not channel.resends and not self._make_room(channel, frame):
            return channel, []
        new = partial.add(frame.total_bytes, frame.offset, frame.data)
        if self.watcher is not None:
            self.watcher(IncomingRecord.of(channel, frame.number, partial))
        if channel.lifetimes:
            partial.lives_until(channel.lifetimes.get(frame.number))
        if not channel.resends:
            self._charge(new)
        elif not partial.counted_bytes:
            self.memory.note(new)
        channel.arrived_cost += new
        channel.check_credit()
        if not partial.complete:
            return channel, []
        self._forget(channel, frame.number, partial)
        del channel.partial[frame.number]
        if channel.resends:
            channel.is_new(frame.number)
        released = channel.timed_arrived(frame.number, partial.record(), partial.deadline, now)
        return channel, self._in_time(channel, released, now)

    def unfinished(self) -> list[IncomingRecord]:
        """The records of which some pieces have arrived and others not."""
        return [
            IncomingRecord.of(channel, number, partial)
            for channel in self._channels.values()
            for number, partial in channel.partial.items()
        ]

    def _begin(self, channel: ReceiveChannel, frame: wire.Fragment, now: float) -> Reassembly:
        partial = Reassembly(frame.total_bytes, now)
        channel.arrived_cost += MESSAGE_OVERHEAD_BYTES
        channel.partial[frame.number] = partial
        key = (channel.identity, frame.number)
        if not channel.resends:
            self._loose[key] = channel, partial
            self._charge(UNFINISHED_OVERHEAD_BYTES)
            return partial
        self.memory.note(MESSAGE_OVERHEAD_BYTES)
        if 2 * (frame.total_bytes + MESSAGE_OVERHEAD_BYTES) > channel.window:
            self._waiting[key] = channel, partial
            self._grant_waiting()
        else:
            partial.counted_bytes = frame.total_bytes
            self.memory.note(frame.total_bytes)
        return partial

    def _charge(self, size: int) -> None:
        """Take memory for loose records from the budget, or give it back."""
        self._loose_bytes += size
        self._budget.left_bytes -= size

    def _make_room(self, channel: ReceiveChannel, frame: wire.Fragment) -> bool:
        """A piece of a loose record has come: until it fits, the oldest unfinished ones give way.

        False if its own record had to go, too.
        """
        size = len(frame.data)
        limit = self._memory_bytes - self._reserved_bytes
        while self._loose_bytes + size > limit or size > self._budget.left_bytes:
            identity, number = next(iter(self._loose))
            self._drop(self._channels[identity], number)
            if (identity, number) == (channel.identity, frame.number):
                return False
        return True

    def _drop(self, channel: ReceiveChannel, number: int) -> None:
        self._forget(channel, number, channel.partial.pop(number))
        self._stats.messages_dropped_partial += 1

    def _grant_waiting(self) -> None:
        """A record larger than half the window needs credit before any of it can be consumed.

        Whole records are reserved at once, first come first served, so that two of them can
        never hold half of the memory each and wait for the other half.
        """
        while self._waiting:
            key = next(iter(self._waiting))
            channel, partial = self._waiting[key]
            total_bytes = partial.total_bytes
            if total_bytes > self._unreserved_bytes:
                return
            del self._waiting[key]
            partial.reserved = True
            self._reserve(total_bytes)
            channel.reserved += total_bytes
            channel.owe_credit()

    def _forget(self, channel: ReceiveChannel, number: int, partial: Reassembly) -> None:
        """A record is complete or given up: its memory is free for others."""
        if not channel.resends:
            del self._loose[channel.identity, number]
            self._charge(-partial.received_bytes - UNFINISHED_OVERHEAD_BYTES)
        elif partial.reserved:
            self._reserve(-partial.total_bytes)
            channel.reserved -= partial.total_bytes
        else:
            self._waiting.pop((channel.identity, number), None)
        self._grant_waiting()

    def expire_partial(self, now: float) -> None:
        """Drop unreliable records whose pieces stopped coming."""
        timeout = self._config.reassembly_timeout_seconds
        while self._loose:
            key = next(iter(self._loose))
            channel, oldest = self._loose[key]
            # The same sum as in `deadline`, or a rounding could keep the timer firing.
            if oldest.started_at + timeout > now:
                return
            self._drop(channel, key[1])

    def deadline(self) -> float | None:
        """When an acknowledgement must leave, even alone, or `expire_partial` has work."""
        due = self._ack_due
        if self._loose:
            _, oldest = next(iter(self._loose.values()))
            expires_at = oldest.started_at + self._config.reassembly_timeout_seconds
            if due is None or expires_at < due:
                return expires_at
        return due

    def lend(self, size: int) -> bool:
        """Reserve memory for what the caller holds of records; False if there is not so much."""
        if size > self._unreserved_bytes:
            return False
        self._reserve(size)
        self._lent_bytes += size
        return True

    def take_back(self, size: int) -> None:
        """The caller holds so much less; harmless once the connection has ended."""
        size = min(size, self._lent_bytes)
        self._lent_bytes -= size
        self._reserve(-size)
        self._grant_waiting()

    @property
    def _unreserved_bytes(self) -> int:
        """What may still be reserved, in this session and in the endpoint."""
        left = self._memory_bytes - self._reserved_bytes - self._loose_bytes
        return min(left, self._budget.left_bytes)

    def _reserve(self, size: int) -> None:
        self._reserved_bytes += size
        self._budget.left_bytes -= size

    def abandon(self) -> None:
        """The connection ends: give all memory back."""
        self.memory.end()
        for channel in self._channels.values():
            channel.partial.clear()
        self._budget.left_bytes += self._reserved_bytes + self._loose_bytes
        self._reserved_bytes = self._loose_bytes = self._lent_bytes = 0
        self._waiting.clear()
        self._loose.clear()
