"""What a sender holds: messages that wait to be sent, and bodies that may be asked for again.

Bodies leave in the order they came, whole messages at a time, so that the oldest one held always
begins a message: a receiver can start there.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from aerogram.lan.stream.wire import (
    FRAGMENT_OVERHEAD_BYTES,
    OVERHEAD_BYTES,
    SIZE_BYTES,
    WHOLE_OVERHEAD_BYTES,
    encode_fragment,
    encode_whole,
)

BODY_OVERHEAD_BYTES: Final = 256
"""Counted for each body that is held: the objects around its bytes."""


class Sent:
    """A body that was sent."""

    __slots__ = ("asked_at", "body", "message", "repaired_at", "repairs", "sent_at", "starts")

    def __init__(self, body: bytes, message: int, *, starts: bool) -> None:
        self.body = body
        self.message = message
        """The number of its first message."""
        self.starts = starts
        """Whether a message begins with it."""
        self.sent_at = 0.0
        """The first time."""
        self.asked_at: float | None = None
        self.repaired_at: float | None = None
        self.repairs = 0
        """How often it was sent again without a long pause between."""

    @property
    def cost(self) -> int:
        """What holding it takes."""
        return len(self.body) + BODY_OVERHEAD_BYTES


class History:
    """Bodies by sequence, from `oldest` to below `next`."""

    __slots__ = ("_bodies", "held_bytes", "next", "next_message", "oldest")

    def __init__(self) -> None:
        self._bodies: dict[int, Sent] = {}
        self.held_bytes = 0
        self.oldest = 0
        self.next = 0
        self.next_message = 0
        """The number of the first message that is in no body yet, or not whole in bodies."""

    def __getitem__(self, sequence: int) -> Sent:
        return self._bodies[sequence]

    @property
    def oldest_message(self) -> int:
        """The number of the first message that is held, or that will be."""
        return self._bodies[self.oldest].message if self._bodies else self.next_message

    @property
    def messages(self) -> int:
        """How many are held."""
        return self.next_message - self.oldest_message

    def add(self, sent: Sent) -> None:
        """Hold a new body, the next one."""
        self._bodies[self.next] = sent
        self.next += 1
        self.held_bytes += sent.cost

    def drop_oldest(self) -> None:
        """Drop the oldest message, or the oldest messages that were sent together."""
        while True:
            self.held_bytes -= self._bodies.pop(self.oldest).cost
            self.oldest += 1
            if self.oldest == self.next or self._bodies[self.oldest].starts:
                return

    @property
    def oldest_sent_at(self) -> float:
        """When the oldest body was sent first."""
        return self._bodies[self.oldest].sent_at

    def oldest_asked_at(self) -> float | None:
        """When somebody asked last for what `drop_oldest` would drop."""
        asked: float | None = None
        for sequence in range(self.oldest, self.next):
            sent = self._bodies[sequence]
            if sent.starts and sequence > self.oldest:
                break
            if sent.asked_at is not None and (asked is None or sent.asked_at > asked):
                asked = sent.asked_at
        return asked


class Waiting:
    """Messages that wait to be sent, and how they are cut into bodies of at most a datagram."""

    __slots__ = ("_messages", "_offset", "_room_bytes", "queued_bytes")

    def __init__(self, datagram_bytes: int) -> None:
        self._messages: deque[bytes] = deque()
        self._offset = 0
        """Of the first message, as much as has been cut off as fragments."""
        self._room_bytes = datagram_bytes - OVERHEAD_BYTES
        self.queued_bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, payload: bytes) -> None:
        """Let a message wait."""
        self._messages.append(payload)
        self.queued_bytes += len(payload)

    def next_cost(self) -> int:
        """The most that holding the next body takes."""
        return self._room_bytes + BODY_OVERHEAD_BYTES

    def next_body(self, sequence: int, message: int) -> tuple[Sent, int]:
        """Cut off the next body. Returns it and how many messages end in it.

        `message` is the number of the first message that waits.
        """
        first = self._messages[0]
        if self._offset or WHOLE_OVERHEAD_BYTES + SIZE_BYTES + len(first) > self._room_bytes:
            return self._fragment(first, sequence, message)
        payloads: list[bytes] = []
        room = self._room_bytes - WHOLE_OVERHEAD_BYTES
        while self._messages and SIZE_BYTES + len(self._messages[0]) <= room:
            payload = self._messages.popleft()
            payloads.append(payload)
            self.queued_bytes -= len(payload)
            room -= SIZE_BYTES + len(payload)
        return Sent(encode_whole(sequence, message, payloads), message, starts=True), len(payloads)

    def _fragment(self, payload: bytes, sequence: int, message: int) -> tuple[Sent, int]:
        size = self._room_bytes - FRAGMENT_OVERHEAD_BYTES
        index = self._offset // size
        count = -(-len(payload) // size)
        piece = payload[self._offset : self._offset + size]
        self._offset += size
        self.queued_bytes -= len(piece)
        ends = self._offset >= len(payload)
        if ends:
            self._messages.popleft()
            self._offset = 0
        body = encode_fragment(sequence, message, index, count, piece)
        return Sent(body, message, starts=index == 0), int(ends)
