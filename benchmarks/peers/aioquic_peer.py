"""QUIC through aioquic: one stream with length-prefixed messages, encrypted.

Counted are messages that the protocol's event handler cuts out of the stream. It answers before
aioquic transmits, which is faster by far than a coroutine behind a queue. aioquic queues what is
written without end, so the receiver acknowledges every `STRIDE` messages of a one-way load and the
sender has at most `OUTSTANDING_MAX` under way.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.control import Control
from benchmarks.mailbox import Frames, framed
from benchmarks.work import Load, Tally, Work

OUTSTANDING_MAX = 4096
STRIDE = 512
ALPN = ["benchmark"]


class MessageProtocol(QuicConnectionProtocol):
    """Messages out of one QUIC stream. What is sent in one turn of the loop leaves together."""

    def __init__(self, *args: Any, handler: Handler, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stream = 0
        self._frames = Frames()
        self._handler = handler
        self._flush_is_due = False

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            for message in self._frames.split(event.data):
                self._handler(self, message)

    def answer(self, message: bytes) -> None:
        """Send from a handler: aioquic transmits when the events of a datagram are handled."""
        self._quic.send_stream_data(self._stream, framed(message))

    async def send(self, message: bytes) -> None:
        self._quic.send_stream_data(self._stream, framed(message))
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        self.transmit()


Handler = Callable[[MessageProtocol, bytes], None]


def protocol_with(handler: Handler) -> Callable[..., MessageProtocol]:
    def create(*args: Any, **options: Any) -> MessageProtocol:
        return MessageProtocol(*args, handler=handler, **options)

    return create


def receiver_handler(work: Work, tally: Tally) -> Handler:
    def count_and_acknowledge(protocol: MessageProtocol, message: bytes) -> None:
        tally.take()
        if tally.count % STRIDE == 0:
            protocol.answer(b"+")

    def count_and_echo(protocol: MessageProtocol, message: bytes) -> None:
        tally.take()
        protocol.answer(message)

    return count_and_echo if work.echoes else count_and_acknowledge


def sender_handler(work: Work, load: Load) -> Handler:
    def take_acknowledgement(protocol: MessageProtocol, message: bytes) -> None:
        load.acknowledged(STRIDE)

    def take_echo(protocol: MessageProtocol, message: bytes) -> None:
        load.echoed()

    return take_echo if work.echoes else take_acknowledgement


def certificate_in(folder: Path) -> QuicConfiguration:
    """A server's configuration with a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    configuration.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return configuration


async def run_receiver(control: Control, work: Work) -> None:
    tally = Tally()
    handler = receiver_handler(work, tally)
    with tempfile.TemporaryDirectory() as folder:
        configuration = certificate_in(Path(folder))
    server = await serve(
        "127.0.0.1", 0, configuration=configuration, create_protocol=protocol_with(handler)
    )
    transport = server._transport  # the only way to learn the port
    assert transport
    await control.receive(tally, transport.get_extra_info("sockname"))
    server.close()


async def run_sender(control: Control, work: Work) -> None:
    host, port = await control.hear()
    load = Load(work) if work.echoes else Load(work, window=OUTSTANDING_MAX)
    handler = sender_handler(work, load)
    configuration = QuicConfiguration(alpn_protocols=ALPN, verify_mode=ssl.CERT_NONE)
    async with connect(
        host, port, configuration=configuration, create_protocol=protocol_with(handler)
    ) as client:
        assert isinstance(client, MessageProtocol)
        await control.send(load, client.send)
