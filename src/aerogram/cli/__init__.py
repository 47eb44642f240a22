"""The command line, `aerogram`: one module for each command.

Rules: a command's module has `add_parser(subparsers)` and `run(options) -> int`, and imports what
is heavy inside `run`, so that help is quick. The status is 0 if all went well, 1 if not, 2 for
wrong usage. Whatever goes wrong is one line on stderr and no traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from aerogram.cli import demo, discover, doctor, keygen, ping, proxy, serve

PIPE_CLOSED: Final = 128 + 13
"""As shells report the end by SIGPIPE."""
_COMMANDS: Final = (demo, serve, ping, doctor, keygen, proxy, discover)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv`, or the process's arguments, ask for; return its status.

    Wrong usage raises `SystemExit` with status 2, as argparse does.
    """
    parser = argparse.ArgumentParser(
        "aerogram", description="Reliable, ordered, encrypted messages over UDP."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    for command in _COMMANDS:
        command.add_parser(subparsers).set_defaults(run=command.run)
    options = parser.parse_args(argv)
    if options.version:
        return _print_version()
    if "run" not in options:
        parser.print_help()
        return 2
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        return _nobody_reads()
    return status


def _nobody_reads() -> int:
    """Whoever reads the output has gone, as `head` does: that is no error to talk about."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
    return PIPE_CLOSED


def _print_version() -> int:
    from importlib.metadata import version

    print(f"aerogram {version('aerogram')}")
    return 0
