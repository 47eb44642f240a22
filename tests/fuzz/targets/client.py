"""A client that waits for its RESP or RETRY: forged answers of every kind, then the genuine one.

The input is `flags(1) steps`; the lowest bits of the flags are the mode. Strangers do not know the
keys, but one that does may answer with transport parameters that no session can work with.
"""

from __future__ import annotations

from typing import Final

from aerogram.core import wire
from aerogram.core.keys import checksummed, mac1
from aerogram.core.noise import HandshakeState
from aerogram.core.wire import Mode
from tests.fuzz.hosts import (
    CLIENT,
    ELSEWHERE,
    PSK,
    SERVER,
    SERVER_IDENTITY,
    Address,
    Host,
    client_security,
    settle,
)
from tests.fuzz.steps import Step, read_steps

INPUT_BYTES_MOST: Final = 2048
HANDSHAKE_SECONDS: Final = 5.0


class Waiting:
    """A client whose INIT has left, and everything that may answer it."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.client = Host(serves=False, seed=1)
        security, now = client_security(mode), self.client.now
        self.handshake = self.client.endpoint.connect(SERVER, security, now, HANDSHAKE_SECONDS)
        [(self.init, _)] = self.client.turn()
        self.server = Host(serves=True)
        [(self.resp, _)] = self.server.hear(self.init, CLIENT)
        self.knows_keys = False
        """A step has answered with the server's keys, as no stranger can."""
        self._kinds = (
            self._anything,
            self._resp_with_noise,
            self._resp_with_parameters,
            self._genuine_resp_patched,
            self._retry,
            self._reset,
            self._data,
            self._genuine_resp_cut,
        )

    def run(self, steps: list[Step]) -> None:
        """Take every step, each after its wait."""
        for step in steps:
            self.client.wait(step.wait_seconds)
            self._kinds[step.kind % len(self._kinds)](step)

    def _hear(self, packet: bytes, step: Step) -> None:
        address: Address = ELSEWHERE if step.from_elsewhere else SERVER
        self.client.hear(packet, address)

    def _anything(self, step: Step) -> None:
        self._hear(step.body, step)

    def _resp_with_noise(self, step: Step) -> None:
        self.knows_keys |= self.mode is Mode.INSECURE
        self._hear(wire.encode_resp(self.handshake.cid, step.body), step)

    def _resp_with_parameters(self, step: Step) -> None:
        """An answer that is authentic, with transport parameters that are made up."""
        self.knows_keys = True
        noise = step.body
        if self.mode is not Mode.INSECURE:
            pattern = "NNpsk0" if self.mode is Mode.PSK else "IK"
            state = HandshakeState(
                f"Noise_{pattern}_25519_ChaChaPoly_BLAKE2s",
                initiator=False,
                prologue=b"aerogram1" + bytes((wire.VERSION, self.mode)) + self.handshake.cid,
                ephemeral_private=PSK,
                static=SERVER_IDENTITY.static,
                psk=PSK,
            )
            state.read_message(wire.decode_handshake_untrusted(self.init).noise)
            noise = state.write_message(step.body)
        else:
            noise = checksummed(step.body, self.handshake.cid)
        self._hear(wire.encode_resp(self.handshake.cid, noise), step)

    def _genuine_resp_patched(self, step: Step) -> None:
        """The server's RESP in which the input changes bytes."""
        self.knows_keys |= self.mode is Mode.INSECURE
        packet = bytearray(self.resp)
        for at in range(0, len(step.body) - 1, 2):
            packet[step.body[at] % len(packet)] ^= step.body[at + 1]
        if bytes(packet) != self.resp:
            self._hear(bytes(packet), step)

    def _genuine_resp_cut(self, step: Step) -> None:
        self._hear(self.resp[: len(step.body)] + step.body, step)

    def _retry(self, step: Step) -> None:
        """One with a mac1 that is right, for the INIT that was sent first."""
        body = wire.encode_retry(self.handshake.cid, step.body)
        key = client_security(self.mode).mac1_key()
        self._hear(body + mac1(key, body + self.init[-wire.MAC1_BYTES :]), step)

    def _reset(self, step: Step) -> None:
        self._hear(bytes((wire.RESET,)) + step.body.ljust(24, b"\0")[:24], step)

    def _data(self, step: Step) -> None:
        self._hear(bytes((wire.DATA,)) + self.handshake.cid + step.body, step)


def target(data: bytes) -> None:
    """Forged answers change nothing: the genuine one still opens the session, if it is in time."""
    waiting = Waiting(Mode((data[0] if data else 0) % len(Mode)))
    client, before = waiting.client, waiting.client.now
    waiting.run(read_steps(data[1:]))
    in_time = client.now - before < HANDSHAKE_SECONDS
    if not waiting.knows_keys:
        assert not client.opened
        assert bool(client.failures) != in_time
    if in_time and not client.opened:
        hosts = {SERVER: waiting.server, CLIENT: client}
        waiting.server.now = client.now
        settle(hosts, [(SERVER, (waiting.resp, CLIENT))])
        assert client.opened, "the genuine answer was not taken"
        assert waiting.server.opened
    assert len(client.opened) + len(client.failures) <= 1
    client.finish()
