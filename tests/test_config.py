"""Limits that could not work are refused where they are given, not met when a message waits."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from aerogram import App, Config, Request, Session, connect, serve
from aerogram.config import RANGES
from aerogram.lab import Network

NUMBERS = [field.name for field in fields(Config) if field.name in RANGES]
WHOLE = [name for name in NUMBERS if isinstance(RANGES[name].least, int)]
FRACTIONS = [name for name in NUMBERS if name not in WHOLE]


class Ask(Request[int]):
    number: int


def with_room(name: str, value: float) -> dict[str, Any]:
    """The field, and what has to go with it."""
    others: dict[str, Any] = {}
    if name == "max_record_bytes":
        others = dict.fromkeys(
            ("reassembly_bytes_per_session", "reassembly_bytes_per_endpoint"), 1 << 40
        )
    elif name.startswith("reassembly_bytes"):
        others = {"max_record_bytes": min(int(value), 1 << 20)}
    elif name == "datagram_bytes":
        others = {"congestion_window_bytes": 65507}
    return {**others, name: value}


def test_every_number_has_a_range() -> None:
    rest = {field.name for field in fields(Config)} - {*NUMBERS}
    assert rest == {"ciphers", "transport"}
    assert {*RANGES} == {*NUMBERS}
    assert all(
        RANGES[name].least <= getattr(Config(), name) <= RANGES[name].most for name in NUMBERS
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_a_limit_works_and_just_beyond_it_nothing_does(name: str) -> None:
    allowed = RANGES[name]
    for value in (allowed.least, allowed.most):
        assert getattr(Config(**with_room(name, value)), name) == value
    step = 1 if name in WHOLE else allowed.least / 2 or 0.001
    for value in (allowed.least - step, allowed.most + step, -1, 1 << 80):
        if value == 0 and allowed.or_zero:
            continue
        with pytest.raises(
            ValueError, match=rf"^{name} is .* to .*, not {value!r}".replace("+", r"\+")
        ):
            Config(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, False, "1", None, b"1", [1], 1j])
def test_what_is_no_number_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} is an? .*, not "):
        Config(**{name: value})


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [5000.0, math.nan, math.inf])
def test_a_count_has_no_fraction(name: str, value: float) -> None:
    with pytest.raises(TypeError, match=f"^{name} is an int"):
        Config(**{name: value})


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_time_is_a_number_of_seconds(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*, not -?(nan|inf)"):
        Config(**{name: value})


@pytest.mark.parametrize("value", ["fast", None, 1, ["auto"], "AUTO"])
def test_a_transport_is_one_of_three(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^transport is 'auto', 'batch' or 'asyncio', not "):
        Config(transport=value)


@pytest.mark.parametrize(
    ("works", "fails"),
    [
        ({"congestion_window_bytes": 9000, "datagram_bytes": 9000}, {"datagram_bytes": 9001}),
        ({"reassembly_bytes_per_session": 5000}, {"reassembly_bytes_per_session": 4999}),
        ({"reassembly_bytes_per_endpoint": 5000}, {"reassembly_bytes_per_endpoint": 4999}),
    ],
)
def test_limits_that_need_each_other_go_together(
    works: dict[str, Any], fails: dict[str, Any]
) -> None:
    sizes = {"max_record_bytes": 5000, "congestion_window_bytes": 9000}
    Config(**(sizes | works))
    with pytest.raises(ValueError, match="is at least"):
        Config(**(sizes | fails))


TOO_LITTLE = (
    "handshake_timeout_seconds",
    "idle_timeout_seconds",
    "max_record_bytes",
    "reassembly_bytes_per_session",
    "reassembly_bytes_per_endpoint",
)
"""Their least is honoured, and leaves no time or room for what the test does."""
EDGES = [
    (name, value)
    for name in NUMBERS
    for value in (RANGES[name].least, RANGES[name].most)
    if name not in TOO_LITTLE or value > RANGES[name].least
]


def edge_config(name: str, value: float) -> Config:
    return Config(**with_room(name, value))


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize(("name", "value"), EDGES)
async def test_a_session_works_at_the_edge_of_every_range(name: str, value: float) -> None:
    app: App[None, None] = App()

    @app.answers(Ask)
    async def answer(session: Session[None], ask: Ask) -> int:
        return ask.number + 1

    config = edge_config(name, value)
    network = Network(seed=1)
    async with (
        serve(app, "server", 1, network=network, config=config) as server,
        connect(server.address, network=network, config=config) as session,
    ):
        for number in range(3):
            assert await session.request(Ask(number), timeout=60) == number + 1
