"""The bound of `session.clock` between real programs whose clocks are wrong, and its benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.clock import FAKETIME, Look, Missing, Setting, faketime, row_of

ROOT = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.parametrize("setting", FAKETIME, ids=lambda setting: setting.name)
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_the_bound_holds_under_faketime(setting: Setting) -> None:
    try:
        row = await faketime(setting, seconds=12.0)
    except Missing as reason:
        pytest.skip(str(reason))
    assert row.looks > 50
    assert row.held == 1.0
    assert row.blind < row.looks / 2
    assert row.bound_p50 is not None and 20 < row.bound_p50 < 100
    is_stepped = setting.after is not None and not setting.only_wall_clock
    assert row.steps == (1 if is_stepped else 0)


def test_only_what_cannot_be_known_yet_is_blind() -> None:
    good, bad = {"error": 0.01, "bound": 0.02}, {"error": 5.0, "bound": 0.02}
    times = [(1.0, good), (2.0, bad), (10.0, good), (10.1, bad), (10.2, good), (30.0, bad)]
    looks = [Look(at=at, steps=0, **what) for at, what in times]
    row = row_of("here", "wrong", looks, step_at=10.05)
    assert (row.looks, row.blind, row.held) == (6, 1, 3 / 5)


@pytest.mark.long
def test_the_benchmark_says_what_it_measured() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.clock", "--json", "--seeds", "1", "--virtual-seconds",
         "120", "--seconds", "6"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    document: dict[str, Any] = json.loads(finished.stdout)
    for row in document["results"]:
        assert row["held"] == 1.0 or row["status"].startswith("skipped")
