"""Files of any size, both ways: `python examples/files.py FILE` stores one and fetches it back.

Neither side holds more of a file than a window: who reads from the disk waits for who writes. A
file that does not arrive as a whole leaves nothing behind, for whatever ends an upload cancels its
handler.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from aerogram import App, Rejected, Session, Stream, Upload, connect, serve


class Store(Upload[int], tag=1):  # answered with how many bytes there were
    name: str


class Fetch(Stream[bytes], tag=2):
    name: str


app = App()
folder = Path(tempfile.mkdtemp())


def path_of(name: str) -> Path:
    if name != Path(name).name or name in ("", "..") or name.endswith(".part"):
        raise Rejected(f"not a file name: {name!r}")
    return folder / name


def pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(64 * 1024):
            yield piece


@app.answers(Store)
async def store(session: Session, request: Store) -> int:
    path = path_of(request.name)
    part = path.with_name(path.name + ".part")
    size = 0
    try:
        with part.open("wb") as file:
            async for chunk in request.chunks:
                size += file.write(chunk)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return size


@app.answers(Fetch)
async def fetch(session: Session, request: Fetch) -> AsyncGenerator[bytes]:
    path = path_of(request.name)
    if not path.exists():
        raise Rejected(f"no such file: {request.name!r}")
    for piece in pieces(path):
        yield piece


async def main(path: Path) -> None:
    async with serve(app) as server, connect(server.address) as session:
        size = await session.upload(Store(path.name), pieces(path))
        print(f"stored {size} bytes of {path.name}")
        digest = hashlib.sha256()
        async for piece in session.stream(Fetch(path.name)):
            digest.update(piece)
        print(f"fetched them with SHA-256 {digest.hexdigest()}")
        try:
            await session.upload(Store("../" + path.name), pieces(path))
        except Rejected as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
