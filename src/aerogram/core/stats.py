"""Counters as plain integers: every message and every dropped packet ends in exactly one."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class ConnectionStats:
    """What one session has counted since it opened."""

    messages_sent: int = 0
    messages_delivered: int = 0
    messages_lost: int = 0
    messages_expired: int = 0
    messages_superseded: int = 0
    messages_refused: int = 0

    messages_dropped_queue: int = 0
    """Of those lost or superseded, the ones for which the queue of their channel had no room."""
    messages_received: int = 0
    """Handed over by their channel's ordering."""
    messages_duplicate: int = 0
    messages_skipped: int = 0
    """Given up by the peer."""
    messages_expired_on_arrival: int = 0
    """Their deadline had passed when they came, or when those before them did."""
    messages_dropped_ordering: int = 0
    """Their channel's ordering could not be shown them, or failed; refused, if that can be told."""
    messages_dropped_partial: int = 0
    """Unreliable records of which pieces were missing too long or that found no memory."""
    messages_dropped_mailbox: int = 0
    """Unreliable messages that a slow handler had no room for."""
    messages_received_refused: int = 0
    """No handler took them, or one refused them."""
    messages_resent: int = 0
    policy_faults: int = 0
    """Times that an ordering or retry policy of the user's own did what it must not."""

    packets_sent: int = 0
    packets_received: int = 0
    packets_lost: int = 0
    """Declared lost, that is: as RFC 9002 §6 has it."""
    packets_overtaken: int = 0
    """Of those, the ones that had arrived, after others that left later."""
    packets_duplicate: int = 0
    packets_unauthentic: int = 0
    packets_invalid: int = 0
    packets_dropped_memory: int = 0
    """Their messages found no memory; they were not acknowledged, as if they had been lost."""
    bytes_sent: int = 0
    bytes_received: int = 0
    probe_timeouts: int = 0
    path_changes: int = 0

    @property
    def messages_ended(self) -> int:
        """Messages that were sent and have their one outcome."""
        return (
            self.messages_delivered
            + self.messages_lost
            + self.messages_expired
            + self.messages_superseded
            + self.messages_refused
        )

    def add(self, other: ConnectionStats) -> None:
        """Count what another has counted as well."""
        for field in fields(ConnectionStats):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)


@dataclass(slots=True)
class EndpointStats:
    """What an endpoint has counted, sessions' own counters aside."""

    datagrams_received: int = 0
    dropped_malformed: int = 0
    dropped_unauthentic: int = 0
    dropped_unknown_connection: int = 0
    dropped_unexpected: int = 0
    dropped_at_limit: int = 0
    handshakes_started: int = 0
    handshakes_completed: int = 0
    handshakes_expired: int = 0
    retries_sent: int = 0
    resets_sent: int = 0
    resets_received: int = 0
