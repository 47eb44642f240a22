"""What a simulation raises to whoever started it, never into the code that is simulated."""

from __future__ import annotations

from typing import Any

from aerogram.errors import AerogramError


class SimulationError(AerogramError):
    """A simulation could not be run to its end, or left something behind."""


class Deadlock(SimulationError):
    """Tasks wait, but no timer, datagram or callback is left that could wake them.

    The text names each task and where it waits.
    """


class SimulationTimeout(SimulationError, TimeoutError):
    """The virtual time given as `limit` has passed, or time stands still in an endless loop."""


class LeftOver(SimulationError):
    """The main coroutine has ended, and tasks or timers that it started have not.

    `result` is what the main coroutine has returned.
    """

    def __init__(self, text: str, result: Any) -> None:
        super().__init__(text)
        self.result = result


class Nondeterminism(SimulationError):
    """Something was asked for that differs from run to run: the wall clock, another thread.

    Also random bytes of the system. A program in a simulation takes time from its event loop and
    random bytes from its network.
    """


class RealInputOutput(SimulationError, OSError):
    """A socket, pipe, process or name server of the real world was asked for in a simulation."""
