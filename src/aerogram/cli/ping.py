"""`aerogram ping ADDRESS`: connect, then measure round trips of acknowledged messages.

Each ping is a PING frame in a packet of its own, answered by the peer's protocol: no handler of the
server is asked. The status is 0 if all came back, 1 if not, and 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from typing import TYPE_CHECKING, Any

from aerogram.cli.common import (
    FAILED,
    add_loop_option,
    add_server_options,
    count,
    patience,
    run_with_server,
    seconds,
)

if TYPE_CHECKING:
    from aerogram.client import connect


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Describe the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "ping", help="measure the round trip to a server", description=__doc__
    )
    add_server_options(parser)
    parser.add_argument("--count", type=count, default=4, help="pings to send (default 4)")
    parser.add_argument("--interval", type=seconds, default=0.2, help="seconds between them")
    parser.add_argument("--timeout", type=patience, default=5.0, help="seconds to wait for each")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_loop_option(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Ping and print."""
    return run_with_server("ping", options, ping)


async def ping(server: connect[Any], options: argparse.Namespace) -> int:
    """Connect, send the pings one after the other, and print what they took."""
    answered = await _measure(server, options)
    if options.json:
        print(json.dumps(_summary(options.count, answered)))
    elif answered:
        summary = _summary(options.count, answered)
        print(
            f"{len(answered)} of {options.count} answered, round trip "
            f"min/median/max = {summary['min_ms']:.3f}/{summary['median_ms']:.3f}/"
            f"{summary['max_ms']:.3f} ms"
        )
    return 0 if len(answered) == options.count else FAILED


async def _measure(server: connect[Any], options: argparse.Namespace) -> list[float]:
    answered: list[float] = []
    async with server as session:
        for number in range(options.count):
            try:
                took = await session.ping(timeout=options.timeout)
            except TimeoutError:
                print(f"{number + 1}: no answer within {options.timeout:g} s", file=sys.stderr)
                continue
            answered.append(took)
            if not options.json:
                print(f"{number + 1}: {took * 1000:.3f} ms from {session.address[0]}")
            if number + 1 < options.count:
                await asyncio.sleep(options.interval)
    return answered


def _summary(sent: int, answered: list[float]) -> dict[str, float]:
    if not answered:
        return {"sent": sent, "answered": 0}
    return {
        "sent": sent,
        "answered": len(answered),
        "min_ms": min(answered) * 1000,
        "median_ms": statistics.median(answered) * 1000,
        "max_ms": max(answered) * 1000,
    }
