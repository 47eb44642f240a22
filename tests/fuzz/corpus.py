"""Targets, the inputs that are kept for them, and where crashes go.

`corpus/<target>/` is committed and replayed by every test run: what fuzzing found to reach new
code, and what once crashed. It has a limit, so that the replay stays a matter of seconds.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
CORPUS: Final = FOLDER / "corpus"
CRASHES: Final = FOLDER / "crashes"
FILES_LIMIT: Final = 300
BYTES_LIMIT: Final = 200_000

Target = Callable[[bytes], None]
TARGETS: Final = sorted(path.stem for path in (FOLDER / "targets").glob("*.py"))


def module_of(name: str) -> Any:
    """The module of a target: its `target` takes an input of up to `INPUT_BYTES_MOST`."""
    return importlib.import_module(f"tests.fuzz.targets.{name}")


def kept_files(target: str) -> list[Path]:
    """The files of a target's corpus."""
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


def inputs_of(target: str) -> list[bytes]:
    """All that a run begins with: seeds and kept inputs."""
    from tests.fuzz.seeds import seeds

    return [*seeds(target), *(path.read_bytes() for path in kept_files(target))]


def name_of(data: bytes) -> str:
    """The name of the file for an input."""
    return hashlib.sha256(data).hexdigest()[:16]


def keep_crash(target: str, data: bytes) -> Path:
    """Write an input that crashed to a file of its own."""
    CRASHES.mkdir(exist_ok=True)
    path = CRASHES / f"{target}-{name_of(data)}"
    path.write_bytes(data)
    return path


def reproducing_command(target: str, path: Path) -> str:
    """The line that runs this input again."""
    return f"python -m tests.fuzz --target {target} --input {os.path.relpath(path)}"
