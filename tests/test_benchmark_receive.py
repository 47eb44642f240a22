"""The benchmark of raw datagrams runs and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import native
from benchmarks.receive import Row, as_table, in_c

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.receive", "--seconds", "0.05", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.long
def test_each_work_of_each_peer_is_a_row() -> None:
    works = ("--work", "many", "--work", "runs", "--work", "fan-out")
    finished = run("--json", *works, "--senders", "10", "--peers", "aerogram")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows: list[dict[str, Any]] = json.loads(finished.stdout)["results"]
    received = ("10 senders", "one sender, runs")
    wanted = [(work, peer) for work in received for peer in ("aerogram", "c-recvmmsg")]
    wanted += [("fan-out", peer) for peer in ("aerogram", "aerogram-asyncio", "c-sendto")]
    assert [(row["work"], row["peer"]) for row in rows] == wanted
    for row in rows:
        if row["status"] == "ok":
            assert row["per_core"] > 0
            assert row["lost"] is None or 0 <= row["lost"] <= 1
        else:
            assert row["peer"].startswith("c-") and row["status"].startswith("not available")


def test_without_a_compiler_c_is_a_row_and_python_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    native.compiled.cache_clear()
    row = in_c(lambda: native.Program("drain"), row=Row("one sender", "c-recvmmsg"))
    assert row.status == "not available: no C compiler"
    assert "not available" in as_table([row])
    monkeypatch.chdir(ROOT)
    with native.Program("flood", 9, 2, 64, 1, replacement="benchmarks.flood") as flood:
        assert flood.hear() == ["ready"]
        flood.tell("fill 0")
        assert flood.hear() == ["0"]
    native.compiled.cache_clear()


def test_an_unknown_peer_is_refused_with_the_names_that_exist() -> None:
    finished = run("--peers", "carrier-pigeon")
    assert finished.returncode == 2
    assert "aerogram-plain" in finished.stderr
