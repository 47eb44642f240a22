"""A datagram is cheap to decode, whatever is in it: its work is counted, not timed."""

from __future__ import annotations

import sys

import pytest

from benchmarks.decode import DECODERS, lines_run, slow_inputs, worst_inputs

LINES_LIMIT = {"packet": 100, "parameters": 1000, "frames": 2600}
"""Lines of Python for 1500 bytes; 50 µs are some 2500 of the decoder's on a machine of 2024."""
SEARCHED = 400


@pytest.mark.skipif(sys.gettrace() is not None, reason="something else counts lines")
@pytest.mark.parametrize("name", DECODERS)
def test_no_datagram_makes_much_work(name: str) -> None:
    decode = DECODERS[name]
    found = worst_inputs(decode, slow_inputs()[name], tries=SEARCHED, seed=0)
    lines = lines_run(decode, found[0])
    assert LINES_LIMIT[name] / 4 < lines < LINES_LIMIT[name]
