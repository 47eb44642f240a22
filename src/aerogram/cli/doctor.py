"""`aerogram doctor ADDRESS`: connect to any server, look at the way there, and check the books.

The server needs no handlers for it. It answers PING frames; messages under a topic that nobody
handles reach its protocol and are refused there, on a channel of each delivery; so is a record in
full packets. What came of them says how long the way is, what it loses, and whether it carries full
packets. The status is 0 if everything that had to arrive did, and the ledger balances.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from aerogram.cli.common import (
    FAILED,
    WRONG_USAGE,
    add_loop_option,
    add_server_options,
    complain,
    format_address,
    patience,
    run_with_server,
    seconds,
)

if TYPE_CHECKING:
    from aerogram import Session
    from aerogram.client import connect
    from aerogram.receipts import Receipt

TOPIC: Final = "aerogram.doctor"
"""Nobody handles it."""
RECORD_BYTES: Final = 64 * 1024
"""Some tens of full packets."""
COUNT_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """What pings have measured, in milliseconds; 0 if none came back."""

    sent: int
    answered: int
    min_ms: float
    median_ms: float
    p95_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Probes:
    """What became of messages of one delivery."""

    delivery: str
    sent: int
    arrived: int
    lost: int
    resends: bool


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a record in full packets."""

    sent_bytes: int
    datagram_bytes: int
    """The largest packet that is sent."""
    arrived: bool
    milliseconds: float
    largest_bytes: int
    """The largest record that the server takes."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found."""

    address: str
    connect_ms: float
    round_trips: RoundTrips
    probes: list[Probes]
    loss: float
    """The share of what is sent once, and was lost."""
    record: Record
    ledger: dict[str, Any]
    imbalances: list[str]

    @property
    def troubles(self) -> list[str]:
        """What is wrong, in words; empty for a healthy connection."""
        troubles = [f"the ledger does not balance: {text}" for text in self.imbalances]
        silent = self.round_trips.sent - self.round_trips.answered
        if silent:
            troubles.append(f"{silent} of {self.round_trips.sent} pings came back too late")
        for probes in self.probes:
            if probes.resends and probes.arrived < probes.sent:
                missing = probes.sent - probes.arrived
                troubles.append(f"{missing} {probes.delivery} messages did not arrive in time")
        if not self.record.arrived:
            troubles.append("a record in full packets did not arrive in time")
        return troubles


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Describe the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor", help="look at the way to a server, and check the books", description=__doc__
    )
    add_server_options(parser)
    parser.add_argument(
        "--count", type=int, default=20, help="pings, and messages of each delivery (default 20)"
    )
    parser.add_argument("--interval", type=seconds, default=0.02, help="seconds between them")
    parser.add_argument(
        "--timeout", type=patience, default=5.0, help="seconds to wait for each step"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_loop_option(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Examine and print."""
    if not 1 <= options.count <= COUNT_MAX:
        complain("doctor", f"--count is 1 to {COUNT_MAX}, not {options.count}")
        return WRONG_USAGE
    quiet = logging.getLogger("aerogram.doctor")
    quiet.setLevel(logging.CRITICAL)  # that the probes are refused is expected
    return run_with_server("doctor", options, doctor, logger=quiet)


async def doctor(server: connect[Any], options: argparse.Namespace) -> int:
    """Connect, examine, and print what was found."""
    report = await _examine(server, options)
    if options.json:
        print(json.dumps({**asdict(report), "troubles": report.troubles}, indent=2))
    else:
        print(described(report))
    return FAILED if report.troubles else 0


async def _examine(server: connect[Any], options: argparse.Namespace) -> Report:
    began = time.perf_counter()
    async with server as session:
        connect_ms = (time.perf_counter() - began) * 1000
        round_trips = await _ping(session, options)
        probes = [await _probe(session, channel, options) for channel in _channels()]
        record = await _send_record(session, options.timeout)
        once = [each for each in probes if not each.resends]
        stats = session.stats
        return Report(
            address=format_address(session.address),
            connect_ms=connect_ms,
            round_trips=round_trips,
            probes=probes,
            loss=sum(each.lost for each in once) / sum(each.sent for each in once),
            record=record,
            ledger=asdict(stats),
            imbalances=stats.imbalances,
        )


def _channels() -> list[Any]:
    """A channel of each delivery that a server knows without having declared it."""
    from aerogram import Channel, delivery

    return [
        Channel(f"doctor {made.name}", made)
        for made in (
            delivery.unreliable(),
            delivery.sequenced(),
            delivery.reliable(),
            delivery.ordered(),
        )
    ]


async def _ping(session: Session[Any], options: argparse.Namespace) -> RoundTrips:
    taken: list[float] = []
    for _ in range(options.count):
        try:
            taken.append(1000 * await session.ping(timeout=options.timeout))
        except TimeoutError:
            continue
        await asyncio.sleep(options.interval)
    taken.sort()
    if not taken:
        return RoundTrips(options.count, 0, 0.0, 0.0, 0.0, 0.0)
    p95 = taken[math.ceil(0.95 * len(taken)) - 1]
    return RoundTrips(options.count, len(taken), taken[0], statistics.median(taken), p95, taken[-1])


async def _probe(session: Session[Any], channel: Any, options: argparse.Namespace) -> Probes:
    """Messages one by one, each in a packet of its own."""
    from aerogram import Outcome

    receipts: list[Receipt] = []
    for number in range(options.count):
        receipts.append(await session.emit(TOPIC, number, via=channel))
        await asyncio.sleep(options.interval)
    await _all_ended(receipts, options.timeout)
    outcomes = [receipt.outcome for receipt in receipts]
    arrived = outcomes.count(Outcome.DELIVERED) + outcomes.count(Outcome.REFUSED)
    lost = outcomes.count(Outcome.LOST)
    return Probes(channel.delivery.name, len(receipts), arrived, lost, channel.delivery.resends)


async def _all_ended(receipts: list[Receipt], timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            for receipt in receipts:
                await receipt
    except TimeoutError:
        return


async def _send_record(session: Session[Any], timeout: float) -> Record:
    from aerogram import Channel, Outcome, delivery
    from aerogram.config import RECORD_HEAD_BYTES
    from aerogram.session import inner_of

    inner = inner_of(session)
    largest = inner.connection.peer_max_record_bytes - RECORD_HEAD_BYTES
    size = min(RECORD_BYTES, largest // 2)
    began = time.perf_counter()
    channel = Channel("doctor reliable", delivery.reliable())
    receipt = await session.emit(TOPIC, bytes(size), via=channel)
    await _all_ended([receipt], timeout)
    return Record(
        sent_bytes=size,
        datagram_bytes=inner.config.datagram_bytes,
        arrived=receipt.outcome in (Outcome.DELIVERED, Outcome.REFUSED),
        milliseconds=(time.perf_counter() - began) * 1000,
        largest_bytes=largest,
    )


def described(report: Report) -> str:
    """The report as a person reads it."""
    trips, record, ledger = report.round_trips, report.record, report.ledger
    probes = ", ".join(f"{each.delivery} {each.arrived}/{each.sent}" for each in report.probes)
    ends = ("delivered", "lost", "expired", "superseded", "refused", "in_flight")
    sums = " + ".join(f"{ledger[f'messages_{end}']} {end.replace('_', ' ')}" for end in ends)
    rtt = f"{trips.min_ms:.3f}/{trips.median_ms:.3f}/{trips.p95_ms:.3f}/{trips.max_ms:.3f} ms"
    packets = f"{ledger['packets_lost']} of {ledger['packets_sent']} packets"
    fate = "arrived" if record.arrived else "DID NOT ARRIVE"
    size = record.datagram_bytes
    took = f"in {record.milliseconds:.1f} ms; the server takes {record.largest_bytes} at most"
    lines = [
        f"connected   to {report.address} in {report.connect_ms:.1f} ms",
        f"round trip  {trips.answered} of {trips.sent} answered, min/median/p95/max = {rtt}",
        f"arrived     {probes}",
        f"loss        {report.loss:.1%} of messages that are sent once, {packets}",
        f"records     {record.sent_bytes} bytes in packets of {size} {fate} {took}",
        f"ledger      {ledger['messages_sent']} sent = {sums}",
        f"            {ledger['messages_received']} received, {ledger['messages_handled']} handled",
    ]
    return "\n".join([*lines, *(report.troubles or ["no trouble found"])])
