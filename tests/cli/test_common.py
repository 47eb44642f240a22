"""What the commands share: addresses as users write them, loops, statuses, help."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aerogram.cli import main
from aerogram.cli.common import (
    INTERRUPTED,
    add_loop_option,
    format_address,
    host_port,
    parse_host_port,
    run_async,
    stop_signals,
)
from aerogram.errors import InvalidAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:9000", ("::1", 9000)),
        ("[::]:0", ("::", 0)),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, address: tuple[str, int]) -> None:
    assert parse_host_port(text) == address
    assert format_address(address) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("9000", "no port in '9000'"),
        ("host", "no port in 'host'"),
        ("::1:9000", "in brackets"),
        ("[host]:9000", "only an IPv6 address stands in brackets"),
        ("host:", "not a port number"),
        ("host:+1", "not a port number"),
        ("host:٣", "not a port number"),
        ("host:65536", "port out of range"),
        (":9000", "not a host name"),
        ("a b:9000", "not a host name"),
        ("[::1%]:9000", "not a host name"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(InvalidAddress, match=complaint):
        parse_host_port(text)
    with pytest.raises(argparse.ArgumentTypeError, match=complaint):
        host_port(text)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_command_runs_on_the_loop_that_was_chosen(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    parser = argparse.ArgumentParser()
    add_loop_option(parser)

    async def command() -> int:
        return 7 if type(asyncio.get_running_loop()).__module__.startswith(loop) else 8

    assert run_async(command(), parser.parse_args(["--loop", loop]).loop) == 7


@pytest.fixture
def heeds_control_c() -> Iterator[None]:
    """As in a terminal: a shell has what it starts in the background ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_control_c")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_control_c_ends_a_command_with_the_status_of_shells(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    cleaned_up: list[bool] = []

    async def command() -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            cleaned_up.append(True)
        return 0

    assert run_async(command(), loop) == INTERRUPTED == 130
    assert cleaned_up == [True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_command_can_take_signals_as_its_usual_end(number: signal.Signals) -> None:
    async with stop_signals() as stopped:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stopped.wait(), 10)
    async with stop_signals() as stopped:
        assert not stopped.is_set()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"    {name} " in shown for name in ("demo", "serve", "ping", "keygen", "proxy"))


@pytest.mark.parametrize("name", ["demo", "serve", "ping", "keygen", "proxy"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: aerogram {name}" in capsys.readouterr().out


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fly"])
    assert ended.value.code == 2
    assert "fly" in capsys.readouterr().err


def test_the_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "aerogram", "--version"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert ran.stdout.startswith("aerogram 0.")
