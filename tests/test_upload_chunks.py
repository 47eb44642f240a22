"""Chunks of an upload as they may come: in any order, twice, or more than there is room for."""

from __future__ import annotations

import asyncio

import pytest

from aerogram import DecodeError
from aerogram.messages import Chunk
from aerogram.uploads import Chunks


async def taken_from(chunks: Chunks) -> list[bytes]:
    return [chunk async for chunk in chunks]


async def test_chunks_are_put_in_order_and_room_follows_what_was_taken() -> None:
    told: list[int] = []
    chunks = Chunks(1000, told.append)
    taking = asyncio.create_task(taken_from(chunks))
    await asyncio.sleep(0)
    assert told == [1000]
    chunks.arrived(Chunk(232, b"c"))
    chunks.arrived(Chunk(132, bytes(68)))
    chunks.arrived(Chunk(265, None))
    await asyncio.sleep(0)
    assert not taking.done()
    chunks.arrived(Chunk(0, bytes(100)))
    assert await taking == [bytes(100), bytes(68), b"c"]
    assert told == [1000]  # the end is known, and no more is needed


@pytest.mark.parametrize(
    "chunks_sent",
    [
        [Chunk(0, bytes(1000))],
        [Chunk(990, b"x")],
        [Chunk(1 << 62, b"x")],
        [Chunk(place, bytes(300)) for place in range(1, 5)],
    ],
)
async def test_a_peer_that_sends_more_than_there_is_room_for_is_told(
    chunks_sent: list[Chunk],
) -> None:
    chunks = Chunks(1000, lambda _: None)
    taking = asyncio.create_task(taken_from(chunks))
    await asyncio.sleep(0)
    for each in chunks_sent[:-1]:
        chunks.arrived(each)
    with pytest.raises(DecodeError):
        chunks.arrived(chunks_sent[-1])
    taking.cancel()


async def test_content_that_comes_twice_counts_once() -> None:
    chunks = Chunks(1000, lambda _: None)
    taking = asyncio.create_task(taken_from(chunks))
    await asyncio.sleep(0)
    chunks.arrived(Chunk(0, b"a"))
    with pytest.raises(DecodeError):
        chunks.arrived(Chunk(0, b"b"))
    chunks.arrived(Chunk(33, None))
    assert await taking == [b"a"]


async def test_only_one_task_takes_content() -> None:
    chunks = Chunks(1000, lambda _: None)
    taking = asyncio.create_task(taken_from(chunks))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task"):
        await anext(chunks)
    chunks.arrived(Chunk(0, None))
    assert await taking == []
