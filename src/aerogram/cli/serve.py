"""`aerogram serve module:app`: run an app's server until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path
from typing import Any, TypeGuard

from aerogram import App, Identity, Server, read_identity
from aerogram.cli.common import (
    WRONG_USAGE,
    add_loop_option,
    add_psk_option,
    complain,
    read_psk,
    run_command,
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Describe the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve", help="run an app", description=__doc__
    )
    parser.add_argument("app", help="module:attribute, such as chat:app; looked for here first")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (127.0.0.1)")
    parser.add_argument("--port", type=int, default=9000, help="UDP port; 0 takes a free one")
    parser.add_argument("--identity", help="key file from `aerogram keygen`")
    add_psk_option(parser)
    parser.add_argument("--insecure", action="store_true", help="allow plain text, loopback only")
    parser.add_argument("--verbose", action="store_true", help="log sessions that open and close")
    add_loop_option(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Find the app and serve it."""
    if options.verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        app = find_app(options.app)
        identity = read_identity(options.identity) if options.identity else None
        psk = read_psk(options.psk)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        complain("serve", error)
        return WRONG_USAGE
    return run_command("serve", _serve(app, options, identity, psk), options.loop)


async def _serve(
    app: App[Any, Any], options: argparse.Namespace, identity: Identity | None, psk: bytes | None
) -> int:
    await app.run(
        options.host,
        options.port,
        identity=identity,
        psk=psk,
        insecure=options.insecure,
        started=_announce,
    )
    return 0


def _announce(server: Server) -> None:
    print(f"serving at {server.address}", flush=True)


def find_app(text: str) -> App[Any, Any]:
    """The app that `module:attribute` names. Raises `ImportError` or `ValueError`."""
    module_name, separator, attribute = text.partition(":")
    if not separator or not module_name or not attribute:
        raise ValueError(f"name an app as module:attribute, not {text!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    app: object = importlib.import_module(module_name)
    for name in attribute.split("."):
        if not hasattr(app, name):
            raise ValueError(f"{module_name} has no {attribute}")
        app = getattr(app, name)
    if not _is_app(app):
        raise ValueError(f"{text} is a {type(app).__name__} and not an App")
    return app


def _is_app(value: object) -> TypeGuard[App[Any, Any]]:
    return isinstance(value, App)
