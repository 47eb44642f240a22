"""`aerogram://host:port/#k=<key>`: an address that says where a server is and how to recognise it.

The key is the server's public key in base32 without padding, in the URL's fragment, so that no
tool that logs or forwards URLs sends it anywhere by itself. It is public: whoever has the address
can check that it speaks to that server, and can do nothing else with it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

from aerogram.errors import InvalidAddress
from aerogram.io.sockets import checked_address

SCHEME: Final = "aerogram"
KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is; `key` is its public key, None where there is none to check."""

    host: str
    port: int
    key: bytes | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        fragment = f"#k={encode_key(self.key)}" if self.key is not None else ""
        return f"{SCHEME}://{host}:{self.port}/{fragment}"


def parse_server_address(text: str) -> ServerAddress:
    """Read an `aerogram://` address. Raises `InvalidAddress`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidAddress(f"not a server address: {text!r}: {error}") from error
    if parts.scheme != SCHEME:
        raise InvalidAddress(f"a server address starts with {SCHEME}://, not {text!r}")
    if parts.hostname is None or port is None:
        raise InvalidAddress(f"a server address has a host and a port: {text!r}")
    if parts.path not in ("", "/") or parts.query or parts.username is not None:
        raise InvalidAddress(f"a server address ends after its port or in #k=<key>: {text!r}")
    host, port = checked_address(parts.hostname, port)
    return ServerAddress(host, port, _key_of(parts.fragment, text))


def _key_of(fragment: str, text: str) -> bytes | None:
    if not fragment:
        return None
    values = parse_qs(fragment, keep_blank_values=True)
    if [*values] != ["k"] or len(values["k"]) != 1:
        raise InvalidAddress(f"a server address ends in #k=<key>, once: {text!r}")
    return decode_key(values["k"][0])


def encode_key(key: bytes) -> str:
    """A public key as text: base32, lower case, no padding."""
    return base64.b32encode(key).decode("ascii").rstrip("=").lower()


def decode_key(text: str) -> bytes:
    """A public key from its text. Raises `InvalidAddress`."""
    try:
        key = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError) as error:
        raise InvalidAddress(f"not a server key: {text!r}") from error
    if len(key) != KEY_BYTES:
        raise InvalidAddress(f"a server key has {KEY_BYTES} bytes, not {len(key)}")
    return key
