"""Calls of the C library that the socket module lacks, reached through ctypes."""

from __future__ import annotations

import ctypes
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

MSG_DONTWAIT: Final = int(getattr(socket, "MSG_DONTWAIT", 0))
"""A plain number: an `IntFlag`, as the socket module's, costs microseconds to combine."""


def load(name: str, *arguments: Any) -> Callable[..., int] | None:
    """A function that takes these C types and returns an int; `ctypes.get_errno` has its error.

    None where it is missing, or where structures are not laid out as on a 64-bit Linux.
    """
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_int
    loaded: Callable[..., int] = function
    return loaded
