"""Who sent a datagram may be forged or gone: that ends no program that answers."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from aerogram.errors import InvalidMessage, MessageTooLarge
from aerogram.io.datagram import Datagram
from aerogram.io.opening import open_endpoint
from tests.io.endpoints import EVERY_TRANSPORT, HOST, PATIENCE, Kind, opened


@EVERY_TRANSPORT
async def test_a_reply_that_cannot_reach_its_sender_is_lost_and_counted(kind: Kind) -> None:
    async with opened(kind=kind) as endpoint:
        nowhere = [(HOST, 0), ("203.0.113.7", 9)]  # a socket on loopback reaches neither
        for address in nowhere:
            await Datagram(b"x", address, endpoint=endpoint).reply(b"answer")
        assert (endpoint.stats.sent, endpoint.stats.send_refused) == (0, len(nowhere))
        with pytest.raises(InvalidMessage):
            await Datagram(b"x", endpoint.local_address, endpoint=endpoint).reply("text")
        with pytest.raises(MessageTooLarge):
            await Datagram(b"x", endpoint.local_address, endpoint=endpoint).reply(bytes(70_000))


@pytest.mark.skipif(sys.platform == "win32", reason="no AF_UNIX datagram sockets")
async def test_a_reply_to_a_unix_sender_that_has_no_name_or_has_gone_is_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "server"
    async with open_endpoint(path=path) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
            nameless.sendto(b"x", str(path))
        async with open_endpoint(path=tmp_path / "client") as client:
            await client.send(b"y", path)
        for _ in range(2):
            await (await server.receive(timeout=PATIENCE)).reply(b"answer")
        assert (server.stats.sent, server.stats.send_refused) == (0, 2)
