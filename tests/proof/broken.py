"""Ways to break the protocol on purpose, each of which the proofs have to notice.

A proof that finds nothing says little until it is known what it would find. Each fault is one rule
of the protocol that is not kept, put in place for as long as a context lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from aerogram.core.delivery import InOrder, NewestWins
from aerogram.core.incoming import ReceiveChannel
from aerogram.core.keys import ReplayWindow
from aerogram.core.outcomes import Outcomes
from aerogram.core.outgoing import Outcome, Outgoing
from aerogram.core.packing import Packer
from aerogram.core.path import Path
from aerogram.core.ranges import RangeSet
from aerogram.core.receiver import Receiver
from aerogram.core.recovery import Recovery
from aerogram.core.repair import Repair
from aerogram.core.sender import Sender


def _nothing(*args: Any, **options: Any) -> None:
    """Do nothing."""


def _always(*args: Any, **options: Any) -> bool:
    return True


def _never(*args: Any, **options: Any) -> bool:
    return False


def _none_lost(*args: Any, **options: Any) -> list[Any]:
    return []


def _credit_without_end(self: Sender, identity: int, limit: int) -> None:
    self.channels[identity].credit_cost = limit + (1 << 30)


def _settle_uncounted(self: Outcomes, message: Outgoing, outcome: Outcome, now: float) -> None:
    message.outcome = outcome


def _announce_once() -> AbstractContextManager[Any]:
    fill = Packer._fill_channel

    def fill_and_forget(self: Packer, channel: Any, *args: Any) -> int:
        room = fill(self, channel, *args)
        channel.announced = True
        return room

    return patch.object(Packer, "_fill_channel", fill_and_forget)


BROKEN: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    # What arrives before its turn is handed over at once.
    "order": lambda: patch.object(RangeSet, "ends_at", _always),
    # A message whose acknowledgement was lost is handed over again.
    "duplicates": lambda: patch.object(ReceiveChannel, "is_new", _always),
    # A packet that the network has copied is processed twice.
    "replays": lambda: patch.object(ReplayWindow, "accept", _always),
    # An older message is shown after a newer one.
    "newest": lambda: patch.object(
        NewestWins, "arrived", lambda self, sequence, message: (message,)
    ),
    # What is skipped is still waited for.
    "skips": lambda: patch.object(InOrder, "skipped", lambda self, sequence: ()),
    # What is given up is not told to the receiver.
    "silence": lambda: patch.object(Repair, "tell_skipped", _nothing),
    # Nothing counts as lost.
    "losses": lambda: patch.object(Recovery, "detect_lost", _none_lost),
    # Nobody asks for what was sent last and never acknowledged.
    "probes": lambda: patch.object(Repair, "probe", _nothing),
    # Handlers' work gives no credit back.
    "credit": lambda: patch.object(ReceiveChannel, "consumed", _nothing),
    # A sender takes more than it was given.
    "greed": lambda: patch.object(Sender, "credit", _credit_without_end),
    # A large record gets no room of its own.
    "room": lambda: patch.object(Receiver, "_grant_waiting", _nothing),
    # A piece of a record that was lost does not leave again.
    "pieces": lambda: patch.object(Repair, "_piece_again", _nothing),
    # A lost CREDIT or SKIP does not leave again.
    "controls": lambda: patch.object(Repair, "_controls_lost", _nothing),
    # A peer that has moved is never followed.
    "paths": lambda: patch.object(Path, "answered", _never),
    # A channel is announced once, whether that arrives or not.
    "announcements": _announce_once,
    # What is lost when a session ends is not counted.
    "ledger": lambda: patch.object(Outcomes, "_settle", _settle_uncounted),
}
