"""Messages for which there is no handler, until `Session.receive` takes them.

Rules: a session without an app keeps all that comes; one with an app keeps what has no handler and
has been asked for, from the first `receive` of its type on. They are told apart as they arrive, so
that a handler may itself receive what comes after its message. What comes on a channel that resends
is bounded by the credit that its sender gets; of other channels the oldest give way beyond
`Config.mailbox_bytes`, and are counted. A message whose deadline has passed is dropped when it
would be taken. Questions do not wait here: nobody would answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from aerogram import messages as codec
from aerogram.config import check_timeout
from aerogram.core.events import RefuseCode
from aerogram.dispatch import cost_of
from aerogram.errors import DecodeError
from aerogram.routes import ASKING_KINDS

if TYPE_CHECKING:
    from aerogram.core.channel import ReceiveChannel, Run
    from aerogram.dispatch import Mailboxes
    from aerogram.inner_session import InnerSession


class Letter(NamedTuple):
    """A message that waits."""

    channel: ReceiveChannel
    payload: Any
    """Bytes, or what the channel's `view` has made of them."""
    cost: int
    """What it counts for in flow control."""
    deadline: float | None
    """When it becomes worthless, in seconds of the endpoint's clock."""

    def decoded(self, kind: type[Any] | None) -> Any:
        """The message. Raises `DecodeError`."""
        payload = self.payload
        if self.channel.view is None:
            decode = codec.decode_any if kind is None else codec.decoder_for(kind)
            return decode(payload)
        if kind is not None and isinstance(payload, codec.Untyped):
            return codec.retyped(payload, kind)
        return payload


def _is_of(channel: ReceiveChannel, payload: Any, kind: type[Any] | None) -> bool:
    """True if it is a message of this type; with None, whatever it is."""
    if kind is None:
        return True
    if channel.view is None:
        return codec.routing_key(payload) == codec.type_key(kind)
    if isinstance(payload, codec.Untyped):
        return issubclass(kind, codec.Message) and codec.tag_of(kind) == payload.tag
    return type(payload) is kind


class Inbox:
    """What a session has received, has no handler for, and not yet been asked for."""

    __slots__ = (
        "_keys",
        "_letters",
        "_mailboxes",
        "_readers",
        "_session",
        "_types",
        "_unreliable_cost",
        "reads",
    )

    def __init__(self, session: InnerSession, mailboxes: Mailboxes) -> None:
        self.reads = session.app is None
        """True once something is kept here."""
        self._session = session
        self._mailboxes = mailboxes
        self._types: set[type[Any] | None] = set()
        """What a session with an app has been asked for; None is everything."""
        self._keys: set[codec.RoutingKey] = set()
        """The same by routing key."""
        self._letters: deque[Letter] = deque()
        self._unreliable_cost = 0
        self._readers: dict[asyncio.Future[None], None] = {}

    @property
    def waiting(self) -> int:
        """Messages that nobody has taken."""
        return len(self._letters)

    # -- what comes

    def put(self, channel: ReceiveChannel, runs: list[Run]) -> None:
        """Take all that a channel handed over, where there are no handlers."""
        for first, run, cost in runs:
            for number, payload in enumerate(run, first):
                self._put(channel, number, payload, cost_of(payload, run, cost))
        self._came()

    def sort(self, channel: ReceiveChannel, runs: list[Run]) -> list[Run]:
        """Take what was asked for and has no handler; return the rest, for the handlers."""
        rest: list[Run] = []
        for first, run, cost in runs:
            kept = [self._keeps(channel, payload) for payload in run]
            if not any(kept):
                rest.append((first, run, cost))
                continue
            left = cost
            for index, payload in enumerate(run):
                number, own = first + index if first >= 0 else -1, cost_of(payload, run, cost)
                left -= own
                if kept[index]:
                    self._put(channel, number, payload, own)
                else:
                    rest.append((number, [payload], own))
            self._session.consumed(channel, left)  # what the division has left over
        self._came()
        return rest

    def _keeps(self, channel: ReceiveChannel, payload: Any) -> bool:
        app = self._session.app
        assert app is not None
        if channel.view is not None:
            is_asked_for = any(_is_of(channel, payload, kind) for kind in self._types)
            return is_asked_for and app.routes.of_value(payload)[0] is None
        key = codec.routing_key(payload)
        is_asked_for = None in self._types or key in self._keys
        return is_asked_for and bool(payload) and key not in app.routes.by_key

    def _put(self, channel: ReceiveChannel, number: int, payload: Any, cost: int) -> None:
        deadline = channel.deadlines.pop(number, None) if channel.deadlines else None
        if channel.view is None and (not payload or payload[0] in ASKING_KINDS):
            self._decline(channel, number, payload, cost)
            return
        self._letters.append(Letter(channel, payload, cost, deadline))
        if not channel.resends:
            self._weigh(cost)

    def _decline(self, channel: ReceiveChannel, number: int, payload: bytes, cost: int) -> None:
        session = self._session
        try:
            session.answering.decline(payload)
            session.connection.stats.messages_received_refused += 1
        except DecodeError as error:
            reason = str(error) if payload else codec.EMPTY
            session.refuse(channel, number, RefuseCode.UNDECODABLE, reason)
        session.consumed(channel, cost)

    def _came(self) -> None:
        if self._has_too_much():
            self._make_room()
        self.wake()

    def _weigh(self, cost: int) -> None:
        """So much more is here of unreliable channels."""
        self._unreliable_cost += cost
        self._session.memory.note(cost)

    def _has_too_much(self) -> bool:
        waiting, memory = self._unreliable_cost, self._session.memory
        return waiting > self._session.config.mailbox_bytes or (waiting > 0 and memory.is_full)

    def _make_room(self) -> None:
        """Drop the oldest unreliable messages beyond the limit."""
        kept: deque[Letter] = deque()
        for letter in self._letters:
            if letter.channel.resends or not self._has_too_much():
                kept.append(letter)
            else:
                self._weigh(-letter.cost)
                self._session.connection.stats.messages_dropped_mailbox += 1
        self._letters = kept

    def wake(self) -> None:
        """Let every reader look again."""
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        self._readers.clear()

    # -- what is taken

    async def receive(self, kind: type[Any] | None, timeout: float | None) -> Any:
        """The next message; see `Session.receive`."""
        check_timeout(timeout)
        self._ask_for(kind)
        letter = self._take(kind)
        if letter is None:
            async with asyncio.timeout(timeout):
                while (letter := self._take(kind)) is None:
                    self._session.raise_if_closed()
                    await self._changed()
        self._session.counts.messages_handled += 1
        return letter.decoded(kind)

    def _ask_for(self, kind: type[Any] | None) -> None:
        """Keep messages of a type from now on, and those that wait for a handler in vain."""
        key = None if kind is None else codec.type_key(kind)
        if issubclass(kind or object, codec.ASKING):
            raise TypeError(f"{kind} is a request: @app.answers takes it")
        app = self._session.app
        if app is None or kind in self._types:
            return
        if key is not None:
            if key in app.routes.by_key:
                name = app.routes.by_key[key].name
                raise RuntimeError(f"{name} has a handler, so receive() would never return one")
            self._keys.add(key)
        self._types.add(kind)
        self.reads = True
        self._mailboxes.sift(self.sort)

    def _take(self, kind: type[Any] | None) -> Letter | None:
        """The oldest message, or the oldest of this type; None if there is none."""
        now = self._session.time()
        while (letter := self._remove(kind)) is not None:
            self._session.consumed(letter.channel, letter.cost)
            if letter.deadline is None or letter.deadline > now:
                return letter
            self._session.counts.messages_dropped_late += 1
        return None

    def _remove(self, kind: type[Any] | None) -> Letter | None:
        for index, letter in enumerate(self._letters):
            if _is_of(letter.channel, letter.payload, kind):
                del self._letters[index]
                if not letter.channel.resends:
                    self._weigh(-letter.cost)
                return letter
        return None

    async def _changed(self) -> None:
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers[arrived] = None
        try:
            await arrived
        finally:
            self._readers.pop(arrived, None)
