"""What packets are sealed with: both sides agree on it, and nobody between them has a say."""

from __future__ import annotations

from random import Random

import pytest

from aerogram.config import Cipher, Config
from aerogram.core import handshake as handshakes
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec
from aerogram.core.delivery import preset
from aerogram.core.endpoint import Endpoint
from aerogram.core.events import ConnectFailure
from aerogram.core.handshake import CIPHERS, ServerSecurity
from aerogram.core.keys import Aead, Identity, mac1, mac1_key, psk_identifier
from aerogram.core.noise import HandshakeState
from aerogram.core.wire import Mode
from aerogram.errors import NoCommonCipher
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair, Side
from tests.core.parties import CLIENT, CLIENT_IDENTITY, PSK, SECURITY, SERVER, SERVER_IDENTITY

AES: Cipher = "aes-256-gcm"
CHACHA: Cipher = "chacha20-poly1305"
SECRET = [Mode.PSK, Mode.PINNED]


def only(*ciphers: Cipher) -> Config:
    return Config(ciphers=ciphers)


def endpoints(client: Config, server: Config) -> tuple[Endpoint, Endpoint]:
    security = ServerSecurity(SERVER_IDENTITY, PSK, insecure=True)
    return (
        Endpoint(client, random_bytes=Random(1).randbytes, specs={}),
        Endpoint(server, random_bytes=Random(2).randbytes, specs={}, security=security),
    )


def packets(endpoint: Endpoint, now: float = 0.0) -> list[bytes]:
    return [packet for transmit in endpoint.poll_transmit(now) for packet in transmit.packets]


def asked(mode: Mode, client: Endpoint) -> bytes:
    client.connect(SERVER, SECURITY[mode], 0.0, 5.0)
    [init] = packets(client)
    return init


def answered(server: Endpoint, init: bytes) -> list[bytes]:
    server.receive_datagram(init, CLIENT, 0.0)
    return packets(server)


def aeads(endpoint: Endpoint) -> list[Aead]:
    return [c._sender.protection._aead for c in endpoint._connections.values()]


# -- agreement


@pytest.mark.parametrize("mode", SECRET)
@pytest.mark.parametrize(
    ("client", "server", "chosen"),
    [
        (Config(), Config(), Aead.AES_256_GCM),
        (only(CHACHA, AES), Config(), Aead.CHACHA20_POLY1305),
        (only(CHACHA), Config(), Aead.CHACHA20_POLY1305),
        (Config(), only(CHACHA), Aead.CHACHA20_POLY1305),
        (Config(), only(CHACHA, AES), Aead.AES_256_GCM),
        (only(AES), only(AES), Aead.AES_256_GCM),
        (only(CHACHA), only(CHACHA), Aead.CHACHA20_POLY1305),
        (only(AES), only(CHACHA), None),
        (only(CHACHA), only(AES), None),
    ],
)
def test_the_client_proposes_and_the_server_decides(
    mode: Mode, client: Config, server: Config, chosen: Aead | None
) -> None:
    ours, theirs = endpoints(client, server)
    [resp] = answered(theirs, asked(mode, ours))
    ours.receive_datagram(resp, SERVER, 0.1)
    if chosen is not None:
        assert aeads(ours) == aeads(theirs) == [chosen]
        return
    assert aeads(ours) == []
    failure = ours.poll_event()
    assert isinstance(failure, ConnectFailure)
    assert isinstance(failure.error, NoCommonCipher)
    assert server.ciphers[0] in str(failure.error)
    assert packets(ours, 1.0) == []  # it has given up


def test_plain_text_has_no_cipher() -> None:
    ours, theirs = endpoints(only(CHACHA), only(AES))
    [resp] = answered(theirs, asked(Mode.INSECURE, ours))
    ours.receive_datagram(resp, SERVER, 0.1)
    assert aeads(ours) == aeads(theirs) == [Aead.NONE]


def proposing(mode: Mode, aead: int) -> bytes:
    """The INIT of a client that holds every key and proposes this."""
    parameters = handshakes.local_parameters(Config(), Aead.NONE)
    parameters.aead = aead
    noise_message = parameters.encode()
    if mode is not Mode.INSECURE:
        noise_message = HandshakeState(
            handshakes._protocol_name(mode),
            initiator=True,
            prologue=handshakes._prologue(mode, bytes(8)),
            ephemeral_private=bytes(range(32)),
            static=CLIENT_IDENTITY.static,
            remote_static=SERVER_IDENTITY.public_bytes,
            psk=PSK,
        ).write_message(noise_message)
    return authentic(mode, wire.encode_init(mode, bytes(8), b"", noise_message))


def authentic(mode: Mode, body: bytes) -> bytes:
    """With the mac1 that everybody can make who knows the server."""
    known = {
        Mode.INSECURE: b"insecure",
        Mode.PSK: psk_identifier(PSK),
        Mode.PINNED: SERVER_IDENTITY.public_bytes,
    }
    return body + mac1(mac1_key(known[mode]), body)


@pytest.mark.parametrize("mode", SECRET)
def test_a_proposal_of_no_encryption_is_not_answered(mode: Mode) -> None:
    _, server = endpoints(Config(), Config())
    assert answered(server, proposing(mode, 0)) == []
    assert server.stats.dropped_unauthentic == 1
    assert aeads(server) == []


@pytest.mark.parametrize("aead", [1, 2, 3])
def test_plain_text_that_proposes_encryption_is_not_answered(aead: int) -> None:
    _, server = endpoints(Config(), Config())
    assert answered(server, proposing(Mode.INSECURE, aead)) == []
    assert answered(server, proposing(Mode.INSECURE, 0)) != []


@pytest.mark.parametrize("mode", SECRET)
@pytest.mark.parametrize("aead", [3, 99, (1 << 62) - 1])
def test_an_unknown_proposal_is_answered_with_what_the_server_likes_best(
    mode: Mode, aead: int
) -> None:
    _, server = endpoints(Config(), only(CHACHA, AES))
    assert len(answered(server, proposing(mode, aead))) == 1
    assert aeads(server) == [Aead.CHACHA20_POLY1305]


# -- an attacker on the path


@pytest.mark.parametrize("mode", SECRET)
def test_no_bit_of_a_proposal_can_be_changed_on_the_way(mode: Mode) -> None:
    """The attacker can make the mac1 anew, as whoever knows the server can."""
    client, server = endpoints(Config(ciphers=(CHACHA, AES)), Config())
    init = asked(mode, client)
    packet = wire.decode_handshake_untrusted(init)
    assert isinstance(packet, wire.Init)
    for bit in range(8 * len(packet.noise)):
        changed = bytearray(packet.noise)
        changed[bit // 8] ^= 1 << bit % 8
        forged = authentic(mode, wire.encode_init(mode, packet.client_cid, b"", bytes(changed)))
        assert answered(server, forged) == [], bit
    assert aeads(server) == []
    [resp] = answered(server, init)
    client.receive_datagram(resp, SERVER, 0.1)
    assert aeads(client) == aeads(server) == [Aead.CHACHA20_POLY1305]


@pytest.mark.parametrize("mode", SECRET)
def test_no_bit_of_the_choice_can_be_changed_on_the_way(mode: Mode) -> None:
    client, server = endpoints(Config(ciphers=(CHACHA, AES)), Config())
    [resp] = answered(server, asked(mode, client))
    for bit in range(8 * len(resp)):
        changed = bytearray(resp)
        changed[bit // 8] ^= 1 << bit % 8
        client.receive_datagram(bytes(changed), SERVER, 0.1)
        assert aeads(client) == [], bit
        assert client.poll_event() is None, bit
    client.receive_datagram(resp, SERVER, 0.1)
    assert aeads(client) == [Aead.CHACHA20_POLY1305]


def test_an_answer_to_the_attackers_own_proposal_is_not_taken() -> None:
    """Whoever knows the server's key can ask in the client's name, and learns nothing by it."""
    client, server = endpoints(Config(ciphers=(CHACHA, AES)), Config())
    packet = wire.decode_handshake_untrusted(asked(Mode.PINNED, client))
    assert isinstance(packet, wire.Init)
    attacker = HandshakeState(
        handshakes._protocol_name(Mode.PINNED),
        initiator=True,
        prologue=handshakes._prologue(Mode.PINNED, packet.client_cid),
        ephemeral_private=bytes(range(7, 39)),
        static=Identity.from_private_bytes(bytes(range(9, 41))).static,
        remote_static=SERVER_IDENTITY.public_bytes,
    )
    message = attacker.write_message(
        handshakes.local_parameters(Config(), Aead.AES_256_GCM).encode()
    )
    body = wire.encode_init(Mode.PINNED, packet.client_cid, b"", message)
    [resp] = answered(server, authentic(Mode.PINNED, body))
    client.receive_datagram(resp, SERVER, 0.1)
    assert aeads(client) == []
    assert client.stats.dropped_unauthentic == 1


# -- sessions


@pytest.mark.parametrize("cipher", CIPHERS)
def test_messages_arrive_and_keys_change_with_every_cipher(cipher: Cipher) -> None:
    ordered = preset("ordered")
    assert ordered is not None
    pair = Pair(
        [ChannelSpec("lines", ordered)],
        config=only(cipher),
        link=Link(delay=0.01, loss=0.05, reorder=0.05, duplicate=0.05),
        mode=Mode.PSK,
        seed=5,
    )
    pair.open()
    sides = (pair.client, pair.server)
    for side in sides:
        protection = side.connection._sender.protection
        assert protection._aead is CIPHERS[cipher]
        protection._rekey_packets = 20
        protection._rekey_at = side.connection._sender.next_number + 20
    phases: dict[str, set[int]] = {"client": set(), "server": set()}

    def watch(side: Side, packet: bytes, _now: float) -> None:
        if packet[0] & 0xFE == wire.DATA:
            phases[side.address[0]].add(packet[0] & 1)

    pair.on_packet = watch
    lines = [bytes([n % 251]) * 700 for n in range(600)]
    for line in lines:
        for side in sides:
            side.send("lines", line)
    assert pair.settle(120.0)
    assert pair.client.payloads("lines") == pair.server.payloads("lines") == lines
    assert phases == {"client": {0, 1}, "server": {0, 1}}
    for side in sides:
        assert side.endpoint.stats.dropped_unauthentic == 0
        assert side.connection._sender.protection._phase_first > 0
