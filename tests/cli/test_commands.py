"""The commands, run as a person runs them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_SECONDS = 60


def aerogram(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aerogram", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_demo_keeps_every_promise(loop: str) -> None:
    finished = aerogram("demo", "--messages", "60", "--json", "--loop", loop)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    outcome = json.loads(finished.stdout)
    assert outcome["loop"] == loop
    assert outcome["expected"] == outcome["heard"] == 4 * 3 * 60
    assert (outcome["lost"], outcome["twice"], outcome["out_of_order"]) == (0, 0, 0)
    assert outcome["ledger_balanced"]
    assert outcome["datagrams_lost"] > 0


def test_the_demo_ends_with_a_table() -> None:
    finished = aerogram("demo", "--messages", "20", "--clients", "2")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "hears" in finished.stdout
    for row in ("lost on the way", "messages sent again", "round trip", "ledger balanced"):
        assert row in finished.stdout
    assert finished.stdout.endswith("every line arrived once and in order\n")


def test_the_demo_fails_when_a_promise_is_broken() -> None:
    script = (
        "import aerogram.cli.demo as demo, sys\n"
        "from aerogram.cli import main\n"
        "hear = demo.Hearer.hear\n"
        "demo.Hearer.hear = lambda self, author, number: (\n"
        "    hear(self, author, number), hear(self, author, number))\n"
        "sys.exit(main(['demo', '--messages', '5', '--clients', '2', '--json']))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode == 1
    assert json.loads(finished.stdout)["twice"] == 10


@pytest.mark.parametrize("arguments", [("--loss", "2"), ("--clients", "1"), ("--messages", "0")])
def test_a_demo_that_cannot_be_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert aerogram("demo", *arguments).returncode == 2


def test_keygen_writes_a_key_once(tmp_path: Path) -> None:
    path = str(tmp_path / "server.key")
    first = aerogram("keygen", path)
    assert first.returncode == 0
    assert "server key: " in first.stdout
    again = aerogram("keygen", path)
    assert again.returncode == 1
    assert "server.key" in again.stderr


async def test_a_served_app_can_be_pinged(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(
        "from aerogram import App\n"
        "app = App()\n"
        "@app.on(bytes)\n"
        "async def echo(session, data):\n"
        "    await session.send(data)\n"
    )
    key = tmp_path / "server.key"
    assert (await asyncio.to_thread(aerogram, "keygen", str(key))).returncode == 0
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aerogram", "serve", "echo:app", "--port", "0",
        "--identity", str(key),
        cwd=tmp_path, stdout=subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    assert server.stdout is not None
    line = (await asyncio.wait_for(server.stdout.readline(), TIMEOUT_SECONDS)).decode()
    address = line.strip().removeprefix("serving at ")
    pinged = await asyncio.to_thread(
        aerogram, "ping", address, "--count", "3", "--interval", "0", "--json"
    )
    server.terminate()
    assert await asyncio.wait_for(server.wait(), TIMEOUT_SECONDS) == 0
    assert pinged.returncode == 0, pinged.stderr
    result = json.loads(pinged.stdout)
    assert result["answered"] == 3
    assert 0 < result["min_ms"] <= result["median_ms"] <= result["max_ms"]


def test_ping_without_a_key_says_what_to_do() -> None:
    finished = aerogram("ping", "127.0.0.1:9")
    assert finished.returncode == 2
    assert "server.address" in finished.stderr


@pytest.mark.parametrize("app", ["nothing", "no_such_module:app", "json:loads", "json:absent"])
def test_serving_what_is_no_app_is_a_usage_error(app: str) -> None:
    finished = aerogram("serve", app)
    assert finished.returncode == 2
    assert finished.stderr.startswith("aerogram serve: ")
