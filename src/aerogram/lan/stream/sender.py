"""The sending side of a multicast session, without I/O.

It cuts messages into packets at a rate, holds them for a while, and sends again what is asked for:
requests are collected for half a round trip, what was repaired a moment ago is not repaired again
for a request that crossed it. While nothing is sent, heartbeats tell how far the stream has got.

Call `poll_transmit` after anything else and when `poll_timeout` says; it returns the datagrams to
send to the group. Repairs and new data take turns while there are both.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final, Literal

from aerogram.errors import CryptoError, DecodeError, MessageTooLarge
from aerogram.lan.stream import wire
from aerogram.lan.stream.config import MulticastConfig
from aerogram.lan.stream.history import History, Sent, Waiting
from aerogram.lan.stream.keys import GroupKeys, UnknownEpoch
from aerogram.lan.stream.members import Member, Members
from aerogram.lan.stream.timing import TokenBucket

Start = Literal["newest", "oldest"]
"""Where a receiver begins: with what is sent next, or with the oldest that the sender holds."""

COLLECT_ROUND_TRIPS: Final = 0.5
"""From the first NACK to the first repair: what others lack as well is repaired together."""
CROSSING_ROUND_TRIPS: Final = 1.0
"""A NACK that comes so soon after a repair was sent before it was received."""
PROMPT_REPAIRS: Final = 32
"""So often a packet is repaired as soon as it is asked for: who loses 80 % lacks one in 1 000 then.
Who still does may never get it, as a member behind a smaller MTU does; each further repair waits
twice as long as the one before..."""
REPAIR_PAUSE_SECONDS_MAX: Final = 1.0
"""...up to this..."""
REPAIRS_FORGOTTEN_SECONDS: Final = 10.0
"""...unless nobody has asked for so long: another member may lack it now."""
NACK_SEQUENCES_LIMIT: Final = 4096
"""Packets that one NACK can ask for; a receiver that lacks more asks again."""
BURST_SECONDS: Final = 0.01
"""What may be sent at once is what the rate gives in this time: loaded loops are not finer."""
HOLD_CHECK_SECONDS: Final = 0.02
"""How often to look whether old messages may be dropped for new ones."""
ASKED_ROUND_TRIPS: Final = 12.0
"""Who has asked for something, and lacks it still, has asked again by then."""
SENT_TIMES_LIMIT: Final = 8192
"""Packets whose time is remembered: receivers echo one of the last."""
REKEY_PACKETS: Final = 1 << 20
"""A new key is due after so many packets, an eighth of what AES-GCM allows."""


@dataclass(slots=True)
class SenderStats:
    """What a sender has counted."""

    messages_sent: int = 0
    """Put into packets; the rest still waits."""
    packets_sent: int = 0
    """New ones, each counted once."""
    packets_repaired: int = 0
    heartbeats_sent: int = 0
    bytes_sent: int = 0
    """Of all datagrams."""
    bytes_repaired: int = 0
    """Of those with repairs alone."""
    nacks_received: int = 0
    """From members, within their rates."""
    nacks_capped: int = 0
    """From members, beyond their rates."""
    packets_asked: int = 0
    """Packets that NACKs asked for, counted each time."""
    packets_asked_again: int = 0
    """Of these, those whose repair had just been sent, or was about to be."""
    packets_evicted: int = 0
    """No longer held."""
    sends_failed: int = 0
    """Datagrams that the system did not take, as with no route; they count as sent."""
    dropped_foreign: int = 0
    """Datagrams of other streams, or of no stream."""
    dropped_unauthentic: int = 0
    """Not from a member, or repeated."""
    dropped_invalid: int = 0
    """From a member, but against the protocol."""


class StreamSender:
    """One stream. `stream` and `key` are random and of no other run."""

    def __init__(self, config: MulticastConfig, stream: bytes, key: bytes, now: float) -> None:
        self.stats = SenderStats()
        self.stream = stream
        self.members = Members(config)
        self.history = History()
        self.keys = GroupKeys(stream, wire.SENDER, config.old_key_seconds)
        self.keys.install(0, key, 0, now)
        self.is_ending = False
        self.has_news = False
        """Something has come that `poll_transmit` should look at."""
        self._config = config
        self._rekeyed_at = now
        self._wants_key = False
        self._tells_key = False
        """A new key is not known yet, not even to those who shall not have it."""
        self._waiting = Waiting(config.datagram_bytes)
        rate = config.rate_bytes_per_second
        self._burst = max(rate * BURST_SECONDS, 2.0 * config.datagram_bytes)
        self._tokens = TokenBucket(rate, self._burst, now)
        per_second = config.nacks_per_second_of_group
        self._nacks = TokenBucket(per_second, per_second, now)
        self._is_holding = False
        self._asked: set[int] = set()
        self._collect_until: float | None = None
        self._withholds_until = 0.0
        self._repairs: deque[int] = deque()
        self._repairing: set[int] = set()
        self._repairs_turn = True
        self._wants_reports = False
        self._heartbeat_interval = config.heartbeat_seconds_min
        self._heartbeat_at = now
        self._heartbeat_sent_at = now
        self._sent_at: OrderedDict[int, float] = OrderedDict()
        """When packets were sent, by number, for the round trip."""

    # Members

    def admit(self, start: Start, rtt: float, now: float) -> tuple[Member, int]:
        """Take in a receiver. Returns it and the sequence that it begins with."""
        history = self.history
        oldest = start == "oldest"
        sequence = history.oldest if oldest else history.next
        message = history.oldest_message if oldest else history.next_message
        member = self.members.add(message=message, sequence=sequence, rtt=rtt, now=now)
        self._heartbeat_at = min(self._heartbeat_at, self._soon())
        return member, sequence

    def dismiss(self, identity: int) -> None:
        """Let a receiver go; a new key is due."""
        self._wants_key = self.members.remove(identity) or self._wants_key

    def rekey(self, key: bytes, now: float) -> None:
        """Seal with a new random key from the next packet on, and let members know soon."""
        self.keys.install(self.keys.epoch + 1, key, self.keys.next_number, now)
        self._rekeyed_at = now
        self._wants_key = False
        self._tells_key = True
        self._heartbeat_soon(now)

    def needs_key(self, now: float) -> bool:
        """Whether it is time for a new key: one has left, or the key is worn."""
        if self._wants_key and now >= self._rekeyed_at + self._config.rekey_seconds_min:
            return not self.has_ended
        return self.keys.sealed >= REKEY_PACKETS

    @property
    def has_ended(self) -> bool:
        """Whether all was sent that ever will be."""
        return self.is_ending and not self._waiting

    @property
    def is_complete(self) -> bool:
        """Whether all was sent, and every member has told that it has everything."""
        return not self._waiting and self.members.has_all(self.history.next)

    def heard(self, member: Member, echo: wire.Echo, now: float) -> None:
        """A member says how far it is."""
        if member.first_missing < echo.first_missing <= self.history.next:
            member.first_missing = echo.first_missing
        member.heard_at = now
        sent_at = self._sent_at.get(echo.newest)
        if sent_at is not None and 0.0 <= echo.age <= now - sent_at:
            member.measured(now - sent_at - echo.age)

    # Data

    def has_room(self, size: int) -> bool:
        """Whether another message of this size may wait."""
        if not self._waiting:
            return True
        if len(self._waiting) >= self._config.send_queue_messages:
            return False
        return self._waiting.queued_bytes + size <= self._config.send_queue_bytes

    def check_size(self, size: int) -> None:
        """Raise `MessageTooLarge` for a message that no receiver takes."""
        if size > self._config.max_message_bytes:
            limit = self._config.max_message_bytes
            raise MessageTooLarge(f"a message of {size} bytes; max_message_bytes is {limit}")

    def send(self, payload: bytes) -> int:
        """Let a message wait for its turn. Returns its number."""
        number = self.history.next_message + len(self._waiting)
        self._waiting.put(payload)
        return number

    def ask_for_reports(self, now: float) -> None:
        """Let every member say soon how far it is."""
        self._wants_reports = True
        self._heartbeat_soon(now)

    def end(self, now: float) -> None:
        """No new message will come; what waits is still sent, and what is asked for repaired."""
        self.is_ending = True
        self.ask_for_reports(now)

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
        if header.origin == wire.SENDER:
            return  # what we have sent ourselves, or somebody who would like to look like it
        member = self.members.get(header.origin)
        if member is None:
            stats.dropped_unauthentic += 1
            return
        try:
            body = self.keys.open(datagram, header, now)
            nack = wire.decode_nack(body, header.kind)
        except (CryptoError, UnknownEpoch):
            stats.dropped_unauthentic += 1
        except DecodeError:
            stats.dropped_invalid += 1
        else:
            self._asked_for(member, nack, now)

    def _asked_for(self, member: Member, nack: wire.Nack, now: float) -> None:
        self.heard(member, nack.echo, now)
        if not (self.members.may_ask(member, now) and self._nacks.take(1.0, now)):
            member.nacks_capped += 1
            self.stats.nacks_capped += 1
            return
        self.has_news = True
        member.nacks += 1
        self.stats.nacks_received += 1
        left = NACK_SEQUENCES_LIMIT
        for low, high in nack.ranges:
            first = max(low, self.history.oldest)
            last = min(high, self.history.next - 1, first + left - 1)
            left -= max(last - first + 1, 0)
            for sequence in range(first, last + 1):
                if self._wanted(sequence, now):
                    member.repairs += 1
        if self._asked and self._collect_until is None:
            self._collect_until = now + COLLECT_ROUND_TRIPS * self.members.rtt
        if nack.ranges and nack.ranges[0][0] < self.history.oldest:
            self._heartbeat_at = min(self._heartbeat_at, self._soon())

    def _wanted(self, sequence: int, now: float) -> bool:
        """Somebody lacks a packet. False if its repair is on its way, or in the queue."""
        sent = self.history[sequence]
        sent.asked_at = now
        self.stats.packets_asked += 1
        just_repaired = now < self._repairable_at(sent)
        if just_repaired or sequence in self._repairing or sequence in self._asked:
            self.stats.packets_asked_again += 1
            return not just_repaired
        self._asked.add(sequence)
        return True

    def _repairable_at(self, sent: Sent) -> float:
        """When a packet may be repaired again: what is asked for before gets no other repair."""
        if sent.repaired_at is None:
            return 0.0
        pause = CROSSING_ROUND_TRIPS * self.members.rtt
        if sent.repairs > PROMPT_REPAIRS:
            longer = pause * float(1 << min(sent.repairs - PROMPT_REPAIRS, 16))
            pause = max(pause, min(longer, REPAIR_PAUSE_SECONDS_MAX))
            self._withholds_until = max(self._withholds_until, sent.repaired_at + pause)
        return sent.repaired_at + pause

    # Sending

    def poll_transmit(self, now: float) -> list[bytes]:
        """Return what may be sent to the group now."""
        self.has_news = False
        self._collect(now)
        datagrams: list[bytes] = []
        if not self.members:
            self._repairs.clear()
            self._repairing.clear()
            self._fill_history(now)
            if self._tells_key:
                datagrams.append(self._heartbeat(now))
            return datagrams
        if now >= self._heartbeat_at:
            datagrams.append(self._heartbeat(now))
        while self._tokens.level(now) > 0:
            datagram = self._next_packet(now)
            if datagram is None:
                break
            self._tokens.spend(len(datagram), now)
            self.stats.bytes_sent += len(datagram)
            datagrams.append(datagram)
        return datagrams

    def _fill_history(self, now: float) -> None:
        """With nobody there, what is sent is only held, at the same rate."""
        while self._tokens.level(now) > 0 and self._waiting and self._may_hold_more(now):
            self._tokens.spend(len(self._new_body(now).body), now)

    def poll_timeout(self, now: float) -> float | None:
        """When to call `poll_transmit` next; not later than that."""
        times = [self._heartbeat_at] if self.members else []
        if self._collect_until is not None:
            times.append(self._collect_until)
        if self._wants_key and not self.has_ended:
            times.append(self._rekeyed_at + self._config.rekey_seconds_min)
        if self._repairs or self._waiting:
            ready_at = self._tokens.ready_at(self._burst / 4, now)
            if not self._repairs and self._is_holding:
                ready_at = max(ready_at, now + HOLD_CHECK_SECONDS)
            times.append(ready_at)
        return min(times, default=None)

    def _next_packet(self, now: float) -> bytes | None:
        """Repairs and new data in turns, or what there is."""
        new = bool(self._waiting) and self._may_hold_more(now)
        if self._repairs and (self._repairs_turn or not new):
            self._repairs_turn = False
            repair = self._repair(now)
            if repair is not None:
                return repair
        if not new:
            return None
        self._repairs_turn = True
        self._heartbeat_after_data(now)
        return self._seal(wire.DATA, self._new_body(now).body, now)

    def _seal(self, kind: int, body: bytes, now: float) -> bytes:
        self._sent_at[self.keys.next_number] = now
        if len(self._sent_at) > SENT_TIMES_LIMIT:
            self._sent_at.popitem(last=False)
        return self.keys.seal(kind, body)

    def _new_body(self, now: float) -> Sent:
        history = self.history
        sent, messages = self._waiting.next_body(history.next, history.next_message)
        sent.sent_at = now
        history.add(sent)
        history.next_message += messages
        self.stats.messages_sent += messages
        self.stats.packets_sent += 1
        return sent

    def _repair(self, now: float) -> bytes | None:
        while self._repairs:
            sequence = self._repairs.popleft()
            self._repairing.discard(sequence)
            if sequence < self.history.oldest:
                continue
            sent = self.history[sequence]
            if sent.repaired_at is not None and now > sent.repaired_at + REPAIRS_FORGOTTEN_SECONDS:
                sent.repairs = 0
            sent.repaired_at = now
            sent.repairs += 1
            datagram = self._seal(wire.REPAIR, sent.body, now)
            self._heartbeat_after_data(now)
            self.stats.packets_repaired += 1
            self.stats.bytes_repaired += len(datagram)
            return datagram
        return None

    def _collect(self, now: float) -> None:
        """Queue the repairs of what was asked for, in ascending order, once it was collected."""
        if self._collect_until is None or now < self._collect_until:
            return
        self._collect_until = None
        self._repairs.extend(sorted(self._asked))
        self._repairing |= self._asked
        self._asked.clear()

    # What is held

    def _may_hold_more(self, now: float) -> bool:
        """Make room for another body, unless what would go is wanted still."""
        history, config = self.history, self._config
        self._is_holding = False
        while history.messages > 0 and (
            history.held_bytes + self._waiting.next_cost() > config.buffer_bytes
            or history.messages >= config.buffer_messages
        ):
            self._is_holding = self._is_wanted_still(now)
            if self._is_holding:
                return False
            before = history.oldest
            history.drop_oldest()
            self.stats.packets_evicted += history.oldest - before
        return True

    def _is_wanted_still(self, now: float) -> bool:
        """Whether to wait with new data: somebody lacks the oldest message, or may yet say so."""
        if not self.members or now >= self.history.oldest_sent_at + self._config.hold_seconds:
            return False
        rtt = self.members.rtt
        if now < self.history.oldest_sent_at + (self._config.backoff_factor + 2.0) * rtt:
            return True
        asked_at = self.history.oldest_asked_at()
        return asked_at is not None and now < asked_at + ASKED_ROUND_TRIPS * rtt

    # Heartbeats

    def _heartbeat(self, now: float) -> bytes:
        history = self.history
        flags = wire.END if self.has_ended else 0
        if not self._repairs and not self._asked and now >= self._withholds_until:
            flags |= wire.REPAIRED
        if self._wants_reports:
            flags |= wire.REPORT
            self._wants_reports = not self.is_complete
        self._tells_key = False
        self.keys.forget_expired(now)
        self.members.measure()
        heartbeat = wire.Heartbeat(
            history.oldest,
            history.oldest_message,
            history.next,
            history.next_message,
            self.members.rtt,
            len(self.members),
            flags,
        )
        self._heartbeat_sent_at = now
        self._heartbeat_at = now + self._heartbeat_interval
        self._heartbeat_interval = min(
            2 * self._heartbeat_interval, self._config.heartbeat_seconds_max
        )
        datagram = self._seal(wire.HEARTBEAT, wire.encode_heartbeat(heartbeat), now)
        self.stats.heartbeats_sent += 1
        self.stats.bytes_sent += len(datagram)
        return datagram

    def _heartbeat_after_data(self, now: float) -> None:
        """The next one comes soon after the last data or repair, but also while they flow."""
        self._heartbeat_interval = self._config.heartbeat_seconds_min
        latest = self._heartbeat_sent_at + self._config.heartbeat_seconds_max
        self._heartbeat_at = min(now + self._heartbeat_interval, max(latest, now))

    def _soon(self) -> float:
        """When a heartbeat may follow that anybody can bring about."""
        return self._heartbeat_sent_at + self._config.heartbeat_seconds_min

    def _heartbeat_soon(self, now: float) -> None:
        self._heartbeat_interval = self._config.heartbeat_seconds_min
        self._heartbeat_at = now
