"""What a channel promises: ready-made deliveries, and the protocols for one's own.

A delivery is an ordering (what the receiver shows, and in which order) times a retry policy (what
the sender does about a loss). A preset is a call; a policy of one's own is
`Delivery(OrderingClass, retry)`.
"""

from __future__ import annotations

from aerogram.core.delivery import (
    AsItArrives,
    Delivery,
    HoldingOrdering,
    InOrder,
    Never,
    NewestWins,
    Ordering,
    Retry,
    Sent,
    UntilAcknowledged,
)
from aerogram.core.recovery import Rtt

__all__ = [
    "AsItArrives",
    "Delivery",
    "HoldingOrdering",
    "InOrder",
    "Never",
    "NewestWins",
    "Ordering",
    "Retry",
    "Rtt",
    "Sent",
    "UntilAcknowledged",
    "ordered",
    "reliable",
    "sequenced",
    "unreliable",
]


def unreliable(*, deadline: float | None = None) -> Delivery:
    """Sent once; what arrives is handed over as it arrives, duplicates dropped."""
    return Delivery(AsItArrives, Never(), deadline, "unreliable")


def sequenced(*, deadline: float | None = None) -> Delivery:
    """Sent once; what is older than the newest shown is dropped."""
    return Delivery(NewestWins, Never(), deadline, "sequenced")


def reliable(*, attempts: int | None = None, deadline: float | None = None) -> Delivery:
    """Resent until acknowledged, handed over once, as it arrives.

    `attempts` and `deadline` (seconds) bound how long the sender tries.
    """
    return Delivery(AsItArrives, UntilAcknowledged(attempts), deadline, "reliable")


def ordered(*, attempts: int | None = None, deadline: float | None = None) -> Delivery:
    """Resent until acknowledged, handed over once and in the order of sending.

    With `attempts` or `deadline` (seconds) the sender may give a message up; it is skipped then,
    and counted.
    """
    return Delivery(InOrder, UntilAcknowledged(attempts), deadline, "ordered")
