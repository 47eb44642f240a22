"""The public names are these, sorted, documented, and typed to the last one."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import aerogram
from aerogram import delivery

ROOT = Path(__file__).parents[1]


def test_the_names_are_sorted_and_there() -> None:
    assert aerogram.__all__ == sorted(aerogram.__all__)
    for name in aerogram.__all__:
        assert hasattr(aerogram, name), name


def test_nothing_else_is_shown() -> None:
    shown = {name for name in vars(aerogram) if not name.startswith("_")}
    modules = {name for name in shown if type(getattr(aerogram, name)).__name__ == "module"}
    assert shown - modules - {"annotations"} == set(aerogram.__all__) - {"delivery"}


def test_every_public_name_says_what_it_is() -> None:
    for module in (aerogram, delivery):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, type) or inspect.isfunction(value):
                assert value.__doc__, f"{module.__name__}.{name}"


SESSION = """
    address budget clock close closed deliver emit error incoming_records peer_key ping
    rate_limit_bytes_per_second receive request send send_nowait state stats stream upload
    wait_closed watch_incoming
"""


async def test_a_session_shows_what_is_documented() -> None:
    app = aerogram.App(session_state=dict[str, int])
    async with (
        aerogram.serve(app, insecure=True) as server,
        aerogram.connect(server.address, insecure=True) as session,
    ):
        await session.ping()
        for each in (session, *server.sessions):
            shown = [name for name in dir(each) if not name.startswith("_")]
            assert shown == SESSION.split()
    for name in SESSION.split():
        assert getattr(aerogram.Session, name).__doc__, name


def test_every_error_is_an_aerogram_error() -> None:
    errors = [
        value
        for name in aerogram.__all__
        if isinstance(value := getattr(aerogram, name), type) and issubclass(value, Exception)
    ]
    assert len(errors) > 15
    assert all(issubclass(error, aerogram.AerogramError) for error in errors)


@pytest.mark.parametrize("name", ["pyright"])
def test_the_public_types_are_complete(name: str) -> None:
    pytest.importorskip(name)
    finished = subprocess.run(
        [sys.executable, "-m", name, "--verifytypes", "aerogram", "--ignoreexternal",
         "--outputjson"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    report = json.loads(finished.stdout)["typeCompleteness"]
    unknown = [
        symbol["name"]
        for symbol in report["symbols"]
        if symbol["isExported"] and not symbol["isTypeKnown"]
    ]
    assert unknown == []
