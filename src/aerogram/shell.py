"""What a session needs of the manager that it lives in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from aerogram.config import Config

if TYPE_CHECKING:
    from aerogram.inner_session import InnerSession


class Shell(Protocol):
    """What a session needs of its manager."""

    config: Config
    flush_scheduled: bool
    time: Callable[[], float]
    """The endpoint's clock."""

    def schedule_flush(self) -> None:
        """Send what is queued at the end of this turn of the loop."""

    def poll(self) -> None:
        """Deal with events that a call of the user has caused."""

    def log_handler_error(self, session: InnerSession, name: str, error: BaseException) -> None:
        """A handler raised."""

    def log_overdue(self, session: InnerSession, level: int, text: str) -> None:
        """Handlers of a session have not ended in their time."""

    def session_finished(self, session: InnerSession) -> None:
        """The session has ended and its handlers are done."""
