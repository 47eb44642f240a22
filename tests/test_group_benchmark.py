"""The benchmark of groups runs and says what it measured; how fast is not a matter for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_every_delivery_is_counted_at_its_handler() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.groups", "--json", "--sessions", "70", "--seconds",
         "0.2", "--messages", "2", "--interval", "0.1"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    rows = json.loads(finished.stdout)["results"]
    assert [(row["work"], row["way"]) for row in rows] == [
        (work, way) for work in ("flood", "lone") for way in ("group", "one by one")
    ]
    for row in rows:
        assert row["sessions"] == 70
        assert row["handled"] == row["sent"] > 0
        assert 0 < row["p50"] <= row["p99"] <= row["all_p99"]
    assert [row["sent"] for row in rows if row["work"] == "lone"] == [140, 140]
