"""`python -m benchmarks`: measure, then print a table or JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from dataclasses import asdict, replace

from benchmarks.harness import Result, measure
from benchmarks.peers import PEERS
from benchmarks.work import MESSAGE_BYTES, Kind, Work

YARDSTICK = "aerogram"


def parsed_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    works = [kind.value for kind in Kind]
    parser.add_argument("--work", action="append", choices=[*works, "all"], help="repeatable")
    parser.add_argument("--peers", default=",".join(PEERS), help="names, with commas between")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--count", type=int, default=50_000_000, help="most messages of each")
    parser.add_argument("--rounds", type=int, default=1, help="take the median of this many")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    options.peers = options.peers.split(",")
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    if not options.work or "all" in options.work:
        options.work = works
    return options


def measured(options: argparse.Namespace) -> list[Result]:
    """All rows. Rounds go over all peers in turn, so that a slow minute hits them alike."""
    results: list[Result] = []
    for kind in options.work:
        work = Work(Kind(kind), options.count, options.seconds)
        rounds = [[measure(peer, work) for peer in options.peers] for _ in range(options.rounds)]
        results += [median_of(list(rows)) for rows in zip(*rounds, strict=True)]
    return results


def median_of(rows: list[Result]) -> Result:
    """One row for several rounds: the first that did not go well, or the medians."""
    for row in rows:
        if row.status != "ok":
            return row
    return replace(
        rows[0],
        rate=statistics.median(row.rate or 0.0 for row in rows),
        p50_microseconds=median_or_none([row.p50_microseconds for row in rows]),
        p99_microseconds=median_or_none([row.p99_microseconds for row in rows]),
        sent=sum(row.sent for row in rows),
        handled=sum(row.handled for row in rows),
    )


def median_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def ratio(result: Result, results: list[Result]) -> float | None:
    """How many times the rate of Aerogram at the same work; above 1 is faster."""
    for other in results:
        if other.peer == YARDSTICK and other.work == result.work and other.rate and result.rate:
            return result.rate / other.rate
    return None


def as_json(results: list[Result]) -> str:
    rows = [
        {**asdict(row), "lost": row.lost, "ratio_to_aerogram": ratio(row, results)}
        for row in results
    ]
    machine = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.platform(),
    }
    document = {"message_bytes": MESSAGE_BYTES, "machine": machine, "results": rows}
    return json.dumps(document, indent=2)


def as_table(results: list[Result]) -> str:
    header = ("work", "peer", "messages/s", "x aerogram", "p50 us", "p99 us", "lost", "promises")
    rows = [header, *(cells(row, results) for row in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if 2 <= column <= 6 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def cells(result: Result, results: list[Result]) -> tuple[str, ...]:
    if result.status != "ok":
        note = f"{result.status}: {result.detail}" if result.detail else result.status
        return (result.work, result.peer, "-", "-", "-", "-", "-", note)
    return (
        result.work,
        result.peer,
        number(result.rate, ",.0f"),
        number(ratio(result, results), ".2f"),
        number(result.p50_microseconds, ".0f"),
        number(result.p99_microseconds, ".0f"),
        str(result.lost),
        result.promises,
    )


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main(arguments: list[str] | None = None) -> int:
    options = parsed_arguments(arguments)
    results = measured(options)
    print(as_json(results) if options.json else as_table(results))
    return 1 if any(row.status == "failed" for row in results) else 0


if __name__ == "__main__":
    sys.exit(main())
