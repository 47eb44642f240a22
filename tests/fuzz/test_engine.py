"""The tools of fuzzing: a seed replays a run, and what breaks a target is found, kept and told."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from aerogram.core import wire
from tests.fuzz import __main__ as program
from tests.fuzz import corpus, minimise
from tests.fuzz.engine import Report, endless, mutated, run
from tests.fuzz.guided import run_guided
from tests.fuzz.mutator import INTEGERS, MUTATIONS, Mutator, integer_bytes
from tests.fuzz.steps import STEPS_MOST, WAITS_SECONDS, Step, read_steps, write_steps


@pytest.fixture(autouse=True)
def crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(corpus, "CRASHES", tmp_path / "crashes")
    return tmp_path / "crashes"


def inputs(seed: int, count: int = 500) -> list[bytes]:
    mutator = Mutator(seed, [b"one" * 20, b"two", b""], input_bytes_most=100)
    return [mutator.next_input() for _ in range(count)]


def test_a_seed_replays_its_inputs() -> None:
    assert inputs(3) == inputs(3)
    assert inputs(3) != inputs(4)
    assert max(map(len, inputs(3))) == 100
    assert len({*inputs(3)}) > 250


def test_every_mutation_changes_something_and_takes_any_input() -> None:
    random = Random(5)
    for mutation in MUTATIONS:
        changed = 0
        for data in (b"", b"a", bytes(range(200))) * 20:
            before = bytearray(data)
            mutation(random, before, b"other" * 9)
            changed += before != data
        assert changed > 10, mutation.__name__


@pytest.mark.parametrize("value", INTEGERS)
def test_interesting_integers_are_written_as_they_are(value: int) -> None:
    random = Random(value)
    for _ in range(20):
        data = integer_bytes(random, value)
        mask = (1 << 8 * len(data) - 2) - 1
        assert value in (int.from_bytes(data, "big"), int.from_bytes(data, "big") & mask)


def picky(data: bytes) -> None:
    """Stands for a target with a mistake behind two bytes that are hard to hit by chance."""
    if data[:1] == b"\xff" and len(data) > 60:
        raise ZeroDivisionError("found")


def test_what_breaks_a_target_is_kept_and_told(crashes: Path) -> None:
    tries = endless(Mutator(1, [b"one" * 20], input_bytes_most=100))
    report = run("wire", picky, tries, executions=100_000, seconds=math.inf)
    assert report.crash is not None
    data = report.crash.read_bytes()
    with pytest.raises(ZeroDivisionError):
        picky(data)
    assert report.crash == crashes / f"wire-{corpus.name_of(data)}"
    assert "ZeroDivisionError: found" in str(report)
    assert f"\npython -m tests.fuzz --target wire --input {report.command.split()[-1]}" in str(
        report
    )


def test_a_run_ends_at_its_limits() -> None:
    some = mutated([b"a", b"b"], seed=0, input_bytes_most=10)
    assert run("wire", bytes.strip, some, executions=7, seconds=math.inf).executions == 7
    assert run("wire", bytes.strip, some, executions=None, seconds=0.0).executions == 0
    done = run("wire", bytes.strip, [b"a"] * 3, executions=None, seconds=math.inf)
    assert done.executions == 3
    assert str(Report("wire", 10, 2.0)) == "wire: 10 executions in 2.0 s, 5/s, no crash"


def test_the_program_tries_an_input_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one").write_bytes(b"\x01")
    again = ["--target", "wire", "--input", str(tmp_path / "one")]
    assert program.main(again) == 0
    assert "wire: 1 executions" in capsys.readouterr().out
    monkeypatch.setattr(corpus.module_of("wire"), "target", lambda data: 1 // (data[0] - 1))
    assert program.main(again) == 1
    assert "a crash; again with:\npython -m tests.fuzz --target wire" in capsys.readouterr().out


def test_the_program_runs_each_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--engine", "mutator", "--runs", "3", "--seed", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" executions")[0] for line in lines] == [f"{t}: 3" for t in corpus.TARGETS]


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
def test_coverage_guides_where_atheris_is_installed(tmp_path: Path) -> None:
    report = run_guided("wire", executions=500, seconds=60.0, seed=0, finds=tmp_path / "finds")
    assert report.crash is None
    assert report.executions >= 500
    assert any((tmp_path / "finds").iterdir())


def test_only_inputs_that_reach_something_new_are_kept() -> None:
    target = wire.decode_frames_untrusted
    ping, close, longer = b"\x01", b"\x0d\x00\x00", b"\x0d\x00\x05hello"
    assert minimise.minimised(target, [], [ping, longer, close, ping]) == [close, ping]
    assert minimise.minimised(target, [close], [ping, longer]) == [ping]
    assert minimise.reached(picky, b"\xff" * 70) == set()


def test_steps_are_what_was_written() -> None:
    steps = [
        Step(15, b"body", from_elsewhere=True, wait=7),
        Step(0),
        Step(3, bytes(70_000)[:65535]),
    ]
    assert read_steps(write_steps(steps)) == steps
    assert steps[0].wait_seconds == WAITS_SECONDS[7]
    assert read_steps(b"\x03\x00\x09cut") == [Step(3, b"cut")]
    assert len(read_steps(bytes(1000))) == STEPS_MOST
