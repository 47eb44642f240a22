"""The examples that speak real protocols, each asked by a program that somebody else wrote."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
TIMEOUT_SECONDS = 30


class Running:
    """An example as a process, with the port that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.port = 0

    async def line(self) -> str:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), TIMEOUT_SECONDS)
        return line.decode().rstrip("\n")


@asynccontextmanager
async def example(name: str, *arguments: str) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, name, *arguments, "0", cwd=EXAMPLES, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    running = Running(process)
    try:
        running.port = int((await running.line()).rpartition(" ")[2])
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), TIMEOUT_SECONDS)


async def run(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert process.returncode == 0, errors.decode()
    return output


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


@needs("logger")
@pytest.mark.parametrize("form", ["--rfc5424", "--rfc3164"])
async def test_syslog_hears_logger(form: str) -> None:
    async with example("syslog_server.py") as server:
        await run(
            "logger", "--server", "127.0.0.1", "--port", str(server.port), "--udp", form,
            "--tag", "pump", "--priority", "daemon.err", "pressure: 7 bar",
        )  # fmt: skip
        line = await server.line()
        assert line.startswith("error ")
        assert line.endswith("pump: pressure: 7 bar")


async def test_statsd_counts_what_its_client_sends() -> None:
    statsd: Any = pytest.importorskip("statsd")
    async with example("statsd_server.py") as server:
        client = statsd.StatsClient("127.0.0.1", server.port)
        client.incr("hits", 3)
        client.gauge("level", 5)
        client.gauge("level", -2, delta=True)
        client.timing("load", 40)
        client.set("users", "ada")
        with client.pipeline() as batch:
            batch.incr("hits")
            batch.incr("misses")
        line = await server.line()
        while "misses" not in line:
            line = await server.line()
        client.close()
    assert line == "hits = 4; misses = 1; level is 3; load ~ 40 ms; users has 1"


async def test_osc_answers_python_osc() -> None:
    builder: Any = pytest.importorskip("pythonosc.osc_message_builder")
    bundles: Any = pytest.importorskip("pythonosc.osc_bundle_builder")
    messages: Any = pytest.importorskip("pythonosc.osc_message")
    from aerogram import open_endpoint

    ping = builder.OscMessageBuilder("/ping")
    for argument in (7, 0.5, "text", b"blob"):
        ping.add_arg(argument)
    bundle = bundles.OscBundleBuilder(bundles.IMMEDIATELY)
    bundle.add_content(ping.build())
    async with example("osc_server.py") as server, open_endpoint("127.0.0.1") as client:
        await client.send(bundle.build().dgram, ("127.0.0.1", server.port))
        assert await server.line() == "/ping 7 0.5 text b'blob'"
        pong = messages.OscMessage((await client.receive(timeout=TIMEOUT_SECONDS)).data)
        assert (pong.address, pong.params) == ("/pong", [7, 0.5, "text", b"blob"])
        await client.send(b"/broken\0,i\0\0", ("127.0.0.1", server.port))
        assert (await server.line()).startswith("no OSC packet")


@needs("curl")
@pytest.mark.parametrize("size", [0, 511, 512, 513, 70_000])
async def test_tftp_gives_curl_the_file(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    async with example("tftp_server.py", str(tmp_path)) as server:
        url = f"tftp://127.0.0.1:{server.port}/file"
        assert await run("curl", "--silent", "--show-error", "--max-time", "20", url) == content


async def test_tftp_refuses_what_lies_outside_its_folder(tmp_path: Path) -> None:
    from aerogram import open_endpoint

    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "public").mkdir()
    async with (
        example("tftp_server.py", str(tmp_path / "public")) as server,
        open_endpoint("127.0.0.1") as client,
    ):
        for request in (b"\0\1../secret\0octet\0", b"\0\2new\0octet\0", b"\0\1", b"junk"):
            await client.send(request, ("127.0.0.1", server.port))
            answer = await client.receive(timeout=TIMEOUT_SECONDS)
            assert answer.data.startswith(b"\0\5")
            assert answer.address[1] != server.port


async def test_dns_answers_a_resolver() -> None:
    resolver_module: Any = pytest.importorskip("dns.asyncresolver")
    exceptions: Any = pytest.importorskip("dns.resolver")
    async with example("dns_stub.py") as server:
        resolver = resolver_module.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = server.port
        found = await resolver.resolve("game.example", "A", lifetime=TIMEOUT_SECONDS)
        assert [str(record) for record in found] == ["192.0.2.7"]
        found = await resolver.resolve("six.example", "AAAA", lifetime=TIMEOUT_SECONDS)
        assert [str(record) for record in found] == ["2001:db8::7"]
        with pytest.raises(exceptions.NXDOMAIN):
            await resolver.resolve("other.example", "A", lifetime=TIMEOUT_SECONDS)
        with pytest.raises(exceptions.NoAnswer):
            await resolver.resolve("game.example", "AAAA", lifetime=TIMEOUT_SECONDS)


async def test_network_time_runs() -> None:
    output = await run(sys.executable, str(EXAMPLES / "network_time.py"))
    assert b"give or take" in output
    assert output.endswith(b"questions answered: 4\n")


async def test_find_servers_runs() -> None:
    pytest.importorskip("zeroconf")
    output = await run(sys.executable, str(EXAMPLES / "find_servers.py"))
    assert output == b"found Loud {'room': '1'}\nHELLO\n"
