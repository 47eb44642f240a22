"""The conformance suite: our deliveries pass, and each way to break a promise is named."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from aerogram.delivery import AsItArrives, Delivery, InOrder, NewestWins, Rtt, Sent
from aerogram.lab import conformance
from aerogram.lab.conformance import PRESETS, Policy, Promises, examine
from aerogram.lab.nat import Nat
from aerogram.lab.network import Network


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_keeps_its_promises(name: str) -> None:
    assert examine(PRESETS[name]) == []


class Twice:
    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        return (message, message) if sequence == 7 else (message,)


class Backwards(InOrder):
    def _release(self) -> list[Any]:
        return super()._release()[::-1]


class Hoarder:
    def __init__(self) -> None:
        self._held: list[Any] = []

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        self._held.append(message)
        return ()

    def skipped(self, sequence: int) -> Iterable[Any]:
        return ()


class Forgetful:
    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        return () if sequence == 11 else (message,)


class Inventor:
    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        return (conformance.probe(sequence),)


class Broken:
    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        raise ZeroDivisionError


class Stubborn:
    def next_try(self, sent: Sent, rtt: Rtt) -> float | None:
        return sent.last_sent_at + 0.5


class Faint:
    def next_try(self, sent: Sent, rtt: Rtt) -> float | None:
        return None if sent.attempts > 3 else math.inf


class Confused:
    def next_try(self, sent: Sent, rtt: Rtt) -> float | None:
        return math.nan


EVERYTHING = Promises(reliable=True)
STRICT = Promises(order="strict", reliable=True)


@pytest.mark.parametrize(
    ("broken", "policy"),
    [
        (conformance.TWICE, Policy(Delivery(Twice), EVERYTHING)),
        (conformance.DISORDER, Policy(Delivery(Backwards), STRICT)),
        (conformance.DISORDER, Policy(Delivery(AsItArrives), STRICT)),
        (conformance.HOLDS, Policy(Delivery(Hoarder), EVERYTHING)),
        (conformance.LOSES, Policy(Delivery(Forgetful), EVERYTHING)),
        (conformance.LOSES, Policy(Delivery(NewestWins), EVERYTHING)),
        (conformance.LOSES, Policy(Delivery(AsItArrives, Faint()), EVERYTHING)),
        (conformance.INVENTS, Policy(Delivery(Inventor), EVERYTHING)),
        (conformance.FAILS, Policy(Delivery(Broken), EVERYTHING)),
        (conformance.FAILS, Policy(Delivery(AsItArrives, Confused()), EVERYTHING)),
        (
            conformance.ETERNAL,
            Policy(Delivery(AsItArrives, Stubborn()), Promises(gives_up_after_seconds=3.0)),
        ),
    ],
)
def test_what_is_broken_is_named(broken: str, policy: Policy) -> None:
    assert broken in [violation.broken for violation in examine(policy, seeds=[0])]


def test_giving_up_as_promised_is_no_loss() -> None:
    promises = Promises(gives_up_after_seconds=30.0)
    assert examine(Policy(Delivery(AsItArrives, Faint()), promises)) == []


def test_worlds_have_a_black_out_and_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both while messages are on their way: half of them have been sent."""
    trouble: list[str] = []
    partition, rebind_port = Network.partition, Nat.rebind_port

    def cut(network: Network, *where: Any, **options: Any) -> None:
        trouble.append("cut")
        partition(network, *where, **options)

    def moved(nat: Nat) -> None:
        trouble.append("rebound")
        rebind_port(nat)

    monkeypatch.setattr(Network, "partition", cut)
    monkeypatch.setattr(Nat, "rebind_port", moved)
    assert examine(PRESETS["ordered"]) == []
    assert trouble == ["cut", "rebound"]
