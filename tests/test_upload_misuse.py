"""Uploads that cannot be: each mistake is named where it is made."""

from __future__ import annotations

from typing import Any

import pytest

from aerogram import App, InvalidMessage, Request, RequestFailed, Session, Upload, connect, serve
from aerogram.lab import Network, simulate


class Store(Upload[bytes], tag=1):
    name: str


class Ask(Request[int], tag=2):
    pass


def app() -> App[None, None]:
    made: App[None, None] = App()

    @made.answers(Store)
    async def store(session: Session[None], request: Store) -> bytes:
        return b"".join([chunk async for chunk in request.chunks])

    return made


@pytest.mark.parametrize("content", ["text", bytearray(2), 7, [b"x", "y"], None])
def test_content_that_is_no_bytes_is_refused_here(content: Any) -> None:
    async def main() -> None:
        network = Network(seed=1)
        async with (
            serve(app(), "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            with pytest.raises(InvalidMessage, match="content is bytes, or what yields bytes"):
                await session.upload(Store("x"), content)

    simulate(main())


def test_mistakes_are_named() -> None:
    with pytest.raises(TypeError, match="`chunks` is the content"):

        class Bad(Upload[int]):
            chunks: int

    with pytest.raises(RuntimeError, match="for the handler"):
        _ = Store("x").chunks

    async def main() -> None:
        network = Network(seed=1)
        async with (
            serve(app(), "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            with pytest.raises(InvalidMessage, match=r"session\.upload"):
                await session.send(Store("x"))
            with pytest.raises(InvalidMessage, match=r"session\.request"):
                await session.upload(Ask(), b"")  # type: ignore[arg-type]
            with pytest.raises(InvalidMessage, match=r"session\.upload"):
                await session.request(Store("x"))  # type: ignore[arg-type]
            with pytest.raises(RequestFailed, match="nobody answers"):
                await session.upload(Unknown(), b"")

    simulate(main())


class Unknown(Upload[int], tag=9):
    pass
