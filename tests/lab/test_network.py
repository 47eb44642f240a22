from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from aerogram.errors import InvalidAddress
from aerogram.io.network import Network as NetworkSeam
from aerogram.lab import Burst, Link, Network, simulate
from tests.lab.recorder import Recorder, open_at

SERVER = ("10.0.0.1", 1)


def test_it_takes_the_place_of_the_real_network() -> None:
    network: NetworkSeam = Network()
    host: NetworkSeam = Network().host("a")
    assert network is not host


def test_a_client_gets_a_host_of_its_own_and_a_server_the_host_of_its_name() -> None:
    async def main() -> None:
        network = Network()
        assert await network.resolve("server", 7) == [("10.0.0.1", 7)]
        server, heard = await open_at(network, ("10.0.0.1", 7), echo=True)
        first, answers = await open_at(network)
        second, _ = await open_at(network)
        assert [host.name for host in network.hosts] == ["server", "client-1", "client-2"]
        first.sendto(b"1", ("10.0.0.1", 7))
        second.sendto(b"2", ("10.0.0.1", 7))
        await asyncio.sleep(1.0)
        assert heard.sources == [("10.0.0.2", 49152), ("10.0.0.3", 49152)]
        assert answers.received == [(0.0, b"1", ("10.0.0.1", 7))]
        assert server.get_extra_info("sockname") == ("10.0.0.1", 7)

    simulate(main)


@pytest.mark.parametrize(
    "bound", [("127.0.0.1", 9000), ("0.0.0.0", 9000), ("::1", 9000), ("::", 9000)]
)
def test_the_localhost_of_a_shared_network_is_reached_by_all_its_clients(bound: Any) -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.1))
        _, heard = await open_at(network, bound)
        is_ipv6 = ":" in bound[0]
        client, _ = await open_at(network, ("::" if is_ipv6 else "0.0.0.0", 0))
        client.sendto(b"x", ("::1" if is_ipv6 else "127.0.0.1", 9000))
        await asyncio.sleep(1.0)
        assert heard.times == [0.1]
        assert await network.resolve("localhost", 5) == [("127.0.0.1", 5)]

    simulate(main)


def test_hosts_have_the_addresses_that_they_are_told() -> None:
    async def main() -> None:
        network = Network()
        a = network.host("a", address="192.168.7.5/16", ipv6="fd01::5")
        b = network.host("b", address="fd01::6")
        c = network.host("c")
        assert (a.ipv4, a.ipv6) == ("192.168.7.5", "fd01::5")
        assert await c.resolve("a", 1) == [("192.168.7.5", 1), ("fd01::5", 1, 0, 0)]
        assert await c.resolve("b", 1) == [("fd01::6", 1, 0, 0)]
        assert await a.resolve("c", 1) == [(c.ipv4, 1)]
        assert await c.resolve("fd01::9", 1) == [("fd01::9", 1, 0, 0)]
        assert network.host("b") is b
        with pytest.raises(OSError, match="no host of this network is named z"):
            await a.resolve("z", 1)
        for name, address in (("d", "192.168.7.5"), ("a", "10.0.0.9")):
            with pytest.raises(ValueError, match=r"is the address of a|named a already"):
                network.host(name, address=address)
        for address in ("nonsense", "224.0.0.1", "0.0.0.0", "10.0.0.1/99"):
            with pytest.raises(InvalidAddress):
                network.host("d", address=address)
        with pytest.raises(InvalidAddress):
            network.host("no name")

    simulate(main)


def test_binding_fails_as_it_does_for_real() -> None:
    async def main() -> None:
        network = Network()
        a = network.host("a")
        await open_at(a, (a.ipv4, 5))
        for address in ((a.ipv4, 5), ("0.0.0.0", 5)):
            with pytest.raises(OSError, match="in use"):
                await open_at(a, address)
        with pytest.raises(OSError, match="assign"):
            await open_at(a, ("10.9.9.9", 5))
        for bad in (("name", 5), (a.ipv4, 70000), (a.ipv4, "5")):
            with pytest.raises(InvalidAddress):
                await open_at(a, bad)  # type: ignore[arg-type]
            with pytest.raises(InvalidAddress):
                await open_at(network, bad)  # type: ignore[arg-type]
        await open_at(a, ("127.0.0.1", 5))
        await open_at(a, (a.ipv6, 5))

    simulate(main)


@pytest.mark.parametrize(
    "address",
    [
        None,
        "10.0.0.1",
        ["10.0.0.1", 5],
        ("10.0.0.1",),
        ("server", 5),
        ("10.0.0.1", 0),
        ("10.0.0.1", 70000),
        ("10.0.0.1", "5"),
        ("fd00::1", 5),
        ("10.0.0.1", 5, 0, 0),
    ],
)
def test_a_bad_address_raises_at_the_caller(address: Any) -> None:
    async def main() -> None:
        transport, protocol = await open_at(Network())
        with pytest.raises(InvalidAddress):
            transport.sendto(b"x", address)
        assert not protocol.errors
        assert not transport.is_closing()

    simulate(main)


def test_a_socket_sends_what_udp_can_carry() -> None:
    async def main() -> None:
        network = Network()
        a, b = network.host("a"), network.host("b")
        sender, told = await open_at(a)
        sender6, told6 = await open_at(a, ("::", 0))
        _, heard = await open_at(b, (b.ipv4, 1))
        _, heard6 = await open_at(b, (b.ipv6, 1))
        for data in (b"", bytearray(b"ab"), memoryview(b"cde"), bytes(65507), bytes(65508)):
            sender.sendto(data, (b.ipv4, 1))
        sender6.sendto(bytes(65527), (b.ipv6, 1))
        sender6.sendto(bytes(65528), (b.ipv6, 1))
        for data in ("text", 5, None):
            with pytest.raises(TypeError, match="bytes"):
                sender.sendto(data, (b.ipv4, 1))  # type: ignore[arg-type]
        await asyncio.sleep(1.0)
        assert heard.data == [b"", b"ab", b"cde", bytes(65507)]
        assert all(type(data) is bytes for data in heard.data)
        assert heard6.data == [bytes(65527)]
        assert heard6.sources == [(a.ipv6, 49153, 0, 0)]
        assert [getattr(e, "errno", 0) for e in told.errors + told6.errors] == [
            errno.EMSGSIZE,
            errno.EMSGSIZE,
        ]

    simulate(main)


def test_a_closed_socket_is_silent() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.1))
        server, heard = await open_at(network, SERVER)
        client, protocol = await open_at(network)
        client.sendto(b"before", SERVER)
        client.close()
        client.close()
        client.sendto(b"after", SERVER)
        await asyncio.sleep(0.2)
        assert client.is_closing()
        assert client.refused == 1
        assert protocol.lost == [None]
        assert heard.data == [b"before"]
        server.sendto(b"late", heard.sources[0])
        server.close()
        await asyncio.sleep(1.0)
        assert protocol.received == []
        assert network.trace.dropped == {"port closed": 1}
        await open_at(network, SERVER)  # the address is free again

    simulate(main)


def test_what_finds_nobody_is_dropped_for_a_reason() -> None:
    async def main() -> None:
        network = Network()
        client, protocol = await open_at(network)
        network.host("a")
        client.sendto(b"x", ("10.0.0.2", 9))
        client.sendto(b"x", ("10.200.0.1", 9))
        client.sendto(b"x", ("0.0.0.0", 9))
        await asyncio.sleep(1.0)
        assert network.trace.dropped == {"port closed": 1, "no such address": 2}
        assert protocol.errors == []

    simulate(main)


def test_only_a_connected_socket_learns_that_nobody_listens() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.25))
        a, b = network.host("a"), network.host("b")
        connected, told = await open_at(a, remote_address=(b.ipv4, 9))
        loose, untold = await open_at(a)
        connected.sendto(b"x")
        connected.sendto(b"x", (b.ipv4, 9))
        loose.sendto(b"x", (b.ipv4, 9))
        with pytest.raises(InvalidAddress):
            connected.sendto(b"x", (b.ipv4, 10))
        await asyncio.sleep(0.4)
        assert told.errors == []
        await asyncio.sleep(0.2)
        assert [type(error) for error in told.errors] == [ConnectionRefusedError] * 2
        assert untold.errors == []
        network.partition(b, a, both_ways=False)
        connected.sendto(b"x")
        await asyncio.sleep(1.0)
        assert len(told.errors) == 2
        assert connected.get_extra_info("peername") == (b.ipv4, 9)

    simulate(main)


def test_a_connected_socket_hears_its_peer_alone() -> None:
    async def main() -> None:
        network = Network()
        a, b = network.host("a"), network.host("b")
        _, heard = await open_at(a, (a.ipv4, 5), remote_address=(b.ipv4, 9))
        peer, _ = await open_at(b, (b.ipv4, 9))
        stranger, _ = await open_at(b)
        peer.sendto(b"peer", (a.ipv4, 5))
        stranger.sendto(b"stranger", (a.ipv4, 5))
        await asyncio.sleep(1.0)
        assert heard.data == [b"peer"]
        assert network.trace.dropped == {"port closed": 1}

    simulate(main)


def test_sockets_that_share_a_port_each_get_the_same_senders_always() -> None:
    async def main() -> None:
        network = Network()
        server = network.host("server")
        shared = [await open_at(server, (server.ipv4, 5), reuse_port=True) for _ in range(3)]
        with pytest.raises(OSError, match="in use"):
            await open_at(server, (server.ipv4, 5))
        for _ in range(30):
            client, _ = await open_at(network)
            for _ in range(3):
                client.sendto(b"x", (server.ipv4, 5))
        await asyncio.sleep(1.0)
        counts = [len(heard.received) for _, heard in shared]
        assert sum(counts) == 90
        assert min(counts) > 0
        sources = [set(heard.sources) for _, heard in shared]
        assert sum(map(len, sources)) == 30

    simulate(main)


def test_a_packet_above_the_mtu_vanishes_and_icmp_tells_if_the_link_has_it() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.1, mtu_bytes=1280))
        a, b = network.host("a"), network.host("b")
        _, heard = await open_at(b, (b.ipv4, 1))
        _, heard6 = await open_at(b, (b.ipv6, 1))
        sender, told = await open_at(a)
        sender6, _ = await open_at(a, ("::", 0))
        for size in (1252, 1253):
            sender.sendto(bytes(size), (b.ipv4, 1))
            sender6.sendto(bytes(size - 20), (b.ipv6, 1))
        await asyncio.sleep(1.0)
        assert [len(data) for data in heard.data + heard6.data] == [1252, 1232]
        assert network.trace.dropped == {"mtu": 2}
        assert told.errors == []
        network.default = Link(delay=0.1, mtu_bytes=1280, icmp=True)
        sender.sendto(bytes(1253), (b.ipv4, 1))
        await asyncio.sleep(1.0)
        assert [getattr(error, "errno", 0) for error in told.errors] == [errno.EMSGSIZE]

    simulate(main)


def test_a_program_that_raises_loses_one_datagram_and_no_other() -> None:
    class Fragile(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"bad":
                raise KeyError(data)

    async def main() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: failures.append(c))
        network = Network()
        fragile = Fragile()
        await network.create_datagram_endpoint(lambda: fragile, local_address=SERVER)
        _, other = await open_at(network, ("10.0.0.7", 1))
        client, _ = await open_at(network)
        for data in (b"1", b"bad", b"2"):
            client.sendto(data, SERVER)
        client.sendto(b"3", ("10.0.0.7", 1))
        await asyncio.sleep(1.0)
        assert fragile.data == [b"1", b"bad", b"2"]
        assert other.data == [b"3"]
        assert [type(failure["exception"]) for failure in failures] == [KeyError]

    async def without_handler() -> None:
        network = Network()
        await network.create_datagram_endpoint(Fragile, local_address=SERVER)
        client, _ = await open_at(network)
        client.sendto(b"bad", SERVER)
        await asyncio.sleep(1.0)

    simulate(main)
    with pytest.raises(KeyError):
        simulate(without_handler)


@pytest.mark.parametrize("seed", range(10))
def test_every_datagram_is_accounted_for(seed: int) -> None:
    async def main() -> None:
        link = Link(
            delay=0.05,
            jitter=0.1,
            burst=Burst(enter=0.05, leave=0.3),
            duplicate=0.1,
            reorder=0.1,
            corrupt=0.05,
            rate_bytes_per_second=4_000,
            queue_bytes=1_000,
        )
        network = Network(link=link)
        await open_at(network, SERVER, echo=True, receive_buffer_bytes=1_000)
        clients = [await open_at(network) for _ in range(5)]
        for step in range(100):
            for client, _ in clients:
                client.sendto(bytes(step), SERVER)
            if step == 30:
                network.hold("client-1")
                network.partition("client-2")
            if step == 70:
                network.release()
                network.repair()
                network.hold("client-3")
            await asyncio.sleep(0.01)
            check(network)
        for client, _ in clients:
            client.close()
        await asyncio.sleep(10.0)
        assert network.in_flight == 0
        assert network.held > 0
        check(network)
        assert {"burst", "partition", "port closed", "queue"} <= network.trace.dropped.keys()

    def check(network: Network) -> None:
        trace = network.trace
        ended = trace.delivered + sum(trace.dropped.values())
        assert trace.sent + trace.duplicated == ended + network.in_flight + network.held

    simulate(main, seed=seed)


async def test_it_works_in_real_time_on_any_loop() -> None:
    network = Network(seed=1, link=Link(delay=0.01))
    server, heard = await open_at(network, SERVER, echo=True)
    client, answers = await open_at(network)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(100):
        client.sendto(bytes([number]), SERVER)
    await answers.has(100)
    assert loop.time() - began >= 0.019
    assert answers.data == heard.data == [bytes([number]) for number in range(100)]
    for transport in (server, client):
        transport.close()
    await asyncio.sleep(0)


def test_a_network_has_the_time_of_one_loop() -> None:
    network = Network()

    async def main() -> None:
        server, heard = await open_at(network, SERVER)
        client, _ = await open_at(network)
        client.sendto(b"x", SERVER)
        await asyncio.sleep(1.0)
        assert heard.times == [0.0]
        client.close()
        server.close()

    simulate(main)
    simulate(main)  # the first loop is closed, so it is free


def test_bytes_follow_from_the_seed_and_the_hosts_name() -> None:
    def draw(seed: int) -> list[bytes]:
        network = Network(seed)
        sources = [network, network.host("a"), network.host("b")]
        return [source.random_bytes(16) for source in sources for _ in range(2)]

    assert draw(1) == draw(1)
    assert len({*draw(1), *draw(2)}) == 12


def test_a_network_takes_the_seed_of_its_simulation() -> None:
    async def seed_of_network() -> int:
        return Network().seed

    assert simulate(seed_of_network, seed=11) == 11
    assert Network().seed == 0
