"""Multicast through the real kernel: on loopback, and between network namespaces on a bridge."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aerogram import App, connect, lan, serve
from aerogram.io.sockets import Address
from aerogram.lan import multicast
from aerogram.lan.multicast import MulticastReceiver, MulticastSender
from aerogram.lan.questions import Question, encode_question
from benchmarks.multicast import Load, measure
from benchmarks.namespaces import NAMES, Ethernet, remove_leftovers, unavailable
from tests.forging import CAN_FORGE, send_from_port_0

ROOT = Path(__file__).parents[2]
LOOPBACK = "127.0.0.1"
GROUP = "239.88.0.1"
PATIENCE = 30.0
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="loopback may not carry multicast")

needs_namespaces = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "they work")


@LINUX
async def test_a_stream_on_loopback(unused_udp_port_factory: Any) -> None:
    port = unused_udp_port_factory()
    app = App()
    sender = MulticastSender(GROUP, port, interface=LOOPBACK)
    multicast.invitations(app, sender, admit=lambda session: True)
    async with (
        asyncio.timeout(PATIENCE),
        serve(app) as server,
        sender,
        connect(server.address) as ada,
        connect(server.address) as ben,
        MulticastReceiver.join(ada, interface=LOOPBACK) as first,
        MulticastReceiver.join(ben, interface="lo", order="as it arrives") as second,
    ):
        sent = [b"%d" % number + bytes(number * 20) for number in range(200)]
        for message in sent:
            await sender.send(message)
        await sender.drain()
        assert [await anext(first) for _ in sent] == sent
        assert sorted([bytes(await anext(second)) for _ in sent]) == sorted(sent)  # type: ignore[call-overload]
        sender.expel(server.sessions[0])  # the first that came
        await sender.send(b"for one")
        assert await anext(second) == b"for one"
        with pytest.raises(multicast.Expelled):
            await anext(first)


@LINUX
async def test_a_question_on_loopback(unused_udp_port_factory: Any) -> None:
    port = unused_udp_port_factory()

    async def answer(question: bytes, asker: Address) -> bytes:
        return question.upper()

    async with (
        lan.answer(GROUP, port, answer, interface=LOOPBACK),
        lan.answer(GROUP, port, answer, interface=LOOPBACK),
        lan.answer(GROUP, port, answer, interface=LOOPBACK),
    ):
        asked = lan.ask(GROUP, port, b"who?", limit=3, deadline=PATIENCE, interface=LOOPBACK)
        answers = [answer async for answer in asked]
        assert [answer.value for answer in answers] == [b"WHO?"] * 3
        assert len({answer.address for answer in answers}) == 1
        assert len({answer.responder for answer in answers}) == 3


@LINUX
@pytest.mark.skipif(not CAN_FORGE, reason="only root can forge datagrams")
async def test_a_question_from_nowhere_silences_nobody(unused_udp_port_factory: Any) -> None:
    port = unused_udp_port_factory()

    async def answer(question: bytes, asker: Address) -> bytes:
        return question.upper()

    async with lan.answer(GROUP, port, answer, interface=LOOPBACK, max_delay=0.0) as answering:
        forged = encode_question(Question(bytes(8), 1.0, [], b"forged"))
        send_from_port_0(forged, port, GROUP)
        asked = lan.ask(GROUP, port, b"real", limit=1, deadline=PATIENCE, interface=LOOPBACK)
        assert [answer.value async for answer in asked] == [b"REAL"]
        assert answering.stats.questions == 2


@needs_namespaces
def test_a_stream_between_namespaces() -> None:
    outcome = measure((0.05, 0.3), Load(messages=300), in_lab=False)
    assert outcome.complete
    assert outcome.sender["complete"]
    assert 0.1 < outcome.repair_share < 1.5
    assert outcome.nacks > 0


@needs_namespaces
@pytest.mark.long
@pytest.mark.parametrize("bad", [0.05, 0.6])
def test_eight_namespaces_complete_in_spite_of_losses(bad: float) -> None:
    outcome = measure((bad, *(0.05,) * 7), Load(messages=2000), in_lab=False)
    assert outcome.complete
    assert [each["stats"]["messages_lost"] for each in outcome.receivers] == [0] * 8
    assert outcome.repair_share < (0.6 if bad == 0.05 else 2.2)


@needs_namespaces
@pytest.mark.parametrize(("group", "prefix"), [(GROUP, "10.77.0."), ("ff12::88:1", "fe80::")])
def test_a_question_reaches_all_namespaces(group: str, prefix: str) -> None:
    def start(number: int, part: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.lan.asking_peer", part, group, "7788"]
        return subprocess.Popen(
            ethernet.command(number, *command), cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    with Ethernet(4) as ethernet, ExitStack() as stack:
        responders = [stack.enter_context(start(number, "responder")) for number in (2, 3, 4)]
        for responder in responders:
            assert responder.stdout is not None
            assert responder.stdout.readline() == "ready\n"
        output, _ = start(1, "asker").communicate(timeout=PATIENCE)
        for responder in responders:
            responder.communicate("\n")
    answers = json.loads(output)
    assert sorted(answers) == [[f"who?{prefix}1", f"{prefix}{number}"] for number in (2, 3, 4)]


@needs_namespaces
def test_what_a_killed_process_left_is_removed() -> None:
    program = (
        "import os, signal; from benchmarks.namespaces import Ethernet\n"
        "with Ethernet(2): os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as killed:
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # others still see it
        left = set(NAMES.glob(f"ag{killed.pid}x*"))
        assert left
    with Ethernet(1) as ethernet:
        remove_leftovers()
        names = set(NAMES.iterdir())
        assert not left & names
        assert NAMES / ethernet.command(1)[3] in names, "those in use stay"


def test_loss_is_counted_as_it_should_be() -> None:
    from benchmarks.multicast import as_json, as_table, least_repair_share

    assert least_repair_share((0.0,)) == 0.0
    assert least_repair_share((0.5,)) == pytest.approx(1.0)
    assert least_repair_share((0.05,) * 8) == pytest.approx(0.357, abs=0.001)
    outcome = measure((0.1, 0.1), Load(messages=200), in_lab=True)
    assert outcome.complete
    table = as_table([outcome])
    assert "2 x 10%" in table
    assert "yes" in table
    [row] = json.loads(as_json([outcome]))
    assert row["complete"]
    assert row["where"] == "lab"
