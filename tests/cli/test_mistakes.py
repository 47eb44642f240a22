"""What users and networks do wrong is one line on stderr and a status, never a traceback."""

from __future__ import annotations

import argparse
import asyncio
import importlib.machinery
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aerogram import App, serve
from aerogram.cli import common as common_module
from aerogram.cli import main
from aerogram.cli.common import add_loop_option, read_psk

SECRET = bytes(range(32))
NOWHERE = "127.0.0.1:9"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aerogram", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def status_of(arguments: list[str]) -> int:
    """Of a command in this process; argparse exits where others return."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0


# -- wrong usage


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ping", "nowhere"], "no port"),
        (["ping", NOWHERE], "must be told how to recognise"),
        (["ping", "aerogram://127.0.0.1:9/#k=xyz"], "server key"),
        (["ping", "aerogram://127.0.0.1:9/#k=" + 52 * "a"], "server key"),
        (["ping", NOWHERE, "--insecure", "--psk", "/no/such/file"], "No such file"),
        (["ping", NOWHERE, "--count", "0"], "--count: 1 to"),
        (["ping", NOWHERE, "--count", "two"], "--count: 1 to"),
        (["ping", NOWHERE, "--timeout", "nan"], "--timeout: 0.001 to"),
        (["ping", NOWHERE, "--timeout", "inf"], "--timeout: 0.001 to"),
        (["ping", NOWHERE, "--timeout", "0"], "--timeout: 0.001 to"),
        (["ping", NOWHERE, "--interval", "-1"], "--interval: 0 to"),
        (["ping", "192.0.2.1:9", "--insecure"], "plain text to 192.0.2.1"),
        (["doctor", "nowhere"], "no port"),
        (["doctor", NOWHERE], "must be told how to recognise"),
        (["doctor", NOWHERE, "--timeout", "nan"], "--timeout: 0.001 to"),
        (["discover", "--seconds", "nan"], "--seconds: 0.001 to"),
        (["proxy", "--to", NOWHERE, "--seconds", "inf"], "--seconds: 0.001 to"),
        (["demo", "--loss", "1"], "--loss is below 1"),
        (["demo", "--loss", "nan"], "probability"),
    ],
)
def test_wrong_usage_is_told_and_has_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(arguments) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert "Traceback" not in told


# -- what networks do


@pytest.mark.parametrize("command", ["ping", "doctor"])
def test_nobody_there_has_status_1(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([command, NOWHERE, "--insecure", "--timeout", "0.2"]) == 1
    assert capsys.readouterr().err == f"aerogram {command}: no answer within 0.2 s\n"


def test_a_demo_that_cannot_connect_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aerogram.cli.demo.CONNECT_SECONDS", 0.3)
    assert status_of(["demo", "--loss", "0.9999999", "--messages", "1"]) == 1
    told = capsys.readouterr()
    assert told.err == "aerogram demo: no answer within 0.3 s\n"


# -- whoever reads the output goes


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes end otherwise here")
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("demo", "--messages", "2000"), b""),
        (("demo", "--messages", "2000"), b"hears"),  # which is printed by handlers
        (("ping", "ADDRESS", "--interval", "0.01"), b"1: "),
    ],
)
async def test_output_that_nobody_reads_ends_a_command(
    arguments: tuple[str, ...], word: bytes
) -> None:
    """Like `aerogram demo | head -1`."""
    async with serve(App()) as server:
        named = [server.address if word == "ADDRESS" else word for word in arguments]
        if named[0] == "ping":
            named += ["--count", "2000"]
        status, told = await _run_and_read_until(word, named)
    assert status in (-signal.SIGPIPE, 128 + signal.SIGPIPE)
    assert told == b""


async def _run_and_read_until(word: bytes, arguments: list[str]) -> tuple[int, bytes]:
    """The status and the complaints of a command whose output is read until a line has this."""
    ours, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-m", "aerogram", *arguments, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as output:
        while word not in (line := await asyncio.to_thread(output.readline)):
            assert line, "the command has ended before"
    _, told = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, told


# -- secrets


@pytest.mark.parametrize("content", [SECRET, SECRET.hex().encode(), SECRET.hex().encode() + b"\n"])
def test_a_secret_is_read_from_its_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert read_psk(str(path)) == SECRET
    assert read_psk(None) is None


@pytest.mark.parametrize("content", [b"", b"password", SECRET + b"\n", SECRET.hex().encode() * 2])
def test_a_file_without_a_secret_is_wrong_usage(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert status_of(["ping", NOWHERE, "--psk", str(path)]) == 2
    assert "64 hex digits" in capsys.readouterr().err


async def test_a_server_with_a_shared_secret_can_be_pinged(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET.hex())
    async with serve(App(), psk=SECRET) as server:
        address = f"127.0.0.1:{server.port}"
        options = (address, "--psk", str(path), "--count", "2", "--interval", "0")
        pinged = await asyncio.to_thread(run, "ping", *options)
    assert pinged.returncode == 0, pinged.stderr
    assert "2 of 2 answered" in pinged.stdout


# -- loops


@pytest.mark.parametrize("installed", [True, False])
def test_uvloop_is_the_default_where_it_is_installed(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def find(name: str) -> Any:
        asked.append(name)
        return importlib.machinery.ModuleSpec(name, None) if installed else None

    monkeypatch.setattr(common_module, "find_spec", find)
    parser = argparse.ArgumentParser()
    add_loop_option(parser)
    assert parser.parse_args([]).loop == ("uvloop" if installed else "asyncio")
    assert parser.parse_args(["--loop", "asyncio"]).loop == "asyncio"
    assert asked == ["uvloop"]
    if not installed:
        with pytest.raises(SystemExit):
            parser.parse_args(["--loop", "uvloop"])


@pytest.mark.parametrize("hidden", [True, False])
def test_the_demo_says_on_which_loop_it_ran(hidden: bool) -> None:
    if not hidden:
        pytest.importorskip("uvloop")
    script = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        f"hidden = {hidden}\n"
        "importlib.util.find_spec = lambda name, *a: (\n"
        "    None if hidden and name == 'uvloop' else find(name, *a))\n"
        "from aerogram.cli import main\n"
        "sys.exit(main(['demo', '--messages', '3', '--clients', '2', '--json']))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert f'"loop": "{"asyncio" if hidden else "uvloop"}"' in ran.stdout
