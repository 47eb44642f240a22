"""What peers say in a proof: a class of messages for each delivery, and what each one promises.

The deliveries are taken from `aerogram.delivery` itself, so that a new preset joins every proof;
one whose promise is not written down here fails them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from aerogram import Message, delivery
from aerogram.delivery import Delivery

Order = Literal["as it arrives", "strict", "newest", "newest of its key"]

KEYS = 3
"""Messages are about one of so many things, for deliveries that care."""


@dataclass(frozen=True)
class Kind:
    """A way to say something, and what may be expected of it."""

    name: str
    note: type[Any]
    order: Order
    resends: bool
    """What is said arrives, unless it is given up or superseded."""
    gives_up: bool = False
    """Some of it may end as lost or expired although the session lives."""
    has_deadline: bool = False
    """What comes too late is not shown either."""

    @property
    def supersedes(self) -> bool:
        """Whether only the newest has to arrive."""
        return self.order in ("newest", "newest of its key")


PROMISES: dict[str, tuple[Order, bool]] = {
    "unreliable": ("as it arrives", False),
    "sequenced": ("newest", False),
    "reliable": ("as it arrives", True),
    "ordered": ("strict", True),
    "reliable_sequenced": ("newest", True),
    "latest": ("newest of its key", True),
}


def kinds() -> list[Kind]:
    """Every preset, and those that can give up also with limits."""
    found = [_kind(name, make) for name, make in presets().items()]
    found += [
        Kind("ordered-twice", _note("ordered-twice", delivery.ordered(attempts=2)), "strict", True),
        Kind("ordered-soon", _note("ordered-soon", delivery.ordered(deadline=0.3)), "strict", True),
        Kind(
            "reliable-soon",
            _note("reliable-soon", delivery.reliable(attempts=3, deadline=0.5)),
            "as it arrives",
            True,
        ),
    ]
    limited = ("ordered-twice", "ordered-soon", "reliable-soon")
    return [
        replace(
            kind,
            gives_up=kind.name in limited or not kind.resends,
            has_deadline=kind.name.endswith("-soon"),
        )
        for kind in found
    ]


def presets() -> dict[str, Callable[..., Delivery]]:
    """The functions of `aerogram.delivery` that make a delivery, by name."""
    functions = {name: getattr(delivery, name) for name in delivery.__all__}
    return {
        name: function
        for name, function in functions.items()
        if inspect.isfunction(function)
        if inspect.signature(function).return_annotation == "Delivery"
    }


def _kind(name: str, make: Callable[..., Delivery]) -> Kind:
    if name not in PROMISES:
        raise LookupError(f"the proof does not know what delivery.{name}() promises")
    order, resends = PROMISES[name]
    keyed = "key" in inspect.signature(make).parameters
    promised = make(key=_key) if keyed else make()
    return Kind(name, _note(name, promised), order, resends)


def _key(note: Any) -> int:
    key: int = note.key
    return key


def _note(name: str, promised: Delivery) -> type[Any]:
    class Note(Message, tag=name, delivery=promised):
        number: int
        key: int
        blob: bytes

    return Note


def blob(number: int, size: int) -> bytes:
    """The content of a note: no two of one size are alike, nor two parts of one."""
    if size <= 16:
        return b"%16d" % number if size == 16 else bytes([number & 0xFF]) * size
    unit = b"%d/%d;" % (number, size)
    return (unit * (size // len(unit) + 1))[:size]
