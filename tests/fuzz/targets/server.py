"""A server before any session: INITs of every mode, all other packets, and strangers in between.

The input is steps. Whatever it does, a server sends an address no more than came from there, and
genuine clients get their session once the forged handshakes have expired.
"""

from __future__ import annotations

import zlib
from collections import Counter
from typing import Final

from aerogram.config import SMALLEST_DATAGRAM_BYTES
from aerogram.core import wire
from aerogram.core.handshake import ClientHandshake
from aerogram.core.keys import Aead, PacketProtection, mac1
from aerogram.core.noise import HandshakeState
from aerogram.core.outgoing import Outgoing
from aerogram.core.wire import Mode
from tests.fuzz.bounds import check_nothing_held
from tests.fuzz.hosts import (
    CLIENT,
    CLIENT_IDENTITY,
    CONFIG,
    ELSEWHERE,
    PSK,
    QUIET_SECONDS,
    SERVER,
    SERVER_IDENTITY,
    SPECS,
    Address,
    Datagram,
    Host,
    client_security,
    settle,
)
from tests.fuzz.steps import Step, read_steps

INPUT_BYTES_MOST: Final = 4096
GENUINE_EVERY: Final = 4
"""Of so many inputs one is followed by a genuine handshake, which costs more than the input."""
_MAC1_KEYS: Final = {mode: client_security(mode).mac1_key() for mode in Mode}


class Stranger:
    """Says what the input says, and counts what comes back."""

    def __init__(self) -> None:
        self.server = Host(serves=True)
        self._came: Counter[Address] = Counter()
        self._left: Counter[Address] = Counter()
        self._token = b""
        self._kinds = (
            self._anything,
            self._any_init,
            self._init_with_noise,
            self._init_with_parameters,
            self._genuine_init_patched,
            self._data,
            self._reset,
            self._padded,
        )

    def run(self, steps: list[Step]) -> None:
        """Take every step, each after its wait."""
        for step in steps:
            self._note(self.server.wait(step.wait_seconds))
            self._kinds[step.kind % len(self._kinds)](step)

    def _hear(self, packet: bytes, step: Step) -> None:
        address = ELSEWHERE if step.from_elsewhere else CLIENT
        self._came[address] += len(packet)
        self._note(self.server.hear(packet, address))

    def _note(self, sent: list[Datagram]) -> None:
        for packet, address in sent:
            self._left[address] += len(packet)
            if packet[0] == wire.RETRY:
                self._token = wire.decode_handshake_untrusted(packet).token
        if not self.server.opened:
            assert all(self._left[each] <= self._came[each] for each in self._left), "amplified"

    # -- what is said

    def _anything(self, step: Step) -> None:
        self._hear(step.body, step)

    def _padded(self, step: Step) -> None:
        """Any bytes in the size of an INIT, with the mac1 that their mode asks for."""
        body = step.body.ljust(SMALLEST_DATAGRAM_BYTES - wire.MAC1_BYTES, b"\0")
        key = _MAC1_KEYS[Mode(body[2] % len(Mode))]
        self._hear(body + mac1(key, body), step)

    def _init(self, mode: Mode, cid: bytes, token: bytes, noise: bytes, step: Step) -> None:
        body = wire.encode_init(mode, cid, token, noise)
        self._hear(body + mac1(_MAC1_KEYS[mode], body), step)

    def _split(self, step: Step) -> tuple[Mode, bytes, bytes, bytes]:
        """Mode, client id, token and the rest, of a body that names them in a byte."""
        head = step.body[0] if step.body else 0
        token = (b"", self._token, step.body[1:25], bytes(24))[head >> 2 & 3]
        return Mode(head % 4 % len(Mode)), bytes(7) + bytes((head >> 4,)), token, step.body[1:]

    def _any_init(self, step: Step) -> None:
        """An INIT in the mode INSECURE: its transport parameters are plain text."""
        _, cid, token, rest = self._split(step)
        self._init(Mode.INSECURE, cid, token, rest, step)

    def _init_with_noise(self, step: Step) -> None:
        """An INIT whose Noise message is made up."""
        self._init(*self._split(step), step)

    def _init_with_parameters(self, step: Step) -> None:
        """A well-made Noise message around transport parameters that are made up."""
        mode, cid, token, rest = self._split(step)
        noise = rest
        if mode is not Mode.INSECURE:
            pattern = "NNpsk0" if mode is Mode.PSK else "IK"
            noise = HandshakeState(
                f"Noise_{pattern}_25519_ChaChaPoly_BLAKE2s",
                initiator=True,
                prologue=b"aerogram1" + bytes((wire.VERSION, mode)) + cid,
                ephemeral_private=PSK,
                static=CLIENT_IDENTITY.static,
                remote_static=SERVER_IDENTITY.public_bytes,
                psk=PSK,
            ).write_message(rest)
        self._init(mode, cid, token, noise, step)

    def _genuine_init_patched(self, step: Step) -> None:
        """A client's INIT in which the input changes bytes; its mac1 is made anew for some."""
        mode = Mode((step.body[0] if step.body else 0) % len(Mode))
        security = client_security(mode)
        handshake = ClientHandshake(CONFIG, security, SERVER, bytes(8), PSK, 0.0, 5.0)
        packet = bytearray(handshake.init(0.0))
        for at in range(1, len(step.body) - 2, 3):
            place = int.from_bytes(step.body[at : at + 2], "big")
            packet[place % len(packet)] ^= step.body[at + 2]
        if step.body[:1] >= b"\x80":
            packet[-wire.MAC1_BYTES :] = mac1(_MAC1_KEYS[mode], bytes(packet[: -wire.MAC1_BYTES]))
        self._hear(bytes(packet), step)

    def _data(self, step: Step) -> None:
        """A DATA packet to a connection that is half open, or to none."""
        cids = [*self.server.endpoint._connections, bytes(8)]
        head = step.body[0] if step.body else 0
        cid = cids[head % len(cids)]
        if head & 0x40:  # as in a session of the mode INSECURE
            keys = PacketProtection(bytes(32), bytes(32), Aead.NONE)
            self._hear(keys.seal(cid, head & 0x3F, step.body[1:]), step)
            return
        self._hear(bytes((wire.DATA | head >> 7,)) + cid + step.body[1:], step)

    def _reset(self, step: Step) -> None:
        self._hear(bytes((wire.RESET,)) + step.body.ljust(24, b"\0")[:24], step)


def genuine_client_gets_in(server: Host, mode: Mode) -> None:
    """A client that knows this server opens a session, and a message arrives once."""
    client = Host(serves=False, seed=9)
    client.now = server.now
    client.endpoint.connect(SERVER, client_security(mode), client.now, 5.0)
    hosts = {SERVER: server, ("genuine", 4): client}
    settle(hosts, [(("genuine", 4), datagram) for datagram in client.turn()])
    assert client.opened, "no session for a genuine client"
    [connection] = client.opened
    before = len(server.messages)
    connection.send(connection.open_channel(SPECS["ordered"]), Outgoing(b"genuine"))
    settle(hosts, [(("genuine", 4), datagram) for datagram in client.turn()])
    assert server.messages[before:] == [b"genuine"]
    client.finish()


def target(data: bytes) -> None:
    """Let strangers talk; then they are forgotten, and a genuine client comes."""
    stranger = Stranger()
    stranger.run(read_steps(data))
    server = stranger.server
    server.wait(QUIET_SECONDS)
    check_nothing_held(server.endpoint)
    chance, which = divmod(zlib.crc32(data), len(Mode))
    if chance % GENUINE_EVERY == 0:
        genuine_client_gets_in(server, Mode(which))
    server.finish()
