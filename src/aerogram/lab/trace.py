"""What became of every datagram of a network, and one hash over all of it.

A simulated network writes its own trace. One for real sockets is given to whatever opens them, as
`trace=` (it is an `aerogram.io.tracing.Observer`), and has what these see: sent and received.

The hash proves that two runs were the same: it covers times, addresses, contents and fates of all
datagrams, and nothing that differs between Python versions, processes or hash seeds. Rules: memory
is bounded, so only the last entries are kept, while hash and counters cover every one; recording a
datagram costs about as much as sending it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import deque
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from aerogram.io.sockets import LARGEST_PAYLOAD_BYTES, Address, is_numeric
from aerogram.lab.pcapng import Direction, Packet, write_packets

ENTRIES_LIMIT: Final = 100_000
"""Entries that a trace keeps, unless told otherwise."""

EPOCH: Final = 1_767_225_600.0
"""2026-01-01 00:00 UTC: the Unix time at which simulated clocks and captures start."""

_TIME_AND_SIZE: Final = struct.Struct("<qI")


class Flow:
    """The sender and the two addresses of a datagram, as they are recorded."""

    __slots__ = ("destination", "label", "sender", "source")

    def __init__(self, sender: str, source: Address, destination: Address) -> None:
        self.sender = sender
        self.source = source
        self.destination = destination
        self.label = f"{source[0]} {source[1]} {destination[0]} {destination[1]}\0".encode()
        """What of it is in the hash."""


_NOBODY: Final = Flow("", ("", 0), ("", 0))

HERE: Final = "here"
THERE: Final = "there"
"""What this program and its peers are called where sockets are real."""

_RawEntry = tuple[float, float, Flow, str, int, str, str, bytes | None]


class Entry(NamedTuple):
    """What became of one copy of a datagram, or a note of something that happened."""

    at: float
    """When it arrived or was dropped, in seconds of the event loop's clock; of real sockets, in
    seconds since the first entry."""
    sent_at: float
    sender: str
    """The name of the host."""
    source: Address
    """As the receiver sees it: behind a NAT, the NAT's address."""
    receiver: str
    """The name of the host, or what is known of it."""
    destination: Address
    """As the sender gave it."""
    size: int
    """Bytes of the datagram, without headers."""
    fate: str
    """`delivered`, `dropped` or `note`; at real sockets `sent` or `received` for the first."""
    reason: str
    """Why it was dropped; what the link did to a delivered one, mostly nothing; a note's text."""
    data: bytes | None
    """The datagram, if the trace keeps packets."""


class Trace:
    """Every datagram's fate. `keep_packets` holds their bytes too, for `as_pcapng`."""

    def __init__(self, *, entries_limit: int = ENTRIES_LIMIT, keep_packets: bool = False) -> None:
        self.keep_packets = keep_packets
        self.sent = 0
        """Datagrams given to the network, one for each receiver."""
        self.duplicated = 0
        """Copies that links made beyond the first."""
        self.delivered = 0
        """Copies that reached a socket."""
        self.received = 0
        """Datagrams that real sockets gave."""
        self.dropped: dict[str, int] = {}
        """Copies that did not, by reason."""
        self.remarks: dict[str, int] = {}
        """What links did to copies that they delivered: duplicate, reordered, corrupt."""
        self._entries: deque[_RawEntry] = deque(maxlen=entries_limit)
        self._hash = hashlib.blake2b(digest_size=16)
        self._reasons: dict[tuple[str, str], bytes] = {}
        self._began: float | None = None

    @property
    def hash(self) -> str:
        """The hash over all entries so far, in hexadecimal."""
        return self._hash.copy().hexdigest()

    @property
    def entries(self) -> list[Entry]:
        """The last entries, oldest first."""
        return [_entry(*raw) for raw in self._entries]

    # Recording

    def record(
        self,
        at: float,
        sent_at: float,
        flow: Flow,
        receiver: str,
        data: bytes,
        fate: Literal["delivered", "dropped"],
        reason: str,
    ) -> None:
        """Add what became of one copy; the arguments are as in `Entry`."""
        if fate == "delivered":
            self.delivered += 1
            if reason:
                self._count_remarks(reason)
        else:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self._add(at, sent_at, flow, receiver, data, fate, reason)

    def _add(
        self,
        at: float,
        sent_at: float,
        flow: Flow,
        receiver: str,
        data: bytes,
        fate: str,
        reason: str,
    ) -> None:
        size = len(data)
        self._hash.update(
            # Whole nanoseconds: the last bits of a float are not worth a different hash.
            _TIME_AND_SIZE.pack(int(at * 1e9 + 0.5), size)
            + flow.label
            + (self._reasons.get((fate, reason)) or self._reason(fate, reason))
            + data
        )
        kept = data if self.keep_packets else None
        self._entries.append((at, sent_at, flow, receiver, size, fate, reason, kept))

    def note(self, at: float, text: str) -> None:
        """Add something that happened, such as a partition."""
        self._hash.update(_TIME_AND_SIZE.pack(int(at * 1e9 + 0.5), 0) + f"note {text}\0".encode())
        self._entries.append((at, at, _NOBODY, "", 0, "note", text, None))

    # Recording real sockets: `aerogram.io.tracing.Observer`

    def observe(
        self,
        at: float,
        source: Address,
        destination: Address,
        data: bytes,
        *,
        outbound: bool,
        dropped: str = "",
    ) -> None:
        """Add a datagram of a real socket; `at` is in seconds since 1970."""
        if dropped:
            self.dropped[dropped] = self.dropped.get(dropped, 0) + 1
        elif outbound:
            self.sent += 1
        else:
            self.received += 1
        sender, receiver = (HERE, THERE) if outbound else (THERE, HERE)
        fate = "dropped" if dropped else "sent" if outbound else "received"
        since = self._since_first(at)
        self._add(since, since, Flow(sender, source, destination), receiver, data, fate, dropped)

    def remark(self, at: float, text: str) -> None:
        """Add something that happened, such as an ICMP error; `at` is in seconds since 1970."""
        self.note(self._since_first(at), text)

    def _since_first(self, at: float) -> float:
        if self._began is None:
            self._began = at
        # The kernel may have dated it before what was told first.
        return max(0.0, at - self._began)

    def _count_remarks(self, reason: str) -> None:
        for remark in reason.split(","):
            self.remarks[remark] = self.remarks.get(remark, 0) + 1

    def _reason(self, fate: str, reason: str) -> bytes:
        encoded = self._reasons[fate, reason] = f"{fate} {reason}\0".encode()
        return encoded

    # Export

    def as_text(self, *, last: int | None = None) -> str:
        """Return a line for each kept entry, and the counters and the hash below.

        With `last` only so many entries, the newest.
        """
        entries = self.entries
        first = 0 if last is None else max(0, len(entries) - last)
        lines = [_line(entry) for entry in entries[first:]]
        drops = [f"{count} {reason}" for reason, count in sorted(self.dropped.items())]
        remarks = [f"{count} {remark}" for remark, count in sorted(self.remarks.items())]
        dropped = "dropped: " + (", ".join(drops) or "none")
        if self._began is not None:
            lines += [f"sent {self.sent}, received {self.received}", dropped]
        else:
            counts = f"duplicated {self.duplicated}, delivered {self.delivered}"
            lines += [f"sent {self.sent}, {counts}", dropped]
            lines.append("delivered, but: " + (", ".join(remarks) or "none"))
        lines.append(f"hash {self.hash}")
        return "\n".join(lines) + "\n"

    def as_json(self) -> str:
        """Return an object with the counters, the hash, and an array of the kept entries."""
        return json.dumps(
            {
                "hash": self.hash,
                "sent": self.sent,
                "duplicated": self.duplicated,
                "delivered": self.delivered,
                "received": self.received,
                "dropped": dict(sorted(self.dropped.items())),
                "remarks": dict(sorted(self.remarks.items())),
                "entries": [_fields(entry) for entry in self.entries],
            }
        )

    def as_pcapng(self, path: str | Path, *, host: str | None = None) -> int:
        """Write the kept datagrams for Wireshark and tshark; return how many.

        Each has a comment with its fate, and a direction: of those of one `host`, which it sent and
        which it received; otherwise delivered ones are inbound, at their receiver, and dropped ones
        outbound, at their sender. The datagrams of real sockets have theirs, and real times; what
        is in no IP packet, of an AF_UNIX socket or too large, is left out. Raises `ValueError` if
        the trace does not keep packets.
        """
        if not self.keep_packets:
            raise ValueError("the trace has no packets: make it with keep_packets=True")
        is_real = self._began is not None
        epoch = EPOCH if self._began is None else self._began
        packets = [
            _packet(entry, HERE if host is None and is_real else host, epoch)
            for entry in self.entries
            if entry.data is not None
            and host in (None, entry.sender, entry.receiver)
            and (not is_real or _was_ip(entry))
        ]
        packets.sort(key=lambda packet: packet.time)
        write_packets(path, packets, *(["real sockets"] if is_real else []))
        return len(packets)


def _was_ip(entry: Entry) -> bool:
    """Whether a datagram can have been in an IP packet."""
    if entry.size > LARGEST_PAYLOAD_BYTES:
        return False
    return is_numeric(entry.source[0]) and is_numeric(entry.destination[0])


def _entry(
    at: float,
    sent_at: float,
    flow: Flow,
    receiver: str,
    size: int,
    fate: str,
    reason: str,
    data: bytes | None,
) -> Entry:
    source, destination = flow.source, flow.destination
    return Entry(at, sent_at, flow.sender, source, receiver, destination, size, fate, reason, data)


def _line(entry: Entry) -> str:
    if entry.fate == "note":
        return f"{entry.at:14.6f}  -- {entry.reason}"
    return (
        f"{entry.at:14.6f}  {entry.sender} {_endpoint(entry.source)} >"
        f" {entry.receiver} {_endpoint(entry.destination)}  {entry.size} B  {_describe(entry)}"
    )


def _describe(entry: Entry) -> str:
    if entry.fate == "dropped":
        return f"dropped: {entry.reason}"
    if entry.fate != "delivered":
        return entry.fate
    took = f"delivered in {(entry.at - entry.sent_at) * 1e3:.3f} ms"
    return f"{took}, {entry.reason}" if entry.reason else took


def _endpoint(address: Address) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _fields(entry: Entry) -> dict[str, Any]:
    if entry.fate == "note":
        return {"at": entry.at, "fate": entry.fate, "reason": entry.reason}
    return entry._asdict() | {
        "source": _endpoint(entry.source),
        "destination": _endpoint(entry.destination),
        "data": None if entry.data is None else entry.data.hex(),
    }


def _packet(entry: Entry, host: str | None, epoch: float) -> Packet:
    assert entry.data is not None
    outbound = entry.fate == "dropped" if host is None else entry.sender == host
    return Packet(
        time=epoch + (entry.sent_at if host is not None and outbound else entry.at),
        source=entry.source,
        destination=entry.destination,
        data=entry.data,
        direction=Direction.OUTBOUND if outbound else Direction.INBOUND,
        comment=f"{entry.sender} > {entry.receiver}: {_describe(entry)}",
    )
