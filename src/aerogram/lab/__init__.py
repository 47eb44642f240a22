"""The lab: networks as bad as you like, replayable by seed."""

from __future__ import annotations

from aerogram.lab.errors import (
    Deadlock,
    LeftOver,
    Nondeterminism,
    RealInputOutput,
    SimulationError,
    SimulationTimeout,
)
from aerogram.lab.host import Host
from aerogram.lab.link import Burst, Link
from aerogram.lab.loop import VirtualLoop
from aerogram.lab.nat import Nat
from aerogram.lab.network import Network
from aerogram.lab.simulation import Simulate, simulate
from aerogram.lab.trace import Entry, Trace
from aerogram.lab.transport import SimulatedTransport

__all__ = [
    "Burst",
    "Deadlock",
    "Entry",
    "Host",
    "LeftOver",
    "Link",
    "Nat",
    "Network",
    "Nondeterminism",
    "RealInputOutput",
    "Simulate",
    "SimulatedTransport",
    "SimulationError",
    "SimulationTimeout",
    "Trace",
    "VirtualLoop",
    "simulate",
]
