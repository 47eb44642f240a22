"""`aerogram doctor` against servers that are well, far away, or not there."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from typing import Any

import pytest

from aerogram import App, Config, Server, Session, serve
from aerogram.address import parse_server_address
from aerogram.cli import main
from aerogram.cli.common import connecting
from aerogram.cli.doctor import doctor
from aerogram.core.ledger import SessionStats
from aerogram.lab.link import Link
from aerogram.lab.proxy import FaultProxy


def options(address: str, **changes: Any) -> argparse.Namespace:
    given = {"count": 20, "interval": 0.001, "timeout": 10.0, "insecure": False, "json": True}
    changes["psk"] = None
    return argparse.Namespace(address=address, **{**given, **changes})


async def run_doctor(given: argparse.Namespace) -> int:
    return await doctor(connecting(given, logger=logging.getLogger("doctor")), given)


async def examine(
    address: str, capsys: pytest.CaptureFixture[str], **changes: Any
) -> tuple[int, dict[str, Any]]:
    status = await run_doctor(options(address, **changes))
    return status, json.loads(capsys.readouterr().out)


def address_through(server: Server, proxy: FaultProxy) -> str:
    key = parse_server_address(server.address)
    return str(type(key)("127.0.0.1", proxy.address[1], key.key))


async def test_a_server_without_handlers_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    app, gone = App(), asyncio.Event()

    @app.on_close
    async def note(session: Session[None], error: BaseException | None) -> None:
        gone.set()

    async with serve(app) as server:
        status, report = await examine(server.address, capsys)
        assert status == 0
        assert report["troubles"] == report["imbalances"] == []
        trips = report["round_trips"]
        assert trips["answered"] == trips["sent"] == 20
        assert 0 < trips["min_ms"] <= trips["median_ms"] <= trips["p95_ms"] <= trips["max_ms"]
        assert [probes["delivery"] for probes in report["probes"]] == [
            "unreliable",
            "sequenced",
            "reliable",
            "ordered",
        ]
        assert all(probes["arrived"] == probes["sent"] == 20 for probes in report["probes"])
        assert report["record"]["arrived"]
        assert report["record"]["largest_bytes"] == Config().max_record_bytes
        assert report["ledger"]["messages_sent"] == 4 * 20 + 1
        await asyncio.wait_for(gone.wait(), 5)
        assert server.stats.totals.messages_received_refused == 4 * 20 + 1
        assert server.stats.balanced


async def test_a_lossy_way_is_seen_and_is_no_trouble(capsys: pytest.CaptureFixture[str]) -> None:
    lossy = Link(delay=0.002, loss=0.25)
    async with (
        serve(App()) as server,
        FaultProxy(server.local_address, there=lossy, seed=3) as proxy,
    ):
        status, report = await examine(address_through(server, proxy), capsys, count=40)
        assert (status, report["troubles"]) == (0, [])
        assert 0.1 < report["loss"] < 0.45
        assert report["round_trips"]["min_ms"] > 1.0
        assert report["ledger"]["packets_lost"] > 0
        resent = [probes for probes in report["probes"] if probes["resends"]]
        assert [probes["arrived"] for probes in resent] == [40, 40]


async def test_a_way_that_carries_no_full_packets_is_a_trouble(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = App()

    @app.on_open
    async def narrow(session: Session[None]) -> None:
        proxy.there.link = Link(mtu_bytes=1000)

    async with serve(app) as server, FaultProxy(server.local_address) as proxy:
        assert await run_doctor(options(address_through(server, proxy), timeout=1.0)) == 1
        report = json.loads(capsys.readouterr().out)
        assert report["troubles"] == ["a record in full packets did not arrive in time"]


async def test_a_ledger_that_is_off_is_a_trouble(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Session.stats.fget
    assert read is not None

    def misread(session: Session[Any]) -> SessionStats:
        stats: SessionStats = read(session)
        stats.messages_lost += 1
        return stats

    monkeypatch.setattr(Session, "stats", property(misread))
    async with serve(App()) as server:
        status, report = await examine(server.address, capsys, count=1)
        assert status == 1
        [trouble] = report["troubles"]
        assert trouble.startswith("the ledger does not balance: 5 messages sent, but ")


async def test_the_text_for_people_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(App()) as server:
        assert await run_doctor(options(server.address, count=3, json=False)) == 0
    text = capsys.readouterr().out
    for part in (
        "round trip",
        "3 of 3",
        "ordered 3/3",
        "loss",
        "records",
        "13 sent = ",
        "no trouble",
    ):
        assert part in text


async def test_nobody_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(App()) as server:
        address = server.address
    assert await asyncio.to_thread(main, ["doctor", address, "--timeout", "0.2"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("aerogram doctor: ")


@pytest.mark.parametrize("count", ["0", "-1", "10001"])
def test_a_count_out_of_range_is_wrong_usage(
    count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "127.0.0.1:9", "--count", count]) == 2
    assert "--count" in capsys.readouterr().err
