"""What the commands share: addresses, the choice of a loop, running and stopping."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any, Final

FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 128 + signal.SIGINT
"""As shells report it."""


def parse_host_port(text: str) -> tuple[str, int]:
    """Return the parts of `host:port`, where an IPv6 address stands in brackets.

    The port may be 0, which only a bind takes. Raises `InvalidAddress`.
    """
    from aerogram.errors import InvalidAddress
    from aerogram.io.sockets import checked_address

    host, separator, port = text.rpartition(":")
    if not separator:
        raise InvalidAddress(f"no port in {text!r}: write HOST:PORT, such as 127.0.0.1:9000")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise InvalidAddress(f"only an IPv6 address stands in brackets, not {host!r}")
    elif ":" in host:
        raise InvalidAddress(f"write an IPv6 address in brackets, such as [::1]:9000, not {text!r}")
    if not (port.isascii() and port.isdecimal()):
        raise InvalidAddress(f"not a port number: {port!r} in {text!r}")
    return checked_address(host, int(port), to_bind=True)


def host_port(text: str) -> tuple[str, int]:
    """As `parse_host_port`, for the `type=` of an argument."""
    try:
        return parse_host_port(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def server_target(text: str) -> tuple[str, int | None]:
    """The first arguments of `connect` for a server's address, or for `host:port`.

    Raises `InvalidAddress`.
    """
    return (text, None) if "://" in text else parse_host_port(text)


def format_address(address: tuple[Any, ...]) -> str:
    """Return a socket address in the form that `parse_host_port` takes."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def add_loop_option(parser: argparse.ArgumentParser) -> None:
    """Let the user choose the event loop; uvloop is the default where it is installed."""
    loops = ["asyncio", "uvloop"] if find_spec("uvloop") else ["asyncio"]
    parser.add_argument(
        "--loop", choices=loops, default=loops[-1], help=f"event loop (default {loops[-1]})"
    )


def run_async(command: Coroutine[Any, Any, int], loop: str) -> int:
    """Run a command on the loop of that name and return its status; Ctrl-C gives 130."""
    factory = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(command)
    except KeyboardInterrupt:
        return INTERRUPTED


@asynccontextmanager
async def stop_signals() -> AsyncGenerator[asyncio.Event]:
    """Give an event that Ctrl-C or SIGTERM sets, for a command whose usual end that is.

    Where loops have no signal handlers (Windows), Ctrl-C cancels the command as ever.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    handled: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.add_signal_handler(number, stopped.set)
            handled.append(number)
    try:
        yield stopped
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def complain(command: str, error: object) -> None:
    """Tell the user what went wrong."""
    print(f"aerogram {command}: {error}", file=sys.stderr)
