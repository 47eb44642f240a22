"""`aerogram ping ADDRESS`: connect, then measure round trips of acknowledged messages.

Each ping is a PING frame in a packet of its own, answered by the peer's protocol: no handler of the
server is asked. The status is 0 if all came back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from typing import Any

from aerogram.cli.common import add_loop_option, run_async, server_target


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Describe the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "ping", help="measure the round trip to a server", description=__doc__
    )
    parser.add_argument("address", help="aerogram://host:port/#k=<key>, or host:port")
    parser.add_argument("--count", type=int, default=4, help="pings to send (default 4)")
    parser.add_argument("--interval", type=float, default=0.2, help="seconds between them")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for each")
    parser.add_argument("--insecure", action="store_true", help="plain text, on loopback only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_loop_option(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Ping and print."""
    return run_async(ping(options), options.loop)


async def ping(options: argparse.Namespace) -> int:
    """Connect, send the pings one after the other, and print what they took."""
    from aerogram import AerogramError

    try:
        seconds = await _measure(options)
    except (AerogramError, OSError) as error:
        print(f"aerogram ping: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(_summary(options.count, seconds)))
    elif seconds:
        summary = _summary(options.count, seconds)
        print(
            f"{len(seconds)} of {options.count} answered, round trip "
            f"min/median/max = {summary['min_ms']:.3f}/{summary['median_ms']:.3f}/"
            f"{summary['max_ms']:.3f} ms"
        )
    return 0 if len(seconds) == options.count else 1


async def _measure(options: argparse.Namespace) -> list[float]:
    from aerogram import connect

    host, port = server_target(options.address)
    seconds: list[float] = []
    async with connect(host, port, insecure=options.insecure, timeout=options.timeout) as session:
        for number in range(options.count):
            try:
                took = await session.ping(timeout=options.timeout)
            except TimeoutError:
                print(f"{number + 1}: no answer within {options.timeout:g} s", file=sys.stderr)
                continue
            seconds.append(took)
            if not options.json:
                print(f"{number + 1}: {took * 1000:.3f} ms from {session.address[0]}")
            if number + 1 < options.count:
                await asyncio.sleep(options.interval)
    return seconds


def _summary(count: int, seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"sent": count, "answered": 0}
    return {
        "sent": count,
        "answered": len(seconds),
        "min_ms": min(seconds) * 1000,
        "median_ms": statistics.median(seconds) * 1000,
        "max_ms": max(seconds) * 1000,
    }
