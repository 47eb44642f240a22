"""The real network: which transport it makes, names that never stall the loop, ports, leaks."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from typing import Any, Literal

import pytest

from aerogram.config import Config
from aerogram.errors import InvalidAddress
from aerogram.io import network as network_module
from aerogram.io.batch import BatchTransport
from aerogram.io.network import SocketNetwork
from aerogram.io.protocol import PacketProtocol
from tests.io.fakes import LOOPBACK, Recorder, descriptors

Kind = Literal["auto", "batch", "asyncio"]
KINDS: list[Kind] = ["auto", "batch", "asyncio"]


async def opened(
    kind: Kind = "auto", receiver: Recorder | None = None, local_address: Any = LOOPBACK, **how: Any
) -> tuple[asyncio.DatagramTransport, PacketProtocol]:
    network = SocketNetwork(Config(transport=kind), **how)
    protocol = PacketProtocol(receiver or Recorder())
    transport, same = await network.create_datagram_endpoint(
        lambda: protocol, local_address=local_address
    )
    assert same is protocol
    return transport, protocol


async def closed(*protocols: PacketProtocol) -> None:
    for protocol in protocols:
        protocol.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


# Which transport


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_configuration_chooses_the_transport(kind: Kind, host: str) -> None:
    receiver = Recorder()
    transport, protocol = await opened(kind, receiver, (host, 0))
    assert isinstance(transport, BatchTransport) is (kind != "asyncio")
    protocol.send_run([b"to itself"], transport.get_extra_info("sockname"))
    assert await receiver.has(1) == [b"to itself"]
    await closed(protocol)


async def test_a_loop_that_cannot_have_the_batched_one_gets_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network_module, "probe_batch", lambda _: False)
    transport, protocol = await opened("auto")
    assert not isinstance(transport, BatchTransport)
    await closed(protocol)
    before = descriptors()
    with pytest.raises(OSError, match="batched") as raised:
        await opened("batch")
    assert raised.value.errno == errno.EOPNOTSUPP
    assert descriptors() == before


async def test_a_protocol_of_another_kind_gets_the_loops_own_transport() -> None:
    transport, _ = await SocketNetwork().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_address=LOOPBACK
    )
    assert not isinstance(transport, BatchTransport)
    transport.close()
    with pytest.raises(OSError, match="batched"):
        await SocketNetwork(Config(transport="batch")).create_datagram_endpoint(
            asyncio.DatagramProtocol, local_address=LOOPBACK
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_a_factory_that_raises_leaves_no_socket(kind: Kind) -> None:
    def factory() -> asyncio.DatagramProtocol:
        raise RuntimeError("no protocol")

    before = descriptors()
    with pytest.raises(RuntimeError, match="no protocol"):
        await SocketNetwork(Config(transport=kind)).create_datagram_endpoint(
            factory, local_address=LOOPBACK
        )
    assert descriptors() == before


@pytest.mark.parametrize("kind", KINDS)
async def test_opening_that_is_cancelled_leaves_no_socket(kind: Kind) -> None:
    before = descriptors()
    for turns in range(4):
        task = asyncio.ensure_future(opened(kind))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            _, protocol = await task
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        else:
            await closed(protocol)
    assert descriptors() == before


# Addresses


@pytest.mark.parametrize(
    "local_address",
    [
        None,
        "127.0.0.1",
        (),
        ("127.0.0.1",),
        ["127.0.0.1", 0],
        ("127.0.0.1", 70000),
        ("127.0.0.1", -1),
        ("127.0.0.1", "0"),
        ("", 0),
        ("::1", 0, 0),
        ("::1", 70000, 0, 0),
        ("localhost", 0, 0, 0),
        ("127.0.0.1", 0, 0, 0),
    ],
    ids=repr,
)
async def test_a_bad_local_address_raises_before_a_socket_is_made(local_address: Any) -> None:
    before = descriptors()
    with pytest.raises(InvalidAddress):
        await opened("auto", None, local_address)
    assert descriptors() == before


@pytest.mark.parametrize("port", [-1, 65536, "9", None, 9.0, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_bad_port_is_not_looked_up(host: str, port: Any) -> None:
    with pytest.raises(InvalidAddress):
        await SocketNetwork().resolve(host, port)


async def test_a_name_can_be_bound() -> None:
    transport, protocol = await opened(local_address=("localhost", 0))
    assert transport.get_extra_info("sockname")[0] in ("127.0.0.1", "::1")
    await closed(protocol)


async def test_a_taken_port_raises_and_leaves_no_socket() -> None:
    transport, protocol = await opened()
    port = transport.get_extra_info("sockname")[1]
    before = descriptors()
    for kind in KINDS:
        with pytest.raises(OSError, match="in use"):
            await opened(kind, None, ("127.0.0.1", port))
    assert descriptors() == before
    await closed(protocol)


async def test_a_port_is_shared_by_those_who_all_ask_for_it() -> None:
    first, one = await opened(reuse_port=True)
    port = first.get_extra_info("sockname")[1]
    second, two = await opened(local_address=("127.0.0.1", port), reuse_port=True)
    assert second.get_extra_info("sockname") == first.get_extra_info("sockname")
    with pytest.raises(OSError, match="in use"):
        await opened(local_address=("127.0.0.1", port))
    await closed(one, two)


async def test_random_bytes_differ() -> None:
    network = SocketNetwork()
    assert len(network.random_bytes(32)) == 32
    assert network.random_bytes(32) != network.random_bytes(32)


# Names


async def test_a_number_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(type(loop), "getaddrinfo", None)
    network = SocketNetwork()
    assert await network.resolve("127.0.0.1", 9) == [("127.0.0.1", 9)]
    assert await network.resolve("::1", 9) == [("::1", 9, 0, 0)]


async def test_a_slow_resolver_stops_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def getaddrinfo(self: object, host: str, port: int, **options: object) -> Any:
        asked.set()
        await answer.wait()
        found = (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.1", port))
        other = (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("2001:db8::1", port, 0, 0))
        return [other, found, found]

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", getaddrinfo)
    resolving = asyncio.ensure_future(SocketNetwork().resolve("slow.example", 9))
    await asked.wait()
    assert not resolving.done()
    answer.set()
    assert await resolving == [("2001:db8::1", 9, 0, 0), ("192.0.2.1", 9)]


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_the_systems_resolver_is_asked_in_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    real = socket.getaddrinfo

    def slow(*arguments: Any, **options: Any) -> Any:
        assert released.wait(10), "the loop waits for the resolver"
        return real("127.0.0.1", 9, type=socket.SOCK_DGRAM)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    asyncio.get_running_loop().call_soon(released.set)
    assert await SocketNetwork().resolve("slow.example", 9) == [("127.0.0.1", 9)]


async def test_an_unknown_name_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError):  # noqa: PT011
        await SocketNetwork().resolve("no-such-host.invalid", 9)


# Leaks


@pytest.mark.parametrize("kind", KINDS)
async def test_opening_and_closing_leaves_nothing(kind: Kind) -> None:
    await closed((await opened(kind))[1])
    before, tasks = descriptors(), asyncio.all_tasks()
    for _ in range(200):
        receiver = Recorder()
        transport, protocol = await opened(kind, receiver)
        protocol.send_run([b"x"] * 3, transport.get_extra_info("sockname"))
        await closed(protocol)
        assert receiver.lost == [None]
    assert descriptors() == before
    assert asyncio.all_tasks() == tasks
    assert os.path.exists("/proc/self/fd") is (before > 0)  # noqa: PTH110
