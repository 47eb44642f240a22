"""Keeping few inputs that together reach all that a heap of them reaches.

What an input reaches is the lines of the library that it runs, each with the line before it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import aerogram
from tests.fuzz.corpus import Target

_SOURCE = str(Path(aerogram.__file__).parent)

Arc = tuple[str, int, int]


def reached(target: Target, data: bytes) -> set[Arc]:
    """What an input reaches; one that crashes reaches nothing."""
    arcs: set[Arc] = set()
    last: dict[int, int] = {}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(_SOURCE):
            return None
        if event == "call":
            last[id(frame)] = 0
        elif event == "line":
            arcs.add((code.co_filename, last.get(id(frame), 0), frame.f_lineno))
            last[id(frame)] = frame.f_lineno
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        target(data)
    except Exception:  # finds are for those who fuzz, not for who tidies up
        return set()
    finally:
        sys.settrace(before)
    return arcs


def minimised(target: Target, kept: Iterable[bytes], found: Iterable[bytes]) -> list[bytes]:
    """Few of `found` that reach all that those reach and `kept` does not.

    The one that adds the most comes first, and of equals the smallest.
    """
    known: set[Arc] = set()
    for data in kept:
        known |= reached(target, data)
    news = {data: reached(target, data) - known for data in {*found}}
    chosen: list[bytes] = []
    while news:
        best = max(news, key=lambda each: (len(news[each]), -len(each), each))
        added = news.pop(best)
        if not added:
            break
        chosen.append(best)
        news = {data: arcs - added for data, arcs in news.items() if not arcs <= added}
    return chosen
