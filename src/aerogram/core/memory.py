"""How much peers can make this side hold, over all channels of a session and all sessions.

Rules: credit bounds a channel; this bounds the sum. What has come and was not taken is unread, be
it whole, in pieces or out of order. A session that has as much unread as it may is turned away: its
packets with new messages are dropped as if they were lost, so its peer sends them again, later. If
all sessions together have too much, those are turned away that have more than their fair share.
What is needed to set free what has come, a message that others wait for or the rest of a record, is
taken up to twice as much: else all could wait for what is turned away.
"""

from __future__ import annotations

from typing import Final

from aerogram.config import Config

UNFINISHED_OVERHEAD_BYTES: Final = 1024
"""What an unfinished record takes beside its pieces; without credit it has to be counted."""
SMALL_SHARE_BYTES: Final = 64 * 1024
"""A session with less unread is never turned away, however many others there are."""


def memory_for_records(limit_bytes: int, config: Config) -> int:
    """A limit of memory, in which the largest record fits with all that is around it."""
    return max(limit_bytes, config.largest_payload_bytes + UNFINISHED_OVERHEAD_BYTES)


class NoMemory(Exception):
    """A packet cannot be taken now."""


class EndpointMemory:
    """What all sessions of an endpoint hold."""

    __slots__ = ("left_bytes", "limit_bytes", "sessions", "unread_bytes")

    def __init__(self, config: Config) -> None:
        self.left_bytes = memory_for_records(config.reassembly_bytes_per_endpoint, config)
        """Of what may be reserved for unfinished records."""
        self.limit_bytes = config.unread_bytes_per_endpoint + self.left_bytes
        self.unread_bytes = 0
        self.sessions = 0

    @property
    def share_bytes(self) -> int:
        """What a session may have unread while all together have too much."""
        return max(SMALL_SHARE_BYTES, self.limit_bytes // max(self.sessions, 1))


class SessionMemory:
    """What one session holds that was not taken."""

    __slots__ = ("_counts", "_endpoint", "free_bytes", "limit_bytes", "unread_bytes")

    def __init__(self, config: Config, endpoint: EndpointMemory) -> None:
        self._endpoint = endpoint
        records = memory_for_records(config.reassembly_bytes_per_session, config)
        self.limit_bytes = config.unread_bytes_per_session + records
        self.free_bytes = min(self.limit_bytes, SMALL_SHARE_BYTES)
        """With less unread there is nothing to check."""
        self._counts = False
        self.unread_bytes = 0

    def begin(self) -> None:
        """The peer has opened a channel, perhaps its first."""
        if not self._counts:
            self._counts = True
            self._endpoint.sessions += 1

    def note(self, cost: int) -> None:
        """So much has come; less than 0 if it was taken. Once the session has ended, nothing."""
        if self._counts:
            self.unread_bytes += cost
            self._endpoint.unread_bytes += cost

    def check(self, *, needed: bool) -> None:
        """Raise `NoMemory` if nothing more can be taken now; half counts of what is needed."""
        unread = self.unread_bytes // 2 if needed else self.unread_bytes
        if unread >= self.limit_bytes:
            raise NoMemory
        endpoint = self._endpoint
        if endpoint.unread_bytes >= endpoint.limit_bytes and unread >= endpoint.share_bytes:
            raise NoMemory

    @property
    def is_full(self) -> bool:
        """True if what can be dropped has to be."""
        try:
            self.check(needed=False)
        except NoMemory:
            return True
        return False

    def end(self) -> None:
        """The session has ended: what it still holds goes in a moment."""
        self.note(-self.unread_bytes)
        if self._counts:
            self._counts = False
            self._endpoint.sessions -= 1
