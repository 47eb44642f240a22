"""What a test on a simulated network should not leave behind, by name.

The network loses datagrams as its links say; these are losses and errors that nobody planned. A
test that means one names it: `network.expect("mailbox")`. Rules: data and no more, so that the
network and those who check it share the names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

FAULTS: Final = {
    "receive buffer": "datagrams that a socket had no room for",
    "too many held": "datagrams beyond those that a network holds until their release",
    "receive queue": "datagrams that a connectionless endpoint had no room for",
    "malformed": "datagrams that follow no format, on links that corrupt nothing",
    "unauthentic": "packets that no key opens, on links that corrupt nothing",
    "invalid": "authentic packets that break the protocol",
    "limit": "handshakes beyond the limits of sessions and of half-open ones",
    "memory": "packets whose messages were more than may be unread",
    "mailbox": "unreliable messages that a slow handler had no room for",
    "handler error": "exceptions of handlers",
    "internal error": "exceptions inside the library",
    "ledger": "messages without exactly one outcome",
    "left over": "tasks, timers and servers that the test has not ended",
}
"""What each name means."""

DROPS: Final = ("receive buffer", "too many held")
"""Reasons of a trace that are faults; its other reasons are what links, NATs and hosts do."""

COUNTERS: Final = {
    "dropped_oldest": "receive queue",
    "dropped_newest": "receive queue",
    "dropped_malformed": "malformed",
    "dropped_unauthentic": "unauthentic",
    "packets_invalid": "invalid",
    "dropped_at_limit": "limit",
    "packets_dropped_memory": "memory",
    "messages_dropped_mailbox": "mailbox",
    "handler_errors": "handler error",
    "receiver_errors": "internal error",
}
"""Counters of endpoints, sessions and sockets that stay 0, and what they count."""

CORRUPTION: Final = frozenset({"malformed", "unauthentic"})
"""What a link that corrupts datagrams brings about."""


def checked_faults(names: Iterable[str]) -> list[str]:
    """Return the names as they are. Raises `ValueError` for one that is no fault."""
    listed = [names] if isinstance(names, str) else [*names]
    for name in listed:
        if name not in FAULTS:
            raise ValueError(f"no fault is named {name!r}; there are: {', '.join(FAULTS)}")
    return listed
