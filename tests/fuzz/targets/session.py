"""An open session, as client and as server, whose peer has the keys and says anything.

The input is a head, transport parameters and steps: `flags(1) size(1) parameters(size) steps`. The
lowest bit of the flags is the role.
"""

from __future__ import annotations

from typing import Final

from tests.fuzz.hostile import hostile_parameters, open_session
from tests.fuzz.hosts import CLIENT_CID, SERVER_CID
from tests.fuzz.steps import read_steps

INPUT_BYTES_MOST: Final = 4096


def target(data: bytes) -> None:
    """Nothing escapes, every limit holds, and in the end nothing is left."""
    if len(data) < 2:
        return
    serves, end = bool(data[0] & 1), 2 + data[1]
    parameters = hostile_parameters(CLIENT_CID if serves else SERVER_CID, data[2:end])
    hostile = open_session(serves=serves, parameters=parameters)
    hostile.run(read_steps(data[end:]))
    hostile.host.finish()
