"""Runs one peer on one work: two processes, each on a core of its own, and a limit on the time."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from time import perf_counter
from typing import Any, Self

from benchmarks.control import Control
from benchmarks.peers import PEERS
from benchmarks.work import Report, Work

START_SECONDS_MAX = 15.0
"""For a fresh interpreter to import its packages and to connect, on a loaded machine."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table."""

    peer: str
    work: str
    status: str
    """`ok`, `not installed`, or `failed`."""

    promises: str
    rate: float | None = None
    """Messages a second at the handler: the receiver's one way, the sender's when echoed."""

    p50_microseconds: float | None = None
    p99_microseconds: float | None = None
    sent: int = 0
    handled: int = 0
    detail: str = ""

    @property
    def lost(self) -> int:
        return self.sent - self.handled


class PeerFailed(Exception):
    """A process of a measurement ended with an error, or did not answer in time."""


def measure(peer: str, work: Work) -> Result:
    """Run one work on one peer. Never raises for what a peer does."""
    promises = PEERS[peer].promises
    if not PEERS[peer].is_installed:
        return Result(peer, work.kind, "not installed", promises)
    try:
        received, sent = _run_pair(peer, work)
    except PeerFailed as error:
        return Result(peer, work.kind, "failed", promises, detail=str(error))
    counted = sent if work.echoes else received
    trips = sent.round_trips
    return Result(
        peer,
        work.kind,
        "ok",
        promises,
        rate=counted.rate,
        p50_microseconds=statistics.median(trips) * 1e6 if trips else None,
        p99_microseconds=trips[int(len(trips) * 0.99)] * 1e6 if trips else None,
        sent=sent.sent,
        handled=counted.handled,
    )


def _run_pair(peer: str, work: Work) -> tuple[Report, Report]:
    cores = _two_cores()
    with Child("receiver", peer, work, cores[0]) as receiver:
        address = receiver.hear(START_SECONDS_MAX)
        with Child("sender", peer, work, cores[1]) as sender:
            sender.tell(address)
            sent: Report = sender.hear(START_SECONDS_MAX + work.seconds)
            receiver.tell(sent.sent)
            received: Report = receiver.hear(START_SECONDS_MAX + work.seconds)
            sender.tell("stop")
        receiver.tell("stop")
    return received, sent


def _two_cores() -> tuple[int | None, int | None]:
    """Cores to pin the receiver and the sender to, where the platform can."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


class Child:
    """A process of a measurement. Leaving the block ends it, by force if it hangs."""

    def __init__(self, role: str, peer: str, work: Work, core: int | None) -> None:
        context: SpawnContext = multiprocessing.get_context("spawn")
        self._role = role
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=run_child, args=(role, peer, work, core, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.join(2.0 if exc[0] is None else 0.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._pipe.close()

    def tell(self, value: object) -> None:
        try:
            self._pipe.send(value)
        except OSError as error:
            raise PeerFailed(f"{self._role}: {error}") from error

    def hear(self, timeout: float) -> Any:
        ends_at = perf_counter() + timeout
        if not self._pipe.poll(max(0.0, ends_at - perf_counter())):
            raise PeerFailed(f"{self._role}: no answer within {timeout:.0f} s")
        try:
            value = self._pipe.recv()
        except EOFError as error:
            raise PeerFailed(f"{self._role} ended early") from error
        if isinstance(value, BaseException):
            raise PeerFailed(f"{self._role}: {value!r}") from value
        return value


def run_child(role: str, peer: str, work: Work, core: int | None, pipe: Connection) -> None:
    """The body of a process: pin it, then run the peer's coroutine on the peer's loop."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        runner = PEERS[peer].runner()
        run = runner.run_receiver if role == "receiver" else runner.run_sender
        with asyncio.Runner(loop_factory=_loop_factory(PEERS[peer].loop)) as loop_runner:
            loop_runner.run(_awaited(run, Control(pipe), work))
    except Exception as error:
        text = "".join(traceback.format_exception_only(error)).strip()
        pipe.send(RuntimeError(text))


async def _awaited(
    run: Callable[[Control, Work], Awaitable[None]], control: Control, work: Work
) -> None:
    await run(control, work)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop  # noqa: PLC0415  only where it is installed

        return uvloop.new_event_loop
    return asyncio.new_event_loop
