"""A hundred thousand ordered messages through a bad network, over real sockets."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.long
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_hundred_thousand_messages_arrive_once_and_in_order(loop: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "aerogram", "demo", "--clients", "5", "--messages", "5000",
         "--json", "--loop", loop],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    outcome = json.loads(finished.stdout)
    assert finished.returncode == 0, outcome
    assert outcome["heard"] == 100_000
    assert (outcome["lost"], outcome["twice"], outcome["out_of_order"]) == (0, 0, 0)
