"""The golden vectors of `WIRE.md`: each name in its table, and the value that it stands for."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aerogram.core import wire
from aerogram.core.keys import mac1, mac1_key, psk_identifier
from aerogram.core.noise import HandshakeState, KeyPair
from aerogram.core.wire import Mode, TransportParameters

SPECIFICATION = Path(wire.__file__).with_name("WIRE.md")

CID = bytes.fromhex("0102030405060708")
TOKEN = bytes.fromhex("101112131415161718191a1b1c1d1e1f")
PARAMETERS = TransportParameters(
    max_record_bytes=16777216,
    channel_window_bytes=1048576,
    idle_timeout_milliseconds=30000,
    max_datagram_bytes=1200,
    max_ack_delay_microseconds=5000,
    aead=1,
    connection_id=CID,
    reset_token=TOKEN,
)

PACKETS: dict[str, wire.Init | wire.Resp | wire.Retry | wire.Reset] = {
    "INIT": wire.Init(Mode.PSK, CID, b"token", b"noise"),
    "RESP": wire.Resp(CID, b"noise"),
    "RETRY": wire.Retry(CID, b"token"),
    "RESET": wire.Reset(CID, TOKEN),
}

FRAMES: dict[str, wire.Frame] = {
    "PING": wire.Ping(),
    "ACK": wire.Ack(5000, [(98, 100), (90, 95), (7, 20)]),
    "MESSAGES": wire.Messages(3, 70000, [b"", b"abc", b"z" * 70]),
    "MESSAGE": wire.Messages(3, 70000, [b"abc"]),
    "FRAGMENT": wire.Fragment(2, 9, 65536, 1024, b"piece"),
    "CHANNEL": wire.ChannelAnnounce(3, "café", "ordered"),
    "CREDIT": wire.Credit(3, 1 << 20),
    "SKIP": wire.Skip(3, 64, 96),
    "REFUSE": wire.Refuse(3, 64, 2, "no"),
    "PATH_CHALLENGE": wire.PathChallenge(CID),
    "PATH_RESPONSE": wire.PathResponse(CID),
    "NEW_CONNECTION_ID": wire.NewConnectionId(2, 1, CID, TOKEN),
    "RETIRE_CONNECTION_ID": wire.RetireConnectionId(16384),
    "CLOSE": wire.Close(256, "bye"),
    "LIFETIMES": wire.Lifetimes(3, 70000, [(2, 250), (1, 0), (40, 16384)]),
    "TIME": wire.Time(10_000_000),
    "TIME_ANSWER": wire.TimeAnswer(10_000_000, 12_500_000, 12_500_050),
}


def published() -> dict[str, bytes]:
    """The vectors as `WIRE.md` prints them; `00*3` stands for 00 three times."""
    text = SPECIFICATION.read_text("utf-8")
    rows = re.findall(r"^\| (\S+) \| `([0-9a-f* ]+)` \|$", text, re.MULTILINE)
    return {name: bytes.fromhex(_unfolded(row)) for name, row in rows}


def _unfolded(text: str) -> str:
    return re.sub(r"([0-9a-f]{2})\*(\d+)", lambda match: match[1] * int(match[2]), text)


def _encode_messages(frame: wire.Messages) -> bytes:
    header = wire.encode_messages_header(frame.channel, frame.first_number, len(frame.payloads))
    return header + b"".join(wire.LENGTH_PREFIX[len(data)] + data for data in frame.payloads)


def _encode_fragment(frame: wire.Fragment) -> bytes:
    start, size = frame.offset, len(frame.data)
    numbers = (frame.channel, frame.number, frame.total_bytes, start, size)
    return wire.encode_fragment_header(*numbers) + frame.data


ENCODERS: dict[type, Callable[[Any], bytes]] = {
    wire.Messages: _encode_messages,
    wire.Ack: lambda f: wire.encode_ack(f.ranges[0][1], f.delay_microseconds, f.ranges),
    wire.Fragment: _encode_fragment,
    wire.Ping: lambda _: wire.PING,
    wire.ChannelAnnounce: lambda f: wire.encode_channel(f.channel, f.name, f.code),
    wire.Credit: lambda f: wire.encode_credit(f.channel, f.limit),
    wire.Skip: lambda f: wire.encode_skip(f.channel, f.number, f.cost),
    wire.Refuse: lambda f: wire.encode_refuse(f.channel, f.number, f.code, f.reason),
    wire.PathChallenge: lambda f: wire.encode_path_challenge(f.data),
    wire.PathResponse: lambda f: wire.encode_path_response(f.data),
    wire.NewConnectionId: lambda f: wire.encode_new_connection_id(
        f.sequence, f.retire_before, f.cid, f.reset_token
    ),
    wire.RetireConnectionId: lambda f: wire.encode_retire_connection_id(f.sequence),
    wire.Close: lambda f: wire.encode_close(f.code, f.reason),
    wire.Lifetimes: lambda f: wire.encode_lifetimes(f.channel, f.first_number, f.runs),
    wire.Time: lambda f: wire.encode_time(f.sent_at),
    wire.TimeAnswer: lambda f: wire.encode_time_answer(f.asked_at, f.received_at, f.sent_at),
}


def encode_frame(frame: wire.Frame) -> bytes:
    return ENCODERS[type(frame)](frame)


def encode_packet(packet: wire.Init | wire.Resp | wire.Retry | wire.Reset) -> bytes:
    """As it leaves, but for the mac1 of INIT and RETRY, for which there are zeros."""
    match packet:
        case wire.Init():
            body = wire.encode_init(packet.mode, packet.client_cid, packet.token, packet.noise)
            return body + bytes(wire.MAC1_BYTES)
        case wire.Resp():
            return wire.encode_resp(packet.client_cid, packet.noise)
        case wire.Retry():
            return wire.encode_retry(packet.client_cid, packet.token) + bytes(wire.MAC1_BYTES)
        case wire.Reset():
            return wire.encode_reset(packet.cid, packet.token)


def handshake_vectors() -> dict[str, bytes]:
    """Both packets and both keys of a handshake of each mode, from keys that are no secret.

    What packets are sealed with is in the payloads and does not change the keys.
    """
    psk, static, own = (
        bytes(range(32)),
        KeyPair(bytes(range(32, 64))),
        KeyPair(bytes(range(64, 96))),
    )
    ephemeral, answering = bytes(range(96, 128)), bytes(range(128, 160))
    vectors: dict[str, bytes] = {}
    nn_psk0, ik = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s", "Noise_IK_25519_ChaChaPoly_BLAKE2s"
    for label, mode, aead, name, known in (
        ("PSK", Mode.PSK, 1, nn_psk0, psk_identifier(psk)),
        ("PINNED", Mode.PINNED, 1, ik, static.public_bytes),
        ("PSK_CHACHA20", Mode.PSK, 2, nn_psk0, psk_identifier(psk)),
        ("PINNED_CHACHA20", Mode.PINNED, 2, ik, static.public_bytes),
    ):
        prologue = b"aerogram1" + bytes((wire.VERSION, mode)) + CID
        secret = psk if mode is Mode.PSK else None
        client = HandshakeState(
            name,
            initiator=True,
            prologue=prologue,
            ephemeral_private=ephemeral,
            static=own,
            remote_static=static.public_bytes,
            psk=secret,
        )
        server = HandshakeState(
            name,
            initiator=False,
            prologue=prologue,
            ephemeral_private=answering,
            static=static,
            psk=secret,
        )
        parameters = replace(PARAMETERS, aead=aead).encode()
        body = wire.encode_init(mode, CID, b"", client.write_message(parameters))
        init = wire.decode_handshake_untrusted(body + mac1(mac1_key(known), body))
        assert isinstance(init, wire.Init)
        server.read_message(init.noise)
        resp = wire.encode_resp(CID, server.write_message(parameters))
        vectors[f"{label}_INIT"] = body + mac1(mac1_key(known), body)
        vectors[f"{label}_RESP"] = resp
        keys = b"".join(server.split())
        assert vectors.setdefault(f"{mode.name}_KEYS", keys) == keys
    parameters = replace(PARAMETERS, aead=0).encode()
    body, key = wire.encode_init(Mode.INSECURE, CID, b"", parameters), mac1_key(b"insecure")
    vectors["INSECURE_INIT"] = body + mac1(key, body)
    checksum = zlib.crc32(CID + parameters).to_bytes(4, "big")
    vectors["INSECURE_RESP"] = wire.encode_resp(CID, parameters + checksum)
    return vectors
