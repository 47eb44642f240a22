"""One record to a multitude of addresses, and many records to one address, in few loop turns.

Rules: the loop is never held longer than `HOLD_SECONDS`, nor for more than `SENDS_PER_TURN`; a rate
is kept from the first datagram on, without bursts to catch up; each address has an outcome of its
own, and one that fails stops no other.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from aerogram.errors import InvalidAddress
from aerogram.io.ancillary import ControlList, segment_control
from aerogram.io.links import Link, Payload, Workings, checked_payload, send_refused
from aerogram.io.sockets import LARGEST_PAYLOAD_BYTES

HOLD_SECONDS: Final = 0.002
SENDS_PER_TURN: Final = 512
"""About as long as `HOLD_SECONDS`, for loops whose time stands still in a turn."""

SENDS_PER_LOOK: Final = 64
"""Sends between two looks at the clock."""

SEGMENTS_PER_RUN: Final = 64
"""UDP_MAX_SEGMENTS of <linux/udp.h> up to Linux 6.8; later kernels take 128."""

PACE_SECONDS: Final = 0.001
"""The least time between two turns of a paced send: loops do not keep shorter ones."""

CATCH_UP_SECONDS: Final = 0.01
"""A paced send that was held up makes up for no more than this."""

WRITES_PER_TURN: Final = 16
"""Runs that are sent before the loop goes on."""

_RUN_REFUSED: Final = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class FanOut:
    """How one datagram to many addresses went."""

    addresses: Sequence[Any]
    """As they were given."""

    outcomes: Sequence[Exception | None]
    """For each of them None when it was sent, or what was in the way."""

    @property
    def sent(self) -> int:
        """How many went out."""
        return sum(outcome is None for outcome in self.outcomes)

    @property
    def failures(self) -> Iterator[tuple[Any, Exception]]:
        """Each address that it was not sent to, with the reason."""
        for address, outcome in zip(self.addresses, self.outcomes, strict=True):
            if outcome is not None:
                yield address, outcome


class Pacer:
    """How many datagrams may go at a time, for a rate in datagrams a second, or without one."""

    __slots__ = ("_began", "_burst", "_loop", "_rate")

    def __init__(self, loop: asyncio.AbstractEventLoop, rate: float | None) -> None:
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError(f"a rate is more than 0 datagrams a second, not {rate!r}")
        self._loop = loop
        self._rate = rate
        self._burst = 1.0 if rate is None else max(1.0, rate * CATCH_UP_SECONDS)
        self._began = loop.time()

    def allowance(self, sent: int) -> int:
        """How many may go now, in one turn, after so many have gone."""
        if self._rate is None:
            return SENDS_PER_TURN
        due = (self._loop.time() - self._began) * self._rate + 1 - sent
        if due > self._burst:
            # The loop was held up elsewhere: what was missed meanwhile is not made up for.
            self._began += (due - self._burst) / self._rate
            due = self._burst
        return min(int(due), SENDS_PER_TURN)

    async def pause(self, sent: int) -> None:
        """Let the loop go on, at least until one more may go."""
        if self._rate is None:
            await asyncio.sleep(0)
            return
        due_at = self._began + sent / self._rate
        await asyncio.sleep(max(PACE_SECONDS, due_at - self._loop.time()))


class Sender:
    """Sends for one endpoint, whose link, addresses and counters it uses."""

    __slots__ = ("_book", "_link", "_loop", "_stats")

    def __init__(self, workings: Workings, link: Link) -> None:
        self._loop = workings.loop
        self._link = link
        self._book = workings.book
        self._stats = workings.stats

    async def send_many(
        self,
        data: Payload,
        addresses: Sequence[Any],
        control: ControlList | None,
        rate: float | None,
    ) -> FanOut:
        """Send `data` to each address, with these control messages."""
        outcomes: list[Exception | None] = []
        pacer = Pacer(self._loop, rate)
        while len(outcomes) < len(addresses):
            done = len(outcomes)
            batch = addresses[done : done + max(0, pacer.allowance(done))]
            if not self._burst(data, batch, control, outcomes):
                await self._link.wait_for_room()
            elif len(outcomes) < len(addresses):
                await pacer.pause(len(outcomes))
        return FanOut(addresses, outcomes)

    def _burst(
        self,
        data: Payload,
        addresses: Sequence[Any],
        control: ControlList | None,
        outcomes: list[Exception | None],
    ) -> bool:
        """Send to these, as far as the time of a turn goes. False: there is no room."""
        until = self._loop.time() + HOLD_SECONDS
        start = 0
        while start < len(addresses):
            part = addresses[start : start + SENDS_PER_LOOK]
            targets = self._book.known_targets(part)
            if targets is None:
                targets = [self._target(address) for address in part]
            if not self._send_part(data, targets, control, outcomes):
                return False
            start += len(part)
            if self._loop.time() >= until:
                break
        return True

    def _target(self, address: object) -> Any:
        """What the socket takes for an address, or the error that it is none."""
        try:
            return self._book.for_socket(address)
        except InvalidAddress as error:
            return error

    def _send_part(
        self,
        data: Payload,
        targets: Sequence[Any],
        control: ControlList | None,
        outcomes: list[Exception | None],
    ) -> bool:
        """Send to each target and append its outcome, until there is no room (False)."""
        while targets:
            good = targets
            if InvalidAddress in map(type, targets):
                good = list(takewhile(_is_target, targets))
            done, error = self._link.transmit_each(data, good, control)
            outcomes += [None] * done
            if done < len(targets):
                outcome = targets[done]
                if error is not None:
                    try:
                        if not self._link.try_again(error, data, outcome, control, 1):
                            return False
                        outcome = None
                    except OSError as refusal:
                        outcome = send_refused(refusal, len(data), self._stats)
                outcomes.append(outcome)
            targets = targets[done + 1 :]
        return True

    async def send_run(
        self, datagrams: Sequence[Payload], target: Any, control: ControlList | None
    ) -> None:
        """Send datagrams of equal size, of which the last may be shorter, to one address."""
        datagrams = [checked_payload(datagram) for datagram in datagrams]
        check_run(datagrams)
        in_runs = self._link.sends_runs and bool(datagrams) and bool(datagrams[0])
        done = writes = 0
        while done < len(datagrams):
            count = run_length(datagrams, done) if in_runs else 1
            data = datagrams[done] if count == 1 else b"".join(datagrams[done : done + count])
            extra = control
            if count > 1:
                extra = [*(control or ()), segment_control(len(datagrams[done]))]
            try:
                if not self._link.transmit(data, target, extra, count):
                    await self._link.wait_for_room()
                    continue
            except OSError as error:
                if count == 1 or error.errno not in _RUN_REFUSED:
                    raise send_refused(error, len(data), self._stats) from error
                # No checksum offload (EIO), or a tunnel or smaller MTU is in the way.
                self._stats.runs_refused += 1
                in_runs = False
                continue
            done += count
            writes += 1
            if writes % WRITES_PER_TURN == 0:
                await asyncio.sleep(0)


def _is_target(target: object) -> bool:
    return not isinstance(target, InvalidAddress)


def run_length(datagrams: Sequence[Payload], done: int) -> int:
    """How many datagrams after the first `done` go in one write."""
    fitting = LARGEST_PAYLOAD_BYTES // len(datagrams[done])
    return max(1, min(len(datagrams) - done, SEGMENTS_PER_RUN, fitting))


def check_run(datagrams: Sequence[Payload]) -> None:
    """Raise `ValueError` unless all have one size, of which the last may be shorter."""
    if not datagrams:
        return
    size = len(datagrams[0])
    if any(len(datagram) != size for datagram in datagrams[:-1]) or len(datagrams[-1]) > size:
        raise ValueError("the datagrams of a run have one size; only the last may be shorter")
