"""How long a session lives when nothing is said, and how both sides learn that it is over."""

from __future__ import annotations

from random import Random

import pytest

from aerogram.config import SMALLEST_DATAGRAM_BYTES, Config
from aerogram.core import wire
from aerogram.core.connection import State
from aerogram.core.endpoint import RESET_INTERVAL_SECONDS, Endpoint
from aerogram.core.events import CloseCode
from aerogram.core.farewell import CLOSES_SENT
from aerogram.core.handshake import ClientSecurity, ServerSecurity
from aerogram.core.keys import Identity, mac1, mac1_key
from aerogram.core.wire import Mode
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair, Side

HOUR_SECONDS = 3600.0
SILENT = Config(idle_timeout_seconds=30.0, keepalive_seconds=0.0)


def opened(client: Config, server: Config, **how: object) -> Pair:
    pair = Pair(config=client, server_config=server, **how)  # type: ignore[arg-type]
    pair.open()
    return pair


# -- idle


@pytest.mark.parametrize(
    ("at_client", "at_server", "lives"),
    [(30.0, 4.0, 4.0), (4.0, 30.0, 4.0), (0.0, 7.0, 7.0), (7.0, 0.0, 7.0), (9.0, 9.0, 9.0)],
)
def test_the_lower_idle_timeout_of_both_sides_rules(
    at_client: float, at_server: float, lives: float
) -> None:
    pair = opened(
        Config(idle_timeout_seconds=at_client, keepalive_seconds=0.0),
        Config(idle_timeout_seconds=at_server, keepalive_seconds=0.0),
    )
    pair.run(seconds=lives - 0.5)
    assert pair.client.ended is pair.server.ended is None
    pair.run(seconds=1.0)
    for side in (pair.client, pair.server):
        assert side.ended is not None
        assert side.ended.code == CloseCode.IDLE


def test_without_an_idle_timeout_a_session_lives_for_ever() -> None:
    never = Config(idle_timeout_seconds=0.0, keepalive_seconds=0.0)
    pair = opened(never, never)
    pair.run(seconds=24 * HOUR_SECONDS)
    assert pair.client.ended is pair.server.ended is None


@pytest.mark.parametrize("hasty", [2.0, 10.0, 20.0])
@pytest.mark.parametrize("hasty_client", [True, False])
@pytest.mark.parametrize("keepalive_at_client", [True, False])
def test_keepalive_follows_the_lower_idle_timeout_of_both(
    hasty: float, hasty_client: bool, keepalive_at_client: bool
) -> None:
    """One side pings and the other does not; whose idle timeout is the lower does not matter."""

    def config(*, is_client: bool) -> Config:
        return Config(
            idle_timeout_seconds=hasty if hasty_client == is_client else 30.0,
            keepalive_seconds=15.0 if keepalive_at_client == is_client else 0.0,
        )

    pair = opened(config(is_client=True), config(is_client=False), link=Link(delay=0.005))
    pair.run(seconds=HOUR_SECONDS)
    assert pair.client.ended is pair.server.ended is None
    assert pair.traffic[0].sent < 8 * HOUR_SECONDS / hasty


def test_keepalive_outlives_lost_pings() -> None:
    hasty = Config(idle_timeout_seconds=5.0, keepalive_seconds=0.0)
    pair = opened(Config(), hasty, link=Link(delay=0.02, loss=0.05), seed=3)
    pair.run(seconds=HOUR_SECONDS)
    assert pair.client.ended is pair.server.ended is None


# -- farewell


@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize("code", [CloseCode.NO_ERROR, CloseCode.GOING_AWAY, 256, 70_000])
def test_the_peer_learns_the_code_and_the_reason(code: int, by_client: bool) -> None:
    pair = opened(SILENT, SILENT)
    closes, told = (pair.client, pair.server) if by_client else (pair.server, pair.client)
    closes.connection.close(code, "für heute genug", pair.now)
    pair.run(seconds=1.0)
    ended = told.ended
    assert ended is not None
    assert (ended.code, ended.reason, ended.by_peer) == (code, "für heute genug", True)
    assert closes.ended is not None
    assert not closes.ended.by_peer


def closing(pair: Pair, lost: int) -> int:
    """Close at the client, lose so many of its packets, and count those that it sends."""
    sent: list[float] = []

    def loses(side: Side, _packet: bytes) -> bool:
        if side is not pair.client:
            return False
        sent.append(pair.now)
        return len(sent) <= lost

    pair.loses = loses
    pair.client.connection.close(300, "bye", pair.now)
    pair.run(seconds=10.0)
    assert pair.client.connection.state is State.CLOSED
    return len(sent)


@pytest.mark.parametrize("lost", range(CLOSES_SENT))
def test_a_close_that_is_lost_is_said_again(lost: int) -> None:
    pair = opened(SILENT, SILENT)
    assert closing(pair, lost) == lost + 1
    assert pair.server.ended is not None
    assert (pair.server.ended.code, pair.server.ended.reason) == (300, "bye")


def test_a_close_is_said_three_times_and_no_more() -> None:
    pair = opened(SILENT, SILENT)
    assert closing(pair, lost=1000) == CLOSES_SENT == 3
    pair.run(seconds=30.0)
    assert pair.server.ended is not None
    assert pair.server.ended.code == CloseCode.IDLE


def test_an_answer_to_a_close_that_is_lost_is_given_again() -> None:
    pair = opened(SILENT, SILENT)
    answers: list[bytes] = []

    def loses(side: Side, packet: bytes) -> bool:
        if side is pair.client:
            return False
        answers.append(packet)
        return len(answers) == 1

    pair.loses = loses
    pair.client.connection.close(0, "", pair.now)
    pair.run(seconds=10.0)
    assert len(answers) == 2
    assert pair.client.connection.state is pair.server.connection.state is State.CLOSED


# -- resets


IDENTITY = Identity.from_private_bytes(bytes(range(32)))


def restarted(config: Config | None = None) -> Endpoint:
    """A server that has lost its sessions, and has the secret by which it can say so."""
    return Endpoint(
        config or Config(),
        random_bytes=Random(1).randbytes,
        specs={},
        security=ServerSecurity(IDENTITY),
        reset_secret=bytes(32),
    )


def resets(endpoint: Endpoint, now: float) -> list[tuple[object, bytes]]:
    sent = [(t.address, packet) for t in endpoint.poll_transmit(now) for packet in t.packets]
    assert all(isinstance(wire.decode_handshake_untrusted(p), wire.Reset) for _, p in sent)
    return sent


def stray(number: int = 0) -> bytes:
    return bytes((wire.DATA,)) + number.to_bytes(8, "big") + bytes(64)


def test_an_address_is_told_ten_times_a_second_that_its_session_is_unknown() -> None:
    server, here, there = restarted(), ("here", 1), ("there", 2)
    told = 0
    for millisecond in range(1000):
        now = millisecond / 1000
        server.receive_datagram(stray(millisecond), here, now)
        told += len(resets(server, now))
    assert told == 10
    assert RESET_INTERVAL_SECONDS == 0.1
    server.receive_datagram(stray(), there, 0.999)
    assert [address for address, _ in resets(server, 0.999)] == [there]
    assert server.stats.resets_sent == 11
    assert server.stats.dropped_unknown_connection == 1001


def test_a_reset_is_smaller_than_what_it_answers() -> None:
    server = restarted()
    reset_bytes = len(wire.encode_reset(bytes(8), bytes(16)))
    for size in range(wire.DATA_HEADER_BYTES + 1, reset_bytes + 3):
        server.receive_datagram(stray()[:size], ("here", size), 0.0)
        answers = resets(server, 0.0)
        assert [len(packet) < size for _, packet in answers] == [True] * (size > reset_bytes)


# -- half open


def shake(server: Endpoint, number: int, now: float) -> int:
    """A client asks once and never again; how many packets it got for that."""
    address = ("client", number)
    client = Endpoint(Config(), random_bytes=Random(number).randbytes, specs={})
    security = ClientSecurity(
        Mode.PINNED,
        Identity.from_private_bytes((number + 1).to_bytes(32, "big")),
        IDENTITY.public_bytes,
    )
    client.connect(("server", 1), security, now, 5.0)
    for transmit in client.poll_transmit(now):
        for packet in transmit.packets:
            server.receive_datagram(packet, address, now)
    return sum(len(transmit.packets) for transmit in server.poll_transmit(now))


def test_no_more_than_the_limit_are_half_open() -> None:
    limits = Config(half_open_limit=5, half_open_before_retry=100, handshake_timeout_seconds=2.0)
    server = restarted(limits)
    answered = [shake(server, number, 0.0) for number in range(8)]
    assert answered == [1] * 5 + [0] * 3
    assert server.stats.dropped_at_limit == 3
    assert server.stats.handshakes_started == 5
    assert shake(server, 3, 0.5) == 1  # the same INIT again costs nothing
    server.handle_timeout(2.0)
    assert server.stats.handshakes_expired == 5
    assert shake(server, 20, 2.0) == 1


def test_an_init_without_its_padding_gets_no_answer() -> None:
    """Else whoever forges an address could have a server send more than he sends."""
    server = restarted()
    server_key = IDENTITY.public_bytes
    client = Endpoint(Config(), random_bytes=Random(1).randbytes, specs={})
    security = ClientSecurity(Mode.PINNED, Identity.from_private_bytes(bytes(32)), server_key)
    client.connect(("server", 1), security, 0.0, 5.0)
    [transmit] = client.poll_transmit(0.0)
    [init] = transmit.packets
    assert len(init) == SMALLEST_DATAGRAM_BYTES
    key = mac1_key(server_key)
    for padding_missing in (1, 500):
        body = init[: -wire.MAC1_BYTES - padding_missing]
        server.receive_datagram(body + mac1(key, body), ("client", 1), 0.0)
    assert [*server.poll_transmit(0.0)] == []
    assert server.stats.handshakes_started == 0
    server.receive_datagram(init, ("client", 1), 0.0)
    assert len([*server.poll_transmit(0.0)]) == 1


def test_above_a_few_half_open_a_client_proves_its_address_first() -> None:
    server = restarted(Config(half_open_limit=100, half_open_before_retry=2))
    assert [shake(server, number, 0.0) for number in range(6)] == [1] * 6
    assert server.stats.handshakes_started == 2
    assert server.stats.retries_sent == 4
