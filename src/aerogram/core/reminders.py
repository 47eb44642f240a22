"""Times at which something is to happen to messages: when they expire, when to try again.

A reminder is not taken back when its message ends: it is passed over, and when many have piled up
the heap is rebuilt without them.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from aerogram.core.outgoing import Outgoing, Piece

if TYPE_CHECKING:
    from aerogram.core.channel import SendChannel

RemindedT = TypeVar("RemindedT", bound=Outgoing | Piece)

REBUILD_AFTER: Final = 1024
"""So many reminders may be there before those of ended messages are thrown out."""


class Reminders(Generic[RemindedT]):
    """A heap of times, each with a message or piece that is to be looked at then."""

    __slots__ = ("_count", "_rebuild_at", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, SendChannel, RemindedT]] = []
        """The times, for those who look first whether there are any, as mostly there are none."""
        self._count = 0
        self._rebuild_at = REBUILD_AFTER

    def add(self, due: float, channel: SendChannel, message: RemindedT) -> None:
        """Remember a message until then."""
        heap = self.heap
        if len(heap) >= self._rebuild_at:
            heap[:] = [reminder for reminder in heap if reminder[3].outcome is None]
            heapq.heapify(heap)
            self._rebuild_at = max(REBUILD_AFTER, 2 * len(heap))
        self._count += 1
        heapq.heappush(heap, (due, self._count, channel, message))

    def next_due(self) -> float | None:
        """When the next message without an outcome is to be looked at."""
        heap = self.heap
        while heap and heap[0][3].outcome is not None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def take_due(self, now: float) -> list[tuple[SendChannel, RemindedT]]:
        """Take out the messages whose time has come and that have no outcome."""
        heap = self.heap
        due: list[tuple[SendChannel, RemindedT]] = []
        while heap and heap[0][0] <= now:
            _, _, channel, message = heapq.heappop(heap)
            if message.outcome is None:
                due.append((channel, message))
        return due

    def alive(self) -> list[RemindedT]:
        """Every message that is remembered and has no outcome."""
        return [message for _, _, _, message in self.heap if message.outcome is None]

    def clear(self) -> None:
        """Forget everything."""
        self.heap.clear()
