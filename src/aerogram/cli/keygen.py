"""`aerogram keygen FILE`: make a server's identity, so that its address outlives restarts."""

from __future__ import annotations

import argparse
from typing import Any

from aerogram.cli.common import FAILED, complain


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Describe the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "keygen", help="make a server's identity", description=__doc__
    )
    parser.add_argument("file", help="a new file; only its owner may read it")
    return parser


def run(options: argparse.Namespace) -> int:
    """Write the file, print the public key."""
    from aerogram.address import encode_key
    from aerogram.identity import new_identity, write_identity

    identity = new_identity()
    try:
        write_identity(options.file, identity)
    except OSError as error:
        complain("keygen", error)
        return FAILED
    print(f"wrote {options.file}")
    print(f"server key: {encode_key(identity.public_bytes)}")
    return 0
