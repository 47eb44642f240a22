"""Everything that fuzzing has found, again, and a little more of it, the same in every run."""

from __future__ import annotations

import math

import pytest

from tests.fuzz.corpus import (
    BYTES_LIMIT,
    CORPUS,
    FILES_LIMIT,
    TARGETS,
    inputs_of,
    kept_files,
    module_of,
)
from tests.fuzz.engine import mutated, run

EXECUTIONS = {"address": 1500, "codec": 1500, "lan": 3000, "wire": 3000}
EXECUTIONS_OF_ENDPOINTS = 300
"""Of the other targets: each makes endpoints and lets minutes pass on their clocks."""
LONGER = 12


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_stays_mended(name: str) -> None:
    for data in inputs_of(name):
        module_of(name).target(data)


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_like_those_break_nothing(name: str) -> None:
    assert_nothing_breaks(name, EXECUTIONS.get(name, EXECUTIONS_OF_ENDPOINTS), seed=1)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_many_inputs_like_those_break_nothing(name: str) -> None:
    assert_nothing_breaks(name, LONGER * EXECUTIONS.get(name, EXECUTIONS_OF_ENDPOINTS), seed=2)


def assert_nothing_breaks(name: str, executions: int, *, seed: int) -> None:
    most = module_of(name).INPUT_BYTES_MOST
    inputs = mutated(inputs_of(name), seed=seed, input_bytes_most=most)
    report = run(name, module_of(name).target, inputs, executions=executions, seconds=math.inf)
    assert report.crash is None, str(report)
    assert report.executions == executions


def test_every_target_begins_with_something() -> None:
    for name in TARGETS:
        assert len(inputs_of(name)) > 5, name


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    kept = [path for name in TARGETS for path in kept_files(name)]
    assert len(kept) <= FILES_LIMIT
    assert sum(path.stat().st_size for path in kept) <= BYTES_LIMIT
    assert {path for path in CORPUS.rglob("*") if path.is_file()} == {*kept}
