"""`aerogram discover`: list the servers that announce themselves on the local network."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from typing import Any

from aerogram.cli.common import FAILED, add_loop_option, patience, run_command
from aerogram.lan.discovery import Service, browse


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Describe the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "discover", help="list servers on the local network", description=__doc__
    )
    parser.add_argument("--seconds", type=patience, default=3.0, help="how long to listen (3)")
    parser.add_argument(
        "--interface", action="append", help="address of an interface; repeatable (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a service")
    add_loop_option(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Listen and print; the status is 1 if nothing was found."""
    return run_command("discover", _discover(options), options.loop)


async def _discover(options: argparse.Namespace) -> int:
    found = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(options.seconds):
            async for service in browse(interfaces=options.interface):
                found += 1
                print(_as_json(service) if options.json else _as_text(service), flush=True)
    return 0 if found else FAILED


def _as_json(service: Service) -> str:
    addresses = [str(address) for address in service.server_addresses]
    described = {"name": service.name, "addresses": addresses, "properties": service.properties}
    return json.dumps(described)


def _as_text(service: Service) -> str:
    properties = " ".join(f"{name}={text}" for name, text in service.properties.items())
    addresses = "\n  ".join(str(address) for address in service.server_addresses)
    return f"{service.name} {properties}".rstrip() + f"\n  {addresses}"
