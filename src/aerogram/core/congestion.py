"""How many bytes may be in flight. A controller is a plain object that is told what happened."""

from __future__ import annotations

from typing import Protocol


class Controller(Protocol):
    """What a congestion controller is told, and the one figure it answers with."""

    @property
    def window_bytes(self) -> int:
        """Bytes that may be in flight now."""
        ...

    def acknowledged(self, packet_bytes: int, sent_at: float, now: float) -> None:
        """A packet in flight was acknowledged."""

    def lost(self, packet_bytes: int, sent_at: float, now: float) -> None:
        """A packet in flight was declared lost."""


class FixedWindow:
    """The same window whatever happens: for links whose capacity is known, and local networks."""

    __slots__ = ("_window_bytes",)

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes

    @property
    def window_bytes(self) -> int:
        """Bytes that may be in flight."""
        return self._window_bytes

    def acknowledged(self, packet_bytes: int, sent_at: float, now: float) -> None:
        """Change nothing."""

    def lost(self, packet_bytes: int, sent_at: float, now: float) -> None:
        """Change nothing."""
