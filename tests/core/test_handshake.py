"""Two endpoints agree on a session: what each learns and refuses, and how its keys change."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from aerogram.config import Config
from aerogram.core import handshake as handshakes
from aerogram.core import wire
from aerogram.core.endpoint import Endpoint
from aerogram.core.events import SessionOpened
from aerogram.core.handshake import ClientHandshake, ServerSecurity
from aerogram.core.keys import Aead, checksummed
from aerogram.core.noise import HandshakeState
from aerogram.core.wire import Mode
from aerogram.errors import DecodeError
from tests.core.parties import CLIENT, CLIENT_IDENTITY, PSK, SECURITY, SERVER, SERVER_IDENTITY


class Pair:
    """A client and a server endpoint with a perfect wire and a clock of their own."""

    def __init__(self, mode: Mode) -> None:
        rng = random.Random(1)
        security = ServerSecurity(SERVER_IDENTITY, psk=PSK, insecure=True)
        self.now = 0.0
        self.client = Endpoint(Config(), random_bytes=rng.randbytes, specs={})
        self.server = Endpoint(Config(), random_bytes=rng.randbytes, specs={}, security=security)
        self.first_bytes: list[int] = []
        self.handshake = self.client.connect(SERVER, SECURITY[mode], self.now, 5.0)

    def step(self) -> None:
        self.now += 0.01
        for endpoint in (self.client, self.server):
            endpoint.handle_timeout(self.now)
        ways = ((self.client, self.server, CLIENT), (self.server, self.client, SERVER))
        for sender, receiver, address in ways:
            for transmit in sender.poll_transmit(self.now):
                for packet in transmit.packets:
                    self.first_bytes.append(packet[0])
                    receiver.receive_datagram(bytes(packet), address, self.now)


@pytest.mark.parametrize("mode", [*Mode])
def test_both_sides_open_one_session(mode: Mode) -> None:
    pair = Pair(mode)
    for _ in range(5):
        pair.step()
    opened = (pair.client.poll_event(), pair.server.poll_event())
    assert all(isinstance(event, SessionOpened) for event in opened)
    [at_client], [at_server] = pair.client.connections, pair.server.connections
    pinned = mode is Mode.PINNED
    assert at_client.peer_key == (SERVER_IDENTITY.public_bytes if pinned else None)
    assert at_server.peer_key == (CLIENT_IDENTITY.public_bytes if pinned else None)


# -- a server that is busy, and answers that are not what it sent

BUSY = Config(half_open_before_retry=0)


def sent(endpoint: Endpoint, now: float) -> list[bytes]:
    endpoint.handle_timeout(now)
    runs = endpoint.poll_transmit(now)
    return [bytes(packet) for transmit in runs for packet in transmit.packets]


def asked(client: Endpoint, server: Endpoint, now: float = 0.0) -> list[bytes]:
    """What the server answers to what the client sends."""
    for packet in sent(client, now):
        server.receive_datagram(packet, CLIENT, now)
    return sent(server, now)


def busy_server(seed: int) -> Endpoint:
    """All servers have one identity; each knows the tokens that it made."""
    security = ServerSecurity(SERVER_IDENTITY, psk=PSK, insecure=True)
    rng = random.Random(seed)
    return Endpoint(BUSY, random_bytes=rng.randbytes, specs={}, security=security)


def broken(packet: bytes) -> list[bytes]:
    """The packet with one bit wrong, for each of its bits."""
    value = int.from_bytes(packet, "big")
    return [(value ^ 1 << bit).to_bytes(len(packet), "big") for bit in range(8 * len(packet))]


def opens(client: Endpoint, packet: bytes, now: float = 0.0) -> bool:
    client.receive_datagram(packet, SERVER, now)
    return isinstance(client.poll_event(), SessionOpened)


@pytest.mark.parametrize("mode", [*Mode])
def test_a_broken_retry_costs_a_client_nothing(mode: Mode) -> None:
    client, server = Pair(mode).client, busy_server(1)
    [retry] = asked(client, server)
    assert retry[0] == wire.RETRY
    for packet in broken(retry):
        assert not opens(client, packet)
    assert sent(client, 0.0) == [], "none of them is followed"
    assert not opens(client, retry)
    [resp] = asked(client, server)
    assert opens(client, resp)


def test_a_retry_is_for_one_init() -> None:
    client, server = Pair(Mode.PINNED).client, busy_server(1)
    [retry] = asked(client, server)
    other = Endpoint(Config(), random_bytes=random.Random(7).randbytes, specs={})
    other.connect(SERVER, SECURITY[Mode.PINNED], 0.0, 5.0)
    [others] = asked(other, server)
    cid = slice(2, 10)
    for stranger in (others, others[: cid.start] + retry[cid] + others[cid.stop :]):
        client.receive_datagram(stranger, SERVER, 0.0)
    assert sent(client, 0.0) == []
    for _ in range(3):  # copies
        client.receive_datagram(retry, SERVER, 0.0)
    assert len(sent(client, 0.0)) == 1
    client.receive_datagram(retry, SERVER, 0.0)
    assert sent(client, 0.0) == [], "it was for the INIT before"


@pytest.mark.parametrize("mode", [*Mode])
def test_a_token_that_is_worthless_costs_one_more_retry(mode: Mode) -> None:
    client = Pair(mode).client
    for seed in range(2):  # servers that have been restarted meanwhile
        [retry] = asked(client, busy_server(seed))
        assert retry[0] == wire.RETRY
        client.receive_datagram(retry, SERVER, 0.0)
    server = busy_server(2)
    [retry] = asked(client, server)
    client.receive_datagram(retry, SERVER, 0.0)
    [resp] = asked(client, server)
    assert opens(client, resp)


def test_a_client_follows_few_retries_at_once() -> None:
    client = Pair(Mode.PINNED).client
    followed = 0
    for seed in range(20):
        answers = asked(client, busy_server(seed))
        if not answers:
            break
        client.receive_datagram(answers[0], SERVER, 0.0)
        followed += 1
    assert followed == 1 + handshakes.RETRIES_LIMIT


@pytest.mark.parametrize("mode", [*Mode])
def test_a_broken_answer_costs_a_client_nothing(mode: Mode) -> None:
    pair = Pair(mode)
    [resp] = asked(pair.client, pair.server)
    assert resp[0] == wire.RESP
    for packet in broken(resp):
        assert not opens(pair.client, packet)
    assert opens(pair.client, resp)


def test_a_session_changes_its_keys_while_it_lasts() -> None:
    pair = Pair(Mode.PINNED)
    for _ in range(5):
        pair.step()
    [at_client], [at_server] = pair.client.connections, pair.server.connections
    for connection in (at_client, at_server):
        protection = connection._sender.protection
        protection._rekey_packets = 3
        protection._rekey_at = connection._sender.next_number + 3
    pair.first_bytes.clear()
    for _ in range(60):
        at_client.ping()
        pair.step()
    phases = [byte & 1 for byte in pair.first_bytes if byte & 0xFE == wire.DATA]
    changes = sum(1 for before, after in pairwise(phases) if before != after)
    assert changes > 10
    assert pair.client.stats.dropped_unauthentic == pair.server.stats.dropped_unauthentic == 0


def answer_with(handshake: ClientHandshake, mode: Mode, aead: int) -> wire.Resp:
    """The RESP of a server that holds every key and names this AEAD."""
    parameters = handshakes.local_parameters(Config(), Aead.NONE)
    parameters.aead = aead
    parameters.connection_id = bytes(8)
    init = wire.decode_handshake_untrusted(handshake.init(0.0))
    assert isinstance(init, wire.Init)
    if mode is Mode.INSECURE:
        return wire.Resp(init.client_cid, checksummed(parameters.encode(), init.client_cid))
    noise = HandshakeState(
        handshakes._protocol_name(mode),
        initiator=False,
        prologue=handshakes._prologue(mode, init.client_cid),
        ephemeral_private=bytes(range(32)),
        static=SERVER_IDENTITY.static,
        psk=PSK,
    )
    noise.read_message(init.noise)
    return wire.Resp(init.client_cid, noise.write_message(parameters.encode()))


@pytest.mark.parametrize(
    ("window", "datagram", "ack_delay"),
    [(4095, 1200, 0), (4096, 1199, 0), (4096, 1200, 16_384_000), (4096, 1200, (1 << 62) - 1)],
)
def test_a_peer_that_no_session_can_work_with_is_refused(
    window: int, datagram: int, ack_delay: int
) -> None:
    parameters = wire.TransportParameters(
        channel_window_bytes=4096, max_datagram_bytes=1200, max_ack_delay_microseconds=16_383_999
    )
    assert handshakes.decode_peer_parameters(parameters.encode()) == parameters
    parameters.channel_window_bytes = window
    parameters.max_datagram_bytes = datagram
    parameters.max_ack_delay_microseconds = ack_delay
    with pytest.raises(DecodeError, match="the peer"):
        handshakes.decode_peer_parameters(parameters.encode())


@pytest.mark.parametrize("mode", [*Mode])
def test_a_server_cannot_choose_an_aead_that_changes_the_bargain(mode: Mode) -> None:
    secret = (Aead.AES_256_GCM, Aead.CHACHA20_POLY1305)
    allowed = {int(Aead.NONE)} if mode is Mode.INSECURE else set(map(int, secret))
    handshake = Pair(mode).handshake
    for aead in (0, 1, 2, 3, 99):
        answer = answer_with(handshake, mode, aead)
        if aead in allowed:
            assert handshake.respond(answer).remote_cid == bytes(8)
            continue
        with pytest.raises(DecodeError, match="AEAD"):
            handshake.respond(answer)
