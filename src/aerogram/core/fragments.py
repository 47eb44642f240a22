"""Putting a record together again from fragments, with memory in proportion to what arrived.

Rules: a fragment never disagrees with an earlier one about the record's size, never overlaps one
in part, and only the last may be tiny; whoever breaks one of these breaks the protocol.
"""

from __future__ import annotations

from typing import Final

from aerogram.core.ranges import RangeSet
from aerogram.errors import DecodeError

SMALLEST_FRAGMENT_BYTES: Final = 256
"""Bounds the bookkeeping per byte: a fragment that does not end its record has at least this."""


class Reassembly:
    """The pieces of one unfinished record."""

    __slots__ = (
        "_covered",
        "_pieces",
        "counted_bytes",
        "deadline",
        "received_bytes",
        "reserved",
        "started_at",
        "total_bytes",
    )

    def __init__(self, total_bytes: int, now: float) -> None:
        self.total_bytes = total_bytes
        self.started_at = now
        self.received_bytes = 0
        self.reserved = False
        self.counted_bytes = 0
        """What was counted as unread at its first piece, for all pieces."""
        self.deadline: float | None = None
        """When the record becomes worthless, if its sender says so."""
        self._pieces: dict[int, bytes] = {}
        self._covered = RangeSet()

    def add(self, total_bytes: int, offset: int, data: bytes) -> int:
        """Take a piece; return how many bytes of it are new. Raises `DecodeError`."""
        if total_bytes != self.total_bytes:
            raise DecodeError("fragments disagree about the size of their record")
        end = offset + len(data)
        if len(data) < SMALLEST_FRAGMENT_BYTES and end != total_bytes:
            raise DecodeError("a fragment is too small")
        if self._covered.covers(offset, end - 1):
            return 0
        if self._covered.overlaps(offset, end - 1):
            raise DecodeError("fragments overlap")
        self._covered.add(offset, end - 1)
        self._pieces[offset] = data
        self.received_bytes += len(data)
        return len(data)

    def lives_until(self, deadline: float | None) -> None:
        """Take a further estimate; the earliest holds, for no piece is quicker than the way."""
        if deadline is not None and (self.deadline is None or deadline < self.deadline):
            self.deadline = deadline

    @property
    def complete(self) -> bool:
        """True once every byte is there."""
        return self.received_bytes == self.total_bytes

    def record(self) -> bytes:
        """The whole record; only once it is complete."""
        pieces = self._pieces
        return b"".join([pieces[offset] for offset in sorted(pieces)])
