"""What an endpoint looks up by: no search over all sessions, nothing left after the last one."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from aerogram.config import Config
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec
from aerogram.core.delivery import preset
from aerogram.core.endpoint import Endpoint
from aerogram.core.events import CloseCode, SessionEnded, SessionOpened
from aerogram.core.handshake import ClientSecurity, ServerSecurity
from aerogram.core.keys import Identity
from aerogram.core.wire import Mode


def source(seed: int) -> Callable[[int], bytes]:
    return Random(seed).randbytes


class World:
    """A server and clients that each have an address of their own."""

    def __init__(self, clients: int) -> None:
        ordered = preset("ordered")
        assert ordered is not None
        self.specs = {"default": ChannelSpec("default", ordered)}
        self.identity = Identity.from_private_bytes(bytes(31) + b"\x07")
        self.server = Endpoint(
            Config(),
            random_bytes=source(0),
            specs=self.specs,
            security=ServerSecurity(self.identity),
            reset_secret=bytes(32),
        )
        self.clients = {
            ("client", number): Endpoint(Config(), random_bytes=source(number), specs=self.specs)
            for number in range(1, clients + 1)
        }
        self.now = 0.0

    def connect(self, address: tuple[str, int]) -> None:
        own = Identity.from_private_bytes(source(address[1] + 1000)(32))
        security = ClientSecurity(Mode.PINNED, own, self.identity.public_bytes)
        self.clients[address].connect(("server", 1), security, self.now, 5.0)

    def exchange(self, turns: int = 6) -> None:
        for _ in range(turns):
            self.now += 0.01
            for address, client in self.clients.items():
                client.handle_timeout(self.now)
                for transmit in client.poll_transmit(self.now):
                    for packet in transmit.packets:
                        self.server.receive_datagram(packet, address, self.now)
            self.server.handle_timeout(self.now)
            for transmit in self.server.poll_transmit(self.now):
                for packet in transmit.packets:
                    client = self.clients[transmit.address]
                    client.receive_datagram(packet, ("server", 1), self.now)


def events(endpoint: Endpoint) -> list[object]:
    found: list[object] = []
    while (event := endpoint.poll_event()) is not None:
        found.append(event)
    return found


def test_nothing_is_left_of_sessions_that_have_ended() -> None:
    world = World(20)
    for address in world.clients:
        world.connect(address)
    world.exchange()
    opened = [e for e in events(world.server) if isinstance(e, SessionOpened)]
    assert len(opened) == 20
    for event in opened:
        event.connection.close(CloseCode.NO_ERROR, "", world.now)
    world.exchange(200)
    for endpoint in (world.server, *world.clients.values()):
        assert endpoint.connections == []
        assert not endpoint._by_reset_token
        assert not endpoint._newest_at
        assert not endpoint._connections
        assert not endpoint._half_open


def test_a_second_session_from_an_address_makes_the_first_prove_itself() -> None:
    world = World(1)
    [(address, client)] = world.clients.items()
    world.connect(address)
    world.exchange()
    [first] = [e for e in events(world.server) if isinstance(e, SessionOpened)]
    received = first.connection.stats.packets_received
    world.connect(address)
    world.exchange()
    assert first.connection.stats.packets_received > received
    assert len(world.server.connections) == 2
    assert len(client.connections) == 2


def test_only_the_right_token_for_the_right_id_resets() -> None:
    world = World(1)
    [(address, client)] = world.clients.items()
    world.connect(address)
    world.exchange()
    [opened] = [e for e in events(client) if isinstance(e, SessionOpened)]
    connection = opened.connection
    cid, token = connection.remote_cid, connection.peer_reset_token
    for wrong in ((bytes(8), token), (cid, bytes(16)), (cid[::-1], token)):
        client.receive_datagram(wire.encode_reset(*wrong), ("server", 1), world.now)
        assert [e for e in events(client) if isinstance(e, SessionEnded)] == []
    client.receive_datagram(wire.encode_reset(cid, token), ("server", 1), world.now)
    [ended] = [e for e in events(client) if isinstance(e, SessionEnded)]
    assert ended.code == CloseCode.RESTARTED
