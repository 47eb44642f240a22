"""`aerogram proxy`: put a bad network between any two programs that talk UDP.

Clients send to --listen, the proxy relays to --to and back, and loses, delays, doubles, reorders
and corrupts on the way. Options hold for both directions; those with `--back-` in front for the way
back alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, Final

from aerogram.cli.common import (
    WRONG_USAGE,
    add_loop_option,
    complain,
    format_address,
    host_port,
    patience,
    run_command,
    stop_signals,
)

if TYPE_CHECKING:
    from aerogram.lab.direction import DirectionStats
    from aerogram.lab.link import Burst, Link
    from aerogram.lab.proxy import FaultProxy

LIVE_SECONDS: Final = 1.0


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Describe the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "proxy", help="put a bad network between two programs", description=__doc__
    )
    parser.add_argument(
        "--to", type=host_port, metavar="HOST:PORT", required=True, help="where the server is"
    )
    parser.add_argument(
        "--listen",
        type=host_port,
        metavar="HOST:PORT",
        default=("127.0.0.1", 0),
        help="where clients send to (default 127.0.0.1, a free port)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is left to chance")
    parser.add_argument("--seconds", type=patience, help="stop after this; else at Ctrl-C")
    parser.add_argument("--idle-timeout", type=patience, default=120.0, help="of a quiet client")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    add_loop_option(parser)
    _add_link_options(parser.add_argument_group("the network, both ways"), "--", hidden=False)
    _add_link_options(parser.add_argument_group("the way back"), "--back-", hidden=True)
    return parser


def _add_link_options(group: Any, prefix: str, *, hidden: bool) -> None:
    """Add an option for each part of a link; unset ones are left out of the result."""

    def add(name: str, kind: Any, metavar: str | None, text: str, **more: Any) -> None:
        text = argparse.SUPPRESS if hidden else text
        group.add_argument(
            prefix + name, type=kind, metavar=metavar, help=text, default=argparse.SUPPRESS, **more
        )

    if hidden:
        group.description = "each of the above with --back- in front, such as --back-loss 0.2"
    add("delay", float, "SECONDS", "one way")
    add("jitter", float, "SECONDS", "added to the delay, half of it in the mean")
    shapes = ["constant", "uniform", "skewed", "correlated"]
    add("distribution", str, None, "of the jitter (default uniform)", choices=shapes)
    add("loss", float, "CHANCE", "of each datagram, 0 to 1")
    add("burst", _burst, "ENTER,LEAVE[,LOSS]", "lose in bursts: chances to begin, to end, to lose")
    add("longest-loss", int, "COUNT", "most datagrams that chance loses in a row")
    add("lose-every", int, "N", "lose every n-th datagram")
    add("duplicate", float, "CHANCE", "of a second copy")
    add("reorder", float, "CHANCE", "of being held back")
    add("reorder-delay", float, "SECONDS", "held back for so long (default 0.01)")
    add("corrupt", float, "CHANCE", "of one to three flipped bits")
    add("rate", float, "BYTES", "per second, headers included")
    add("queue-bytes", int, "BYTES", "that may wait for the rate (default 131072)")
    add("queue", str, None, "what a full queue does", choices=["drop-tail", "codel"])
    add("mtu", int, "BYTES", "larger packets vanish; headers included")
    flag = argparse.BooleanOptionalAction
    group.add_argument(
        prefix + "keep-order",
        action=flag,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS if hidden else "jitter reorders nothing",
    )


def _burst(text: str) -> Burst:
    from aerogram.lab.link import Burst

    parts = text.split(",")
    if len(parts) not in (2, 3):
        raise argparse.ArgumentTypeError(f"write ENTER,LEAVE or ENTER,LEAVE,LOSS, not {text!r}")
    try:
        enter, leave, *loss = map(float, parts)
        return Burst(enter=enter, leave=leave, loss=loss[0] if loss else 1.0)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(options: argparse.Namespace) -> int:
    """Relay until the time is up or the user has seen enough."""
    from aerogram.lab.proxy import FaultProxy

    try:
        there, back = _links(options)
        proxy = FaultProxy(
            options.to,
            listen=options.listen,
            there=there,
            back=back,
            seed=options.seed,
            idle_timeout_seconds=options.idle_timeout,
        )
    except ValueError as error:
        complain("proxy", error)
        return WRONG_USAGE
    return run_command("proxy", _relay(proxy, options), options.loop)


_LINK_FIELDS: Final = {"rate": "rate_bytes_per_second", "mtu": "mtu_bytes"}
"""Options that are shorter than the fields they set."""


def _links(options: argparse.Namespace) -> tuple[Link, Link]:
    """Return what the options say of each direction. Raises `ValueError`."""
    from aerogram.lab.link import Link

    names = {field.name for field in fields(Link)}
    both: dict[str, Any] = {}
    back: dict[str, Any] = {}
    for option, value in vars(options).items():
        way, name = (back, option[5:]) if option.startswith("back_") else (both, option)
        name = _LINK_FIELDS.get(name, name)
        if name in names:
            way[name] = value
    there = Link(**both)
    return there, replace(there, **back)


async def _relay(proxy: FaultProxy, options: argparse.Namespace) -> int:
    async with stop_signals() as stopped, proxy:
        told = sys.stderr if options.json else sys.stdout
        listen, to = format_address(proxy.address), format_address(options.to)
        print(f"relaying {listen} to {to}", file=told, flush=True)
        watch = None
        if sys.stdout.isatty() and not options.json:
            watch = asyncio.create_task(_show_live(proxy))
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), options.seconds)
        finally:
            if watch is not None:
                watch.cancel()
    if options.json:
        print(json.dumps(_as_json(proxy), indent=2))
    else:
        print(_table(proxy))
    return 0


# What the user sees


async def _show_live(proxy: FaultProxy) -> None:
    """Print a line of rates each second."""
    stats = proxy.stats
    before = stats.there.received, stats.back.received
    seconds = 0
    while True:
        await asyncio.sleep(LIVE_SECONDS)
        seconds += 1
        now = stats.there.received, stats.back.received
        print(
            f"{seconds:>5} s  {stats.clients} clients  "
            f"there {now[0] - before[0]}/s, {stats.there.dropped} lost  "
            f"back {now[1] - before[1]}/s, {stats.back.dropped} lost  "
            f"{stats.there.in_flight + stats.back.in_flight} in flight",
            flush=True,
        )
        before = now


def _as_json(proxy: FaultProxy) -> dict[str, Any]:
    figures = asdict(proxy.stats)
    for way, stats in (("there", proxy.stats.there), ("back", proxy.stats.back)):
        figures[way]["dropped"] = stats.dropped
    return {"address": format_address(proxy.address), **figures}


def _table(proxy: FaultProxy) -> str:
    there, back = proxy.stats.there, proxy.stats.back
    rows = [("datagrams", "there", "back")]
    rows += [(name, str(one), str(other)) for name, one, other in _figures(there, back)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {one:>{widths[1]}}  {other:>{widths[2]}}"
        for name, one, other in rows
    ]
    clients = (
        f"{proxy.stats.clients_expired} clients expired" if proxy.stats.clients_expired else ""
    )
    return "\n".join([*lines, clients]).rstrip()


def _figures(there: DirectionStats, back: DirectionStats) -> list[tuple[str, int, int]]:
    reasons = sorted(there.lost.keys() | back.lost.keys())
    return [
        ("received", there.received, back.received),
        ("forwarded", there.forwarded, back.forwarded),
        ("lost", there.dropped, back.dropped),
        *((f"  {why}", there.lost.get(why, 0), back.lost.get(why, 0)) for why in reasons),
        ("duplicated", there.duplicated, back.duplicated),
        ("held back", there.reordered, back.reordered),
        ("corrupted", there.corrupted, back.corrupted),
        ("bytes received", there.bytes_received, back.bytes_received),
        ("bytes forwarded", there.bytes_forwarded, back.bytes_forwarded),
    ]
