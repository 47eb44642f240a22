from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = Path(__file__).with_name("scenario.py")
VERSIONS = ["3.11", "3.12", "3.13", "3.14"]


def run(python: str, *arguments: str, hash_seed: str = "random") -> str | None:
    """What a program writes, or None if it fails."""
    # Version managers put a launcher on the path that runs what this says.
    version = python.removeprefix("python") if python.startswith("python") else ""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    if version:
        environment["PYENV_VERSION"] = version
    ended = subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )
    return ended.stdout if ended.returncode == 0 else None


def trace_hash(kind: str, seed: int, **options: str) -> str:
    python = options.pop("python", sys.executable)
    output = run(python, str(SCENARIO), kind, str(seed), **options)
    assert output
    return output


def find_python(version: str, needs: str) -> str:
    """An interpreter of that version that can import what is needed, or a skip."""
    name = f"python{version}"
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"{name} is the one that runs the tests")
    if shutil.which(name) is None or run(name, "-c", "") is None:
        pytest.skip(f"{name} is not installed")
    if run(name, "-c", f"import {needs}") is None:
        pytest.skip(f"{name} lacks {needs}")
    return name


@pytest.mark.parametrize("kind", ["lab", "whole"])
def test_a_seed_gives_one_hash_in_every_process(kind: str) -> None:
    first, *others = [trace_hash(kind, 7, hash_seed=seed) for seed in ("0", "1", "4242")]
    assert others == [first, first]
    assert trace_hash(kind, 8, hash_seed="0") != first


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "needs"), [("lab", "asyncio"), ("whole", "cryptography, msgpack, msgspec")]
)
def test_a_seed_gives_one_hash_in_every_python(version: str, kind: str, needs: str) -> None:
    python = find_python(version, needs)
    assert trace_hash(kind, 7, python=python) == trace_hash(kind, 7)
