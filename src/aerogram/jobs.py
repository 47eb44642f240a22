"""One message and its handler: until its deadline; every error ends here and is counted once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aerogram.answering import Unanswerable, Withdrawn
from aerogram.core.events import RefuseCode
from aerogram.errors import DecodeError, Rejected, SessionClosed
from aerogram.lifecycle import STOPS_LOOP

if TYPE_CHECKING:
    from aerogram.core.channel import ReceiveChannel
    from aerogram.inner_session import InnerSession
    from aerogram.messages import Question
    from aerogram.routes import Route


@dataclass(slots=True)
class Job:
    """A message on its way to its handler, with what is known of it."""

    channel: ReceiveChannel
    number: int
    """The message's number on its channel, or -1."""
    cost: int
    """What it counts for in flow control."""
    route: Route
    message: Any
    deadline: float | None
    """When it becomes worthless, in seconds of the endpoint's clock."""
    question: Question | None = None
    """What `message` was in, if it is to be answered."""


async def perform(session: InnerSession, job: Job) -> None:
    """Run the handler of a message. Raises nothing but the cancellation of the task."""
    if job.deadline is not None and job.deadline <= session.time():
        session.counts.messages_dropped_late += 1
        return
    try:
        await _call(session, job)
    except BaseException as error:  # where handlers' errors end
        if failed(session, job.channel, job.number, error, job.route.name):
            return
        if isinstance(error, STOPS_LOOP):
            await asyncio.sleep(0)
    session.counts.messages_handled += 1


async def _call(session: InnerSession, job: Job) -> None:
    route, deadline = job.route, job.deadline if job.route.to_deadline else None
    if job.question is not None:
        await session.answering.answer(job.question, route, job.message, deadline)
    elif deadline is None:
        await route.call(session.public, job.message)
    else:
        await _call_until(deadline, session, job)


async def _call_until(deadline: float, session: InnerSession, job: Job) -> None:
    scope = asyncio.timeout_at(deadline)
    try:
        async with scope:
            await job.route.call(session.public, job.message)
    except TimeoutError:
        if not scope.expired():
            raise
        session.counts.handlers_expired += 1


def failed(
    session: InnerSession, channel: ReceiveChannel, number: int, error: BaseException, name: str
) -> bool:
    """A handler raised; True if that means that the message was not taken, and is counted.

    Raises it again if it is meant for this task.
    """
    if session.life.is_for_task(error):
        raise error
    if isinstance(error, Rejected):
        session.refuse(channel, number, RefuseCode.REJECTED, error.reason)
    elif isinstance(error, DecodeError):
        session.refuse(channel, number, RefuseCode.UNDECODABLE, str(error))
    elif isinstance(error, Unanswerable):
        session.connection.stats.messages_received_refused += 1
    elif isinstance(error, Withdrawn):
        session.counts.messages_dropped_cancelled += 1
    else:
        if not (isinstance(error, SessionClosed) and session.closed):
            session.handler_failed(name, error)
        return False
    return True
