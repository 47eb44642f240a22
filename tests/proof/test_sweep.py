"""The sweep itself: seeds that once failed, and that it notices what is broken on purpose."""

from __future__ import annotations

import pytest

from tests import sweep
from tests.proof.broken import BROKEN
from tests.proof.random_world import run_world

SEEDS = (3, 8, 10, 20, 27, 130, 154, 10_150, 10_667, 10_817, 12_451)
"""Worlds in which something was wrong once."""

WORLDS_LIMIT = 100
"""Within so many worlds the sweep notices any of the faults that it is known to look for."""

QUICK = ("announcements", "ledger", "losses", "order", "pieces")


@pytest.mark.parametrize("seed", SEEDS)
def test_what_failed_once_does_not_fail_again(seed: int) -> None:
    assert run_world(seed).violations == []


def test_a_world_is_the_same_whenever_it_is_run() -> None:
    first, second = run_world(42), run_world(42)
    assert first.trace_hash == second.trace_hash
    assert first.packets == second.packets > 0


def is_noticed(name: str) -> bool:
    with BROKEN[name]():
        return any(run_world(seed).violations for seed in range(1, 1 + WORLDS_LIMIT))


@pytest.mark.parametrize("name", QUICK)
def test_a_broken_protocol_is_noticed(name: str) -> None:
    assert is_noticed(name)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({*BROKEN} - {*QUICK}))
def test_every_broken_rule_is_noticed(name: str) -> None:
    assert is_noticed(name)


def test_a_failure_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    status = sweep.main(["--seed", "3", "--worlds", "1", "--broken", "ledger"])
    said = capsys.readouterr().out
    assert status == 1
    assert "python -m tests.sweep --worlds 1 --seed 3 --broken ledger" in said
    assert "does not balance" in said
    assert "the end of its trace:" in said


def test_a_sweep_counts_what_it_has_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--seed", "100", "--worlds", "3"]) == 0
    assert capsys.readouterr().out.startswith("3 worlds, 0 failed; ")
