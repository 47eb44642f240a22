"""Prints the trace hash of a fixed scenario, for every interpreter that there is.

`python scenario.py lab` needs nothing but the standard library, and `python scenario.py whole` what
the package depends on.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[2] / "src" / "aerogram"


def load_lab_alone() -> None:
    """Let `aerogram.lab` be imported without all that `aerogram` itself imports."""
    package = types.ModuleType("aerogram")
    package.__path__ = [str(PACKAGE)]
    sys.modules["aerogram"] = package


async def plain() -> Any:
    """Many hosts that talk over every kind of trouble."""
    from aerogram.lab import Burst, Link, Network

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            if len(data) < 40:
                self.transport.sendto(data + b"x", addr)

    link = Link(
        delay=0.02,
        jitter=0.03,
        distribution="skewed",
        burst=Burst(enter=0.02, leave=0.3),
        duplicate=0.05,
        corrupt=0.05,
        reorder=0.05,
        rate_bytes_per_second=10_000,
    )
    network = Network(link=link)
    names = {f"host-{number}" for number in range(8)}  # a set of text, ordered by its hash
    hosts = [network.host(name) for name in sorted(names)]
    ends = [
        await host.create_datagram_endpoint(Echo, local_address=(host.ipv4, 5)) for host in hosts
    ]
    nat = network.nat(hosts[0])

    async def talk(number: int) -> None:
        for step in range(30):
            target = hosts[(number + step) % len(hosts)]
            ends[number][0].sendto(hosts[number].random_bytes(8), (target.ipv4, 5))
            await asyncio.sleep(0.05)

    tasks = {asyncio.create_task(talk(number)) for number in range(len(hosts))}
    await asyncio.sleep(0.5)
    network.partition(hosts[1], hosts[2:5])
    nat.rebind_port()
    await asyncio.sleep(0.5)
    network.repair()
    done, _ = await asyncio.wait(tasks)
    for task in done:
        await task
    await asyncio.sleep(5.0)
    return network


async def whole() -> Any:
    """A server and clients of the real library, under loss."""
    from aerogram import App, connect, serve
    from aerogram.lab import Link, Network

    app = App()

    @app.on(bytes)
    async def echo(session: Any, data: bytes) -> None:
        await session.send(data)

    async def talk(address: str) -> None:
        async with connect(address, network=network) as session:
            for number in range(20):
                await session.send(str(number).encode())
                assert await session.receive(bytes) == str(number).encode()
                await asyncio.sleep(1.0)

    network = Network(link=Link(delay=0.05, jitter=0.02, loss=0.1, duplicate=0.05))
    async with serve(app, "server", 1, network=network) as server, asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(talk(server.address))
    return network


def main() -> None:
    if sys.argv[1] == "lab":
        load_lab_alone()
    elif importlib.util.find_spec("aerogram") is None:
        sys.path.insert(0, str(PACKAGE.parent))
    from aerogram.lab import simulate

    network = simulate(plain if sys.argv[1] == "lab" else whole, seed=int(sys.argv[2]))
    sys.stdout.write(f"{network.trace.hash} {network.trace.sent}\n")


if __name__ == "__main__":
    main()
