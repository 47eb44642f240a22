"""An SNTP client and server (RFC 4330 on the NTPv4 packet of RFC 5905) on `open_endpoint`.

The client's random transmit timestamp is its proof that an answer is to its own question; what does
not carry it back is ignored. The server answers a question with as many bytes as it had, or fewer,
tells those that ask too often so (the kiss-o'-death RATE), and then falls silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aerogram.clock.packet import (
    UNSYNCHRONISED,
    Mode,
    NtpPacket,
    decode_untrusted,
    from_timestamp,
    to_timestamp,
)
from aerogram.config import check_timeout
from aerogram.core.clock import DRIFT_LIMIT, ClockFilter
from aerogram.errors import AerogramError, DecodeError
from aerogram.io.datagram import Datagram
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.network import Network, SocketNetwork
from aerogram.io.opening import open_endpoint
from aerogram.io.sockets import Address

NTP_PORT: Final = 123
STRATUM_LIMIT: Final = 15
"""16 and more mean "not synchronised" (RFC 5905 §7.3)."""
GRANULARITY_SECONDS: Final = 1e-6
"""Of wall clocks as Python reads them."""
ADDRESSES_LIMIT: Final = 4096
"""Askers whose rate a server remembers; beyond, the one not heard of for longest is forgotten."""

Clock = Callable[[], float]
"""Seconds since 1970."""


class SntpError(AerogramError):
    """The server gave no time that can be used."""


class KissOfDeath(SntpError):
    """The server asks its client to stop or slow down (RFC 5905 §7.4); `code` is RATE, DENY, ..."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the server refuses: {code!r}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one or several exchanges with a server say of the local clock."""

    offset: float
    """Seconds to add to the local clock to get the server's."""
    error_bound: float
    """How far the true offset from the server's clock can be from `offset`, in seconds."""
    delay: float
    """The shortest round trip, in seconds."""
    stratum: int
    """How far the server is from a reference clock."""
    leap: int
    root_delay: float
    root_dispersion: float
    """How far the server itself may be off, in seconds."""
    reference_id: bytes
    exchanges: int


@dataclass(slots=True)
class _Exchange:
    answer: NtpPacket
    t1: float
    t2: float
    t3: float
    t4: float


async def query(
    host: str,
    port: int = NTP_PORT,
    *,
    samples: int = 4,
    timeout: float = 1.0,
    tries: int = 3,
    clock: Clock | None = None,
    drift_limit: float = DRIFT_LIMIT,
    network: Network | None = None,
) -> Measurement:
    """Ask a server for the time, `samples` times, and combine the answers.

    Each question waits `timeout` seconds and is repeated up to `tries` times, waiting longer each
    time. `clock` is the local clock (default: `time.time`; in a simulated network the loop's).
    Raises `TimeoutError` if nothing usable comes, `KissOfDeath`, `SntpError` for a server that does
    not know the time, `InvalidAddress`, or `OSError` for an unknown name.
    """
    check_timeout(timeout)
    if samples < 1 or tries < 1:
        raise ValueError("samples and tries are at least 1")
    here = clock or _clock_of(network)
    names = network or SocketNetwork()
    address = (await names.resolve(host, port))[0]
    wildcard = "::" if ":" in address[0] else "0.0.0.0"  # noqa: S104
    filtered = ClockFilter(granularity=GRANULARITY_SECONDS, drift_limit=drift_limit)
    exchanges: list[_Exchange] = []
    async with open_endpoint(wildcard, 0, network=network) as endpoint:
        asker = _Asker(endpoint, address, here, _clock_of(network), names)
        for _ in range(samples):
            exchange = await asker.ask(timeout, tries)
            filtered.exchanged(exchange.t1, exchange.t2, exchange.t3, exchange.t4)
            exchanges.append(exchange)
    return _measured(filtered, exchanges)


def _measured(filtered: ClockFilter, exchanges: list[_Exchange]) -> Measurement:
    last = exchanges[-1]
    if not filtered.synchronised:
        raise SntpError("the server's times cannot be: it answered before it was asked")
    return Measurement(
        offset=filtered.offset(last.t4),
        error_bound=filtered.error_bound(last.t4),
        # While the clock was set back nothing was measured: the filter drops that, too.
        delay=min(_round_trip(each) for each in exchanges if each.t4 >= each.t1),
        stratum=last.answer.stratum,
        leap=last.answer.leap,
        root_delay=last.answer.root_delay,
        root_dispersion=last.answer.root_dispersion,
        reference_id=last.answer.reference_id,
        exchanges=len(exchanges),
    )


def _round_trip(exchange: _Exchange) -> float:
    """Without the time that the server took; clocks that read in steps could make it negative."""
    return max(0.0, (exchange.t4 - exchange.t1) - (exchange.t3 - exchange.t2))


def _clock_of(network: Network | None) -> Clock:
    return time.time if network is None else asyncio.get_running_loop().time


class _Asker:
    """Asks one server, one question after the other."""

    def __init__(
        self,
        endpoint: DatagramEndpoint,
        address: Address,
        clock: Clock,
        stamps: Clock,
        network: Network,
    ) -> None:
        self._endpoint = endpoint
        self._address = address
        self._clock = clock
        self._stamps = stamps
        self._network = network

    async def ask(self, timeout: float, tries: int) -> _Exchange:
        """One exchange. Raises `TimeoutError`, `KissOfDeath` or `SntpError`."""
        for attempt in range(tries):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout * (1 << attempt)):
                    return await self._ask_once()
        raise TimeoutError(f"no time from {self._address[0]} port {self._address[1]}")

    async def _ask_once(self) -> _Exchange:
        token = int.from_bytes(self._network.random_bytes(8), "big") or 1
        question = NtpPacket(mode=Mode.CLIENT, transmit=token).encode()
        t1 = self._clock()
        await self._endpoint.send(question, self._address)
        while True:
            datagram = await self._endpoint.receive()
            t4 = _arrived_at(datagram, self._clock, self._stamps)
            answer = self._genuine(datagram, token)
            if answer is not None:
                _check(answer)
                t2 = from_timestamp(answer.receive, t4)
                t3 = from_timestamp(answer.transmit, t4)
                return _Exchange(answer, t1, t2, t3, t4)

    def _genuine(self, datagram: Datagram, token: int) -> NtpPacket | None:
        if datagram.address[:2] != self._address[:2]:
            return None
        try:
            answer = decode_untrusted(datagram.data)
        except DecodeError:
            return None
        return answer if answer.mode == Mode.SERVER and answer.origin == token else None


def _check(answer: NtpPacket) -> None:
    """RFC 4330 §5: what no answer may be. Raises `KissOfDeath` or `SntpError`."""
    if answer.stratum == 0:
        raise KissOfDeath(answer.reference_id.decode("ascii", "replace").rstrip("\x00"))
    if answer.leap == UNSYNCHRONISED or answer.stratum > STRATUM_LIMIT:
        raise SntpError("the server does not know the time")
    if answer.transmit == 0 or answer.receive == 0:
        raise SntpError("the server gave no time")


def _arrived_at(datagram: Datagram, clock: Clock, stamps: Clock) -> float:
    """When a datagram arrived, by `clock`: now, less what it has waited here.

    `stamps` is the clock of `datagram.received_at`: a loop's own may go in milliseconds.
    """
    waited = stamps() - datagram.received_at
    return clock() - max(waited, 0.0)


@dataclass(slots=True)
class SntpStats:
    """What a server has counted."""

    answered: int = 0
    limited: int = 0
    """Told to slow down."""
    silenced: int = 0
    """Not answered at all: they were told a moment ago."""
    malformed: int = 0
    """No question that NTP knows."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How often one address may ask: `burst` at once, then one each `interval_seconds`."""

    burst: int = 8
    interval_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.burst < 1 or not 0 < self.interval_seconds < float("inf"):
            raise ValueError("a burst is at least 1 and an interval above 0")


class SntpServer:
    """A running server. Users get it from `serve_time`."""

    def __init__(
        self,
        endpoint: DatagramEndpoint,
        clock: Clock,
        stamps: Clock,
        stratum: int,
        reference_id: bytes,
        limit: RateLimit | None,
    ) -> None:
        self.stats = SntpStats()
        self._endpoint = endpoint
        self._clock = clock
        self._stamps = stamps
        self._stratum = stratum
        self._reference_id = reference_id
        self._limit = limit
        self._askers: OrderedDict[str, list[float]] = OrderedDict()

    @property
    def address(self) -> Address:
        """Where it answers: (host, port)."""
        return self._endpoint.local_address

    async def run(self) -> None:
        """Answer until the endpoint is closed."""
        async for datagram in self._endpoint:
            answer = self._answer(datagram)
            if answer is not None:
                with contextlib.suppress(OSError):
                    await datagram.reply(answer)

    def _answer(self, datagram: Datagram) -> bytes | None:
        try:
            question = decode_untrusted(datagram.data)
        except DecodeError:
            self.stats.malformed += 1
            return None
        if question.mode != Mode.CLIENT:
            self.stats.malformed += 1
            return None
        if self._limit is not None and not self._may_ask(datagram.address[0], self._limit):
            return self._refuse(datagram.address[0], question)
        self.stats.answered += 1
        return self._time(question, _arrived_at(datagram, self._clock, self._stamps))

    def _time(self, question: NtpPacket, arrived_at: float) -> bytes:
        now = self._clock()
        return NtpPacket(
            version=question.version,
            mode=Mode.SERVER,
            stratum=self._stratum,
            poll=question.poll,
            precision=-20,
            root_dispersion=0.001,
            reference_id=self._reference_id,
            reference=to_timestamp(now),
            origin=question.transmit,
            receive=to_timestamp(arrived_at),
            transmit=to_timestamp(now),
        ).encode()

    def _may_ask(self, host: str, limit: RateLimit) -> bool:
        """A token bucket for each host: [tokens, when they were counted, when it was refused]."""
        now = asyncio.get_running_loop().time()
        bucket = self._askers.setdefault(host, [float(limit.burst), now, float("-inf")])
        self._askers.move_to_end(host)
        if len(self._askers) > ADDRESSES_LIMIT:
            self._askers.popitem(last=False)
        gained = (now - bucket[1]) / limit.interval_seconds
        bucket[0] = min(bucket[0] + gained, float(limit.burst))
        bucket[1] = now
        if bucket[0] < 1.0:
            return False
        bucket[0] -= 1.0
        return True

    def _refuse(self, host: str, question: NtpPacket) -> bytes | None:
        assert self._limit is not None
        bucket = self._askers[host]
        now = asyncio.get_running_loop().time()
        if now < bucket[2] + self._limit.interval_seconds:
            self.stats.silenced += 1
            return None
        bucket[2] = now
        self.stats.limited += 1
        return NtpPacket(
            leap=UNSYNCHRONISED,
            version=question.version,
            mode=Mode.SERVER,
            poll=question.poll,
            reference_id=b"RATE",
            origin=question.transmit,
            transmit=to_timestamp(self._clock()),
        ).encode()


@asynccontextmanager
async def serve_time(
    host: str = "127.0.0.1",
    port: int = NTP_PORT,
    *,
    clock: Clock | None = None,
    stratum: int = 8,
    reference_id: bytes = b"LOCL",
    limit: RateLimit | None = RateLimit(),
    network: Network | None = None,
) -> AsyncGenerator[SntpServer]:
    """Serve the time of `clock` (default: `time.time`; in a simulated network the loop's).

    `stratum` says how far the clock is from a reference, 1 to 15; `limit=None` answers everybody
    always. Raises `ValueError`, `InvalidAddress`, or the `OSError` of the bind.
    """
    if not 1 <= stratum <= STRATUM_LIMIT or len(reference_id) != 4:
        raise ValueError("a stratum is 1 to 15, a reference id has 4 bytes")
    here = clock or _clock_of(network)
    async with open_endpoint(host, port, network=network) as endpoint:
        server = SntpServer(endpoint, here, _clock_of(network), stratum, reference_id, limit)
        answering = asyncio.create_task(server.run(), name="sntp server")
        try:
            yield server
        finally:
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering
