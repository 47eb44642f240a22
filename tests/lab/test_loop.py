from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aerogram.lab.errors import Deadlock, Nondeterminism, RealInputOutput, SimulationTimeout
from aerogram.lab.loop import VirtualLoop
from aerogram.lab.simulation import simulate


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_year_of_sleep_is_virtual_up_to_the_limit_of_exact_time() -> None:
    async def main() -> list[float]:
        times = []
        for _ in range(46):
            await asyncio.sleep(86_400.5)  # longer than the longest wait of asyncio's select
            times.append(now())
        return times

    times = simulate(main, limit=4_000_000.0)
    assert times == [86_400.5 * day for day in range(1, 47)]


def test_a_timer_never_fires_before_its_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        early = []
        for step in range(1, 2000):
            due = loop.time() + 0.1 / step
            fired = loop.create_future()
            loop.call_at(due, fired.set_result, None)
            await fired
            if loop.time() < due:
                early.append(due)
        assert early == []

    simulate(main)


def test_timeouts_and_queues_and_groups_of_tasks_are_asyncios_own() -> None:
    async def main() -> None:
        queue: asyncio.Queue[float] = asyncio.Queue(maxsize=2)

        async def produce() -> None:
            for _ in range(5):
                await asyncio.sleep(1.0)
                await queue.put(now())

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            assert [await queue.get() for _ in range(5)] == [1.0, 2.0, 3.0, 4.0, 5.0]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await queue.get()
        assert now() == 7.5
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 1.5)
        assert now() == 9.0

    simulate(main)


def test_a_deadlock_names_each_task_and_the_line_where_it_waits() -> None:
    async def take(queue: asyncio.Queue[None]) -> None:
        await queue.get()

    async def wait_twice(queue: asyncio.Queue[None]) -> None:
        async with asyncio.TaskGroup() as group:
            for name in ("reader-a", "reader-b"):
                group.create_task(take(queue), name=name)

    async def main() -> None:
        await asyncio.sleep(3.0)
        await wait_twice(asyncio.Queue())

    with pytest.raises(Deadlock) as caught:
        simulate(main)
    first, *tasks = str(caught.value).splitlines()
    assert "at 3.000000 s" in first
    line = take.__code__.co_firstlineno + 1
    assert [task.split(":")[0].strip() for task in tasks] == ["main", "reader-a", "reader-b"]
    assert f"test_loop.py:{line} " in tasks[1] and "Queue.get" in tasks[1]


def test_a_deadlock_lets_the_tasks_clean_up() -> None:
    ended = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1.0)
            ended.append(now())

    with pytest.raises(Deadlock):
        simulate(main)
    assert ended == [1.0]


def test_the_limit_ends_what_would_go_on_for_ever() -> None:
    async def tick() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0.25)

    async def main() -> None:
        await asyncio.create_task(tick(), name="ticker")

    with pytest.raises(SimulationTimeout, match=r"limit of 10 s(?s:.)+ticker: .*test_loop"):
        simulate(main, limit=10.0)
    assert simulate(asyncio.sleep(10.0, "just in time"), limit=10.0) == "just in time"


def test_a_program_that_spins_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aerogram.lab.loop.TURNS_AT_ONE_INSTANT_LIMIT", 1000)

    async def spin() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(SimulationTimeout, match="spins"):
        simulate(spin)


@pytest.mark.parametrize("limit", [0.0, -1.0, 5e6, float("nan")])
def test_a_limit_that_virtual_time_cannot_keep_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="limit"):
        simulate(asyncio.sleep(0), limit=limit)


def test_functions_for_other_threads_run_in_turn() -> None:
    async def main() -> None:
        caller = threading.get_ident()
        assert await asyncio.to_thread(threading.get_ident) == caller
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)
        abandoned = loop.run_in_executor(None, abandoned_calls.append, 1)
        abandoned.cancel()
        assert now() == 0.0

    abandoned_calls: list[int] = []
    simulate(main)
    assert abandoned_calls == []


def test_another_thread_cannot_call_in() -> None:
    refused: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(lambda: None)  # from the loop's own thread, as signals do

        def call() -> None:
            try:
                loop.call_soon_threadsafe(lambda: None)
            except Nondeterminism as error:
                refused.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        await asyncio.sleep(1.0)
        raise AssertionError("went on")

    with pytest.raises(Nondeterminism, match="another thread"):
        simulate(main)
    assert len(refused) == 1


async def _real_endpoint() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))


async def _real_name() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def _real_stream() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _real_process() -> None:
    await asyncio.create_subprocess_exec(sys.executable, "-c", "")


async def _real_descriptor() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        asyncio.get_running_loop().add_reader(udp.fileno(), lambda: None)


@pytest.mark.parametrize(
    "ask", [_real_endpoint, _real_name, _real_stream, _real_process, _real_descriptor]
)
def test_the_real_world_is_refused_at_the_caller(ask: Any) -> None:
    async def main() -> None:
        with pytest.raises(RealInputOutput, match="no real I/O"):
            await ask()

    simulate(main)


def test_the_order_of_cancellation_is_the_same_in_every_process() -> None:
    program = """
import asyncio, sys
from aerogram.lab.simulation import simulate
ballast = [bytearray(int(n)) for n in sys.argv[1:]]  # moves later objects in memory
ended = []
async def wait(number):
    try: await asyncio.Event().wait()
    finally: ended.append(number)
async def main():
    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(wait(number))
            ballast.append(bytearray(int(sys.argv[1]) * number))
        await asyncio.sleep(1)
        raise KeyError
try: simulate(main)
except BaseExceptionGroup: pass
print(ended)
"""
    orders = {
        subprocess.run(
            [sys.executable, "-c", program, *sizes], capture_output=True, text=True, check=True
        ).stdout
        for sizes in (["1"], ["900", "70000"], ["33", "5", "1200"])
    }
    assert len(orders) == 1


def test_an_exception_that_nobody_handles_ends_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(5.0, divmod, 1, 0)
        await asyncio.sleep(60.0)

    with pytest.raises(ZeroDivisionError) as caught:
        simulate(main)
    assert any("at 5.000000 s" in note for note in caught.value.__notes__)


def test_a_program_can_handle_exceptions_of_callbacks_itself() -> None:
    async def main() -> list[Any]:
        seen: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(context["exception"]))
        loop.call_later(5.0, divmod, 1, 0)
        await asyncio.sleep(60.0)
        return seen

    [error] = simulate(main)
    assert isinstance(error, ZeroDivisionError)


def test_the_loop_runs_in_asyncios_runner() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1.0)
            closed.append(now())

    async def main() -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(1000.0)

    closed: list[float] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
        assert runner.get_loop().time() == 1000.0
        with contextlib.suppress(TimeoutError):
            runner.run(asyncio.wait_for(asyncio.Event().wait(), 5.0))
    assert closed


def test_a_timer_that_is_always_due_already_is_told_from_one_that_lets_time_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aerogram.lab.loop.TURNS_AT_ONE_INSTANT_LIMIT", 100)

    async def spin() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_at(loop.time() - 1.0, again)

        again()
        await asyncio.sleep(1.0)

    with pytest.raises(SimulationTimeout, match="spins"):
        simulate(spin)


def test_timers_of_one_time_fire_in_the_order_in_which_they_were_made() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        fired: list[int] = []
        timers = [loop.call_at(1.0, fired.append, number) for number in range(300)]
        for timer in timers[1::2]:
            timer.cancel()
        await asyncio.sleep(2.0)
        return fired

    assert simulate(main) == [*range(0, 300, 2)]
