"""Limits that could not work are refused where they are given, not met when a message waits."""

from __future__ import annotations

from typing import Any

import pytest

from aerogram import Config


@pytest.mark.parametrize(
    ("works", "fails"),
    [
        ({"datagram_bytes": 1200}, {"datagram_bytes": 1199}),
        ({"datagram_bytes": 65_507}, {"datagram_bytes": 65_508}),
        ({"channel_window_bytes": 4096}, {"channel_window_bytes": 4095}),
        ({"congestion_window_bytes": 1200}, {"congestion_window_bytes": 1199}),
        ({"congestion_window_bytes": 9000, "datagram_bytes": 9000}, {"max_record_bytes": 1 << 31}),
        (
            {"max_record_bytes": 5000, "reassembly_bytes_per_session": 5000},
            {"max_record_bytes": 5000, "reassembly_bytes_per_session": 4999},
        ),
        (
            {"max_record_bytes": 5000, "reassembly_bytes_per_endpoint": 5000},
            {"max_record_bytes": 5000, "reassembly_bytes_per_endpoint": 4999},
        ),
        ({"grace_seconds": 0.0}, {"grace_seconds": -0.1}),
        ({"transport": "batch"}, {"transport": "fast"}),
    ],
)
def test_a_limit_works_and_just_beyond_it_nothing_does(
    works: dict[str, Any], fails: dict[str, Any]
) -> None:
    for name, value in works.items():
        assert getattr(Config(**works), name) == value
    with pytest.raises(ValueError, match=r"is|must"):
        Config(**fails)
