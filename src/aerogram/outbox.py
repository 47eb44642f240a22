"""What a session sends: which channel a message takes, and whether there is room on it.

Rules: a channel is opened by its first message. Its queue is bounded in messages and in bytes, by
what its `Channel` says or `Config.send_queue_messages` and `send_queue_bytes`. Whoever finds it
full waits until it is half empty, so that a fast sender is not woken for every message, unless the
channel says otherwise (`when_full`). Where newer messages supersede older ones, one that takes the
place of another needs no room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any, Final

from aerogram.config import DEADLINE_SECONDS, SECONDS_LIMIT
from aerogram.errors import InvalidMessage, QueueFull, SessionClosed
from aerogram.receipts import Receipt

if TYPE_CHECKING:
    from aerogram.channels import Channel, Channels
    from aerogram.core.channel import ChannelSpec, SendChannel
    from aerogram.core.connection import Connection
    from aerogram.shell import Shell

PAYLOAD_ONLY: Final = object()
"""Stands for the message where there is none: a frame of our own, as that of a request."""


class Outbox:
    """The sending side of a session."""

    __slots__ = (
        "_channels",
        "_connection",
        "_error",
        "_shell",
        "_writers",
        "channels",
    )

    def __init__(self, shell: Shell, connection: Connection, channels: Channels) -> None:
        self.channels: dict[type | str, SendChannel] = {}
        """The channels that are open, by the types they have carried and by name."""
        self._shell = shell
        self._connection = connection
        self._channels = channels
        self._writers: dict[int, dict[asyncio.Future[None], None]] = {}
        self._error: SessionClosed | None = None

    # -- channels

    def channel_for(self, kind: type, via: Channel | None) -> SendChannel:
        """The channel of a type, unless `via` names another."""
        return self.channel_of(kind) if via is None else self.via(via)

    def channel_of(self, kind: type) -> SendChannel:
        """The channel that a type travels on."""
        channel = self.channels.get(kind)
        if channel is None:
            channel = self.channels[kind] = self._open(self._channels.of(kind))
        return channel

    def via(self, via: Channel) -> SendChannel:
        """The channel that the user has chosen. Raises `InvalidMessage`."""
        if not hasattr(via, "spec"):
            raise InvalidMessage(f"via= takes a Channel, not {type(via).__name__}")
        return self._open(via.spec)

    def named(self, name: str) -> SendChannel:
        """The channel with this name, which the app or the library has declared."""
        return self._open(self._channels.specs[name])

    def _open(self, spec: ChannelSpec) -> SendChannel:
        channel = self.channels.get(spec.name)
        if channel is None:
            channel = self.channels[spec.name] = self._connection.open_channel(spec)
        elif channel.delivery.code != spec.delivery.code:
            raise InvalidMessage(f"there is another channel named {spec.name!r}")
        return channel

    # -- room and queue

    async def send(
        self, channel: SendChannel, message: object, payload: bytes, deadline: float | None
    ) -> Receipt:
        """Queue a message once there is room; one whose deadline passes before that expires.

        Raises `QueueFull` on a channel that wants it so, and as `put`.
        """
        receipt = self.offer(channel, message, payload, deadline)
        if receipt is not None:
            return receipt
        if channel.when_full == "error":
            raise full(channel)
        due = self._due(channel, deadline)
        while receipt is None:
            if not await self._has_room_by(due, channel):
                receipt = Receipt(payload, due)
                self._connection.outcomes.expire_unqueued(receipt, self._shell.time())
                return receipt
            left = None if due is None else due - self._shell.time()
            receipt = self.offer(channel, message, payload, left)
        return receipt

    async def _has_room_by(self, due: float | None, channel: SendChannel) -> bool:
        """Wait until a full queue has room, or the session ends; False if it is not by then."""
        ready = self.when_room(channel)
        try:
            async with asyncio.timeout_at(due):
                await ready
        except TimeoutError:
            return False
        finally:
            self._forget(channel, ready)
        return True

    def offer(
        self, channel: SendChannel, message: object, payload: bytes, deadline: float | None
    ) -> Receipt | None:
        """Queue a message, or drop one if so the channel; None if it has to wait.

        Raises as `put`.
        """
        size = len(payload)
        is_plain = channel.newest is None
        key = None if is_plain else _key_of(channel, message)
        if (
            channel.is_full(size)
            and (is_plain or not channel.has_place(key))
            and self._error is None
            and size <= self._connection.peer_max_record_bytes
        ):
            if channel.when_full in ("block", "error"):
                return None
            now = self._shell.time()
            if channel.when_full == "drop_newest":
                receipt = Receipt(payload)
                self._connection.outcomes.turn_away(receipt, now)
                return receipt
            self._connection.outcomes.make_room(channel, size, now)
        if is_plain:
            return self.put(channel, payload, deadline)
        return self._put_about(key, channel, payload, deadline)

    def when_room(self, channel: SendChannel) -> asyncio.Future[None]:
        """What is done when a queue that has no room now is half empty, or the session ends."""
        if not self._shell.flush_scheduled:
            self._shell.schedule_flush()
        channel.wants_room = True
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writers.setdefault(channel.identity, {})[ready] = None
        return ready

    def _forget(self, channel: SendChannel, ready: asyncio.Future[None]) -> None:
        """Somebody waits for room no longer."""
        waiting = self._writers.get(channel.identity, {})
        waiting.pop(ready, None)
        if not waiting:
            self._writers.pop(channel.identity, None)

    def has_room(self, channel: SendChannel) -> None:
        """A queue that was full is half empty."""
        _wake(self._writers.pop(channel.identity, {}))

    def put(self, channel: SendChannel, payload: bytes, deadline: float | None) -> Receipt:
        """Queue a message where none supersedes another; `deadline` is in seconds from now.

        Raises `MessageTooLarge` or `SessionClosed`.
        """
        if self._error is not None:
            raise self._error
        receipt = Receipt(payload, self._due(channel, deadline))
        self._connection.send(channel, receipt)
        if not self._shell.flush_scheduled:
            self._shell.schedule_flush()
        return receipt

    def _put_about(
        self, key: Hashable, channel: SendChannel, payload: bytes, deadline: float | None
    ) -> Receipt:
        if self._error is not None:
            raise self._error
        receipt = Receipt(payload, self._due(channel, deadline))
        self._connection.send_about(key, channel, receipt, self._shell.time())
        if not self._shell.flush_scheduled:
            self._shell.schedule_flush()
        return receipt

    def _due(self, channel: SendChannel, deadline: float | None) -> float | None:
        """When a message becomes worthless, by the endpoint's clock. Raises `ValueError`."""
        seconds = channel.deadline_seconds(deadline)
        return None if seconds is None else self._shell.time() + _checked(seconds)

    # -- frames of our own

    async def send_own(self, channel: SendChannel, payload: bytes) -> Receipt:
        """Queue a frame of our own once there is room."""
        return await self.send(channel, PAYLOAD_ONLY, payload, None)

    def offer_own(self, name: str, payload: bytes) -> None:
        """Queue a frame of our own, if the session lives and has room."""
        if self._error is None:
            self.offer(self.named(name), PAYLOAD_ONLY, payload, None)

    def put_own(self, name: str, payload: bytes) -> None:
        """The same even if there is no room, for what its sender bounds by other means."""
        if self._error is None:
            self.put(self.named(name), payload, None)

    def end(self, error: SessionClosed) -> None:
        """The session has ended: whoever waits for room learns it."""
        self._error = error
        for identity in [*self._writers]:
            _wake(self._writers.pop(identity))


def full(channel: SendChannel) -> QueueFull:
    """The error for a queue without room."""
    return QueueFull(
        f"channel {channel.name!r} has {len(channel.queue) - channel.ended} messages with "
        f"{channel.queued_bytes} bytes waiting"
    )


def _wake(waiting: Iterable[asyncio.Future[None]]) -> None:
    for ready in waiting:
        if not ready.done():
            ready.set_result(None)


def _key_of(channel: SendChannel, message: Any) -> Hashable:
    """What a message is about. Raises `InvalidMessage` if the user's function cannot tell."""
    name, key_of = channel.name, channel.delivery.key
    if key_of is None or message is PAYLOAD_ONLY:
        raise InvalidMessage(f"channel {name!r} is for messages that supersede each other")
    try:
        key = key_of(message)
        hash(key)
    except Exception as error:  # a user's function
        kind = type(message).__name__
        raise InvalidMessage(f"the key of {kind} on channel {name!r}: {error}") from error
    return key


def _checked(deadline: float) -> float:
    """One that has passed is 0. Raises `ValueError`, or `TypeError` for what is no number."""
    if type(deadline) is not float or not deadline <= SECONDS_LIMIT:
        DEADLINE_SECONDS.check("deadline=", deadline)
    return max(deadline, 0.0)
