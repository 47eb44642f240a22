"""Ending messages: each gets one outcome, is counted once, and whoever waits for it is told.

Rules: nothing else gives a message its outcome, but for the acknowledgement of whole runs, which
is the hot path. What leaves a queue makes room, and those who wait for room are noted.
"""

from __future__ import annotations

from typing import Final

from aerogram.core.channel import SendChannel
from aerogram.core.outgoing import Outcome, Outgoing
from aerogram.core.priorities import Schedule
from aerogram.core.stats import ConnectionStats

QUEUE_FULL: Final = "the queue of its channel was full"
"""The reason that a receipt gives for a message that was dropped here, or never let in."""


class Outcomes:
    """Ends the messages of one connection."""

    __slots__ = ("_schedule", "_stats", "roomy")

    def __init__(self, stats: ConnectionStats, schedule: Schedule) -> None:
        self._stats = stats
        self._schedule = schedule
        self.roomy: list[SendChannel] = []
        """Channels whose queue has room again, for those who wait; the caller empties it."""

    def finish(self, channel: SendChannel, message: Outgoing, outcome: Outcome, now: float) -> None:
        """End a message, unless it has ended."""
        if message.outcome is not None:
            return
        if not message.has_left:
            channel.note_ended(message)
            self._schedule.wake(channel)
            if channel.wants_room:
                self.check_room(channel)
        self._settle(message, outcome, now)

    def _settle(self, message: Outgoing, outcome: Outcome, now: float) -> None:
        message.outcome = outcome
        message.make_history().ended_at = now
        stats = self._stats
        if outcome is Outcome.DELIVERED:
            stats.messages_delivered += 1
        elif outcome is Outcome.LOST:
            stats.messages_lost += 1
        elif outcome is Outcome.EXPIRED:
            stats.messages_expired += 1
        elif outcome is Outcome.SUPERSEDED:
            stats.messages_superseded += 1
        else:
            stats.messages_refused += 1
        if message.observer is not None:
            message.observer()

    # -- full queues

    def check_room(self, channel: SendChannel) -> None:
        """Note that a queue which somebody found full is half empty by now."""
        if channel.is_half_empty:
            channel.wants_room = False
            self.roomy.append(channel)

    def make_room(self, channel: SendChannel, size: int, now: float) -> None:
        """Let messages that wait give way to a new one, as the channel wants it.

        What has been begun is left alone: the peer holds a part of it.
        """
        only_newest = channel.when_full == "latest"
        outcome = Outcome.SUPERSEDED if only_newest else Outcome.LOST
        while only_newest or channel.is_full(size):
            message = channel.take_oldest()
            if message is None:
                return
            self._schedule.wake(channel)
            self._drop(message, outcome, now)

    def turn_away(self, message: Outgoing, now: float) -> None:
        """A message for which there is no room is lost at once."""
        self._stats.messages_sent += 1
        self._drop(message, Outcome.LOST, now)

    def lose(self, message: Outgoing, now: float) -> None:
        """A message that is sent too late, on a connection that has ended."""
        self._stats.messages_sent += 1
        self._settle(message, Outcome.LOST, now)

    def expire_unqueued(self, message: Outgoing, now: float) -> None:
        """The deadline of a message has passed while it waited for room."""
        self._stats.messages_sent += 1
        message.make_history().reason = QUEUE_FULL
        self._settle(message, Outcome.EXPIRED, now)

    def _drop(self, message: Outgoing, outcome: Outcome, now: float) -> None:
        message.make_history().reason = QUEUE_FULL
        self._stats.messages_dropped_queue += 1
        self._settle(message, outcome, now)
