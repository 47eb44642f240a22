"""Answers that are kept for a while, so that a request which comes again is not handled again.

Rules: an answer belongs to the peer that asked and to the key it chose, so that nobody reads
another's. What is kept is bounded in number, bytes and time, and the oldest go first; what is being
handled stays. No clock: time is an argument.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

KEPT_SECONDS: Final = 120.0
"""An answer is kept this long: long enough to notice that a session is lost, and to connect."""
KEPT_ANSWERS: Final = 4096
"""Answers that an app keeps for all its peers."""
KEPT_BYTES: Final = 16 * 1024 * 1024
"""The same in bytes."""

AnswerKey = tuple[bytes, bytes]
"""Who asked, and the key that they chose."""


def digest_of(request: bytes) -> bytes:
    """What tells whether two requests with one key are the same."""
    return hashlib.blake2s(request).digest()


@dataclass(slots=True)
class Entry:
    """A request that may come again."""

    digest: bytes
    answer: asyncio.Future[bytes | None]
    """The reply as it was sent; None if the handler was cut short."""
    until: float = 0.0
    """When an answer is forgotten."""


class AnswerCache:
    """The requests of an app that may come again: being handled, or answered lately."""

    __slots__ = ("_bytes", "_kept", "_running")

    def __init__(self) -> None:
        self._running: dict[AnswerKey, Entry] = {}
        self._kept: OrderedDict[AnswerKey, tuple[Entry, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: AnswerKey, now: float) -> Entry | None:
        """The request that came with this key before, if it is not forgotten."""
        self._forget_old(now)
        if key in self._kept:
            return self._kept[key][0]
        return self._running.get(key)

    def begin(self, key: AnswerKey, digest: bytes) -> Entry:
        """A handler takes the request; `finish` follows."""
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        entry = self._running[key] = Entry(digest, answer)
        return entry

    def finish(self, key: AnswerKey, reply: bytes | None, now: float) -> None:
        """The handler is done; with None it was cut short, and nothing is kept."""
        entry = self._running.pop(key)
        entry.answer.set_result(reply)
        if reply is not None:
            entry.until = now + KEPT_SECONDS
            self._kept[key] = (entry, len(reply))
            self._bytes += len(reply)
            self._forget_old(now)

    def _forget_old(self, now: float) -> None:
        kept = self._kept
        while kept:
            entry, size = next(iter(kept.values()))
            if len(kept) <= KEPT_ANSWERS and self._bytes <= KEPT_BYTES and entry.until > now:
                return
            kept.popitem(last=False)
            self._bytes -= size
