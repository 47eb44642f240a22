"""What an endpoint may hold, whatever it was sent: every limit by its name."""

from __future__ import annotations

from typing import Final

from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core.connection import CONTROLS_LIMIT, Connection, State
from aerogram.core.delivery import InOrder
from aerogram.core.endpoint import RESET_ADDRESSES, STALE_TIMERS, Endpoint
from aerogram.core.incoming import ReceiveChannel
from aerogram.core.memory import UNFINISHED_OVERHEAD_BYTES
from aerogram.core.receiver import ACK_RANGES_LIMIT, Receiver

CONTROLS_REPEATED: Final = 2
"""Refusals that were lost come back into the queue, over its limit by those in flight."""


def check_bounds(endpoint: Endpoint) -> None:
    """Every table, queue and sum of an endpoint is within its limit."""
    config = endpoint.config
    assert len(endpoint._half_open) <= config.half_open_limit
    assert len(endpoint._connections) <= config.sessions_limit
    assert len(endpoint._resets) <= RESET_ADDRESSES
    assert len(endpoint._by_reset_token) <= len(endpoint._connections)
    assert len(endpoint._newest_at) <= len(endpoint._connections)
    assert len(endpoint._timers) <= 2 * len(endpoint._connections) + STALE_TIMERS
    held = sum(map(_check_connection, endpoint._connections.values()))
    budget = endpoint._shared.budget.left_bytes
    assert held == config.reassembly_bytes_per_endpoint - budget, "the budget does not add up"
    assert budget >= 0, "more is held than the endpoint's budget"
    memories = [each.receiver.memory for each in endpoint._connections.values()]
    unread = sum([memory.unread_bytes for memory in memories])
    assert unread == endpoint._shared.budget.unread_bytes, "what is unread does not add up"
    assert endpoint._shared.budget.sessions <= len(endpoint._connections)


def _check_connection(connection: Connection) -> int:
    """Check one connection; return what it takes of the endpoint's budget."""
    sender, receiver = connection._sender, connection.receiver
    config = sender.config
    assert len(sender.controls) <= CONTROLS_REPEATED * CONTROLS_LIMIT
    assert len(receiver._ranges) <= ACK_RANGES_LIMIT
    assert len(receiver._channels) <= config.channels_per_session
    if connection.state < State.CLOSING:  # later it may be what the session was ended for
        for channel in receiver._channels.values():
            _check_channel(channel)
    memory = receiver.memory
    if connection.state < State.CLOSING:
        assert memory.unread_bytes == sum(map(_unread_bytes, receiver._channels.values()))
        # The last that was taken may have been a record within the window.
        assert memory.unread_bytes < 2 * memory.limit_bytes + config.channel_window_bytes
    held = receiver._reserved_bytes + receiver._loose_bytes
    assert held <= config.reassembly_bytes_per_session, "more than the session's budget"
    assert held == _records_bytes(receiver) + receiver._lent_bytes
    if connection.state >= State.CLOSING:
        assert held == 0
    return held


def _check_channel(channel: ReceiveChannel) -> None:
    """Check what a peer's channel holds."""
    if channel.resends:
        # What was granted bounds whole messages that wait, for their order or for a handler, and
        # the gaps between numbers.
        assert channel.arrived_cost <= channel.granted_cost
        assert channel.arrived_cost - channel.consumed_cost <= channel.window + channel.reserved
        assert len(channel.received) <= 1 + channel.granted_cost // MESSAGE_OVERHEAD_BYTES
    ordering = channel._ordering
    if isinstance(ordering, InOrder):
        assert len(ordering._skipped) <= len(channel.received) + len(ordering._held)


def _unread_bytes(channel: ReceiveChannel) -> int:
    """What has come, with the rest of small records that were begun, and was not taken."""
    if not channel.resends:
        return 0
    to_come = [each.counted_bytes - each.received_bytes for each in channel.partial.values()
               if each.counted_bytes]  # fmt: skip
    return channel.arrived_cost - channel.consumed_cost + sum(to_come)


def _records_bytes(receiver: Receiver) -> int:
    """Memory for unfinished records beside what windows hold, counted one by one."""
    held = 0
    for channel in receiver._channels.values():
        for partial in channel.partial.values():
            if not channel.resends:
                held += partial.received_bytes + UNFINISHED_OVERHEAD_BYTES
            elif partial.reserved:
                held += partial.total_bytes
    return held


def check_nothing_held(endpoint: Endpoint) -> None:
    """Everybody has gone: so has all that was kept for them."""
    for table in (
        endpoint._connections,
        endpoint._half_open,
        endpoint._handshakes,
        endpoint._by_reset_token,
        endpoint._newest_at,
        endpoint._stateless,
    ):
        assert not table
    memory = endpoint._shared.budget
    assert memory.left_bytes == endpoint.config.reassembly_bytes_per_endpoint
    assert (memory.unread_bytes, memory.sessions) == (0, 0)


def check_ledger(connection: Connection) -> None:
    """Every message that was sent has ended in exactly one way (none is in flight any more)."""
    stats = connection.stats
    ended = (
        stats.messages_delivered
        + stats.messages_lost
        + stats.messages_expired
        + stats.messages_superseded
        + stats.messages_refused
    )
    assert stats.messages_sent == ended + connection.messages_in_flight
    assert connection.messages_in_flight == 0
