"""Names what a simulation waits for: which task, and at which line it is suspended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

_ASYNCIO: Final = Path(asyncio.__file__).parent

_TASKS_LISTED: Final = 50
"""A thousand clients that wait alike are not all worth a line."""

_DEPTH_LIMIT: Final = 1000
"""Awaits inside each other that are followed."""


def unfinished_tasks(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    """Return the tasks that are not done, in the order in which a `VirtualLoop` made them."""
    return sorted(asyncio.all_tasks(loop), key=hash)


def describe_tasks(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    """Return an indented line for each task: its name and where it waits."""
    lines = [f"  {task.get_name()}: {_describe_place(task)}" for task in tasks]
    more = len(lines) - _TASKS_LISTED
    return lines if more <= 0 else [*lines[:_TASKS_LISTED], f"  and {more} more"]


def _describe_place(task: asyncio.Task[Any]) -> str:
    """Name the innermost line, and before it the innermost that is not asyncio's own."""
    frames = _suspended_frames(task.get_coro())
    if not frames:
        return "not started, or not in Python code"
    outside = [frame for frame in frames if _file(frame).parent != _ASYNCIO]
    return ", in ".join(dict.fromkeys(map(_describe_frame, (*outside[-1:], frames[-1]))))


def _suspended_frames(awaited: Any) -> list[FrameType]:
    """Return the frames of a suspended coroutine and of what it awaits, outermost first."""
    frames: list[FrameType] = []
    for _ in range(_DEPTH_LIMIT):
        for kind, inner in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            if hasattr(awaited, f"{kind}_frame"):
                frame = getattr(awaited, f"{kind}_frame")
                awaited = getattr(awaited, f"{kind}_{inner}")
                break
        else:
            break
        if frame is not None:
            frames.append(frame)
    return frames


def _describe_frame(frame: FrameType) -> str:
    return f"{_short(_file(frame))}:{frame.f_lineno} {frame.f_code.co_qualname}"


def _file(frame: FrameType) -> Path:
    return Path(frame.f_code.co_filename)


def _short(file: Path) -> str:
    if file.parent == _ASYNCIO:
        return f"asyncio/{file.name}"
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)
