"""What must be true of the library's own counters and of the trace, whatever the network did."""

from __future__ import annotations

from typing import Any

from aerogram import IdleTimeout, KeyLimitReached, PeerRestarted, Session
from aerogram.errors import ClosedByPeer, ClosedLocally
from aerogram.lab import Trace

SILENCES = {"partition", "hold", "pause", "crash", "rebind", "loss"}
"""What can make an end believe that the other is gone."""

DROPS = {
    "burst": {"loss"},
    "codel": {"rate"},
    "every": {"loss"},
    "host down": {"crash"},
    "listed": {"loss"},
    "loss": {"loss"},
    "nat: no mapping": {"rebind"},
    "nat: unsolicited": {"rebind"},
    "no such address": {"rebind"},
    "partition": {"partition"},
    "queue": {"rate"},
    "receive buffer": {"pause"},
}
"""What may have been done when a datagram was dropped for a reason."""


def check_session(session: Session[Any], excuses: set[str]) -> list[str]:
    """Look at a session that may still be open."""
    stats = session.stats
    found: list[str] = []
    if not stats.balanced:
        found.append(f"the ledger does not balance: {stats}")
    if stats.packets_invalid:
        found.append(f"{stats.packets_invalid} authentic packets broke the protocol")
    if stats.packets_unauthentic and not excuses & {"corrupt", "rekey"}:
        found.append(f"{stats.packets_unauthentic} packets were not authentic")
    if session.error is not None and not _is_planned(session.error, excuses):
        found.append(f"ended: {session.error!r}")
    return found


def _is_planned(error: Exception, excuses: set[str]) -> bool:
    if isinstance(error, ClosedByPeer | ClosedLocally):
        return True
    if isinstance(error, IdleTimeout | PeerRestarted):
        return bool(excuses & SILENCES)
    return isinstance(error, KeyLimitReached) and "last numbers" in excuses


def check_endpoint(manager: Any) -> list[str]:
    """Look at the manager of a socket after its sessions have ended."""
    found: list[str] = []
    if manager.handler_errors:
        found.append(f"{manager.handler_errors} errors of handlers, or of the protocol's own turn")
    if manager.protocol.stats.receiver_errors:
        found.append(f"{manager.protocol.stats.receiver_errors} datagrams made the protocol raise")
    budget = manager.endpoint._shared.budget
    if budget.left_bytes != manager.config.reassembly_bytes_per_endpoint:
        found.append(f"memory for records leaks: {budget.left_bytes} B left")
    if manager.sessions:
        found.append(f"{len(manager.sessions)} sessions are left")
    return found


def check_trace(trace: Trace, excuses: set[str]) -> list[str]:
    """Look for drops that nobody has planned. A closed port is the end of every world."""
    return [
        f"{count} datagrams were dropped: {reason}"
        for reason, count in trace.dropped.items()
        if reason != "port closed" and not DROPS.get(reason, set()) & excuses
    ]
