"""What the commands share: numbers, addresses, secrets, the choice of a loop, running, stopping."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aerogram.config import COUNT_LIMIT, SECONDS_LIMIT, SHORTEST_SECONDS, Range
from aerogram.security import PSK_BYTES

if TYPE_CHECKING:
    from aerogram.client import connect

FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 128 + signal.SIGINT
"""As shells report it."""


def number_in(allowed: Range) -> Callable[[str], float]:
    """The `type=` of an argument that is a number in a range, whole if the range's limits are."""
    kind = type(allowed.least)

    def number(text: str) -> float:
        try:
            value = kind(text)
            allowed.check("it", value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{allowed}, not {text}") from None
        return value

    return number


seconds: Final = number_in(Range(0.0, SECONDS_LIMIT))
"""The `type=` of a time that may be 0."""
patience: Final = number_in(Range(SHORTEST_SECONDS, SECONDS_LIMIT))
"""The `type=` of a time to wait for something."""
count: Final = number_in(Range(1, COUNT_LIMIT))
"""The `type=` of how many."""


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


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Let the user say which server, and how it is recognised: what `connecting` reads."""
    parser.add_argument("address", help="aerogram://host:port/#k=<key>, or host:port")
    add_psk_option(parser)
    parser.add_argument("--insecure", action="store_true", help="plain text, on loopback only")


def add_psk_option(parser: argparse.ArgumentParser) -> None:
    """Let the user name the file with a secret; an argument would be seen by everybody."""
    parser.add_argument(
        "--psk", metavar="FILE", help="file of the secret of both sides: 32 bytes, or 64 hex digits"
    )


def read_psk(path: str | None) -> bytes | None:
    """The secret in a file that `--psk` names, if it does. Raises `OSError` or `ValueError`."""
    if path is None:
        return None
    with Path(path).open("rb") as file:
        content = file.read(4 * PSK_BYTES)
    if len(content) == PSK_BYTES:
        return content
    try:
        secret = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != PSK_BYTES:
        raise ValueError(f"{path} has neither {PSK_BYTES} bytes nor {2 * PSK_BYTES} hex digits")
    return secret


def connecting(options: argparse.Namespace, **how: Any) -> connect[Any]:
    """What connects to the server that the user named. Raises `OSError` or `ValueError`."""
    from aerogram.client import connect

    host, port = server_target(options.address)
    psk = read_psk(options.psk)
    return connect(host, port, psk=psk, insecure=options.insecure, timeout=options.timeout, **how)


def run_with_server(
    name: str,
    options: argparse.Namespace,
    command: Callable[[connect[Any], argparse.Namespace], Coroutine[Any, Any, int]],
    **how: Any,
) -> int:
    """As `run_command` for what is done with the server that the user named."""
    try:
        server = connecting(options, **how)
    except (OSError, ValueError) as error:
        complain(name, error)
        return WRONG_USAGE
    return run_command(name, command(server, options), options.loop)


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


def run_command(name: str, command: Coroutine[Any, Any, int], loop: str) -> int:
    """As `run_async`; what the user or the network has done wrong is one line and a status."""
    from aerogram.errors import AerogramError

    try:
        return run_async(command, loop)
    except BrokenPipeError:
        raise
    except (AerogramError, OSError) as error:
        complain(name, error)
        return WRONG_USAGE if isinstance(error, ValueError) else FAILED


@contextmanager
def ended_by_closed_pipes() -> Generator[None]:
    """End the program at once, as other programs do, when nobody reads its output any more.

    For a command that prints from many places, and writes to nothing else than its output and
    datagrams: sockets of TCP end a program so, too.
    """
    if not hasattr(signal, "SIGPIPE"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


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
