"""A peer that holds the keys of a session and says anything: what lies behind the AEAD is reached.

`Hostile.run` reads steps (see `steps`); each seals frames, forges, repeats, or lets the host itself
do something, so that acknowledgements, credit and refusals meet messages on their way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aerogram.core import wire
from aerogram.core.channel import SendChannel
from aerogram.core.connection import Connection, State
from aerogram.core.handshake import decode_peer_parameters
from aerogram.core.keys import PacketProtection
from aerogram.core.outgoing import Outgoing
from aerogram.core.wire import Mode, TransportParameters
from aerogram.errors import CryptoError, DecodeError, MessageTooLarge
from tests.fuzz.hosts import (
    CLIENT,
    ELSEWHERE,
    SERVER,
    SPECS,
    Address,
    Host,
    add_session,
    client_security,
    peer_parameters,
    protection,
)
from tests.fuzz.steps import Step

REKEY_PACKETS: Final = 5
"""The hostile peer enters the next key phase so often, once it is told that it may."""
QUEUE_MESSAGES: Final = 64
"""The host's own program keeps no more in a channel's queue, as `Session.send` would."""


class Hostile:
    """A host with one session whose other side, which has the keys, is the input."""

    def __init__(
        self, host: Host, connection: Connection, keys: PacketProtection, address: Address
    ) -> None:
        self.host = host
        self.connection = connection
        self.address = address
        self._cid = connection.local_cid
        self._keys = keys
        self._number = 0
        self._last = b""
        self._channels: dict[int, SendChannel] = {}
        self._seen: list[int] = []
        """Numbers of the packets that the host has sent."""
        self._kinds: tuple[Callable[[Step], None], ...] = (
            self._say,
            self._say,
            self._say,
            self._say,
            self._say_later_number,
            self._repeat,
            self._forge,
            self._let_host_send,
            self._let_host_send_with_deadline,
            self._acknowledge_all,
            self._stop_or_start_handlers,
            self._let_host_ping,
            self._announce,
            self._allow_rekey,
            self._let_host_close,
            self._tell_time,
        )

    def run(self, steps: list[Step]) -> None:
        """Take every step, each after its wait."""
        for step in steps:
            self._note(self.host.wait(step.wait_seconds))
            self._kinds[step.kind](step)

    def _note(self, sent: list[tuple[bytes, tuple[str, int]]]) -> None:
        for packet, _ in sent:
            if packet[0] & 0xFE == wire.DATA:
                self._seen.append(int.from_bytes(packet[9:17], "big"))

    def _hear(self, packet: bytes, step: Step) -> None:
        address = ELSEWHERE if step.from_elsewhere else self.address
        self._note(self.host.hear(packet, address))

    # -- what the peer does

    def _say(self, step: Step) -> None:
        self.say(step.body, step)

    def say(self, frames: bytes, step: Step) -> None:
        """Send frames, as they are, in a packet of their own."""
        with suppress(CryptoError):  # numbers beyond what a key may seal
            self._last = self._keys.seal(self._cid, self._number, frames)
        self._number += 1
        self._hear(self._last, step)

    def _say_later_number(self, step: Step) -> None:
        """Skip as many packet numbers as the body's first bytes say."""
        skipped = int.from_bytes(step.body[:4], "big")
        self._number = min(self._number + skipped, (1 << 62) - 1000)
        self.say(step.body[4:], step)

    def _repeat(self, step: Step) -> None:
        if self._last:
            self._hear(self._last, step)

    def _forge(self, step: Step) -> None:
        """A packet with the right id that was sealed with no key or the wrong one."""
        self._hear(bytes((wire.DATA,)) + self._cid + step.body, step)

    def _acknowledge_all(self, step: Step) -> None:
        """An honest ACK of all that the host has sent, and frames after it."""
        if self._seen:
            largest = max(self._seen)
            self.say(wire.encode_ack(largest, 0, [(0, largest)]) + step.body, step)

    def _announce(self, step: Step) -> None:
        """A CHANNEL frame that the host takes, and frames after it."""
        names = [*SPECS]
        which = step.body[0] if step.body else 0
        name = names[which % len(names)]
        frame = wire.encode_channel(which // 4 % 10, name if which < 128 else "x" + name, name)
        self.say(frame + step.body[1:], step)

    def _allow_rekey(self, step: Step) -> None:
        self._keys.acknowledged(self._number)
        self.say(step.body, step)

    def _tell_time(self, step: Step) -> None:
        """Answer the question that the host asks for the time, with any time there is."""
        if self.connection.state is not State.OPEN:
            return
        self.connection.ask_for_time(self.host.now)
        self._note(self.host.turn())
        timing = self.connection.timing()
        if timing._asked_at >= 0:
            received_at = int.from_bytes(step.body[:7], "big")
            took = int.from_bytes(step.body[7:11], "big")
            answer = wire.encode_time_answer(timing._asked_at, received_at, received_at + took)
            self.say(answer + step.body[11:], step)
        assert math.isfinite(timing.clock.offset(self.host.now))
        assert timing.clock.error_bound(self.host.now) > 0.0

    # -- what the host's own program does

    def _channel(self, which: int) -> SendChannel:
        if which not in self._channels:
            spec = [*SPECS.values()][which]
            self._channels[which] = self.connection.open_channel(spec)
        return self._channels[which]

    def _send(self, step: Step, deadline: float | None) -> None:
        if self.connection.state is not State.OPEN:
            return
        channel = self._channel(step.body[0] % len(SPECS) if step.body else 0)
        size = int.from_bytes(step.body[1:3], "big")
        for _ in range(1 + (step.body[3] % 20 if len(step.body) > 3 else 0)):
            if len(channel.queue) < QUEUE_MESSAGES:
                with suppress(MessageTooLarge):
                    self.connection.send(channel, Outgoing(bytes(size), deadline))
        self._note(self.host.turn())

    def _let_host_send(self, step: Step) -> None:
        self._send(step, None)

    def _let_host_send_with_deadline(self, step: Step) -> None:
        self._send(step, self.host.now + 0.01)

    def _stop_or_start_handlers(self, step: Step) -> None:
        self.host.consumes = not self.host.consumes

    def _let_host_ping(self, step: Step) -> None:
        if self.connection.state is State.OPEN:
            self.connection.ping()
            self.connection.notify_when_drained()
            self._note(self.host.turn())

    def _let_host_close(self, step: Step) -> None:
        if self.connection.state is State.OPEN:
            self.connection.close(256, "enough", self.host.now)
            self._note(self.host.turn())


def open_session(*, serves: bool, parameters: TransportParameters | None = None) -> Hostile:
    """A host with one open session, as a server or as a client, and its hostile other side."""
    host = Host(serves=serves)
    connection = add_session(host, serves=serves, parameters=parameters)
    keys = protection(serves=not serves, rekey_packets=REKEY_PACKETS)
    return Hostile(host, connection, keys, CLIENT if serves else SERVER)


def half_open_session() -> Hostile:
    """A server that has answered a genuine client, which turns hostile before its first packet."""
    server, client = Host(serves=True), Host(serves=False, seed=1)
    client.endpoint.connect(SERVER, client_security(Mode.PSK), client.now, 5.0)
    [(init, _)] = client.turn()
    [(resp, _)] = server.hear(init, CLIENT)
    client.endpoint.receive_datagram(resp, SERVER, client.now)
    [connection] = server.endpoint._connections.values()
    [other] = client.endpoint._connections.values()
    return Hostile(server, connection, other._sender.protection, CLIENT)


def hostile_parameters(cid: bytes, data: bytes) -> TransportParameters:
    """What a peer says of itself: the input, where a handshake would take it."""
    with suppress(DecodeError):
        parameters = decode_peer_parameters(data)
        parameters.connection_id = cid
        return parameters
    return peer_parameters(cid)
