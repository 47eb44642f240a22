from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import time
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aerogram
from aerogram.lab.errors import LeftOver, Nondeterminism
from aerogram.lab.simulation import simulate


async def nothing() -> None:
    """End at once."""


def test_the_result_is_that_of_the_coroutine_or_function() -> None:
    async def answer() -> int:
        await asyncio.sleep(1000.0)
        return 42

    assert simulate(answer) == 42
    assert simulate(answer()) == 42


def test_an_exception_says_which_seed_and_time_made_it() -> None:
    async def main() -> None:
        await asyncio.sleep(2.5)
        raise KeyError("lost")

    with pytest.raises(KeyError) as caught:
        simulate(main, seed=7)
    assert caught.value.__notes__ == ["simulated with seed=7; failed at 2.500000 s"]


def test_tasks_and_timers_left_over_are_named() -> None:
    ended = []

    async def linger() -> None:
        try:
            await asyncio.sleep(1000.0)
        finally:
            ended.append(True)

    async def main() -> None:
        asyncio.create_task(linger(), name="lazy")  # noqa: RUF006
        asyncio.get_running_loop().call_later(9.0, ended.clear)
        asyncio.get_running_loop().call_later(9.5, ended.clear).cancel()
        await asyncio.sleep(1.0)

    with pytest.raises(
        LeftOver, match=r"lazy: .*test_simulation\.py:\d+(?s:.)+when=9\.0"
    ) as caught:
        simulate(main)
    assert len(str(caught.value).splitlines()) == 3
    assert ended == [True]
    simulate(main, allow_left_over=True)


def test_what_ends_at_once_is_not_left_over() -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(1000.0))
        await asyncio.sleep(1.0)
        task.cancel()

    simulate(main)


def test_it_does_not_run_inside_a_running_loop() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="plain function"):
            simulate(nothing())

    asyncio.run(main())


def test_only_coroutines_are_run() -> None:
    with pytest.raises(TypeError, match="coroutine"):
        simulate(5)  # type: ignore[arg-type]


def test_the_random_module_follows_the_seed_and_is_as_before_afterwards() -> None:
    async def draw() -> list[float]:
        return [random.random() for _ in range(3)]

    random.seed(99)
    before = random.getstate()
    first, again, other = (simulate(draw, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert random.getstate() == before


LIBRARY = """
import os, random, secrets, time, uuid
from time import monotonic
from random import choice
"""

CALLS = (
    "time.time()",
    "time.monotonic()",
    "time.perf_counter_ns()",
    "time.sleep(0)",
    "monotonic()",
    "random.random()",
    "random.shuffle([1, 2])",
    "choice([1, 2])",
    "os.urandom(4)",
    *(["time.clock_gettime(0)"] if hasattr(time, "clock_gettime") else []),
    *(["os.getrandom(4)"] if hasattr(os, "getrandom") else []),
    "secrets.token_bytes(4)",
    "uuid.uuid4()",
)


def module_with(monkeypatch: pytest.MonkeyPatch, name: str, call: str) -> Callable[[], Any]:
    module = types.ModuleType(name)
    exec(f"{LIBRARY}\ndef ask():\n    return {call}\n", vars(module))
    monkeypatch.setitem(sys.modules, name, module)
    return module.ask  # type: ignore[no-any-return]


UNWATCHED = re.compile(
    r"\b(datetime\.(now|utcnow|today)|localtime\(\)|gmtime\(\)|SystemRandom|Random\(\)"
    r"|RAND_bytes|PrivateKey\.generate\(|generate_key\()"
)


def test_the_library_calls_nothing_that_cannot_be_watched() -> None:
    source = Path(aerogram.__file__).parent
    faults = [
        f"{path.relative_to(source)}:{number} {found[0]}"
        for path in sorted(source.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (found := UNWATCHED.search(line)) and path.name != "guard.py"
    ]
    assert faults == []


@pytest.mark.parametrize("call", CALLS)
def test_the_library_is_caught_reading_clock_or_randomness(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    ask = module_with(monkeypatch, "aerogram.probe", call)

    async def main() -> None:
        ask()

    with pytest.raises(Nondeterminism, match=r"by <string>:7 ask"):
        simulate(main)
    ask()


def test_the_library_cannot_swallow_that_it_was_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = module_with(monkeypatch, "aerogram.probe", "time.time()")

    async def main() -> None:
        with pytest.raises(Nondeterminism):
            ask()
        await asyncio.sleep(1.0)

    with pytest.raises(Nondeterminism):
        simulate(main)


@pytest.mark.parametrize("name", ["aerogram.lab.probe", "aerogramme", "users.program"])
@pytest.mark.parametrize("call", CALLS)
def test_others_get_clock_and_randomness(
    monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    ask = module_with(monkeypatch, name, call)

    async def main() -> None:
        ask()

    simulate(main)


def test_clock_and_randomness_are_as_before_afterwards() -> None:
    before = [time.time, time.monotonic, random.random, random.choice, uuid.uuid4]

    async def fail() -> None:
        assert time.time is not before[0]
        raise KeyError

    with pytest.raises(KeyError):
        simulate(fail)
    assert [time.time, time.monotonic, random.random, random.choice, uuid.uuid4] == before
