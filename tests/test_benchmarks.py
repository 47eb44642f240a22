"""The benchmark harness runs and says what it measured; how fast is not a matter for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mailbox import Frames, framed
from benchmarks.peers import PEERS, Peer
from benchmarks.work import ECHO_WINDOW, Kind, Load, Tally, Work

ROOT = Path(__file__).parents[1]
COUNT = 300


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    peers = "tcp-uvloop,udp-asyncio"
    finished = run("--json", "--peers", peers, "--count", str(COUNT), "--seconds", "5")
    assert finished.returncode == 0, finished.stderr
    parsed: dict[str, Any] = json.loads(finished.stdout)
    return parsed


def test_json_names_the_machine_and_the_size(document: dict[str, Any]) -> None:
    assert document["message_bytes"] == 64
    assert set(document["machine"]) == {"python", "implementation", "system"}


def test_every_work_of_a_peer_is_one_row(document: dict[str, Any]) -> None:
    rows = [(row["work"], row["peer"], row["status"]) for row in document["results"]]
    peers = ("tcp-uvloop", "udp-asyncio")
    assert rows == [(kind.value, peer, "ok") for kind in Kind for peer in peers]


def test_a_reliable_peer_loses_nothing(document: dict[str, Any]) -> None:
    for row in document["results"]:
        if row["peer"] == "tcp-uvloop":
            assert (row["sent"], row["handled"], row["lost"]) == (COUNT, COUNT, 0)
            assert row["rate"] > 0


def test_only_a_ping_pong_has_round_trips(document: dict[str, Any]) -> None:
    for row in document["results"]:
        timed = row["work"] == "pingpong"
        assert (row["p50_microseconds"] is not None) == timed
        if timed:
            assert 0 < row["p50_microseconds"] <= row["p99_microseconds"]


def test_without_the_yardstick_there_is_no_ratio(document: dict[str, Any]) -> None:
    assert {row["ratio_to_aerogram"] for row in document["results"]} == {None}


def test_a_missing_package_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.__main__ import as_table
    from benchmarks.harness import measure

    monkeypatch.setitem(PEERS, "absent", Peer("absent", "asyncio", ("no_such_package",), ""))
    result = measure("absent", Work(Kind.ONEWAY, 1, 1.0))
    assert result.status == "not installed"
    assert "not installed" in as_table([result])


def test_a_failing_peer_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import measure

    monkeypatch.setitem(PEERS, "tcp-uvloop", Peer("tcp", "uvloop", (), ""))
    result = measure("tcp-uvloop", Work(Kind.ONEWAY, "many", 1.0))
    assert result.status == "failed"
    assert "TypeError" in result.detail


def test_an_unknown_peer_is_refused_with_the_names_that_exist() -> None:
    finished = run("--peers", "carrier-pigeon")
    assert finished.returncode == 2
    assert "tcp-uvloop" in finished.stderr


def test_frames_come_out_whole_however_the_stream_is_cut() -> None:
    messages = [b"", b"a", bytes(300), b"end"]
    stream = b"".join(framed(message) for message in messages)
    for step in (1, 3, 7, len(stream)):
        frames = Frames()
        pieces = [stream[start : start + step] for start in range(0, len(stream), step)]
        assert [message for piece in pieces for message in frames.split(piece)] == messages


def test_a_load_ends_at_its_count() -> None:
    load = Load(Work(Kind.ONEWAY, 100, 60.0))
    assert len(list(load.messages())) == 100
    assert load.sent == 100
    assert not load.full


def test_a_load_ends_at_its_time() -> None:
    assert list(Load(Work(Kind.ONEWAY, 100, 0.0)).messages()) == []


def test_a_window_is_full_until_an_echo_comes() -> None:
    load = Load(Work(Kind.WINDOW, 1000, 60.0))
    messages = load.messages()
    for _ in range(ECHO_WINDOW):
        assert not load.full
        next(messages)
    assert load.full
    load.echoed()
    assert not load.full


def test_a_tally_of_nothing_has_no_rate() -> None:
    tally = Tally()
    assert tally.rate == 0.0
    tally.take()
    assert tally.rate == 0.0
    assert tally.count == 1


@pytest.mark.long
def test_the_delay_of_updates_is_measured_or_says_why_not() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.delay", "--seconds", "2"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    if "not measured" in finished.stderr:
        pytest.skip(finished.stderr.strip())
    rows = [line.split("|")[1].strip() for line in finished.stdout.splitlines() if "| " in line]
    assert rows == ["way", "sequenced", "latest", "ordered", "tcp"]
    assert "| ordered | 120 of 120 |" in finished.stdout


def test_every_delivery_keeps_its_promise_on_every_path() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.deliveries", "--messages", "400"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = finished.stdout.splitlines()[2:]
    assert len(rows) == 6 * 8
    assert all(row.endswith("| yes |") for row in rows)


def test_a_bundled_message_costs_six_bytes_at_most() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.deliveries", "--overhead", "--messages", "3000"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    rows = finished.stdout.splitlines()[2:]
    assert len(rows) == 6
    assert all(2.0 <= float(row.split("|")[2]) <= 6.0 for row in rows)
