"""Whatever a receiver, a stranger or the system does, the protocol counts it and goes on."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import pytest

from aerogram.config import Config
from aerogram.errors import InvalidAddress
from aerogram.io import network as network_module
from aerogram.io.network import SocketNetwork
from aerogram.io.protocol import PacketProtocol, SendsRuns
from tests.io.fakes import LOOPBACK, Recorder, RefusingSocket, descriptors

Kind = Literal["auto", "batch", "asyncio"]
Open = Callable[..., Awaitable[PacketProtocol]]

BUFFER_BYTES = 10_000
NO_ROOM = [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM]
REFUSALS = [errno.EPERM, errno.EACCES, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EMSGSIZE]


@pytest.fixture(params=["auto", "batch", "asyncio"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def opened(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Open a protocol as sessions do, on a socket of the test's if it gives one."""
    protocols: list[PacketProtocol] = []

    async def open_(
        receiver: Recorder | None = None, udp: socket.socket | None = None
    ) -> PacketProtocol:
        config = Config(transport=kind, transport_buffer_bytes=BUFFER_BYTES)
        protocol = PacketProtocol(receiver or Recorder(), config)
        with monkeypatch.context() as patch:
            if udp is not None:
                patch.setattr(network_module, "create_udp_socket", lambda *_, **__: udp)
            await SocketNetwork(config).create_datagram_endpoint(
                lambda: protocol, local_address=LOOPBACK
            )
        protocols.append(protocol)
        return protocol

    yield open_
    for protocol in protocols:
        protocol.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def address_of(protocol: PacketProtocol) -> Any:
    assert protocol._transport is not None
    return protocol._transport.get_extra_info("sockname")


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """What a loop hears that should have heard nothing. uvloop goes by the logger alone."""
    found: list[Any] = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign]
    logging.getLogger("asyncio").addHandler(handler)
    yield found
    logging.getLogger("asyncio").removeHandler(handler)


# A receiver that raises


async def test_a_receiver_that_always_raises_stops_nothing(
    opened: Open, complaints: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    failing = Recorder("the receiver's mistake")
    protocol = await opened(failing)
    sender = await opened()
    for sent in range(0, 10_000, 100):
        sender.send_run([b"packet"] * 100, address_of(protocol))
        await failing.has(sent + 100)
    assert protocol.stats.receiver_errors >= 100
    assert protocol.stats.datagrams_received == 10_000
    assert complaints == []
    lines = [record.created for record in caplog.records if "receiver failed" in record.message]
    assert 1 <= len(lines) <= 10 * (2 + lines[-1] - lines[0])

    failing.failure = ""
    sender.send_run([b"the last"], address_of(protocol))
    assert (await failing.has(10_001))[-1] == b"the last"


async def test_no_call_to_a_receiver_lets_its_exception_out(kind: Kind) -> None:
    protocol = PacketProtocol(Recorder("no"))
    protocol._loop = asyncio.get_running_loop()
    protocol._run_transport = object()  # type: ignore[assignment]
    protocol.datagram_received(b"x", ("127.0.0.1", 9))
    protocol.run_received(b"xxxy", 2, ("127.0.0.1", 9))
    protocol.read_complete()
    protocol.report_error(OSError(errno.EPERM, "no"), None)
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    assert protocol.stats.receiver_errors == 5


# Bad addresses


async def test_a_bad_address_raises_at_the_caller_and_closes_nothing(
    opened: Open, complaints: list[Any]
) -> None:
    receiver = Recorder()
    protocol, sniffer = await opened(receiver), await opened(other := Recorder())
    port = address_of(sniffer)[1]
    bad: list[Any] = [
        None,
        "127.0.0.1",
        (),
        ("127.0.0.1",),
        ("127.0.0.1", port + 65536),  # uvloop keeps the lower 16 bits
        ("127.0.0.1", port - 65536),
        ("127.0.0.1", str(port)),
        ("127.0.0.1", float(port)),
        ("127.0.0.1", port, 0, 0),
        ("localhost", port),
        (b"127.0.0.1", port),
        ("::1", port),
        ("::ffff:127.0.0.1", port),
        ("127.0.0.1\x00", port),
        (None, port),
        ["127.0.0.1", port],
    ]
    for address in bad:
        with pytest.raises(InvalidAddress):
            protocol.send_run([b"astray"], address)
        with pytest.raises(InvalidAddress):
            protocol.send_run([b"astray"] * 3, address)
    protocol.send_run([b"right"], address_of(sniffer))
    assert await other.has(1) == [b"right"]
    sniffer.send_run([b"and back"], address_of(protocol))
    assert await receiver.has(1) == [b"and back"]
    assert complaints == []
    assert protocol.stats.datagrams_sent == 1
    assert protocol.stats.send_errors == 0


@pytest.mark.parametrize("packet", ["text", None, 7, object()])
async def test_what_are_no_bytes_raises_at_the_caller(opened: Open, packet: Any) -> None:
    receiver = Recorder()
    protocol = await opened(receiver)
    with pytest.raises(TypeError):
        protocol.send_run([packet], address_of(protocol))
    protocol.send_run([b"bytes"], address_of(protocol))
    assert await receiver.has(1) == [b"bytes"]


async def test_an_answer_to_a_stranger_at_port_0_is_lost_and_counted(opened: Open) -> None:
    protocol = await opened()
    protocol.send_run([b"x"], ("127.0.0.1", 0))
    assert protocol.stats.send_errors == 1
    assert not protocol._transport.is_closing()  # type: ignore[union-attr]


# Empty datagrams


async def test_empty_datagrams_mean_nothing_and_are_counted(opened: Open) -> None:
    receiver = Recorder()
    protocol = await opened(receiver)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect(address_of(protocol))
        for packet in (b"", b"one", b"", b"", b"two"):
            stranger.send(packet)
    assert await receiver.has(2) == [b"one", b"two"]
    assert protocol.stats.empty_received == 3
    assert protocol.stats.datagrams_received == 2


async def test_an_empty_packet_is_never_sent(opened: Open) -> None:
    receiver = Recorder()
    protocol = await opened(receiver)
    protocol.send_run([b"", b"ab", b"ab", b"", b"c"], address_of(protocol))
    assert await receiver.has(3) == [b"ab", b"ab", b"c"]
    assert protocol.stats.empty_received == 0
    assert protocol.stats.datagrams_sent == 3
    assert protocol.stats.send_dropped == 2


# What the system does not take


async def test_what_waits_for_the_system_is_bounded(opened: Open) -> None:
    udp = RefusingSocket(always=errno.EAGAIN)
    protocol = await opened(udp=udp)
    target = ("127.0.0.1", 9)
    for _ in range(200):
        protocol.send_run([bytes(100)] * 3, target)
        assert protocol._held_bytes() <= BUFFER_BYTES
    held, stats = protocol._held_bytes() // 100, protocol.stats
    assert stats.send_errors == 0
    if stats.datagrams_sent:  # asyncio's own transport counts what it holds as sent
        assert stats.datagrams_sent == held
    assert stats.send_dropped == 600 - held
    protocol.close()
    assert stats.datagrams_sent + stats.send_dropped == 600


@pytest.mark.parametrize("number", [*NO_ROOM, *REFUSALS], ids=errno.errorcode.get)
async def test_an_error_of_the_system_is_a_lost_packet(
    opened: Open, number: int, complaints: list[Any]
) -> None:
    receiver = Recorder()
    protocol = await opened(receiver, RefusingSocket([number] * 2))
    protocol.send_run([b"refused"], address_of(protocol))
    protocol.send_run([b"first"], address_of(protocol))
    protocol.send_run([b"second"], address_of(protocol))
    await receiver.until(lambda it: it.packets and it.packets[-1] == b"second")
    stats = protocol.stats
    assert stats.datagrams_sent + stats.send_errors + stats.send_dropped == 3
    assert stats.datagrams_sent == len(receiver.packets)
    assert not protocol._transport.is_closing()  # type: ignore[union-attr]
    assert complaints == []


async def test_a_receiver_is_never_called_while_it_sends(opened: Open) -> None:
    receiver = Recorder("it cannot take errors either")
    protocol = await opened(receiver, RefusingSocket([errno.EPERM]))
    protocol.send_run([b"x"], address_of(protocol))
    assert receiver.errors == []
    await receiver.until(lambda it: it.errors)
    assert receiver.errors[0][0] == errno.EPERM


async def test_a_datagram_that_is_too_large_is_an_error_and_no_more(opened: Open) -> None:
    receiver = Recorder()
    protocol = await opened(receiver)
    protocol.send_run([bytes(65508)], address_of(protocol))
    protocol.send_run([bytes(65507)], address_of(protocol))
    assert len((await receiver.has(1))[0]) == 65507
    assert protocol.stats.send_errors == 1
    assert protocol.stats.datagrams_sent == 1
    await receiver.until(lambda it: it.errors)
    assert receiver.errors[0][0] == errno.EMSGSIZE


# The end


async def test_sending_after_the_end_is_counted_and_raises_nothing(opened: Open) -> None:
    protocol = await opened(receiver := Recorder())
    target = address_of(protocol)
    protocol.close()
    protocol.send_run([b"x"] * 3, target)
    await receiver.until(lambda it: it.lost)
    protocol.send_run([b"x"] * 4, target)
    protocol.close()
    assert protocol.stats.send_dropped == 7
    assert receiver.lost == [None]
    early = PacketProtocol(Recorder())
    early.send_run([b"x"], target)
    early.close()
    early.report_error(OSError(errno.EPERM, "nobody is told"), None)
    assert early.stats.send_dropped == 1


async def test_closing_does_not_wait_for_a_system_that_takes_nothing(
    opened: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    before = descriptors()
    protocol = await opened(receiver := Recorder(), RefusingSocket(always=errno.EAGAIN))
    protocol.send_run([b"x" * 100] * 20, ("127.0.0.1", 9))
    protocol.close()
    await receiver.until(lambda it: it.lost)
    await asyncio.sleep(0)
    assert receiver.lost == [None]
    assert descriptors() == before
    assert capfd.readouterr().out == ""


async def test_a_lone_transports_burst_ends_with_the_turn(opened: Open, kind: Kind) -> None:
    receiver = Recorder()
    protocol = await opened(receiver)
    sender = await opened()
    sender.send_run([b"a", b"b"], address_of(protocol))
    await receiver.until(lambda it: it.turns and it.turns[-1] == 2)
    assert len(receiver.turns) <= 2
    assert isinstance(protocol._transport, SendsRuns) is (kind != "asyncio")


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_asyncio_reads_no_more_than_a_datagram_can_have() -> None:
    protocol = PacketProtocol(Recorder())
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: protocol, local_addr=LOOPBACK
    )
    assert transport.max_size == 65536  # type: ignore[attr-defined]
    transport.close()
    await asyncio.sleep(0)


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_nobody_is_told_of_errors_once_the_loop_has_ended() -> None:
    protocol = PacketProtocol(Recorder())
    protocol._loop = asyncio.new_event_loop()
    protocol._loop.close()
    protocol.report_error(OSError(errno.EPERM, "no"), None)
    protocol.error_received(RuntimeError("not of the system"))
    assert protocol.stats.send_errors == 1
