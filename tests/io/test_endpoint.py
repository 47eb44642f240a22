"""A datagram socket in asyncio's terms: in, out, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from aerogram.errors import EndpointClosed, InvalidAddress, InvalidMessage, MessageTooLarge
from aerogram.io.datagram import Datagram
from aerogram.io.opening import open_endpoint
from tests.io.endpoints import (
    EVERY_TRANSPORT,
    HOST,
    IPV6,
    PATIENCE,
    Kind,
    balances,
    opened,
    take,
    until,
)
from tests.io.fakes import descriptors

BAD_ADDRESSES: list[Any] = [
    None,
    "127.0.0.1",
    ("127.0.0.1",),
    ("127.0.0.1", 0),
    ("127.0.0.1", 65536),
    ("127.0.0.1", 70000),
    ("127.0.0.1", -1),
    ("127.0.0.1", "514"),
    ("127.0.0.1", 5.5),
    ("localhost", 514),
    ("", 514),
    (b"127.0.0.1", 514),
    ("::1", 514),
    ("127.0.0.1", 514, 0, 0),
    ["127.0.0.1", 514],
    ("127.0.0.1\0", 514),
]


@EVERY_TRANSPORT
async def test_records_keep_their_bounds(kind: Kind) -> None:
    records = [b"a", bytes(9000), b"bc" * 300, bytes(65507), b"end"]
    async with opened(kind=kind) as receiver, opened(kind=kind) as sender:
        for record in records:
            await sender.send(record, receiver.local_address)
        assert await take(receiver, len(records)) == records
        assert sender.stats.sent == len(records)
        assert receiver.stats.received_bytes == sender.stats.sent_bytes == sum(map(len, records))


@EVERY_TRANSPORT
async def test_iteration_tells_who_sent_what(kind: Kind) -> None:
    async with opened(kind=kind) as receiver, opened(kind=kind) as one, opened(kind=kind) as two:
        await one.send(b"1", receiver.local_address)
        await two.send(b"2", receiver.local_address)
        seen = []
        async for datagram in receiver:
            seen.append((datagram.data, datagram.address))
            if len(seen) == 2:
                break
        assert seen == [(b"1", one.local_address), (b"2", two.local_address)]


@EVERY_TRANSPORT
async def test_a_reply_goes_back(kind: Kind) -> None:
    async with opened(kind=kind) as server, opened(kind=kind) as client:
        await client.send(b"question", server.local_address)
        await (await server.receive(timeout=PATIENCE)).reply(b"answer")
        answer = await client.receive(timeout=PATIENCE)
        assert (answer.data, answer.address) == (b"answer", server.local_address)


@EVERY_TRANSPORT
async def test_bad_addresses_raise_at_the_caller_and_harm_nothing(kind: Kind) -> None:
    async with opened(kind=kind) as endpoint, opened() as witness:
        for _ in range(20):
            for address in BAD_ADDRESSES:
                with pytest.raises(InvalidAddress):
                    await endpoint.send(b"x", address)
                with pytest.raises(InvalidAddress):
                    endpoint.send_nowait(b"x", address)
        await endpoint.send(b"still here", witness.local_address)
        assert await take(witness, 1) == [b"still here"]
        assert endpoint.stats.sent == 1


@EVERY_TRANSPORT
async def test_what_is_not_bytes_raises_at_the_caller(kind: Kind) -> None:
    async with opened(kind=kind) as endpoint, opened() as witness:
        for wrong in ("text", 5, None, ["x"]):
            with pytest.raises(InvalidMessage):
                await endpoint.send(wrong, witness.local_address)
        await endpoint.send(bytearray(b"fine"), witness.local_address)
        await endpoint.send(memoryview(b"too"), witness.local_address)
        assert await take(witness, 2) == [b"fine", b"too"]


@EVERY_TRANSPORT
async def test_a_view_of_any_form_is_sent_as_its_bytes(kind: Kind) -> None:
    async with opened(kind=kind) as endpoint, opened() as witness:
        every_second, words = memoryview(b"a-b-c-")[::2], memoryview(bytes(range(8))).cast("I")
        for view in (every_second, words):
            await endpoint.send(view, witness.local_address)
            await endpoint.send_many(view, [witness.local_address])
            await endpoint.send_run([view, view], witness.local_address)
        expected = [b"abc"] * 4 + [bytes(range(8))] * 4
        assert await take(witness, 8) == expected
        assert endpoint.stats.sent_bytes == sum(map(len, expected))
        await endpoint.send(b"it goes on", endpoint.local_address)
        assert await take(endpoint, 1) == [b"it goes on"]


@EVERY_TRANSPORT
async def test_a_record_that_no_datagram_holds_raises_at_the_caller(kind: Kind) -> None:
    async with opened(kind=kind) as endpoint, opened() as witness:
        with pytest.raises(MessageTooLarge):
            await endpoint.send(bytes(65508), witness.local_address)
        assert endpoint.stats.send_refused == 1
        assert endpoint.stats.sent == 0


async def test_empty_datagrams_are_records_like_others() -> None:
    async with opened() as receiver, opened() as sender:
        await sender.send(b"", receiver.local_address)
        await sender.send(b"x", receiver.local_address)
        assert await take(receiver, 2) == [b"", b"x"]


async def test_the_fall_back_refuses_an_empty_datagram_instead_of_losing_it() -> None:
    async with opened(kind="asyncio") as receiver, opened(kind="asyncio") as sender:
        with pytest.raises(InvalidMessage, match="empty"):
            await sender.send(b"", receiver.local_address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            plain.sendto(b"", receiver.local_address)
        assert await take(receiver, 1) == [b""]


@EVERY_TRANSPORT
async def test_receive_gives_up_in_time_and_loses_nothing(kind: Kind) -> None:
    async with opened(kind=kind) as receiver, opened(kind=kind) as sender:
        with pytest.raises(TimeoutError):
            await receiver.receive(timeout=0.01)
        await sender.send(b"later", receiver.local_address)
        assert await take(receiver, 1) == [b"later"]


@EVERY_TRANSPORT
async def test_receive_many_gives_all_that_is_there(kind: Kind) -> None:
    async with opened(kind=kind) as receiver, opened(kind=kind) as sender:
        with pytest.raises(TimeoutError):
            await receiver.receive_many(timeout=0.01)
        for number in range(300):
            await sender.send(b"%d" % number, receiver.local_address)
        taken: list[Datagram] = []
        while len(taken) < 300:
            batch = await receiver.receive_many(timeout=PATIENCE)
            assert batch
            taken += batch
        assert [datagram.data for datagram in taken] == [b"%d" % n for n in range(300)]
        assert receiver.stats.handed_over == 300
        assert balances(receiver.stats)


@EVERY_TRANSPORT
async def test_each_datagram_goes_to_one_of_several_readers(kind: Kind) -> None:
    async with opened(kind=kind) as receiver, opened(kind=kind) as sender:
        seen: list[bytes] = []

        async def read() -> None:
            async for datagram in receiver:
                seen.append(datagram.data)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as readers:
            for _ in range(3):
                readers.create_task(read())
            for number in range(30):
                await sender.send(b"%02d" % number, receiver.local_address)
            await until(lambda: len(seen) == 30)
            await receiver.close()
        assert sorted(seen) == [b"%02d" % number for number in range(30)]


async def test_a_cancelled_reader_passes_its_turn_on() -> None:
    async with opened() as receiver, opened() as sender:
        first = asyncio.create_task(receiver.receive())
        second = asyncio.create_task(receiver.receive())
        await asyncio.sleep(0)
        await sender.send(b"x", receiver.local_address)
        while not receiver.stats.received:  # noqa: ASYNC110  in this very turn
            await asyncio.sleep(0)
        first.cancel()  # in the turn in which it was woken
        assert (await asyncio.wait_for(second, PATIENCE)).data == b"x"
        with pytest.raises(asyncio.CancelledError):
            await first


@EVERY_TRANSPORT
async def test_an_exception_of_the_reader_does_not_end_the_endpoint(kind: Kind) -> None:
    async with opened(kind=kind) as receiver, opened(kind=kind) as sender:
        for number in range(3):
            await sender.send(b"%d" % number, receiver.local_address)
        seen = []
        while len(seen) < 3:
            with contextlib.suppress(ZeroDivisionError):
                async for datagram in receiver:
                    seen.append(datagram.data)
                    _ = 1 / 0
        assert seen == [b"0", b"1", b"2"]


@EVERY_TRANSPORT
async def test_closing_wakes_whoever_waits(kind: Kind) -> None:
    async with opened(kind=kind) as endpoint:

        async def iterate() -> str:
            async for _ in endpoint:
                pass
            return "ended"

        async def iterate_errors() -> str:
            async for _ in endpoint.errors:
                pass
            return "ended"

        iterating = [asyncio.create_task(iterate()), asyncio.create_task(iterate_errors())]
        receiving = asyncio.create_task(endpoint.receive())
        await asyncio.sleep(0)
    assert await asyncio.gather(*iterating) == ["ended", "ended"]
    with pytest.raises(EndpointClosed):
        await receiving


@EVERY_TRANSPORT
async def test_a_closed_endpoint_says_so(kind: Kind) -> None:
    async with opened(kind=kind) as endpoint:
        address = endpoint.local_address
    await endpoint.close()
    with pytest.raises(EndpointClosed):
        await endpoint.send(b"x", address)
    with pytest.raises(EndpointClosed):
        endpoint.send_nowait(b"x", address)
    with pytest.raises(EndpointClosed):
        await endpoint.send_run([b"x"], address)
    with pytest.raises(EndpointClosed):
        await endpoint.send_many(b"x", [address])
    with pytest.raises(EndpointClosed):
        await endpoint.broadcast(b"x", 9)
    with pytest.raises(EndpointClosed):
        endpoint.join("239.0.0.1")
    with pytest.raises(EndpointClosed):
        await endpoint.receive()
    assert [datagram async for datagram in endpoint] == []
    assert endpoint.local_address == address


@EVERY_TRANSPORT
async def test_what_nobody_took_is_counted_at_the_end(kind: Kind) -> None:
    async with opened(kind=kind) as receiver, opened(kind=kind) as sender:
        for _ in range(5):
            await sender.send(b"x", receiver.local_address)
        await take(receiver, 2)
        await until(lambda: receiver.stats.received == 5)
    assert receiver.stats.dropped_at_close == 3
    assert balances(receiver.stats)


@EVERY_TRANSPORT
async def test_opening_and_closing_leaves_nothing(kind: Kind) -> None:
    async with opened(kind=kind):
        pass
    before = descriptors()
    for _ in range(200):
        async with opened(kind=kind) as endpoint:
            await endpoint.send(b"x", endpoint.local_address)
    gc.collect()
    assert descriptors() == before
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failed_open_leaves_nothing() -> None:
    async with opened() as taken:
        before = descriptors()
        for _ in range(5):
            with pytest.raises(OSError, match="in use"):
                await opened(port=taken.local_address[1])
        assert descriptors() == before


async def test_the_caller_of_await_closes() -> None:
    endpoint = await open_endpoint(HOST)
    assert endpoint.local_address[1] != 0
    await endpoint.close()


async def test_one_call_opens_one_endpoint_at_a_time() -> None:
    opening = open_endpoint(HOST)
    async with opening as endpoint:
        with pytest.raises(RuntimeError, match="open"):
            await opening.__aenter__()
        await endpoint.send(b"unharmed", endpoint.local_address)
        assert await take(endpoint, 1) == [b"unharmed"]
    async with opening as again:
        assert again is not endpoint


@EVERY_TRANSPORT
async def test_a_port_is_shared_only_when_asked(kind: Kind) -> None:
    async with opened(kind=kind) as first:
        with pytest.raises(OSError, match="in use"):
            await opened(port=first.local_address[1], kind=kind, reuse_port=True)
    async with (
        opened(kind=kind, reuse_port=True) as first,
        opened(port=first.local_address[1], kind=kind, reuse_port=True) as second,
    ):
        assert second.local_address == first.local_address


async def test_a_bound_socket_can_be_handed_in_and_is_owned() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    port = sock.getsockname()[1]
    async with open_endpoint(socket=sock) as endpoint, opened() as sender:
        assert endpoint.local_address == (HOST, port)
        assert endpoint.socket is sock
        await sender.send(b"x", endpoint.local_address)
        assert await take(endpoint, 1) == [b"x"]
    assert sock.fileno() == -1


async def test_arguments_that_exclude_each_other_are_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for wrong in ({"path": "x"}, {"socket": sock}, {"inherited": 0}):
            with pytest.raises(ValueError, match="one of"):
                open_endpoint(HOST, **wrong)
    with pytest.raises(ValueError, match="overflow"):
        open_endpoint(HOST, overflow="explode")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        pytest.raises(InvalidAddress, match="datagram"),
    ):
        open_endpoint(socket=stream)
    with pytest.raises(InvalidAddress, match="datagram"):
        open_endpoint(socket=5)  # type: ignore[arg-type]
    for host, port in ((HOST, 70000), (HOST, -1), ("a host", 1), (5, 1)):
        with pytest.raises(InvalidAddress):
            open_endpoint(host, port)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="no AF_UNIX datagram sockets")
async def test_unix_sockets_carry_datagrams_by_path(tmp_path: Path) -> None:
    server_path, client_path = str(tmp_path / "server"), str(tmp_path / "client")
    async with open_endpoint(path=server_path) as server, open_endpoint(path=client_path) as client:
        assert server.local_address == (server_path, 0)
        await client.send(b"by path", server_path)
        datagram = await server.receive(timeout=PATIENCE)
        assert (datagram.data, datagram.address) == (b"by path", (client_path, 0))
        assert datagram.interface is datagram.local_address is datagram.ttl is None
        await datagram.reply(b"back")
        assert await take(client, 1) == [b"back"]
        for wrong in ("", "x" * 108, "a\0b", ("127.0.0.1", 5), 5):
            with pytest.raises(InvalidAddress):
                await client.send(b"x", wrong)
        with pytest.raises(FileNotFoundError):
            await client.send(b"x", str(tmp_path / "nobody"))
        assert client.stats.send_refused == 1
        with pytest.raises(OSError, match="only IP"):
            await client.send(b"x", server_path, ttl=3)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="no AF_UNIX datagram sockets")
async def test_a_unix_sender_without_a_name_can_be_heard(tmp_path: Path) -> None:
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    async with open_endpoint(path=tmp_path / "server") as server:
        with plain:
            plain.sendto(b"x", str(tmp_path / "server"))
        datagram = await server.receive(timeout=PATIENCE)
        assert (datagram.data, datagram.address) == (b"x", ("", 0))


@pytest.mark.skipif(sys.platform == "win32", reason="no AF_UNIX datagram sockets")
async def test_a_unix_path_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        await open_endpoint(path=path)
    assert path.read_text() == "precious"
    async with open_endpoint(path=tmp_path / "ours"):
        (tmp_path / "ours").unlink()
        (tmp_path / "ours").write_text("new")
    assert (tmp_path / "ours").read_text() == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="no AF_UNIX datagram sockets")
async def test_a_sender_waits_for_a_full_unix_peer(tmp_path: Path) -> None:
    path = str(tmp_path / "slow")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as slow:
        slow.bind(path)
        async with open_endpoint(path=tmp_path / "client") as client:
            while client.send_nowait(b"x", path):
                pass
            filled = client.stats.sent
            waiting = asyncio.create_task(client.send(b"last", path))
            await asyncio.sleep(0)
            assert not waiting.done()
            received = [slow.recv(10) for _ in range(filled)]
            await asyncio.wait_for(waiting, PATIENCE)
            assert [*received, slow.recv(10)] == [b"x"] * filled + [b"last"]
            assert client.stats.send_full == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the abstract namespace is Linux's")
async def test_abstract_unix_addresses() -> None:
    name = f"\0aerogram-test-{os.getpid()}-{id(object())}"
    async with open_endpoint(path=name) as server, open_endpoint(path=name + "-2") as client:
        await client.send(b"x", (name, 0))
        datagram = await server.receive(timeout=PATIENCE)
        assert (datagram.data, datagram.address) == (b"x", (name + "-2", 0))


@pytest.mark.skipif(sys.platform != "linux", reason="the abstract namespace is Linux's")
async def test_an_abstract_unix_name_may_have_any_bytes() -> None:
    name = f"\0a\0{os.getpid()}-{id(object())}\udcff\0"
    async with open_endpoint(path=name) as server, open_endpoint(path=name + "2") as client:
        await client.send(b"x", name)
        datagram = await server.receive(timeout=PATIENCE)
        assert datagram.address == (name + "2", 0)
        await datagram.reply(b"y")
        assert (await client.receive(timeout=PATIENCE)).address == (name, 0)


@IPV6
@EVERY_TRANSPORT
async def test_ipv6(kind: Kind) -> None:
    async with opened("::1", kind=kind) as server, opened("::1", kind=kind) as client:
        await client.send(b"x", ("::1", server.local_address[1]))
        datagram = await server.receive(timeout=PATIENCE)
        assert datagram.address == client.local_address
        await datagram.reply(b"y")
        assert await take(client, 1) == [b"y"]
        with pytest.raises(InvalidAddress, match="dual-stack"):
            await client.send(b"x", (HOST, 9))


@IPV6
@EVERY_TRANSPORT
async def test_dual_stack_carries_both_versions(kind: Kind) -> None:
    async with (
        opened("::", kind=kind, dual_stack=True) as server,
        opened(kind=kind) as four,
        opened("::1", kind=kind) as six,
    ):
        port = server.local_address[1]
        await four.send(b"4", (HOST, port))
        await six.send(b"6", ("::1", port))
        for _ in range(2):
            datagram = await server.receive(timeout=PATIENCE)
            await datagram.reply(datagram.data)
        assert await take(four, 1) == [b"4"]
        assert await take(six, 1) == [b"6"]
        await server.send(b"as IPv4", four.local_address)
        assert await take(four, 1) == [b"as IPv4"]


@IPV6
async def test_without_dual_stack_ipv4_is_not_heard() -> None:
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    async with opened("::") as server:
        with other:
            other.bind((HOST, server.local_address[1]))  # free, since `server` does not have it


async def test_a_name_is_resolved_to_bind_and_never_to_send() -> None:
    async with opened("localhost") as endpoint:
        assert endpoint.local_address[0] in (HOST, "::1")
    async with opened() as endpoint:
        with pytest.raises(InvalidAddress, match="resolve"):
            await endpoint.send(b"x", ("localhost", 9))
        address = await endpoint.resolve("localhost", 9)
        assert address[1] == 9
        assert await endpoint.resolve(HOST, 9) == (HOST, 9)
        for host, port in (("::1", 9), ("a host", 9), (HOST, 70000)):
            with pytest.raises(InvalidAddress):
                await endpoint.resolve(host, port)
