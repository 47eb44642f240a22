"""Key pairs of servers and clients: making them, and keeping them in files only their owner reads.

A server that is to keep its address over restarts keeps its identity in a file; one that is given
none makes a new one, and its clients have to learn the new address.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from aerogram.address import decode_key, encode_key
from aerogram.core.keys import Identity
from aerogram.errors import InvalidAddress

PREFIX: Final = "aerogram-private-key:"
"""Says what the file is, to people and to scanners for leaked secrets."""


def new_identity() -> Identity:
    """A new key pair."""
    return Identity.from_private_bytes(os.urandom(32))


def write_identity(path: str | Path, identity: Identity) -> None:
    """Write a key pair to a new file that only its owner may read.

    Raises `FileExistsError` rather than replace a key, or another `OSError`; `TypeError` for what
    is no `Identity`, and leaves no file then.
    """
    if not isinstance(identity, Identity):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an Identity is kept in a file, not {identity!r}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{PREFIX}{encode_key(identity.private_bytes)}\n")


def read_identity(path: str | Path) -> Identity:
    """Read a key pair that `write_identity` wrote. Raises `ValueError` or `OSError`."""
    text = Path(path).read_text(encoding="ascii", errors="replace").strip()
    if not text.startswith(PREFIX):
        raise ValueError(f"{path} is not a key file: it does not start with {PREFIX!r}")
    try:
        return Identity.from_private_bytes(decode_key(text.removeprefix(PREFIX)))
    except InvalidAddress:
        raise ValueError(f"{path} does not hold a whole key") from None
