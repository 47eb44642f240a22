"""A session that is closing or draining: whatever still comes, it ends soon and nothing is left.

The input is `flags(1) steps`: bit 0 of the flags is the role, bit 1 says that the peer has closed.
"""

from __future__ import annotations

from typing import Final

from aerogram.core import wire
from aerogram.core.connection import State
from tests.fuzz.hostile import open_session
from tests.fuzz.steps import Step, read_steps

INPUT_BYTES_MOST: Final = 2048


def target(data: bytes) -> None:
    """End a session that has work to do, let the input happen, and see that it has ended once."""
    if not data:
        return
    hostile = open_session(serves=bool(data[0] & 1))
    connection, host = hostile.connection, hostile.host
    hostile.say(wire.encode_channel(0, "ordered", "ordered") + wire.PING, Step(0))
    hostile.run([Step(7, b"\x00\x20\x00\x02")])  # the host sends three large messages
    if data[0] & 2:
        hostile.say(wire.encode_close(0, ""), Step(0))
    else:
        connection.close(256, "enough", host.now)
        host.turn()
    ended_as = connection.state
    assert ended_as is (State.DRAINING if data[0] & 2 else State.CLOSING)
    hostile.run(read_steps(data[1:]))
    assert connection.state in (ended_as, State.CLOSED)
    assert len(host.ended) == 1
    assert not host.messages
    host.finish()
