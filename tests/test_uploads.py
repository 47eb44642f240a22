"""Uploads: content of any size to a handler that takes it piece by piece."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any

import pytest

from aerogram import (
    App,
    Config,
    Rejected,
    Request,
    RequestFailed,
    RequestTimeout,
    Session,
    SessionClosed,
    Upload,
    connect,
    serve,
)
from aerogram.lab import Link, Network, simulate


class Store(Upload[bytes], tag=1):
    name: str


class Ask(Request[int], tag=2):
    pass


SMALL = Config(
    max_record_bytes=64 * 1024,
    reassembly_bytes_per_session=64 * 1024,
    reassembly_bytes_per_endpoint=64 * 1024,
    upload_window_bytes=64 * 1024,
    send_queue_bytes=64 * 1024,
)
"""Less memory, for unfinished records and for queues, than most content here."""
TERRIBLE = Link(delay=0.02, jitter=0.02, loss=0.1, duplicate=0.1, corrupt=0.02)


def content_of(seed: int, size: int) -> bytes:
    return Random(seed).randbytes(size)


class Source:
    """Content that notes how much of it was asked for, and whether it was closed."""

    def __init__(self, size: int, chunk: int = 10_000) -> None:
        self.size = size
        self.chunk = chunk
        self.given = 0
        self.closed = False
        self.digest = hashlib.sha256()

    async def chunks(self) -> AsyncIterator[bytes]:
        random = Random(1)
        try:
            while self.given < self.size:
                chunk = random.randbytes(min(self.chunk, self.size - self.given))
                self.given += len(chunk)
                self.digest.update(chunk)
                yield chunk
        finally:
            self.closed = True


class Shelf:
    """An app that stores what is uploaded, and notes how that went."""

    def __init__(self) -> None:
        self.app: App[None, None] = App()
        self.taken = 0
        self.went: list[str] = []
        self.has_some = asyncio.Event()
        """Set when a third of a million bytes has come."""
        self.may_take = asyncio.Event()
        self.may_take.set()
        self.app.answers(Store)(self.store)
        self.app.answers(Ask)(self.answer)

    async def store(self, session: Session[None], request: Store) -> bytes:
        digest = hashlib.sha256()
        try:
            async for chunk in request.chunks:
                digest.update(chunk)
                self.taken += len(chunk)
                if self.taken > 333_333:
                    self.has_some.set()
                await self.may_take.wait()
        except asyncio.CancelledError:
            self.went.append("cancelled")
            raise
        self.went.append("complete")
        return digest.digest()

    async def answer(self, session: Session[None], request: Ask) -> int:
        return 42


@pytest.mark.parametrize("seed", range(3))
def test_content_arrives_byte_for_byte_on_a_terrible_path(seed: int) -> None:
    """More than any memory for records, with loss, duplicates, corruption and another port."""
    source = Source(1_000_000)

    async def main() -> bytes:
        network = Network(seed=seed, link=TERRIBLE)
        nat = network.nat("client-1")
        shelf = Shelf()
        async with (
            serve(shelf.app, "server", 1, network=network, config=SMALL) as server,
            connect(server.address, network=network, config=SMALL, timeout=30.0) as session,
        ):
            uploading = asyncio.create_task(session.upload(Store("x"), source.chunks()))
            await shelf.has_some.wait()
            nat.rebind_port()
            digest = await uploading
            assert session.stats.balanced
            assert server.stats.balanced
            assert server.sessions[0].stats.path_changes > 0
            assert server.sessions[0].stats.packets_unauthentic > 0
            return digest

    assert simulate(main(), limit=600.0, seed=seed) == source.digest.digest()
    assert source.closed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        bytes(200_000),
        [b"a", b"", b"bc", bytes(100_000)],
        (bytes([n]) for n in range(200)),
    ],
)
def test_content_may_be_bytes_or_what_yields_bytes(content: Any) -> None:
    parts = [content] if isinstance(content, bytes) else [*content]

    async def main() -> bytes:
        network = Network(seed=1)
        async with (
            serve(Shelf().app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            return await session.upload(Store("x"), iter(parts))

    assert simulate(main()) == hashlib.sha256(b"".join(parts)).digest()


def test_a_handler_that_lags_stops_the_source_and_nobody_holds_more_than_a_window() -> None:
    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01))
        shelf, source = Shelf(), Source(2_000_000)
        shelf.may_take.clear()
        async with (
            serve(shelf.app, "server", 1, network=network, config=SMALL) as server,
            connect(server.address, network=network, config=SMALL) as session,
        ):
            uploading = asyncio.create_task(session.upload(Store("x"), source.chunks()))
            await asyncio.sleep(5.0)
            assert shelf.taken <= source.chunk
            assert source.given - shelf.taken <= SMALL.upload_window_bytes + source.chunk
            assert await session.request(Ask()) == 42  # others go on meanwhile
            shelf.may_take.set()
            assert await uploading == source.digest.digest()
            assert server.stats.balanced

    simulate(main(), limit=60.0)


def test_nothing_is_asked_for_before_the_handler_takes_some() -> None:
    async def main() -> None:
        network = Network(seed=1)
        app: App[None, None] = App()
        source = Source(1000)

        @app.answers(Store)
        async def store(session: Session[None], request: Store) -> bytes:
            await asyncio.sleep(1.0)
            assert source.given == 0
            return b"".join([chunk async for chunk in request.chunks])[:2]

        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            assert len(await session.upload(Store("x"), source.chunks())) == 2

    simulate(main())


def failing(after: int) -> Iterator[bytes]:
    for _ in range(after):
        yield bytes(5000)
    raise ZeroDivisionError


@pytest.mark.parametrize("after", [0, 1, 40])
def test_a_source_that_fails_raises_here_and_cancels_the_handler_there(after: int) -> None:
    async def main() -> list[str]:
        network = Network(seed=1, link=Link(delay=0.01))
        shelf = Shelf()
        async with (
            serve(shelf.app, "server", 1, network=network, config=SMALL) as server,
            connect(server.address, network=network, config=SMALL) as session,
        ):
            with pytest.raises(ZeroDivisionError):
                await session.upload(Store("x"), failing(after))
            await asyncio.sleep(1.0)
            assert server.sessions[0].stats.handlers_cancelled == 1
            assert await session.upload(Store("y"), b"z") == hashlib.sha256(b"z").digest()
        return shelf.went

    assert simulate(main(), limit=60.0) == ["cancelled", "complete"]


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_who_stops_waiting_cancels_the_handler_and_closes_the_source(how: str) -> None:
    async def main() -> list[str]:
        network = Network(seed=1, link=Link(delay=0.01))
        shelf, source = Shelf(), Source(1_000_000)
        shelf.may_take.clear()
        async with (
            serve(shelf.app, "server", 1, network=network, config=SMALL) as server,
            connect(server.address, network=network, config=SMALL) as session,
        ):
            if how == "timeout":
                with pytest.raises(RequestTimeout):
                    await session.upload(Store("x"), source.chunks(), timeout=1.0)
            else:
                uploading = asyncio.create_task(session.upload(Store("x"), source.chunks()))
                await asyncio.sleep(1.0)
                uploading.cancel()
                await asyncio.wait([uploading])
                assert uploading.cancelled()
            assert source.closed
            await asyncio.sleep(1.0)
            assert server.sessions[0].stats.handlers_cancelled == 1
            assert server.stats.balanced
        return shelf.went

    assert simulate(main(), limit=60.0) == ["cancelled"]


def test_a_timeout_of_the_source_is_its_own() -> None:
    async def late() -> AsyncIterator[bytes]:
        yield b"x"
        raise TimeoutError("the disk")

    async def main() -> None:
        network = Network(seed=1)
        async with (
            serve(Shelf().app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            with pytest.raises(TimeoutError, match="the disk"):
                await session.upload(Store("x"), late(), timeout=5.0)

    simulate(main())


@pytest.mark.parametrize("who", ["server", "client"])
def test_the_end_of_the_session_ends_both_sides(who: str) -> None:
    async def main() -> list[str]:
        network = Network(seed=1, link=Link(delay=0.01))
        shelf, source = Shelf(), Source(100_000_000)
        async with serve(shelf.app, "server", 1, network=network, config=SMALL) as server:
            async with connect(server.address, network=network, config=SMALL) as session:
                uploading = asyncio.create_task(session.upload(Store("x"), source.chunks()))
                await asyncio.sleep(1.0)
                closing = server.sessions[0] if who == "server" else session
                await closing.close("enough", grace=0.0)
                with pytest.raises(SessionClosed):
                    await uploading
                assert source.closed
                assert 0 < shelf.taken < source.size
            await asyncio.sleep(1.0)
        return shelf.went

    assert simulate(main(), limit=60.0) == ["cancelled"]


def test_a_sender_that_vanishes_cancels_the_handler() -> None:
    async def main() -> list[str]:
        network = Network(seed=1, link=Link(delay=0.01))
        shelf, source = Shelf(), Source(100_000_000)
        config = Config(idle_timeout_seconds=3.0, keepalive_seconds=1.0)
        async with (
            serve(shelf.app, "server", 1, network=network, config=config) as server,
            connect(server.address, network=network, config=config) as session,
        ):
            uploading = asyncio.create_task(session.upload(Store("x"), source.chunks()))
            await asyncio.sleep(1.0)
            network.partition("client-1")
            await asyncio.sleep(5.0)
            assert server.sessions == []
            with pytest.raises(SessionClosed):
                await uploading
        return shelf.went

    assert simulate(main(), limit=60.0) == ["cancelled"]


@pytest.mark.parametrize("how", ["refuses", "fails", "answers"])
def test_a_handler_may_end_an_upload_before_its_content(how: str) -> None:
    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01))
        app: App[None, None] = App()
        source = Source(100_000_000)

        @app.answers(Store)
        async def store(session: Session[None], request: Store) -> bytes:
            async for _ in request.chunks:
                if how == "refuses":
                    raise Rejected("too large")
                if how == "fails":
                    raise ZeroDivisionError
                return b"known already"
            return b""

        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            if how == "answers":
                assert await session.upload(Store("x"), source.chunks()) == b"known already"
            else:
                error = Rejected if how == "refuses" else RequestFailed
                with pytest.raises(error):
                    await session.upload(Store("x"), source.chunks())
            assert source.closed
            assert source.given < 2_000_000
            await asyncio.sleep(1.0)
            assert session.stats.balanced
            assert server.stats.balanced

    simulate(main(), limit=60.0)


def test_a_source_that_fails_to_close_does_not_hide_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stubborn() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            raise ZeroDivisionError

    async def main() -> bytes:
        network = Network(seed=1, link=Link(delay=0.01))
        app: App[None, None] = App()

        @app.answers(Store)
        async def store(session: Session[None], request: Store) -> bytes:
            return await anext(request.chunks)

        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            return await session.upload(Store("x"), stubborn())

    assert simulate(main()) == bytes(1000)
    gc.collect()
    assert caplog.records == []


def test_a_server_uploads_to_a_client_with_handlers() -> None:
    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01))
        shelf = Shelf()
        async with (
            serve(App(), "server", 1, network=network) as server,
            connect(server.address, app=shelf.app, network=network) as client,
        ):
            await client.ping()
            [session] = server.sessions
            digest = await session.upload(Store("x"), bytes(1_000_000))
            assert digest == hashlib.sha256(bytes(1_000_000)).digest()

    simulate(main())


def test_a_client_without_handlers_says_that_it_takes_no_uploads() -> None:
    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01))
        async with (
            serve(App(), "server", 1, network=network) as server,
            connect(server.address, network=network) as client,
        ):
            await client.ping()
            with pytest.raises(RequestFailed, match="nobody answers"):
                await server.sessions[0].upload(Store("x"), bytes(1_000_000))

    simulate(main())


def test_there_are_no_more_uploads_than_there_is_memory_for() -> None:
    """What an upload may hold counts as an unfinished record: one of 64 KiB here."""

    async def main() -> None:
        network = Network(seed=1)
        shelf = Shelf()
        shelf.may_take.clear()
        async with (
            serve(shelf.app, "server", 1, network=network, config=SMALL) as server,
            connect(server.address, network=network, config=SMALL) as first,
            connect(server.address, network=network, config=SMALL) as second,
        ):
            waiting = asyncio.create_task(first.upload(Store("x"), bytes(200_000)))
            await asyncio.sleep(0.1)
            for session in (first, second):
                with pytest.raises(RequestFailed, match="no memory"):
                    await session.upload(Store("y"), b"y")
            shelf.may_take.set()
            await waiting
            assert await second.upload(Store("y"), b"y")
            # The memory of a session that ends is free again as well.
            shelf.may_take.clear()
            cut = asyncio.create_task(first.upload(Store("x"), bytes(200_000)))
            await asyncio.sleep(0.1)
            await first.close(grace=0.0)
            await asyncio.wait([cut])
            assert isinstance(cut.exception(), SessionClosed)
            await asyncio.sleep(0.1)
            shelf.may_take.set()
            assert await second.upload(Store("y"), b"y")

    simulate(main(), limit=60.0)


def test_a_slow_upload_holds_up_no_other() -> None:
    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01, loss=0.05))
        app: App[None, None] = App()
        never = asyncio.Event()

        @app.answers(Store)
        async def store(session: Session[None], request: Store) -> bytes:
            size = 0
            async for chunk in request.chunks:
                size += len(chunk)
                if request.name == "slow":
                    await never.wait()
            return str(size).encode()

        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            slow = [
                asyncio.create_task(session.upload(Store("slow"), bytes(2_000_000)))
                for _ in range(3)
            ]
            await asyncio.sleep(1.0)
            assert await session.upload(Store("quick"), bytes(2_000_000), timeout=10.0) == (
                b"2000000"
            )
            for each in slow:
                each.cancel()
            await asyncio.wait(slow)

    simulate(main(), limit=60.0)
