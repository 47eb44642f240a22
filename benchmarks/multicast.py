"""`python -m benchmarks.multicast`: one sender, many receivers, independent losses.

Between network namespaces on a bridge of the kernel where that is possible (root on Linux), else on
a simulated network in virtual time. "repairs" are packets sent again for each new one, "least" is
what any sender without forward error correction has to repeat, in the mean, until the last receiver
has them. "CPU" is what the sender and each receiver took of one core, whatever else the machine
did.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Self

from aerogram.lab import Link, Network, simulate
from benchmarks.multicast_peer import Load, Place, receive, send
from benchmarks.namespaces import INTERFACE, Ethernet, unavailable

LAB_DELAY_SECONDS = 0.0005
TRIES_MAX = 200
DEFAULT = Load()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row."""

    where: str
    losses: tuple[float, ...]
    sender: dict[str, Any]
    receivers: list[dict[str, Any]]

    @property
    def complete(self) -> bool:
        """Whether every receiver has got every message once and in order."""
        sent = self.sender["stats"]["messages_sent"]
        whole = [each["received"] == sent and each["in_order"] for each in self.receivers]
        return len(whole) == len(self.losses) and all(whole)

    @property
    def repair_share(self) -> float:
        """Bytes of repairs for each byte of new data."""
        stats = self.sender["stats"]
        return float(stats["packets_repaired"] / stats["packets_sent"])

    @property
    def nacks(self) -> int:
        """Requests for repairs, of all receivers."""
        return sum(each["stats"]["nacks_sent"] for each in self.receivers)


def least_repair_share(losses: tuple[float, ...]) -> float:
    """How often a packet is sent again, in the mean, until each receiver has had it."""
    return sum(
        1.0 - math.prod(1.0 - loss**tries for loss in losses) for tries in range(1, TRIES_MAX)
    )


def measure(losses: tuple[float, ...], load: Load, *, in_lab: bool) -> Outcome:
    """One sender and a receiver for each of these losses."""
    return _in_lab(losses, load) if in_lab else _in_namespaces(losses, load)


def _in_namespaces(losses: tuple[float, ...], load: Load) -> Outcome:
    with Ethernet(1 + len(losses)) as ethernet, ExitStack() as stack:
        sender = stack.enter_context(_Peer(ethernet, 1, part="sender", load=asdict(load)))
        address = sender.hear()["address"]
        receivers: list[_Peer] = []
        for number, loss in enumerate(losses, 2):
            ethernet.lose(number, loss)
            peer = _Peer(ethernet, number, part="receiver", address=address)
            receivers.append(stack.enter_context(peer))
        for receiver in receivers:
            receiver.hear()
        sender.go()
        result = sender.hear()
        return Outcome("namespaces", losses, result, [each.hear() for each in receivers])


class _Peer:
    """A process on a host. Leaving the block ends it."""

    def __init__(self, ethernet: Ethernet, number: int, **told: Any) -> None:
        told |= {"host": ethernet.address(number), "interface": INTERFACE}
        command = [sys.executable, "-m", "benchmarks.multicast_peer", json.dumps(told)]
        self._process = subprocess.Popen(
            ethernet.command(number, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            self._process.kill()
        self._process.communicate()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer has ended with status {self._process.wait()}")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


def _in_lab(losses: tuple[float, ...], load: Load) -> Outcome:
    async def main() -> Outcome:
        network = Network(link=Link(delay=LAB_DELAY_SECONDS))
        told: list[dict[str, Any]] = []
        heard: list[list[dict[str, Any]]] = [[] for _ in losses]
        ready, joined = asyncio.Event(), asyncio.Event()

        def tell(what: dict[str, Any]) -> None:
            told.append(what)
            ready.set()

        place = Place("server", None, network.host("server"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send(place, load, tell, joined.wait))  # type: ignore[arg-type]
            await ready.wait()
            for number, loss in enumerate(losses):
                host = network.host(f"receiver-{number}")
                place = Place(host.name, None, host)
                tasks.create_task(receive(place, told[0]["address"], heard[number].append))
                while not heard[number]:  # noqa: ASYNC110  nothing tells when
                    await asyncio.sleep(0.01)
                lossy = Link(delay=LAB_DELAY_SECONDS, loss=loss)
                network.link("server", host, lossy, both_ways=False)
            joined.set()
        return Outcome("lab", losses, told[1], [each[1] for each in heard])

    return simulate(main)


def parsed_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.multicast", description=__doc__)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--loss", type=float, default=0.05, help="of each member")
    parser.add_argument(
        "--bad", type=float, default=0.6, help="loss of one member, in a second run"
    )
    parser.add_argument("--messages", type=int, default=DEFAULT.messages)
    parser.add_argument("--size", type=int, default=DEFAULT.size, help="bytes of a message")
    parser.add_argument("--rate", type=float, default=DEFAULT.rate_bytes_per_second, help="bytes/s")
    parser.add_argument("--lab", action="store_true", help="simulated, whatever is possible")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(arguments)


def as_table(outcomes: list[Outcome]) -> str:
    header = ("where", "loss", "MB", "seconds", "complete", "repairs", "least", "NACKs", "CPU")
    rows = [header, *(_cells(outcome) for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cells(outcome: Outcome) -> tuple[str, ...]:
    counts = {loss: outcome.losses.count(loss) for loss in outcome.losses}
    stats = outcome.sender["stats"]
    return (
        outcome.where,
        " + ".join(f"{count} x {loss:.0%}" for loss, count in counts.items()),
        f"{(stats['bytes_sent'] - stats['bytes_repaired']) / 1e6:.1f}",
        f"{outcome.sender['seconds']:.2f}",
        "yes" if outcome.complete else "NO",
        f"{outcome.repair_share:.1%}",
        f"{least_repair_share(outcome.losses):.1%}",
        str(outcome.nacks),
        _cpu(outcome),
    )


def _cpu(outcome: Outcome) -> str:
    """Of the sender, and of a receiver in the mean; the lab is one process."""
    if outcome.where == "lab":
        return "-"
    receivers = [each["cpu_seconds"] for each in outcome.receivers]
    return f"{outcome.sender['cpu_seconds']:.2f} + {statistics.mean(receivers):.2f} s"


def as_json(outcomes: list[Outcome]) -> str:
    rows = [
        {
            **asdict(outcome),
            "complete": outcome.complete,
            "repair_share": outcome.repair_share,
            "least_repair_share": least_repair_share(outcome.losses),
            "nacks": outcome.nacks,
        }
        for outcome in outcomes
    ]
    return json.dumps(rows, indent=2)


def main(arguments: list[str] | None = None) -> int:
    options = parsed_arguments(arguments)
    load = Load(options.messages, options.size, options.rate)
    reason = "as asked" if options.lab else unavailable()
    if reason:
        print(f"simulated: {reason}", file=sys.stderr)
    even = (options.loss,) * options.members
    outcomes = [
        measure(losses, load, in_lab=bool(reason)) for losses in (even, (options.bad, *even[1:]))
    ]
    print(as_json(outcomes) if options.json else as_table(outcomes))
    return 0 if all(outcome.complete for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
