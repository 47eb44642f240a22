"""Catches the library reading the wall clock or the system's randomness during a simulation.

Either would make two runs of a seed differ, mostly long after the call. So while a simulation runs,
the functions of `time`, `random`, `secrets` and `os.urandom` look at their caller. Rules: only code
of this package outside the lab is refused, and only in a thread whose running loop is virtual; a
user's own code and other packages get what they ask for; afterwards everything is as it was. What
cannot be watched, such as `datetime.now`, no module of this package calls: a test looks for it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, Final

from aerogram.lab.errors import Nondeterminism
from aerogram.lab.loop import VirtualLoop

_PACKAGE: Final = __name__.partition(".")[0]
_LAB: Final = f"{_PACKAGE}.lab"

_GO_BETWEENS: Final = frozenset({"functools", "random", "secrets", "tempfile", "uuid"})
"""Modules that call the watched functions for somebody else."""

_TIMES: Final = ("monotonic", "perf_counter", "process_time", "sleep", "thread_time", "time")
_NANOSECONDS: Final = ("monotonic_ns", "perf_counter_ns", "process_time_ns", "time_ns")
_OF_SOME_SYSTEMS: Final = {
    time: ("clock_gettime", "clock_gettime_ns"),
    os: ("getrandom",),
}
_WATCHED: Final[tuple[tuple[ModuleType, tuple[str, ...]], ...]] = (
    (time, _TIMES + _NANOSECONDS),
    (os, ("urandom",)),
    *((m, tuple(n for n in names if hasattr(m, n))) for m, names in _OF_SOME_SYSTEMS.items()),
    (random, tuple(n for n in random.__all__ if not isinstance(getattr(random, n), type))),
    (secrets, tuple(n for n in secrets.__all__ if not isinstance(getattr(secrets, n), type))),
)

_Place = tuple[ModuleType, str]


class _Guard:
    """The watching functions in place, for all simulations that run at once in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._originals: dict[_Place, Any] = {}

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._install()

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for (module, name), original in self._originals.items():
                    setattr(module, name, original)
                self._originals.clear()

    def _install(self) -> None:
        watching: dict[int, Callable[..., Any]] = {}
        for module, names in _WATCHED:
            for name in names:
                original = getattr(module, name)
                watching[id(original)] = _watch(f"{module.__name__}.{name}", original)
                self._replace(module, name, watching)
        for module in _library_modules():
            for name in [n for n, value in vars(module).items() if id(value) in watching]:
                self._replace(module, name, watching)  # `from time import monotonic`

    def _replace(self, module: ModuleType, name: str, watching: dict[int, Any]) -> None:
        original = getattr(module, name)
        self._originals[module, name] = original
        setattr(module, name, watching[id(original)])


_GUARD: Final = _Guard()


@contextmanager
def guarded() -> Generator[None]:
    """Watch for as long as the context lasts."""
    _GUARD.enter()
    try:
        yield
    finally:
        _GUARD.leave()


def _library_modules() -> list[ModuleType]:
    return [module for name, module in list(sys.modules.items()) if _is_library(name)]


def _is_library(name: str) -> bool:
    if name != _PACKAGE and not name.startswith(f"{_PACKAGE}."):
        return False
    return name != _LAB and not name.startswith(f"{_LAB}.")


def _watch(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def watched(*args: Any, **options: Any) -> Any:
        _check_caller(name, inspect.currentframe())
        return original(*args, **options)

    return watched


def _check_caller(called: str, frame: FrameType | None) -> None:
    """Raise `Nondeterminism` if the library called the watching function that has this frame."""
    frame = frame.f_back if frame is not None else None
    while frame is not None and _module(frame) in _GO_BETWEENS:
        frame = frame.f_back
    if frame is None or not _is_library(_module(frame)):
        return
    loop = _running_virtual_loop()
    if loop is None:
        return
    place = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
    error = Nondeterminism(f"{called} was called in a simulation by {place}")
    loop.fail(error)
    raise error


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _running_virtual_loop() -> VirtualLoop | None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop if isinstance(loop, VirtualLoop) else None
