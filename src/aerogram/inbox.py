"""Messages for which there is no handler, until `Session.receive` takes them.

Rules: what comes on a channel that resends is bounded by the credit that its sender gets; of other
channels the oldest give way beyond `Config.mailbox_bytes`, and are counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from aerogram import messages as codec
from aerogram.config import MESSAGE_OVERHEAD_BYTES

if TYPE_CHECKING:
    from aerogram.core.channel import ReceiveChannel


class Inbox:
    """What a session without handlers has received and not yet taken."""

    __slots__ = ("_limit_bytes", "_messages", "_readers", "_unreliable_cost")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._messages: deque[tuple[ReceiveChannel, bytes]] = deque()
        self._unreliable_cost = 0
        self._readers: deque[asyncio.Future[None]] = deque()

    def put(self, channel: ReceiveChannel, payload: bytes) -> None:
        """Keep a message; `make_room` and `wake` follow after the last one of a turn."""
        self._messages.append((channel, payload))
        if not channel.resends:
            self._unreliable_cost += len(payload) + MESSAGE_OVERHEAD_BYTES

    def take(self, key: codec.RoutingKey | None) -> tuple[ReceiveChannel, bytes] | None:
        """The oldest message, or the oldest with this routing key; None if there is none."""
        for index, (channel, payload) in enumerate(self._messages):
            if key is None or codec.routing_key(payload) == key:
                del self._messages[index]
                if not channel.resends:
                    self._unreliable_cost -= len(payload) + MESSAGE_OVERHEAD_BYTES
                return channel, payload
        return None

    def make_room(self) -> int:
        """Drop the oldest unreliable messages beyond the limit; return how many."""
        if self._unreliable_cost <= self._limit_bytes:
            return 0
        kept: deque[tuple[ReceiveChannel, bytes]] = deque()
        dropped = 0
        for channel, payload in self._messages:
            if channel.resends or self._unreliable_cost <= self._limit_bytes:
                kept.append((channel, payload))
            else:
                dropped += 1
                self._unreliable_cost -= len(payload) + MESSAGE_OVERHEAD_BYTES
        self._messages = kept
        return dropped

    async def changed(self) -> None:
        """Wait until something has come, or `wake` says that nothing will."""
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(arrived)
        await arrived

    def wake(self) -> None:
        """Let every reader look again."""
        while self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)
