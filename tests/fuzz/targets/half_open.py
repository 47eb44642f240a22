"""A session that a client has asked for and not confirmed: all that may come before it does.

The input is steps for a peer with the keys, after the server's RESP and before, or instead of, the
client's first packet.
"""

from __future__ import annotations

from typing import Final

from aerogram.core.connection import State
from tests.fuzz.hostile import half_open_session
from tests.fuzz.steps import read_steps

INPUT_BYTES_MOST: Final = 2048


def target(data: bytes) -> None:
    """The session opens with the first authentic packet, or is forgotten."""
    hostile = half_open_session()
    host, connection = hostile.host, hostile.connection
    for step in read_steps(data):
        hostile.run([step])
        authentic = connection.stats.packets_received > 0
        assert (connection.state is State.HALF_OPEN) != authentic
        assert len(host.opened) == int(authentic)
    host.finish()
