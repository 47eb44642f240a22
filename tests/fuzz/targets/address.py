"""What people paste and type: server addresses, HOST:PORT and keys."""

from __future__ import annotations

import argparse
from typing import Final

from aerogram.address import decode_key, encode_key, parse_server_address
from aerogram.cli.common import format_address, host_port, parse_host_port
from aerogram.errors import InvalidAddress
from aerogram.io.sockets import checked_socket_address

INPUT_BYTES_MOST: Final = 400


def target(data: bytes) -> None:
    """As an argument of a program comes: bytes that are not UTF-8 are surrogates."""
    text = data.decode("utf-8", "surrogateescape")
    _server_address(text)
    _host_port(text)
    _key(text)
    _socket_address(text)


def _server_address(text: str) -> None:
    try:
        address = parse_server_address(text)
    except InvalidAddress:
        return
    assert parse_server_address(str(address)) == address


def _host_port(text: str) -> None:
    try:
        address = parse_host_port(text)
    except InvalidAddress:
        try:
            host_port(text)
        except argparse.ArgumentTypeError:
            return
        raise AssertionError("an argument was taken that is no address") from None
    assert parse_host_port(format_address(address)) == address
    assert host_port(text) == address


def _key(text: str) -> None:
    try:
        key = decode_key(text)
    except InvalidAddress:
        return
    assert decode_key(encode_key(key)) == key


def _socket_address(text: str) -> None:
    try:
        checked_socket_address((text, 9000))
    except InvalidAddress:
        return
    assert ":" in text or "." in text
