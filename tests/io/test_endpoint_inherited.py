"""Sockets handed over by systemd: found by name and number, used again and again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from aerogram.errors import InvalidAddress
from aerogram.io.inherited import InheritedSocket, inherited_socket, sockets_from_systemd
from tests.io.endpoints import HOST

SERVICE = """
import asyncio, json, os, sys
from aerogram.errors import InvalidAddress
from aerogram.io.inherited import sockets_from_systemd
from aerogram.io.opening import open_endpoint

# What systemd does between fork and exec.
for place, descriptor in enumerate(json.loads(sys.argv[1])):
    os.dup2(descriptor, 30 + place)
for place in range(len(json.loads(sys.argv[1]))):
    os.dup2(30 + place, 3 + place)
os.environ["LISTEN_PID"] = str(os.getpid())

async def once(which):
    try:
        async with open_endpoint(inherited=which) as endpoint:
            datagram = await endpoint.receive(timeout=10)
            await datagram.reply(str(which).encode() + b":" + datagram.data)
            return endpoint.local_address[1]
    except InvalidAddress as error:
        return str(error)

async def main():
    ports = [await once(which) for which in ("syslog", 1, "syslog", "stream", "nobody", 7)]
    print(json.dumps([ports, [each.name for each in sockets_from_systemd()]]))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
def test_a_service_uses_the_sockets_it_was_started_with() -> None:
    syslog = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with syslog, other, stream, client:
        for sock in (syslog, other, client):
            sock.bind((HOST, 0))
        client.settimeout(30)
        descriptors = [syslog.fileno(), other.fileno(), stream.fileno()]
        service = subprocess.Popen(
            [sys.executable, "-c", SERVICE, json.dumps(descriptors)],
            env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "syslog::stream"},
            pass_fds=descriptors,
            stdout=subprocess.PIPE,
            text=True,
        )
        with service:
            for data, receiver in ((b"1", syslog), (b"2", other), (b"3", syslog)):
                client.sendto(data, receiver.getsockname())
                answer = client.recv(10)
                assert answer == (b"syslog:" if receiver is syslog else b"1:") + data
            printed, _ = service.communicate(timeout=30)
        ports, names = json.loads(printed)
        assert ports[:2] == [syslog.getsockname()[1], other.getsockname()[1]]
        # One that was closed can be opened again, and missed nothing.
        assert ports[2] == ports[0]
        assert "no datagram socket" in ports[3]
        assert "syslog, unknown, stream" in ports[4] and "7" in ports[5]
        assert names == ["syslog", "unknown", "stream"]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "ours"},
        {"LISTEN_PID": "ours", "LISTEN_FDS": "0"},
        {"LISTEN_PID": "ours", "LISTEN_FDS": "-1"},
        {"LISTEN_PID": "ours", "LISTEN_FDS": "many"},
        {"LISTEN_PID": "ours", "LISTEN_FDS": "1000000000"},
    ],
)
def test_a_process_that_was_not_activated_has_none(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "ours" else value)
    assert sockets_from_systemd() == []
    with pytest.raises(InvalidAddress, match="there are: none"):
        inherited_socket(0)


def test_names_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.delenv("LISTEN_FDNAMES", raising=False)
    handed: list[Any] = sockets_from_systemd()
    assert handed == [InheritedSocket("unknown", 3), InheritedSocket("unknown", 4)]
