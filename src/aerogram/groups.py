"""Groups: a name for many sessions, and a message to all of them encoded once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic

from aerogram import messages as codec
from aerogram.errors import SessionClosed
from aerogram.typevars import StateT

if TYPE_CHECKING:
    from aerogram.session import Session


class Group(Generic[StateT]):
    """Sessions under one name. A session leaves by itself when it closes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._members: dict[Session[StateT], None] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Session[StateT]]:
        return iter([*self._members])

    def __contains__(self, session: object) -> bool:
        return session in self._members

    def add(self, session: Session[StateT]) -> None:
        """Let a session join; harmless if it has. A closed session does not join."""
        if not session.closed:
            self._members[session] = None
            session.joined(self)

    def discard(self, session: Session[StateT]) -> None:
        """Let a session leave; harmless if it is not in the group."""
        if self._members.pop(session, self) is None:
            session.left(self)

    async def send(self, message: object, *, exclude: Session[Any] | None = None) -> int:
        """Queue a message for every member but `exclude`; return for how many.

        Members whose queue has room get it at once. For the others this waits, as `Session.send`
        does; one that closes meanwhile is left out.
        """
        return await self._send(type(message), codec.encode(message), exclude)

    async def emit(self, topic: str, value: object, *, exclude: Session[Any] | None = None) -> int:
        """Queue a plain value under a topic for every member; like `send` in all else."""
        return await self._send(object, codec.encode_topic(topic, value), exclude)

    async def _send(self, kind: type, payload: bytes, exclude: Session[Any] | None) -> int:
        count = 0
        full: list[Session[StateT]] = []
        for session in [*self._members]:
            if session is exclude or session.closed:
                continue
            if session.send_encoded(kind, payload):
                count += 1
            else:
                full.append(session)
        if full:
            sent = await asyncio.gather(*(_send_later(s, kind, payload) for s in full))
            count += sum(sent)
        return count


async def _send_later(session: Session[Any], kind: type, payload: bytes) -> bool:
    try:
        await session.send_when_room(kind, payload)
    except SessionClosed:
        return False
    return True
