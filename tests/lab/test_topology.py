from __future__ import annotations

import asyncio

import pytest

from aerogram.lab import Link, Network, simulate
from tests.lab.recorder import open_at


def test_links_are_for_a_pair_or_a_direction_or_a_host_or_all() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.1))
        a, b, c = (network.host(name) for name in "abc")
        sockets = {host.name: await open_at(host, (host.ipv4, 1), echo=False) for host in (a, b, c)}

        async def delay(sender: str, receiver: str) -> float:
            transport = sockets[sender][0]
            heard = sockets[receiver][1]
            sent_at = asyncio.get_running_loop().time()
            transport.sendto(b"x", (network.host(receiver).ipv4, 1))
            await asyncio.sleep(10.0)
            return round(heard.times[-1] - sent_at, 6)

        assert await delay("a", "b") == 0.1
        network.link("a", b, Link(delay=0.2))
        assert await delay("a", "b") == await delay("b", "a") == 0.2
        assert await delay("a", "c") == 0.1
        network.link(a, "b", Link(delay=0.3), both_ways=False)
        assert (await delay("a", "b"), await delay("b", "a")) == (0.3, 0.2)
        network.link(c, None, Link(delay=0.4))
        assert await delay("a", "c") == await delay("c", "b") == 0.4
        network.link(["a", b], "c", Link(delay=0.5))
        assert await delay("c", "a") == await delay("b", "c") == 0.5
        network.default = Link(delay=0.6)
        assert network.default == Link(delay=0.6)
        network.host("late")
        sockets["late"] = await open_at(network.host("late"), (network.host("late").ipv4, 1))
        assert await delay("a", "late") == 0.6
        assert await delay("c", "late") == 0.4
        assert await delay("a", "a") == 0.0

    simulate(main)


def test_hosts_that_share_a_link_compete_for_its_rate() -> None:
    async def main() -> tuple[int, int]:
        network = Network()
        server = network.host("server")
        _, heard = await open_at(server, (server.ipv4, 1))
        narrow = Link(rate_bytes_per_second=1000.0, queue_bytes=10**6)
        network.link(["client-1", "client-2"], "server", narrow, shared=True)
        network.link("client-3", "server", narrow)
        shared = [await open_at(network) for _ in range(2)]
        alone, _ = await open_at(network)
        for _ in range(100):
            for client, _ in shared:
                client.sendto(bytes(72), (server.ipv4, 1))
            alone.sendto(bytes(72), (server.ipv4, 1))
        await asyncio.sleep(5.001)
        own = alone.get_extra_info("host").ipv4
        return (
            sum(source[0] != own for source in heard.sources),
            sum(source[0] == own for source in heard.sources),
        )

    assert simulate(main) == (50, 50)


def test_one_more_host_changes_nothing_for_the_others() -> None:
    async def main(names: str) -> list[bytes]:
        network = Network(seed=3, link=Link(loss=0.5))
        a, b = network.host("a"), network.host("b")
        _, heard = await open_at(b, (b.ipv4, 1))
        sender, _ = await open_at(a)
        others = [await open_at(network.host(name)) for name in names]
        for number in range(50):
            for other, _ in others:
                other.sendto(b"", (b.ipv4, 1))
            sender.sendto(bytes([number]), (b.ipv4, 1))
        await asyncio.sleep(1.0)
        return [data for data in heard.data if data]

    assert simulate(main("")) == simulate(main("xyz"))


def test_partitions_cut_and_repairs_mend() -> None:
    async def main() -> None:
        network = Network()
        hosts = {name: network.host(name) for name in "abc"}
        sockets = {name: await open_at(host, (host.ipv4, 1)) for name, host in hosts.items()}

        async def passing() -> str:
            """The pairs that reach each other."""
            for name in sockets:
                sockets[name][1].received.clear()
                for other in hosts.values():
                    if other.name != name:
                        sockets[name][0].sendto(name.encode(), (other.ipv4, 1))
            await asyncio.sleep(1.0)
            pairs = [
                data.decode() + name for name, (_, heard) in sockets.items() for data in heard.data
            ]
            return " ".join(sorted(pairs))

        assert await passing() == "ab ac ba bc ca cb"
        network.partition("a", "b", both_ways=False)
        assert await passing() == "ac ba bc ca cb"
        network.partition(["a", "b"], hosts["c"])
        assert await passing() == "ba"
        network.repair("a", "c")
        assert await passing() == "ac ba ca"
        network.repair("c", ["b"])
        assert await passing() == "ac ba bc ca cb"
        network.repair("b")
        assert await passing() == "ab ac ba bc ca cb"
        network.partition("a", "b")
        network.repair()
        assert await passing() == "ab ac ba bc ca cb"
        network.partition("c")
        hosts["d"] = network.host("d")
        sockets["d"] = await open_at(hosts["d"], (hosts["d"].ipv4, 1))
        assert await passing() == "ab ad ba bd da db"
        network.repair("c")
        network.partition(["a", "b"], both_ways=False)
        assert await passing() == "ca cb cd da db dc"
        assert network.trace.dropped["partition"] > 0

    simulate(main)


def test_what_is_on_its_way_passes_a_partition_behind_it() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=1.0))
        a, b = network.host("a"), network.host("b")
        _, heard = await open_at(b, (b.ipv4, 1))
        sender, _ = await open_at(a)
        sender.sendto(b"before", (b.ipv4, 1))
        network.partition(a, b)
        sender.sendto(b"after", (b.ipv4, 1))
        await asyncio.sleep(2.0)
        assert heard.data == [b"before"]

    simulate(main)


def test_what_is_held_waits_and_is_let_go_in_order() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.5))
        a, b, c = (network.host(name) for name in "abc")
        _, heard = await open_at(b, (b.ipv4, 1))
        from_a, _ = await open_at(a)
        from_c, _ = await open_at(c)
        network.hold(a, b)
        for number in range(3):
            from_a.sendto(bytes([number]), (b.ipv4, 1))
            from_c.sendto(b"c", (b.ipv4, 1))
        from_a.close()
        await asyncio.sleep(9.5)
        assert heard.data == [b"c"] * 3
        assert network.held == 3
        network.release("b")
        await asyncio.sleep(5.0)
        assert heard.data[3:] == [b"\0", b"\1", b"\2"]
        assert heard.times[3:] == [10.0] * 3
        assert network.held == 0
        network.hold(b)
        from_c.sendto(b"held", (b.ipv4, 1))
        network.partition(b)
        network.release()
        await asyncio.sleep(5.0)
        assert network.trace.dropped == {"partition": 1}

    simulate(main)


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aerogram.lab.transit.HELD_LIMIT", 5)

    async def main() -> None:
        network = Network()
        b = network.host("b")
        await open_at(b, (b.ipv4, 1))
        sender, _ = await open_at(network)
        network.hold(b)
        for _ in range(8):
            sender.sendto(b"x", (b.ipv4, 1))
        assert network.held == 5
        assert network.trace.dropped == {"too many held": 3}

    simulate(main)


def test_a_changed_link_holds_for_what_is_sent_from_then_on() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=5.0))
        b = network.host("b")
        _, heard = await open_at(b, (b.ipv4, 1))
        sender, _ = await open_at(network)
        sender.sendto(b"slow", (b.ipv4, 1))
        network.default = Link(delay=1.0)
        sender.sendto(b"fast", (b.ipv4, 1))
        network.default = Link(loss=1.0)
        sender.sendto(b"lost", (b.ipv4, 1))
        await asyncio.sleep(10.0)
        assert heard.received == [
            (1.0, b"fast", ("10.0.0.2", 49152)),
            (5.0, b"slow", ("10.0.0.2", 49152)),
        ]

    simulate(main)
