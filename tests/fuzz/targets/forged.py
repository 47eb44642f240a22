"""Strangers who know the connection ids of an open session, but not its keys.

The input is steps that forge, cut, repeat and reflect packets towards both sides. The session
stays, and what both sides then say arrives once.
"""

from __future__ import annotations

from typing import Final

from aerogram.core import wire
from aerogram.core.connection import State
from aerogram.core.outgoing import Outgoing
from tests.fuzz.hosts import (
    CLIENT,
    CLIENT_CID,
    ELSEWHERE,
    SERVER,
    SERVER_CID,
    SPECS,
    Address,
    Datagram,
    Host,
    add_session,
    settle,
)
from tests.fuzz.steps import Step, read_steps

INPUT_BYTES_MOST: Final = 2048
LONGEST_WAIT_SECONDS: Final = 0.3
"""Less than a timeout of the session in all steps together."""


class Forger:
    """Both sides of a session, and who stands in between."""

    def __init__(self) -> None:
        self.hosts = {SERVER: Host(serves=True), CLIENT: Host(serves=False, seed=1)}
        self.connections = {
            SERVER: add_session(self.hosts[SERVER], serves=True),
            CLIENT: add_session(self.hosts[CLIENT], serves=False),
        }
        self._cids = {SERVER: SERVER_CID, CLIENT: CLIENT_CID}
        self._genuine: dict[Address, list[bytes]] = {SERVER: [], CLIENT: []}
        self._channels = {
            address: connection.open_channel(SPECS["ordered"])
            for address, connection in self.connections.items()
        }
        self._kinds = (
            self._anything,
            self._data,
            self._patched,
            self._cut,
            self._repeated,
            self._reflected,
            self._reset,
            self._genuine_turn,
        )

    def run(self, steps: list[Step]) -> None:
        """Take every step, each after its wait; bit 3 of the kind is who hears it."""
        for step in steps:
            self._settle([])
            self.wait(min(step.wait_seconds, LONGEST_WAIT_SECONDS))
            target = CLIENT if step.kind & 8 else SERVER
            self._kinds[step.kind & 7](step, target)

    def wait(self, seconds: float) -> None:
        """Let time pass on both sides."""
        for address, host in self.hosts.items():
            self._settle([(address, datagram) for datagram in host.wait(seconds)])

    def say(self, source: Address, message: bytes) -> None:
        """One side sends a message, and everything that leaves arrives."""
        self.connections[source].send(self._channels[source], Outgoing(message))
        self._settle([(source, datagram) for datagram in self.hosts[source].turn()])

    def _settle(self, sent: list[tuple[Address, Datagram]]) -> None:
        for _, (packet, target) in sent:
            if target in self._genuine:
                self._genuine[target].append(packet)
        settle(self.hosts, sent)

    def _hear(self, packet: bytes, step: Step, target: Address) -> None:
        other = CLIENT if target == SERVER else SERVER
        source = ELSEWHERE if step.from_elsewhere else other
        sent = self.hosts[target].hear(packet, source)
        self._settle([(target, datagram) for datagram in sent])

    def _chosen(self, step: Step, target: Address) -> bytes:
        """A genuine packet that one of the steps before has caught."""
        packets = self._genuine[target]
        return packets[step.body[0] % len(packets)] if packets and step.body else b""

    def _anything(self, step: Step, target: Address) -> None:
        self._hear(step.body, step, target)

    def _data(self, step: Step, target: Address) -> None:
        phase = step.body[0] & 1 if step.body else 0
        head = bytes((wire.DATA | phase,)) + self._cids[target]
        self._hear(head + step.body[1:], step, target)

    def _patched(self, step: Step, target: Address) -> None:
        packet = bytearray(self._chosen(step, target))
        for at in range(1, len(step.body) - 1, 2):
            if packet:
                packet[step.body[at] % len(packet)] ^= step.body[at + 1]
        self._hear(bytes(packet), step, target)

    def _cut(self, step: Step, target: Address) -> None:
        packet = self._chosen(step, target)
        size = step.body[1] if len(step.body) > 1 else 0
        self._hear(packet[:size] + step.body[2:], step, target)

    def _repeated(self, step: Step, target: Address) -> None:
        self._hear(self._chosen(step, target), step, target)

    def _reflected(self, step: Step, target: Address) -> None:
        """What one side sent comes back to it, with the id that it listens to."""
        packet = self._chosen(step, CLIENT if target == SERVER else SERVER)
        self._hear(packet[:1] + self._cids[target] + packet[9:], step, target)

    def _reset(self, step: Step, target: Address) -> None:
        """A RESET with the right id and a token that is not."""
        remote = CLIENT_CID if target == SERVER else SERVER_CID
        token = step.body.ljust(16, b"\0")[:16]
        self._hear(bytes((wire.RESET,)) + remote + token, step, target)

    def _genuine_turn(self, step: Step, target: Address) -> None:
        self.say(CLIENT if target == SERVER else SERVER, step.body)


def target(data: bytes) -> None:
    """Forgeries change nothing."""
    forger = Forger()
    forger.run(read_steps(data))
    before = {address: len(host.messages) for address, host in forger.hosts.items()}
    forger.say(CLIENT, b"up")
    forger.say(SERVER, b"down")
    forger.wait(LONGEST_WAIT_SECONDS)
    assert forger.hosts[SERVER].messages[before[SERVER] :] == [b"up"]
    assert forger.hosts[CLIENT].messages[before[CLIENT] :] == [b"down"]
    for connection in forger.connections.values():
        assert connection.state is State.OPEN
        assert connection.stats.packets_invalid == 0
    for host in forger.hosts.values():
        host.finish()
