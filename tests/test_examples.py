"""Every example runs, as its reader would run it."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aerogram import connect

EXAMPLES = Path(__file__).parents[1] / "examples"
TIMEOUT_SECONDS = 30


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=EXAMPLES, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), TIMEOUT_SECONDS)
    return line.decode().strip()


def replaced_port(name: str, tmp_path: Path) -> str:
    """The example with a free port instead of the one that it names, which may be taken."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert "9000" in text
    copy = tmp_path / name
    copy.write_text(text.replace("9000", "0"), encoding="utf-8")
    return str(copy)


async def test_echo(tmp_path: Path) -> None:
    async with running(replaced_port("echo_server.py", tmp_path)) as server:
        address = await line_of(server)
        async with running("echo_client.py", address) as client:
            assert (await line_of(client)).startswith("b'hello' ")
            assert await asyncio.wait_for(client.wait(), TIMEOUT_SECONDS) == 0
        server.terminate()
        assert await asyncio.wait_for(server.wait(), TIMEOUT_SECONDS) == 0


async def test_chat(tmp_path: Path) -> None:
    async with running(replaced_port("chat.py", tmp_path)) as server:
        address = await line_of(server)
        async with (
            running("chat_client.py", address, "ada", "hall") as ada,
            running("chat_client.py", address, "ben", "hall") as ben,
        ):
            assert await line_of(ada) == "you are in hall"
            assert await line_of(ben) == "you are in hall"
            assert ada.stdin is not None
            ada.stdin.write(b"hello ben\n")
            assert await line_of(ben) == "ada: hello ben"


def test_chat_on_a_bad_network() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "examples/test_chat.py", "--aerogram-seeds", "5"],
        cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "10 passed" in finished.stdout, finished.stdout
    assert finished.returncode == 0


def test_prices() -> None:
    finished = subprocess.run(
        [sys.executable, "prices.py"], cwd=EXAMPLES, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert finished.stdout == "ACME costs 400 cents\nrefused: no such symbol: 4CME\n"


def test_files(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(3_000_000)
    (tmp_path / "data.bin").write_bytes(content)
    finished = subprocess.run(
        [sys.executable, "files.py", str(tmp_path / "data.bin")], cwd=EXAMPLES,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert finished.stdout.splitlines() == [
        "stored 3000000 bytes of data.bin",
        f"fetched them with SHA-256 {hashlib.sha256(content).hexdigest()}",
        "refused: not a file name: '../data.bin'",
    ]


def test_shared_clock() -> None:
    finished = subprocess.run(
        [sys.executable, "shared_clock.py"], cwd=EXAMPLES, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    lines = [line.split(" started ")[0] for line in finished.stdout.splitlines()]
    assert sorted(lines) == ["ada", "ben"]


def test_who_is_there() -> None:
    finished = subprocess.run(
        [sys.executable, "who_is_there.py"], cwd=EXAMPLES, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    lines = finished.stdout.splitlines()
    assert sorted(lines[:2]) == ["kitchen 22.0", "studio 24.0"]
    assert 1 <= lines[2:].count("version 7") == len(lines[2:]) <= 3


def test_capture(tmp_path: Path) -> None:
    path = tmp_path / "datagrams.pcapng"
    finished = subprocess.run(
        [sys.executable, "capture.py", str(path)], cwd=EXAMPLES, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    lines = finished.stdout.splitlines()
    assert lines[0] == "HELLO"
    assert lines[1].endswith("is not there: port unreachable")
    assert re.search(r"here 127.0.0.1:\d+ > there 127.0.0.1:\d+  \d+ B  sent", finished.stdout)
    both_ways = re.findall(r"(?:sent|received) (\d+)", lines[-4])
    assert lines[-1] == f"{sum(map(int, both_ways))} datagrams in {path}"


async def test_inside_fastapi() -> None:
    httpx: Any = pytest.importorskip("httpx")
    api = importlib.import_module("inside_fastapi").api
    chat = importlib.import_module("chat")
    transport = httpx.ASGITransport(api)
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        address = (await http.get("/address")).json()
        async with connect(address) as session:
            await session.deliver(chat.Join("ada", "hall"), timeout=5)
            answer = await http.post("/rooms/hall/announce", params={"text": "closing soon"})
            assert answer.json() == 1
            said = await session.receive(chat.Line, timeout=5)
            assert (said.author, said.text) == ("operator", "closing soon")


async def test_inside_aiohttp() -> None:
    test_utils: Any = pytest.importorskip("aiohttp.test_utils")
    example = importlib.import_module("inside_aiohttp")
    chat = importlib.import_module("chat")
    async with test_utils.TestClient(test_utils.TestServer(example.create_site())) as http:
        address = await (await http.get("/address")).text()
        async with connect(address) as session:
            await session.deliver(chat.Join("ada", "hall"), timeout=5)
            answer = await http.post("/rooms/hall/announce", data="closing soon")
            assert await answer.text() == "1"
            said = await session.receive(chat.Line, timeout=5)
            assert (said.author, said.text) == ("operator", "closing soon")


def test_ticker() -> None:
    finished = subprocess.run(
        [sys.executable, "ticker.py"], cwd=EXAMPLES, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    lines = [f"ACME costs {cents} cents" for cents in (100, 101, 102)]
    assert finished.stdout.splitlines() == [*lines, "nobody watches any more"]


def test_market_data() -> None:
    finished = subprocess.run(
        [sys.executable, "market_data.py"], cwd=EXAMPLES, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert finished.stdout.splitlines() == [f"reader {n}: 300 prices, 0 lost" for n in (1, 2, 3)]
