"""Fuzzing that is guided by coverage: a process of its own in which atheris has the say.

`python -m tests.fuzz.guided TARGET OPTION...` takes the options of libFuzzer; `run_guided` starts
it. The library is instrumented as it is imported, so nothing may import it before; and libFuzzer
ends its process itself, so the count of executions is read from what it printed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.fuzz.corpus import (
    inputs_of,
    keep_crash,
    module_of,
    name_of,
)
from tests.fuzz.engine import Report

SLOWEST_SECONDS: Final = 10
"""An input that takes longer is a crash."""
MEMORY_MEBIBYTES: Final = 1024
"""So is one that takes more memory."""


def has_atheris() -> bool:
    """True if atheris is installed."""
    return find_spec("atheris") is not None


def run_guided(
    target: str, *, executions: int | None, seconds: float, seed: int, finds: Path | None
) -> Report:
    """Fuzz a target in another process; `finds` is a folder that gets what reaches new code."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        corpus = finds if finds is not None else work / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for data in inputs_of(target):
            (corpus / name_of(data)).write_bytes(data)
        options = [
            str(corpus),
            f"-artifact_prefix={work}/",
            f"-max_len={module_of(target).INPUT_BYTES_MOST}",
            f"-max_total_time={max(1, round(seconds))}",
            f"-rss_limit_mb={MEMORY_MEBIBYTES}",
            f"-runs={-1 if executions is None else executions}",
            f"-seed={seed + 1}",
            f"-timeout={SLOWEST_SECONDS}",
            "-print_final_stats=1",
        ]
        started = time.perf_counter()
        command = [sys.executable, "-m", "tests.fuzz.guided", target, *options]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        elapsed = time.perf_counter() - started
        found = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stdout)
        count = int(found[1]) if found else 0
        crashes = [*work.glob("crash-*"), *work.glob("timeout-*"), *work.glob("oom-*")]
        if crashes:
            path = keep_crash(target, crashes[0].read_bytes())
            return Report(target, count, elapsed, path, done.stdout[-5000:])
    if done.returncode:
        raise RuntimeError(f"atheris did not run:\n{done.stdout[-5000:]}")
    return Report(target, count, elapsed)


def main(arguments: list[str]) -> None:
    """Be that process."""
    import atheris

    name, *options = arguments
    with atheris.instrument_imports(include=["aerogram"]):
        target = module_of(name).target
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
