"""Servers are found between hosts: on several interfaces, by IPv4 and by IPv6."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from aerogram import App, Session, connect, serve
from aerogram.lan.discovery import announce, browse
from tests.io.namespaces import Host, hosts

pytest.importorskip("zeroconf")

ROOT = Path(__file__).parents[2]
PATIENCE = 40.0
NAMES = {"four": "0.0.0.0", "six": "::"}


def start(host: Host, part: str) -> subprocess.Popen[str]:
    """Run a part of this file on a host."""
    command = ["ip", "netns", "exec", host.namespace, sys.executable, "-m", __name__, part]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_servers_are_found_by_both_versions_on_all_interfaces() -> None:
    with (
        hosts(2, 2) as [there, here],
        start(there, "announcer") as announcer,
        start(here, "browser") as browser,
    ):
        output, _ = browser.communicate(timeout=PATIENCE)
        announcer.communicate("done\n", timeout=PATIENCE)
    found = json.loads(output)
    assert found["four"] == [[f"10.99.{network}.1", "hello"] for network in (0, 1)]
    [[host, answer]] = found["six"]
    assert host.startswith("fe80::1%")
    assert answer == "hello"


async def announcer() -> None:
    app = App()

    @app.on(str)
    async def echo(session: Session, text: str) -> None:
        await session.send(text)

    async with (
        serve(app, NAMES["four"], 9004) as four,
        serve(app, NAMES["six"], 9006) as six,
        announce(four, "four"),
        announce(six, "six"),
    ):
        await asyncio.to_thread(sys.stdin.readline)


async def browser() -> None:
    found: dict[str, list[tuple[str, str]]] = {}
    async with asyncio.timeout(PATIENCE), aclosing(browse()) as services:
        async for service in services:
            found[service.name] = []
            for address in sorted(service.server_addresses, key=lambda each: each.host):
                async with connect(str(address)) as session:
                    await session.send("hello")
                    answer = await session.receive(str, timeout=PATIENCE)
                found[service.name].append((address.host, answer))
            if found.keys() == NAMES.keys():
                break
    print(json.dumps(found), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run({"announcer": announcer, "browser": browser}[sys.argv[1]]())
