"""`aerogram proxy` as a program between two sockets of another program."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aerogram.cli import main
from aerogram.cli.common import parse_host_port

PATIENCE_SECONDS = 30.0
Proxy = tuple["subprocess.Popen[str]", tuple[str, int]]


@contextmanager
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.settimeout(PATIENCE_SECONDS)
        opened.bind(("127.0.0.1", 0))
        yield opened


@contextmanager
def proxy(server: socket.socket, *options: str, **popen: Any) -> Iterator[Proxy]:
    """Run the program; gives it and the address it says it listens at."""
    to = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-m", "aerogram", "proxy", "--to", to, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
    with subprocess.Popen(command, text=True, **pipes) as running:
        try:
            told = running.stderr if "--json" in options else running.stdout
            assert told is not None
            line = told.readline()
            found = re.fullmatch(rf"relaying (\S+) to {re.escape(to)}\n", line)
            assert found, line
            yield running, parse_host_port(found[1])
        finally:
            if running.poll() is None:
                running.kill()


def ended(running: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> str:
    """Stop the program as a user would; returns what it still prints."""
    running.send_signal(number)
    printed, errors = running.communicate(timeout=PATIENCE_SECONDS)
    assert (running.returncode, errors) == (0, "")
    return printed


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_it_relays_both_ways_and_reports_as_json(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    options = ["--json", "--loop", loop, "--lose-every", "3", "--back-lose-every", "0"]
    with udp() as client, udp() as server, proxy(server, *options) as (running, address):
        for number in range(6):
            client.sendto(b"%d" % number, address)
        for number in (0, 1, 3, 4):
            data, sender = server.recvfrom(100)
            assert data == b"%d" % number
            server.sendto(data * 2, sender)
            assert client.recvfrom(100) == (data * 2, address)
        # Number 5 is lost; that it was received is certain once a later one has passed.
        client.sendto(b"6", address)
        assert server.recv(100) == b"6"
        report = json.loads(ended(running))
    assert report["address"] == f"127.0.0.1:{address[1]}"
    assert report["there"]["received"] == 7
    assert report["there"]["lost"] == {"every": 2}
    assert report["there"]["dropped"] == 2
    assert report["back"]["forwarded"] == 4
    assert report["back"]["lost"] == {}
    assert report["clients"] == 0


def test_its_table_shows_both_ways_and_the_reasons() -> None:
    options = ["--duplicate", "1", "--back-duplicate", "0", "--back-loss", "1"]
    with udp() as client, udp() as server, proxy(server, *options) as (running, address):
        client.sendto(b"hello", address)
        assert server.recv(100) == b"hello"
        data, sender = server.recvfrom(100)
        assert data == b"hello"
        server.sendto(b"lost", sender)
        # The proxy reads its sockets in the order in which datagrams came, so once this one has
        # passed the one before has been read.
        client.sendto(b"again", address)
        assert server.recv(100) == b"again"
        table = ended(running, signal.SIGTERM)
    rows = {line[:17].strip(): line[17:].split() for line in table.splitlines()}
    assert rows["received"] == ["2", "1"]
    assert rows["forwarded"] == ["4", "0"]
    assert rows["loss"] == ["0", "1"]
    assert rows["duplicated"] == ["2", "0"]


def test_it_stops_by_itself_after_the_seconds_given() -> None:
    with udp() as server, proxy(server, "--seconds", "0.1") as (running, _):
        printed, errors = running.communicate(timeout=PATIENCE_SECONDS)
        assert running.returncode == 0
        assert errors == ""
        assert printed.startswith("datagrams ")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_sees_live_rates() -> None:
    import pty

    terminal, other_end = pty.openpty()
    with udp() as server, os.fdopen(terminal) as shown:
        to = f"127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-m", "aerogram", "proxy", "--to", to]
        with subprocess.Popen(command, stdout=other_end) as running:
            os.close(other_end)
            try:
                assert shown.readline().startswith("relaying ")
                line = shown.readline()
                assert re.match(r" +1 s  0 clients  there 0/s, 0 lost  back 0/s, 0 lost", line)
                running.send_signal(signal.SIGINT)
                assert running.wait(PATIENCE_SECONDS) == 0
            finally:
                if running.poll() is None:
                    running.kill()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "--to"),
        (["--to", "nowhere"], "no port in 'nowhere'"),
        (["--to", "::1:9"], "in brackets"),
        (["--to", "127.0.0.1:9", "--burst", "0.1"], "ENTER,LEAVE"),
        (["--to", "127.0.0.1:9", "--burst", "0.1,2"], "burst leave is a probability"),
        (["--to", "127.0.0.1:9", "--distribution", "normal"], "invalid choice"),
    ],
)
def test_options_that_cannot_be_read_are_wrong_usage(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        main(["proxy", *options])
    assert status.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--loss", "2"], "loss is a probability from 0 to 1, not 2.0"),
        (["--back-delay", "-1"], "delay is a time of 0 or more seconds, not -1.0"),
        (["--rate", "0"], "rate_bytes_per_second is above 0"),
        (["--mtu", "0"], "mtu_bytes is 1 or more"),
    ],
)
def test_links_that_cannot_be_are_wrong_usage(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["proxy", "--to", "127.0.0.1:9", *options]) == 2
    assert capsys.readouterr().err.startswith(f"aerogram proxy: {complaint}")


def test_a_port_in_use_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with udp() as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["proxy", "--to", "127.0.0.1:9", "--listen", listen]) == 1
    assert "in use" in capsys.readouterr().err


def test_every_part_of_a_link_can_be_said() -> None:
    from argparse import ArgumentParser

    from aerogram.cli import proxy as command
    from aerogram.lab.link import Burst, Link

    parser = command.add_parser(ArgumentParser().add_subparsers())
    text = (
        "--delay 0.1 --jitter 0.2 --distribution skewed --keep-order --loss 0.3 --burst 0.4,0.5,0.6"
        " --longest-loss 7 --lose-every 8 --duplicate 0.1 --reorder 0.11 --reorder-delay 0.12"
        " --corrupt 0.13 --rate 14 --queue-bytes 15 --queue codel --mtu 16"
        " --back-loss 0.9 --back-rate 99 --no-back-keep-order --back-burst 0.1,0.2"
    )
    there, back = command._links(parser.parse_args(["--to", "h:1", *text.split()]))
    assert there == Link(
        delay=0.1,
        jitter=0.2,
        distribution="skewed",
        keep_order=True,
        loss=0.3,
        burst=Burst(enter=0.4, leave=0.5, loss=0.6),
        longest_loss=7,
        lose_every=8,
        duplicate=0.1,
        reorder=0.11,
        reorder_delay=0.12,
        corrupt=0.13,
        rate_bytes_per_second=14,
        queue_bytes=15,
        queue="codel",
        mtu_bytes=16,
    )
    assert (back.delay, back.loss, back.rate_bytes_per_second) == (0.1, 0.9, 99)
    assert back.burst == Burst(enter=0.1, leave=0.2)
    assert not back.keep_order
