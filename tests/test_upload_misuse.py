"""Uploads that cannot be: a mistake is named where it is made, a peer's harms only itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aerogram import App, InvalidMessage, Request, RequestFailed, Session, Upload, connect, serve
from aerogram import messages as codec
from aerogram.lab import Network, simulate
from aerogram.messages import Chunk


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


IMPOSSIBLE = (
    [Chunk(0, b"too soon")],
    [Chunk(1 << 62, None), Chunk(1 << 62, b"x")],
    [Chunk(place, bytes(60_000)) for place in range(100)],
)


@pytest.mark.parametrize("chunks", IMPOSSIBLE)
def test_a_peer_that_sends_what_cannot_be_ends_its_own_upload(
    chunks: list[Chunk], caplog: pytest.LogCaptureFixture
) -> None:
    """Its handler is cancelled, nothing is logged here, and others go on."""

    async def main() -> None:
        network = Network(seed=1)
        went: list[str] = []
        made: App[None, None] = App()

        @made.answers(Store)
        async def store(session: Session[None], request: Store) -> bytes:
            if len(chunks) == 1:
                await asyncio.sleep(0.1)
            try:
                return b"".join([chunk async for chunk in request.chunks])
            except asyncio.CancelledError:
                went.append(request.name)
                raise

        async with (
            serve(made, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            session._inner.outbox.put_own("default", codec.encode_upload(77, Store("impossible")))
            await asyncio.sleep(0.01)
            for place, data in [(each.place, each.data) for each in chunks]:
                last = codec.encode_last(77, place)
                frame = last if data is None else codec.encode_chunk(77, place, data)
                session._inner.outbox.put_own("uploads", frame)
            await asyncio.sleep(0.5)
            [peer] = server.sessions
            assert peer.stats.handlers_cancelled == 1
            assert peer._inner.memory.unread_bytes == 0
            assert await session.upload(Store("x"), b"abc") == b"abc"
            assert session.stats.messages_refused > 0
            assert session.stats.balanced
            assert peer.stats.balanced
            assert went == ([] if len(chunks) == 1 else ["impossible"])

    simulate(main())
    assert [each for each in caplog.records if each.name == "aerogram.server"] == []


def test_frames_for_no_upload_are_harmless() -> None:
    async def main() -> None:
        network = Network(seed=1)
        async with (
            serve(app(), "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            assert await session.upload(Store("x"), b"abc") == b"abc"
            [peer] = server.sessions
            for frame in (
                codec.encode_chunk(0, 35, b"more"),
                codec.encode_chunk(77, 0, b"x"),
                codec.encode_last(77, 1 << 63),
                codec.encode_room(0, 1 << 63),
                codec.encode_room(77, 1 << 63),
            ):
                for channel in ("answers", "uploads"):
                    peer._inner.outbox.put_own(channel, frame)
                    session._inner.outbox.put_own(channel, frame)
            assert await session.upload(Store("x"), b"abc") == b"abc"
            assert session.stats.balanced
            assert peer.stats.balanced

    simulate(main())


def test_what_is_asked_in_the_wrong_way_reaches_no_handler() -> None:
    """As a request without content, or as an upload of what is a request."""

    async def main() -> None:
        network = Network(seed=1)
        async with (
            serve(app(), "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            frame = codec.encode_upload(77, Store("x"))
            session._inner.outbox.put_own("default", bytes([codec.REQUEST]) + frame[1:])
            frame = codec.encode_request(78, Ask())
            session._inner.outbox.put_own("default", bytes([codec.UPLOAD]) + frame[1:])
            assert await session.upload(Store("x"), b"abc") == b"abc"
            assert server.sessions[0].stats.messages_received_refused == 2
            assert server.stats.balanced

    simulate(main())


class Unknown(Upload[int], tag=9):
    pass
