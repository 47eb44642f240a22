"""What can go wrong with a multicast session as a whole."""

from __future__ import annotations

from aerogram.errors import AerogramError


class MulticastError(AerogramError):
    """The base of the errors of multicast sessions."""


class StreamLost(MulticastError):
    """The sender is gone, or nothing of it arrives."""


class Expelled(StreamLost):
    """The sender no longer lets this receiver read."""
