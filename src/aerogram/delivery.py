"""What a channel promises: ready-made deliveries, and the protocols for one's own.

A delivery is an ordering (what the receiver shows, and in which order) times a retry policy (what
the sender does about a loss). A preset is a call; a policy of one's own is
`Delivery(OrderingClass, retry)`. With a `key`, newer messages supersede older ones: what is out of
date is neither sent nor sent again. Every preset raises `ValueError` or `TypeError` for a deadline
that is not above 0 seconds, or `attempts` that are not a number from 1 on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from aerogram.core.delivery import (
    KEYS_LIMIT,
    AsItArrives,
    Delivery,
    HoldingOrdering,
    InOrder,
    Never,
    NewestPerKey,
    NewestWins,
    Ordering,
    PerKey,
    Retry,
    Sent,
    UntilAcknowledged,
    one_key,
)
from aerogram.core.recovery import Rtt

__all__ = [
    "AsItArrives",
    "Delivery",
    "HoldingOrdering",
    "InOrder",
    "Never",
    "NewestPerKey",
    "NewestWins",
    "Ordering",
    "Retry",
    "Rtt",
    "Sent",
    "UntilAcknowledged",
    "latest",
    "ordered",
    "reliable",
    "reliable_sequenced",
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


def reliable_sequenced(*, attempts: int | None = None, deadline: float | None = None) -> Delivery:
    """The newest message arrives for certain, older ones perhaps, and never after a newer one.

    A newer message supersedes all older ones that are not acknowledged: they are not resent.
    """
    retry = UntilAcknowledged(attempts)
    return Delivery(NewestWins, retry, deadline, "reliable_sequenced", one_key)


def latest(
    *,
    key: Callable[[Any], Hashable],
    keys: int = KEYS_LIMIT,
    attempts: int | None = None,
    deadline: float | None = None,
) -> Delivery:
    """The newest message of each key arrives for certain, and never an older one after it.

    `key` is a function of the message, the same at both ends: `key=lambda price: price.symbol`.
    Both ends call it, so nothing more is sent; a receiver has to declare the channel, handle the
    type, or name it in the `receives=` of `connect`. A newer message takes the place of an older
    one of its key that still waits. Up to `keys` keys are remembered, and beyond that the one not
    heard of longest is forgotten.
    Raises `ValueError` if that is less than 1.
    """
    retry = UntilAcknowledged(attempts)
    return Delivery(PerKey(key, keys), retry, deadline, "latest", key, keys)
