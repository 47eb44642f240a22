"""`python -m tests.fuzz`: look for inputs that break a promise, or try one again.

Without atheris, inputs come from a mutator of our own: they are the same for the same seed. With it
(`pip install --group fuzz`), coverage guides what is tried. The status is 1 if a target crashed.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from tests.fuzz.corpus import (
    BYTES_LIMIT,
    CORPUS,
    FILES_LIMIT,
    TARGETS,
    inputs_of,
    kept_files,
    module_of,
    name_of,
)
from tests.fuzz.engine import Report, mutated, run
from tests.fuzz.guided import has_atheris, run_guided


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=[*TARGETS, "all"], help="repeatable")
    parser.add_argument("--seconds", type=float, help="for each target (default 60, or the runs)")
    parser.add_argument("--runs", type=int, help="executions of each target")
    parser.add_argument("--seed", type=int, default=0, help="of all that is left to chance")
    engines = ["auto", "atheris", "mutator"]
    parser.add_argument("--engine", choices=engines, default="auto", help="atheris, if it is there")
    parser.add_argument("--input", type=Path, action="append", help="run this file, repeatable")
    parser.add_argument(
        "--finds", type=Path, help="begin with what is here too; atheris adds what reaches new code"
    )
    parser.add_argument(
        "--keep-from", type=Path, help="take into the corpus what reaches new code, and end"
    )
    options = parser.parse_args(arguments)
    if not options.target or "all" in options.target:
        options.target = TARGETS
    if options.seconds is None:
        options.seconds = 60.0 if options.runs is None else math.inf
    if options.engine == "auto":
        options.engine = "atheris" if has_atheris() else "mutator"
    return options


def fuzzed(target: str, options: argparse.Namespace) -> Report:
    """One target, until the time is up or it crashes."""
    finds = None if options.finds is None else options.finds / target
    if options.engine == "atheris":
        seconds = min(options.seconds, 1e6)
        return run_guided(
            target, executions=options.runs, seconds=seconds, seed=options.seed, finds=finds
        )
    module = module_of(target)
    most = module.INPUT_BYTES_MOST
    begin_with = inputs_of(target)
    if finds is not None:
        begin_with += [path.read_bytes() for path in sorted(finds.glob("*"))]
    inputs = mutated(begin_with, seed=options.seed, input_bytes_most=most)
    limits = {"executions": options.runs, "seconds": options.seconds}
    return run(target, module.target, inputs, **limits)


def keep(target: str, folder: Path) -> str:
    """Take into the corpus what reaches new code; crashes that were mended come in by hand."""
    from tests.fuzz.minimise import minimised

    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [path.read_bytes() for path in files]
    chosen = minimised(module_of(target).target, inputs_of(target), found)
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    for data in chosen:
        (CORPUS / target / name_of(data)).write_bytes(data)
    kept = [path for name in TARGETS for path in kept_files(name)]
    size = sum(path.stat().st_size for path in kept)
    return (
        f"{target}: {len(chosen)} of {len(found)} kept; the corpus has {len(kept)} files of "
        f"{FILES_LIMIT}, {size} bytes of {BYTES_LIMIT}"
    )


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    if options.keep_from is not None:
        for target in options.target:
            print(keep(target, options.keep_from))  # noqa: T201
        return 0
    crashed = False
    for target in options.target:
        if options.input:
            inputs = [path.read_bytes() for path in options.input]
            run_target = module_of(target).target
            report = run(target, run_target, inputs, executions=None, seconds=math.inf)
        else:
            report = fuzzed(target, options)
        print(report, flush=True)  # noqa: T201
        crashed |= report.crash is not None
    return int(crashed)


if __name__ == "__main__":
    sys.exit(main())
