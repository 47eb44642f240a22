"""The library itself in the lab: what a user's tests look like."""

from __future__ import annotations

import asyncio

import pytest

from aerogram import App, Config, Message, Session, connect, serve
from aerogram.errors import HandshakeTimeout, SessionClosed
from aerogram.lab import Link, Network, simulate

BAD = Link(delay=0.08, jitter=0.04, loss=0.2, duplicate=0.05)


class Line(Message, tag=2):
    text: str


def chat() -> App:
    app = App()

    @app.on_open
    async def enter(session: Session) -> None:
        app.group("hall").add(session)

    @app.on(Line)
    async def say(session: Session, line: Line) -> None:
        await app.group("hall").send(line, exclude=session)

    return app


@pytest.mark.parametrize("seed", range(5))
def test_every_line_arrives_once_and_in_order_over_a_bad_link(seed: int) -> None:
    async def main() -> None:
        network = Network(link=BAD)
        async with (
            serve(chat(), "server", 1, network=network) as server,
            connect(server.address, network=network) as alice,
            connect(server.address, network=network) as bob,
        ):
            await asyncio.sleep(1.0)
            sent = [Line(str(number)) for number in range(200)]
            for line in sent:
                await alice.send(line)
            assert [await bob.receive(Line) for _ in sent] == sent
        assert network.trace.dropped["loss"] > 0

    simulate(main, limit=60.0, seed=seed)


def test_plain_text_on_the_networks_localhost() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.01))
        async with (
            serve(chat(), "127.0.0.1", 9000, insecure=True, network=network),
            connect("127.0.0.1", 9000, insecure=True, network=network) as alice,
            connect("localhost", 9000, insecure=True, network=network) as bob,
        ):
            await asyncio.sleep(1.0)
            await alice.send(Line("hello"))
            assert await bob.receive(Line) == Line("hello")

    simulate(main)


def test_ipv6_and_hosts_to_hold_on_to() -> None:
    async def main() -> None:
        network = Network(link=BAD)
        home, away = network.host("home", address="fd00::9"), network.host("away")
        async with (
            serve(chat(), "home", 1, network=home) as server,
            connect(server.address_at("home"), network=away) as alice,
            connect(server.address_at("fd00::9"), network=away) as bob,
        ):
            await asyncio.sleep(1.0)
            await alice.send(Line("six"))
            assert await bob.receive(Line) == Line("six")

    simulate(main)


def test_a_black_out_is_survived_and_a_long_one_ends_the_session() -> None:
    async def main() -> None:
        network = Network(link=BAD)
        config = Config(idle_timeout_seconds=30.0, keepalive_seconds=5.0)
        async with (
            serve(chat(), "server", 1, network=network, config=config) as server,
            connect(server.address, network=network, config=config) as alice,
            connect(server.address, network=network, config=config) as bob,
        ):
            await asyncio.sleep(1.0)
            network.partition("server")
            await alice.send(Line("into the dark"))
            await asyncio.sleep(20.0)
            network.repair()
            assert await asyncio.wait_for(bob.receive(Line), 10.0) == Line("into the dark")
            network.partition("server")
            with pytest.raises(SessionClosed):
                await asyncio.wait_for(bob.receive(Line), 60.0)

    simulate(main)


def test_nobody_there_is_a_timeout() -> None:
    async def main() -> None:
        network = Network()
        with pytest.raises(HandshakeTimeout):
            async with connect("nowhere", 1, psk=bytes(32), network=network):
                raise AssertionError("connected to nobody")
        assert asyncio.get_running_loop().time() == pytest.approx(5.0, abs=0.5)

    simulate(main)


def test_a_session_survives_a_new_port_of_its_nat() -> None:
    async def main() -> None:
        network = Network(link=BAD)
        nat = network.nat("client-1")
        async with (
            serve(chat(), "server", 1, network=network) as server,
            connect(server.address, network=network) as alice,
            connect(server.address, network=network) as bob,
        ):
            await asyncio.sleep(1.0)
            for number in range(5):
                nat.rebind_port()
                await alice.send(Line(f"from {number}"))
                assert await bob.receive(Line) == Line(f"from {number}")
                await bob.send(Line(f"to {number}"))
                assert await alice.receive(Line) == Line(f"to {number}")

    simulate(main)
