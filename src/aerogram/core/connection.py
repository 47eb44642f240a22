"""One peer: what arrives is taken apart, what is owed is sent, and every timer is one deadline.

A connection is driven by four kinds of calls: `receive_packet` and `handle_timeout` feed it,
`send`, `consumed`, `refuse` and `close` are its user's, `transmit` and `deadline` tell what to do
next. After any of them the connection puts itself on the endpoint's list of those to be polled.
It ends in one of two ways: it says CLOSE and is told so (CLOSING), or the peer does (DRAINING).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from aerogram.config import Config
from aerogram.core import wire
from aerogram.core.arrivals import Arrivals
from aerogram.core.budget import Budget, measure
from aerogram.core.channel import ChannelSpec, SendChannel
from aerogram.core.congestion import Controller, FixedWindow
from aerogram.core.events import (
    ChannelHasRoom,
    CloseCode,
    Drained,
    Event,
    RefuseCode,
    SessionEnded,
    SessionOpened,
    clipped,
)
from aerogram.core.farewell import Farewell
from aerogram.core.handshake import idle_seconds, keepalive_seconds
from aerogram.core.incoming import ReceiveChannel
from aerogram.core.keys import PacketProtection
from aerogram.core.memory import EndpointMemory, NoMemory
from aerogram.core.outcomes import Outcomes
from aerogram.core.outgoing import Outgoing
from aerogram.core.pacing import RateLimit
from aerogram.core.packing import Packer
from aerogram.core.path import Address, Path
from aerogram.core.receiver import ChannelDisagreement, Receiver
from aerogram.core.recovery import Rtt
from aerogram.core.sender import Sender
from aerogram.core.stats import ConnectionStats
from aerogram.core.timing import Timing
from aerogram.errors import CryptoError, DecodeError

if TYPE_CHECKING:
    from aerogram.core.handshake import ClientHandshake

PACKETS_PER_TURN: Final = 64
"""Packets built before other connections get their turn; also what one UDP_SEGMENT run holds."""
CONTROLS_LIMIT: Final = 1024
"""Refusals and answers to path challenges that wait for a packet; further ones are left out."""


class State(IntEnum):
    """Where a connection stands in its life."""

    HALF_OPEN = 0
    OPEN = 1
    CLOSING = 2
    DRAINING = 3
    CLOSED = 4


@dataclass(slots=True)
class Shared:
    """What the connections of an endpoint have in common."""

    config: Config
    specs: Mapping[str, ChannelSpec]
    budget: EndpointMemory
    events: deque[Event]
    random_bytes: Callable[[int], bytes]
    dirty: list[Connection]


class Connection:
    """The protocol with one peer after the handshake."""

    __slots__ = (
        "_arrivals",
        "_farewell",
        "_idle_seconds",
        "_keepalive_seconds",
        "_last_received_at",
        "_packer",
        "_sender",
        "_shared",
        "_timing",
        "_wants_drained",
        "deadline_registered",
        "is_dirty",
        "local_cid",
        "opened_from",
        "owner",
        "path",
        "peer_key",
        "peer_reset_token",
        "receiver",
        "remote_cid",
        "state",
        "stats",
    )

    def __init__(
        self,
        shared: Shared,
        *,
        protection: PacketProtection,
        local_cid: bytes,
        remote_cid: bytes,
        address: Address,
        peer: wire.TransportParameters,
        peer_key: bytes | None,
        now: float,
    ) -> None:
        config = shared.config
        self._shared = shared
        self.local_cid = local_cid
        self.remote_cid = remote_cid
        self.peer_key = peer_key
        self.peer_reset_token = peer.reset_token
        self.path = Path(address)
        self.opened_from = address
        self.state = State.HALF_OPEN
        self.stats = ConnectionStats()
        self.owner: Any = None
        """Whatever the shell wants to find again from an event."""
        controller: Controller = FixedWindow(config.congestion_window_bytes)
        self._sender = Sender(config, controller, protection, remote_cid, peer, self.stats)
        self._packer = Packer(self._sender)
        self.receiver = Receiver(config, shared.specs, shared.budget, self.stats)
        self._arrivals = Arrivals(
            self, self._sender, self.receiver, self.path, self.stats, shared.events
        )
        self._idle_seconds = idle_seconds(config, peer)
        self._keepalive_seconds = keepalive_seconds(config, self._idle_seconds)
        self._last_received_at = now
        self._timing: Timing | None = None
        self._farewell: Farewell | None = None
        self._wants_drained = False
        self.is_dirty = False
        self.deadline_registered: float | None = None

    # -- getters

    @property
    def rtt(self) -> Rtt:
        """The round-trip time to the peer."""
        return self._sender.recovery.rtt

    @property
    def peer_max_record_bytes(self) -> int:
        """The largest record that the peer takes."""
        return self._sender.peer_max_record_bytes

    @property
    def messages_in_flight(self) -> int:
        """Messages that have no outcome yet, counted one by one."""
        return self._sender.in_flight()

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of packets that are neither acknowledged nor lost."""
        return self._sender.recovery.bytes_in_flight

    def touch(self) -> None:
        """Ask the endpoint to poll this connection."""
        if not self.is_dirty:
            self.is_dirty = True
            self._shared.dirty.append(self)

    # -- what the user does

    def open_channel(self, spec: ChannelSpec) -> SendChannel:
        """A new channel to the peer. Raises `InvalidMessage` beyond the limit."""
        return self._sender.open_channel(spec)

    def send(self, channel: SendChannel, message: Outgoing) -> None:
        """Queue a message; its deadline is a time of the endpoint's clock.

        Raises `MessageTooLarge` if the peer would not take it. The caller has made sure that the
        channel has room. On a connection that has ended the message is lost at once.
        """
        size = len(message.payload)
        if size > self._sender.admitted_bytes:
            self._sender.turn_away(message, self._last_received_at)
            return
        channel.queue.append(message)
        channel.queued_bytes += size
        self._queued(channel)
        if message.deadline is not None:
            self._sender.expires(channel, message, message.deadline)

    def send_plain(self, channel: SendChannel, message: Outgoing) -> bool:
        """Queue a message without a deadline if there is room: the hot path of `send`.

        False if it is for `send`, after whatever a full queue asks for; nothing has changed then.
        """
        size = len(message.payload)
        queue = channel.queue
        queued_bytes = channel.queued_bytes + size
        if (
            len(queue) >= channel.queue_messages
            or queued_bytes > channel.queue_bytes
            or size > self._sender.admitted_bytes
        ):
            return False
        queue.append(message)
        channel.queued_bytes = queued_bytes
        if channel.busy and self.is_dirty:
            self.stats.messages_sent += 1
        else:
            self._queued(channel)
        return True

    def _queued(self, channel: SendChannel) -> None:
        self.stats.messages_sent += 1
        if not channel.busy:
            self._sender.mark_busy(channel)
        if not self.is_dirty:
            self.touch()

    def send_about(
        self, key: Hashable, channel: SendChannel, message: Outgoing, now: float
    ) -> None:
        """Like `send`, on a channel where a message supersedes older ones of the same key.

        Raises `TypeError` for a key that cannot be one.
        """
        hash(key)
        self.send(channel, message)
        if message.outcome is None:
            self._sender.supersede(channel, key, message, now)

    @property
    def outcomes(self) -> Outcomes:
        """What ends messages, for those that find a full queue."""
        return self._sender.outcomes

    def budget(self, channel: SendChannel) -> Budget:
        """What the connection can take on now, with the room on a channel."""
        return measure(self._sender, channel)

    def limit_rate(self, limit: RateLimit) -> None:
        """Keep to a limit, which others may share, beside those that there are."""
        self._sender.limit_rate(limit)

    def lift_limit(self, limit: RateLimit) -> None:
        """Keep to a limit no longer; harmless if it was not kept to."""
        self._sender.lift_limit(limit)
        self.touch()

    def consumed(self, channel: ReceiveChannel, cost: int) -> None:
        """Handlers are done with messages of this cost; the peer may send as much again."""
        channel.consumed(cost)
        if channel.credit_due:
            self.touch()

    def refuse(self, channel: ReceiveChannel, number: int, code: RefuseCode, reason: str) -> None:
        """Tell the peer that a message was not taken."""
        self._tell(wire.encode_refuse(channel.identity, number, code, clipped(reason)))
        self.touch()

    def _tell(self, frame: bytes) -> None:
        """Queue a frame that the peer can do without, unless it acknowledges nothing any more."""
        controls = self._sender.controls
        if len(controls) < CONTROLS_LIMIT:
            controls.append(frame)

    def timing(self) -> Timing:
        """What asks the peer for its time, and answers; made when one side first asks."""
        if self._timing is None:
            self._timing = Timing()
        return self._timing

    def ask_for_time(self, now: float) -> None:
        """Begin to measure the offset of the peer's clock."""
        self.timing().start(now)
        self.touch()

    def ping(self, answered: Callable[[], None] | None = None) -> None:
        """Send a PING, to see whether the peer is there; `answered` is called if it is."""
        self._sender.ping_due = True
        if answered is not None:
            self._sender.pings.append(answered)
        self.touch()

    @property
    def is_drained(self) -> bool:
        """True if nothing waits and nothing is unacknowledged."""
        return self._sender.drained

    def notify_when_drained(self) -> None:
        """Ask for one `Drained` event once nothing is on its way."""
        self._wants_drained = True
        self.touch()

    def close(self, code: int, reason: str, now: float) -> None:
        """End the session; what is still on its way is lost. Harmless if it has ended."""
        if self.state >= State.CLOSING:
            return
        self._end(code, reason, now, by_peer=False)
        self.state = State.CLOSING
        frame = wire.encode_close(code, clipped(reason))
        self._farewell = Farewell(frame, self._sender.recovery, now, is_answer=False)

    def end_silently(self, code: int, reason: str, now: float) -> None:
        """End the session without telling the peer: it is not there, or does not know us."""
        if self.state >= State.CLOSING:
            return
        self._end(code, reason, now, by_peer=code == CloseCode.RESTARTED)
        self.state = State.CLOSED

    def _end(self, code: int, reason: str, now: float, *, by_peer: bool) -> None:
        was_open = self.state is State.OPEN
        self._sender.abandon(now)
        self.receiver.abandon()
        if was_open:
            self._shared.events.append(SessionEnded(self, code, reason, by_peer))
        self.touch()

    def opened(self, handshake: ClientHandshake | None = None) -> None:
        """The peer has proved that it holds the keys."""
        self.state = State.OPEN
        self._shared.events.append(SessionOpened(self, handshake))

    # -- what arrives

    def receive_packet(self, packet: bytes, address: Address, now: float) -> bool:
        """Take a DATA packet. False if it is not authentic; nothing has changed then."""
        try:
            number, plaintext = self._sender.protection.open(packet)
        except CryptoError:
            self.stats.packets_unauthentic += 1
            return False
        stats = self.stats
        receiver = self.receiver
        if not receiver.packet_arrived(number):
            stats.packets_duplicate += 1
            return True
        stats.packets_received += 1
        stats.bytes_received += len(packet)
        self._last_received_at = now
        self.touch()
        newest = number > receiver.largest
        if self.state is State.HALF_OPEN:
            self.opened()
        try:
            frames = wire.decode_frames_untrusted(plaintext)
            if self.state is not State.OPEN:
                self._receive_late(frames, now)
                return True
            eliciting = self._arrivals.take(frames, now)
        except ChannelDisagreement as disagreement:  # compiled, a name has one type
            self.close(CloseCode.CHANNEL_MISMATCH, str(disagreement), now)
            return True
        except DecodeError as error:
            stats.packets_invalid += 1
            self.close(CloseCode.PROTOCOL_VIOLATION, str(error), now)
            return True
        except NoMemory:
            receiver.packet_dropped()
            return True
        receiver.packet_taken(number, now, eliciting=eliciting)
        if newest and address != self.path.address:
            patience = self._sender.recovery.probe_timeout()
            self.path.suspect(address, patience, self._shared.random_bytes, now)
        return True

    def _receive_late(self, frames: list[wire.Frame], now: float) -> None:
        """After the end only CLOSE counts: an answer to ours, or the peer asking for one again."""
        if not any(isinstance(frame, wire.Close) for frame in frames):
            return
        if self.state is State.CLOSING:
            self.state = State.CLOSED
        elif self._farewell is not None:
            self._farewell.asked_again(now)

    def peer_closed(self, frame: wire.Close, now: float) -> None:
        """The peer has ended the session."""
        self._end(frame.code, frame.reason, now, by_peer=True)
        self.state = State.DRAINING
        answer = wire.encode_close(CloseCode.NO_ERROR, "")
        self._farewell = Farewell(answer, self._sender.recovery, now, is_answer=True)

    # -- what to do next

    def transmit(self, now: float) -> list[bytes]:
        """The packets to send to `path.address` now; call again after a full turn's worth."""
        if self.state >= State.CLOSING:
            return self._transmit_close(now)
        if self.state is State.HALF_OPEN:
            return []
        if self.path.response is not None:
            self._tell(wire.encode_path_response(self.path.response))
            self.path.response = None
        self._sender.repair.expire(now)
        packets: list[bytes] = []
        build, receiver = self._packer.build, self.receiver
        while len(packets) < PACKETS_PER_TURN:
            packet = build(receiver, now)
            if packet is None:
                break
            packets.append(packet)
        if len(packets) == PACKETS_PER_TURN:
            self.touch()
        if self._timing is not None:
            packets.extend(self._packer.alone(frame) for frame in self._timing.frames(now))
        self._announce(now)
        return packets

    def _announce(self, now: float) -> None:
        sender = self._sender
        if sender.repair.faults:
            self._arrivals.note_faults(sender.repair.faults)
        roomy = sender.outcomes.roomy
        if roomy:
            for channel in roomy:
                self._shared.events.append(ChannelHasRoom(self, channel))
            roomy.clear()
        if self._wants_drained and sender.drained:
            self._wants_drained = False
            self._shared.events.append(Drained(self))
        if self._sender.protection.exhausted:
            self.close(CloseCode.KEY_LIMIT, "packet numbers are used up", now)

    def _transmit_close(self, now: float) -> list[bytes]:
        farewell = self._farewell
        if self.state is State.CLOSED or farewell is None or now < farewell.at:
            return []
        if farewell.is_over:
            self.state = State.CLOSED
            return []
        farewell.said(now)
        return [self._packer.build_close(self.receiver, now, farewell.frame)]

    def take_challenge(self) -> tuple[bytes, Address] | None:
        """A sealed PATH_CHALLENGE and the address it goes to, if one waits."""
        path = self.path
        if path.candidate is None or not path.challenge_waits or self.state is not State.OPEN:
            return None
        path.challenge_waits = False
        return self._packer.alone(wire.encode_path_challenge(path.challenge)), path.candidate

    def deadline(self) -> float | None:
        """When `handle_timeout` has something to do; None once the connection is gone."""
        if self.state is State.CLOSED:
            return None
        if self._farewell is not None:
            return self._farewell.at if self.state is State.CLOSING else self._farewell.ends_at
        result = self._last_received_at + self._idle_seconds
        keepalive = self._keepalive_at()
        if keepalive < result:
            result = keepalive
        due = self._sender.deadline()
        if due is not None and due < result:
            result = due
        due = self.receiver.deadline()
        if due is not None and due < result:
            result = due
        if self._timing is not None:
            due = self._timing.deadline()
            if due is not None and due < result:
                result = due
        return result

    def _keepalive_at(self) -> float:
        recovery = self._sender.recovery
        # What is in flight asks the peer already, and a full window would hold the PING back.
        if recovery.sent:
            return math.inf
        return max(self._last_received_at, recovery.last_eliciting_at) + self._keepalive_seconds

    def handle_timeout(self, now: float) -> None:
        """The deadline has passed."""
        self.touch()
        farewell = self._farewell
        if self.state is State.DRAINING and farewell is not None and now >= farewell.ends_at:
            self.state = State.CLOSED
        if self.state is not State.OPEN:
            return
        if now >= self._last_received_at + self._idle_seconds:
            self.end_silently(CloseCode.IDLE, "nothing came from the peer", now)
            return
        if now >= self._sender.recovery.answered_at + self._idle_seconds:
            # Whoever hears nothing from us goes away by itself; this one lets packets pile up.
            self.end_silently(CloseCode.IDLE, "the peer acknowledges nothing", now)
            return
        self._sender.handle_timeout(now)
        self.receiver.expire_partial(now)
        if now >= self._keepalive_at():
            self._sender.ping_due = True
