"""A syslog collector (RFC 5424 and RFC 3164): `python examples/syslog_server.py [PORT]`.

Try it: `logger --server 127.0.0.1 --port 5514 --udp "hello"`. A datagram is one line of a log, so
nothing has to be taken apart: record boundaries are kept.
"""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import dataclass

from aerogram import Datagram, open_endpoint

SEVERITIES = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
RFC5424 = re.compile(
    r"<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) (?:-|(?:\[.*?\])+) ?(.*)", re.DOTALL
)
RFC3164 = re.compile(
    r"<(\d{1,3})>(\w{3} [ \d]\d \d\d:\d\d:\d\d) (\S+) "
    r"([^:\[]{1,64})(?:\[[^\]]{0,64}\])?: ?(.*)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Entry:
    facility: int
    severity: str
    time: str
    host: str
    program: str
    text: str


def parsed(datagram: Datagram) -> Entry:
    """What an entry says. Something that is no syslog is an entry all the same (RFC 3164 §4.3)."""
    line = datagram.data.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\n\x00")
    if found := RFC5424.fullmatch(line):
        priority, time, host, program, _, _, text = found.groups()
    elif found := RFC3164.fullmatch(line):
        priority, time, host, program, text = found.groups()
    else:
        return Entry(1, "notice", "-", str(datagram.address[0]), "-", line)
    facility, severity = divmod(int(priority), 8)
    return Entry(facility, SEVERITIES[severity], time, host, program, text.lstrip("\ufeff"))


async def main(port: int) -> None:
    async with open_endpoint("127.0.0.1", port) as endpoint:
        print(f"listening on port {endpoint.local_address[1]}", flush=True)
        async for datagram in endpoint:
            entry = parsed(datagram)
            print(f"{entry.severity:9} {entry.host} {entry.program}: {entry.text}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5514))
