"""Sessions with either cipher: over real sockets, in the lab, and where there is none in common."""

from __future__ import annotations

from typing import Any

import pytest

from aerogram import App, Config, ConnectFailed, NoCommonCipher, Request, Session, connect, serve
from aerogram.config import Cipher
from aerogram.core.handshake import CIPHERS
from aerogram.lab import Link, Network

PSK = bytes(range(32))


class Double(Request[bytes]):
    data: bytes


def doubling() -> App[None, None]:
    app: App[None, None] = App()

    @app.answers(Double)
    async def double(session: Session[None], asked: Double) -> bytes:
        return 2 * asked.data

    return app


async def check(session: Session[Any], server: Any, cipher: Cipher) -> None:
    for size in (0, 1, 1000, 100_000):
        assert await session.request(Double(bytes(size)), timeout=20) == bytes(2 * size)
    [peer] = server.sessions
    for end in (session, peer):
        assert end._connection._sender.protection._aead is CIPHERS[cipher]


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("psk", [None, PSK])
@pytest.mark.parametrize("transport", ["batch", "asyncio"])
async def test_a_session_over_real_sockets(
    cipher: Cipher, psk: bytes | None, transport: Any
) -> None:
    proposal = Config(ciphers=(cipher,), transport=transport)
    async with serve(doubling(), psk=psk, config=Config(transport=transport)) as server:
        target: Any = (server.address,) if psk is None else ("127.0.0.1", server.port)
        async with connect(*target, psk=psk, config=proposal) as session:
            await check(session, server, cipher)


@pytest.mark.parametrize("cipher", CIPHERS)
async def test_a_session_through_a_bad_network(cipher: Cipher) -> None:
    network = Network(seed=4, link=Link(delay=0.001, loss=0.1, duplicate=0.1, reorder=0.1))
    wanted = Config(ciphers=(cipher,))
    async with (
        serve(doubling(), "server", 1, network=network, config=wanted) as server,
        connect(server.address, network=network) as session,
    ):
        await check(session, server, cipher)


async def test_without_a_common_cipher_connecting_fails_at_once_and_says_why() -> None:
    picky = Config(ciphers=("aes-256-gcm",), handshake_timeout_seconds=1000.0)
    async with serve(doubling(), config=Config(ciphers=("chacha20-poly1305",))) as server:
        with pytest.raises(NoCommonCipher, match=r"chacha20-poly1305: see Config\.ciphers") as no:
            await connect(server.address, config=picky).__aenter__()
        assert isinstance(no.value, ConnectFailed)
        assert server.sessions == []
        async with connect(server.address) as session:
            await check(session, server, "chacha20-poly1305")


@pytest.mark.parametrize(
    "ciphers",
    [(), ("aes",), ("aes-256-gcm", "aes-256-gcm"), ["aes-256-gcm"], "aes-256-gcm", None, (1,)],
)
def test_ciphers_that_are_none_are_refused(ciphers: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"ciphers .* aes-256-gcm, chacha20-poly1305"):
        Config(ciphers=ciphers)
