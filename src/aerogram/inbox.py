"""Messages for which there is no handler, until `Session.receive` takes them.

Rules: what comes on a channel that resends is bounded by the credit that its sender gets; of other
channels the oldest give way beyond `Config.mailbox_bytes`, and are counted. A message whose
deadline has passed is dropped when it would be taken. Questions do not wait here: nobody would
answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from aerogram import messages as codec
from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core.events import RefuseCode
from aerogram.errors import DecodeError
from aerogram.routes import ASKING_KINDS

if TYPE_CHECKING:
    from aerogram.core.channel import ReceiveChannel, Run
    from aerogram.session import Session


class Letter(NamedTuple):
    """A message that waits."""

    channel: ReceiveChannel
    payload: bytes
    deadline: float | None
    """When it becomes worthless, in seconds of the endpoint's clock."""

    @property
    def cost(self) -> int:
        """What it counts for in flow control."""
        return len(self.payload) + MESSAGE_OVERHEAD_BYTES


class Inbox:
    """What a session without handlers has received and not yet taken."""

    __slots__ = ("_letters", "_readers", "_session", "_unreliable_cost")

    def __init__(self, session: Session[Any]) -> None:
        self._session = session
        self._letters: deque[Letter] = deque()
        self._unreliable_cost = 0
        self._readers: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Messages that nobody has taken."""
        return len(self._letters)

    # -- what comes

    def put(self, channel: ReceiveChannel, runs: list[Run]) -> None:
        """Take what a channel handed over."""
        for first, run, _ in runs:
            for number, payload in enumerate(run, first):
                deadline = channel.deadlines.pop(number, None) if channel.deadlines else None
                self._put(Letter(channel, payload, deadline), number)
        if self._unreliable_cost > self._session.config.mailbox_bytes:
            self._make_room()
        self.wake()

    def _put(self, letter: Letter, number: int) -> None:
        session, channel, payload = self._session, letter.channel, letter.payload
        if payload and payload[0] not in ASKING_KINDS:
            self._letters.append(letter)
            if not channel.resends:
                self._unreliable_cost += letter.cost
            return
        try:
            session.answering.decline(payload)
            session.connection.stats.messages_received_refused += 1
        except DecodeError as error:
            reason = str(error) if payload else codec.EMPTY
            session.refuse(channel, number, RefuseCode.UNDECODABLE, reason)
        session.consumed(channel, letter.cost)

    def _make_room(self) -> None:
        """Drop the oldest unreliable messages beyond the limit."""
        kept: deque[Letter] = deque()
        limit = self._session.config.mailbox_bytes
        for letter in self._letters:
            if letter.channel.resends or self._unreliable_cost <= limit:
                kept.append(letter)
            else:
                self._unreliable_cost -= letter.cost
                self._session.connection.stats.messages_dropped_mailbox += 1
        self._letters = kept

    def wake(self) -> None:
        """Let every reader look again."""
        while self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)

    # -- what is taken

    async def receive(self, kind: type[Any] | None, timeout: float | None) -> Any:
        """The next message; see `Session.receive`."""
        key = None if kind is None else codec.type_key(kind)
        decode = codec.decode_any if kind is None else codec.decoder_for(kind)
        payload = self._take(key)
        if payload is None:
            async with asyncio.timeout(timeout):
                while (payload := self._take(key)) is None:
                    self._session.raise_if_closed()
                    await self._changed()
        self._session.counts.messages_handled += 1
        return decode(payload)

    def _take(self, key: codec.RoutingKey | None) -> bytes | None:
        """The oldest message, or the oldest with this routing key; None if there is none."""
        now = self._session.time()
        while (letter := self._remove(key)) is not None:
            self._session.consumed(letter.channel, letter.cost)
            if letter.deadline is None or letter.deadline > now:
                return letter.payload
            self._session.counts.messages_dropped_late += 1
        return None

    def _remove(self, key: codec.RoutingKey | None) -> Letter | None:
        for index, letter in enumerate(self._letters):
            if key is None or codec.routing_key(letter.payload) == key:
                del self._letters[index]
                if not letter.channel.resends:
                    self._unreliable_cost -= letter.cost
                return letter
        return None

    async def _changed(self) -> None:
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(arrived)
        await arrived
