"""Servers announce themselves and are found, with their keys, on loopback."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from aerogram import connect, serve
from aerogram.address import parse_server_address
from aerogram.io.interfaces import Interface, InterfaceAddress
from aerogram.lan import discovery
from aerogram.lan.discovery import Service, announce, browse
from tests.echo import echo_app

pytest.importorskip("zeroconf")

LOOPBACK = ["127.0.0.1"]


async def found(services: AsyncIterator[Service], name: str, *, gone: bool = False) -> Service:
    async with asyncio.timeout(20):
        async for service in services:
            if service.name == name and service.is_gone == gone:
                return service
    raise AssertionError(name)


async def test_a_server_is_found_and_connected_to() -> None:
    async with (
        serve(echo_app()) as server,
        announce(server, "Hall of chat", {"players": "3"}, interfaces=LOOPBACK),
        aclosing(browse(interfaces=LOOPBACK)) as services,
    ):
        service = await found(services, "Hall of chat")
        assert service.properties == {"players": "3"}
        assert service.address == server.address
        async with connect(service) as session:
            await session.send(b"hello")
            assert await session.receive(bytes, timeout=5) == b"hello"


@pytest.mark.parametrize(
    ("name", "second"),
    [("Twins", "Twins-2"), ("é" * 31 + "x", "é" * 28)],
    ids=["short", "long"],
)
async def test_a_name_that_is_taken_gets_a_number(name: str, second: str) -> None:
    async with (
        serve(echo_app()) as one,
        serve(echo_app()) as other,
        announce(one, name, interfaces=LOOPBACK),
        announce(other, name, interfaces=LOOPBACK),
        aclosing(browse(interfaces=LOOPBACK)) as services,
    ):
        addresses: dict[str, str] = {}
        async with asyncio.timeout(20):
            async for service in services:
                addresses[service.name] = service.address
                if {name, second} <= addresses.keys():
                    break
        assert addresses[name] == one.address
        assert addresses[second] == other.address


async def test_a_goodbye_is_seen_by_those_who_ask_for_it() -> None:
    async with (
        serve(echo_app()) as server,
        aclosing(browse(interfaces=LOOPBACK, with_gone=True)) as services,
    ):
        async with announce(server, "short-lived", interfaces=LOOPBACK):
            await found(services, "short-lived")
        gone = await found(services, "short-lived", gone=True)
        assert gone.server_addresses


async def test_the_command_lists_services() -> None:
    async with serve(echo_app()) as server, announce(server, "listed", interfaces=LOOPBACK):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "aerogram", "discover", "--seconds", "4", "--json",
            "--interface", "127.0.0.1", stdout=subprocess.PIPE,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    names = {json.loads(line)["name"] for line in output.splitlines()}
    assert process.returncode == 0
    assert "listed" in names


@pytest.mark.parametrize("name", ["", "x" * 64, "a.b"])
async def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    async with serve(echo_app()) as server:
        with pytest.raises(ValueError, match="a name has"):
            async with announce(server, name, interfaces=LOOPBACK):
                pass


@pytest.mark.parametrize(
    "properties", [{"k": "x"}, {"": "x"}, {"a=b": "x"}, {"a": "x" * 300}, {"ä": "x"}]
)
async def test_properties_that_cannot_be_are_refused(properties: dict[str, str]) -> None:
    async with serve(echo_app()) as server:
        with pytest.raises(ValueError, match="propert"):
            async with announce(server, "name", properties, interfaces=LOOPBACK):
                pass


class Record:
    """What zeroconf would have heard, from anybody."""

    name = f"odd.{discovery.SERVICE_TYPE}"
    port: int | None = 9000

    def __init__(self, properties: dict[bytes, bytes | None]) -> None:
        self.properties = properties

    def parsed_scoped_addresses(self) -> list[str]:
        return ["2001:db8::1", "192.0.2.1", "127.0.0.1"]


@pytest.mark.parametrize("key", [b"short", b"\xff\xfe", b"!" * 52])
def test_a_record_with_a_broken_key_is_not_shown(key: bytes) -> None:
    record: Any = Record({b"k": key})
    assert discovery.service_of(record) is None


class Change:
    def __init__(self, name: str) -> None:
        self.name = name


async def test_what_nobody_looks_at_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "SERVICES_LIMIT", 3)
    nothing: Any = None
    browser = discovery._Browser(nothing)
    for number in range(5):
        for port in (1, 2):
            name, found = f"s{number}", Service(f"s{number}", (), {"port": str(port)})
            browser._known[name] = found
            browser._show(name, found)
    shown = [await browser.next() for _ in range(3)]
    assert [(each.name, each.properties["port"]) for each in shown] == [
        ("s0", "2"), ("s1", "2"), ("s2", "2"),
    ]  # fmt: skip
    removed: Any = Change("Removed")
    browser._on_change(nothing, "", "s1", removed)
    assert (await browser.next()).is_gone


async def test_names_beyond_the_limit_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "SERVICES_LIMIT", 3)
    asked: list[str] = []

    async def resolve(_: object, name: str) -> None:
        asked.append(name)

    monkeypatch.setattr(discovery._Browser, "_resolve", resolve)
    nothing: Any = None
    added: Any = Change("Added")
    browser = discovery._Browser(nothing)
    browser._known["s0"] = Service("s0", ())
    for number in range(1, 5):
        browser._on_change(nothing, "", f"s{number}", added)
    await asyncio.gather(*browser._resolving.values())
    assert asked == ["s1", "s2"]


def test_near_addresses_come_first_and_all_carry_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loopback = Interface("lo", 1, (InterfaceAddress("127.0.0.1", 8),))
    monkeypatch.setattr(discovery, "system_interfaces", lambda: [loopback])
    key = bytes(range(32))
    record: Any = Record({b"k": discovery.encode_key(key).encode(), b"mood": None, b"v": b"1"})
    service = discovery.service_of(record)
    assert service is not None
    hosts = [address.host for address in service.server_addresses]
    assert hosts == ["127.0.0.1", "192.0.2.1", "2001:db8::1"]
    assert {address.key for address in service.server_addresses} == {key}
    assert service.properties == {"mood": ""}
    assert parse_server_address(service.address).key == key


def test_a_service_without_an_address_says_so() -> None:
    with pytest.raises(ValueError, match="no address"):
        connect(Service("nowhere", ()))
