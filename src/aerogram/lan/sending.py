"""`MulticastSender`: a program that sends to a group, with the members it has let in.

The protocol is `stream.sender`; here are its socket, its tasks, and what comes over sessions.
Rules: who joins has a session that was admitted; who leaves, is expelled or whose session ends is
followed by a new key; what the network or a peer does never ends the sender.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from aerogram import messages as codec
from aerogram.config import check_timeout
from aerogram.errors import EndpointClosed, Rejected
from aerogram.io.arrivals import Waiters
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.multicast import InterfaceName
from aerogram.io.network import Network, SocketNetwork
from aerogram.lan.alarm import Alarm, cancel
from aerogram.lan.group_socket import LOCAL_NETWORK_TTL, checked_group, open_group
from aerogram.lan.invitations import Invitation, Join, Keys, KeysAfter, Leave, Report
from aerogram.lan.stream import wire
from aerogram.lan.stream.config import MulticastConfig
from aerogram.lan.stream.keys import KEY_BYTES
from aerogram.lan.stream.members import Member
from aerogram.lan.stream.sender import SenderStats, Start, StreamSender
from aerogram.session import Session

_LOGGER: Final = logging.getLogger("aerogram.lan")

DATAGRAMS_PER_TURN: Final = 256
"""Received ones, before the loop goes on."""

Work = Callable[[StreamSender, DatagramEndpoint], Awaitable[None]]

EXPELLED: Final = "no longer a member"
NOT_ADMITTED: Final = "not admitted to this stream"
NO_STREAM: Final = "there is no such stream now"


@dataclass(frozen=True, slots=True)
class MemberStats:
    """A receiver as the sender sees it: a snapshot."""

    session: Session[Any]
    identity: int
    joined_at: float
    """By the event loop's clock."""
    heard_at: float
    """When it told last how it fares."""
    first_missing: int
    """It has every packet below this number; the newest is `MulticastSender.next_packet` - 1."""
    messages_received: int
    messages_lost: int
    nacks: int
    """Requests for repairs that were taken from it."""
    nacks_capped: int
    """Requests beyond its rate, which were ignored."""
    repairs: int
    """Packets that were sent again because it asked."""
    rtt: float
    """The round trip to it in seconds."""


class MulticastSender:
    """Sends messages to all receivers of a group at once: `async with MulticastSender(...)`.

    Receivers reach it over sessions of an app, for which `multicast.invitations(app, sender)` makes
    the app answer; `name` tells several senders of an app apart. Only sessions that were admitted
    may join. `interface` is what it sends by and hears requests on (default: the system chooses).

    Leaving the context sends what is waiting, and repairs for `config.linger_seconds` unless all
    members have everything. Opened again it is another stream, which receivers join anew.

    Raises `InvalidAddress` for what is no group or port, on entering also `OSError`.
    """

    def __init__(
        self,
        group: str,
        port: int,
        *,
        name: str = "",
        interface: InterfaceName | None = None,
        ttl: int = LOCAL_NETWORK_TTL,
        loop: bool = True,
        config: MulticastConfig | None = None,
        network: Network | None = None,
    ) -> None:
        self.name = name
        self.config = config or MulticastConfig()
        self._target = checked_group(group, port)
        self._interface = interface
        self._ttl = ttl
        self._hears_itself = loop
        self._network = network or SocketNetwork()
        self._admitted: dict[Session[Any], dict[int, Member]] = {}
        """Admitted sessions, each with the receivers it has joined with."""
        self._core: StreamSender | None = None
        self._broken_by: Exception | None = None
        self._send_fails = False
        self._stats = SenderStats()
        self._stack = contextlib.AsyncExitStack()

    # Who receives

    def admit(self, session: Session[Any]) -> None:
        """Let a session join. Harmless if it may already; a closed one is not let in."""
        if not session.closed:
            self._admitted.setdefault(session, {})

    def expel(self, session: Session[Any]) -> None:
        """Let a session read nothing that is sent from now on. It stays open. Harmless if unknown.

        What was sent before may still be read by it: it had the key.
        """
        if self._forget(session) and self._core is not None:
            self._rekey(self._core)

    @property
    def members(self) -> list[MemberStats]:
        """All receivers and how they fare."""
        return [
            MemberStats(
                session,
                member.identity,
                member.joined_at,
                member.heard_at,
                member.first_missing,
                member.messages_received,
                member.messages_lost,
                member.nacks,
                member.nacks_capped,
                member.repairs,
                member.rtt,
            )
            for session, members in self._admitted.items()
            for member in members.values()
        ]

    @property
    def stats(self) -> SenderStats:
        """What was counted since the sender was opened."""
        return self._stats

    @property
    def epoch(self) -> int:
        """How many times the group has got a new key. Raises `EndpointClosed`."""
        return self._opened().keys.epoch

    @property
    def next_packet(self) -> int:
        """The number of the packet to be sent next. Raises `EndpointClosed`."""
        return self._opened().history.next

    @property
    def rtt(self) -> float:
        """The round trip of the group in seconds: of its slowest member. As `next_packet`."""
        return self._opened().members.rtt

    # Sending

    async def send(self, message: object) -> int:
        """Queue a message for all members; waits while the queue is full. Returns its number.

        Messages are sent in order, at `config.rate_bytes_per_second`, and count from 0. Raises
        `InvalidMessage`, `MessageTooLarge`, or `EndpointClosed`.
        """
        payload = codec.encode(message)
        core = self._opened()
        core.check_size(len(payload))
        while not core.has_room(len(payload)):
            await self._room.wait()
            if self._opened() is not core:
                raise EndpointClosed("the sender was closed and opened again")
        number = core.send(payload)
        self._alarm.ring()
        return number

    async def drain(self, *, timeout: float | None = None) -> None:
        """Wait until every member has everything, or has lost it for good.

        Raises `TimeoutError` after `timeout` seconds, `EndpointClosed`, or `ValueError` or
        `TypeError` for a timeout that is none.
        """
        check_timeout(timeout)
        core = self._opened()
        core.ask_for_reports(self._loop.time())
        self._alarm.ring()
        async with asyncio.timeout(timeout):
            while not core.is_complete:
                await self._progress.wait()
                self._opened()

    def _opened(self) -> StreamSender:
        if self._core is None or self._core.is_ending:
            raise EndpointClosed("the multicast sender is not open") from self._broken_by
        return self._core

    # Opening and closing

    async def __aenter__(self) -> Self:
        if self._core is not None:
            raise RuntimeError("the multicast sender is open already")
        async with contextlib.AsyncExitStack() as opening:
            self._loop = asyncio.get_running_loop()
            endpoint = await opening.enter_async_context(
                open_group(
                    *self._target[:2],
                    interface=self._interface,
                    send_by=self._interface,
                    ttl=self._ttl,
                    loop=self._hears_itself,
                    network=self._network,
                )
            )
            self._alarm = Alarm()
            self._room = Waiters(self._loop)
            self._progress = Waiters(self._loop)
            core = self._core = self._new_stream()
            self._stats = core.stats
            self._broken_by = None
            for work in (self._pump, self._receive):
                task = self._loop.create_task(self._guard(work, core, endpoint))
                opening.push_async_callback(cancel, task)
            opening.callback(self._close, core)
            self._stack = opening.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._core is not None:
                await self._end(self._core, linger=error is None)
        finally:
            await self._stack.aclose()

    def _new_stream(self) -> StreamSender:
        stream = self._network.random_bytes(wire.STREAM_BYTES)
        key = self._network.random_bytes(KEY_BYTES)
        return StreamSender(self.config, stream, key, self._loop.time())

    async def _end(self, core: StreamSender, *, linger: bool) -> None:
        """Say that it is over, and repair until all have left, content, or time is up."""
        core.end(self._loop.time())
        self._room.wake()
        self._alarm.ring()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.linger_seconds if linger else 0.0):
                while self._core is core and (core.members or not core.has_ended):
                    await self._progress.wait()

    def _close(self, core: StreamSender) -> None:
        if self._core is not core:
            return
        self._core = None
        for members in self._admitted.values():
            members.clear()
        self._room.wake()
        self._progress.wake()

    # Tasks

    async def _guard(self, work: Work, core: StreamSender, endpoint: DatagramEndpoint) -> None:
        """Let whoever waits for the sender know if it breaks."""
        try:
            await work(core, endpoint)
        except Exception as error:
            self._broken_by = error
            self._close(core)

    async def _pump(self, core: StreamSender, endpoint: DatagramEndpoint) -> None:
        """Send what is due, when it is due."""
        now = self._loop.time()
        while True:
            if core.needs_key(now):
                self._rekey(core)
            for datagram in core.poll_transmit(now):
                await self._transmit(core, endpoint, datagram)
            if self._room and core.has_room(self.config.send_queue_bytes // 2):
                self._room.wake()
            if self._progress and (core.is_complete or core.has_ended):
                self._progress.wake()
            now = await self._alarm.wait(core.poll_timeout(now))

    async def _transmit(
        self, core: StreamSender, endpoint: DatagramEndpoint, datagram: bytes
    ) -> None:
        try:
            await endpoint.send(datagram, self._target)
            self._send_fails = False
        except OSError as error:  # no route, the interface is down: as if it was lost on the way
            core.stats.sends_failed += 1
            if not self._send_fails:
                self._send_fails = True
                _LOGGER.warning("nothing can be sent to %s now: %s", self._target[0], error)

    async def _receive(self, core: StreamSender, endpoint: DatagramEndpoint) -> None:
        while True:
            datagrams = await endpoint.receive_many()
            for index, datagram in enumerate(datagrams, 1):
                core.receive_datagram(datagram.data, self._loop.time())
                if index % DATAGRAMS_PER_TURN == 0:
                    await asyncio.sleep(0)
            if core.has_news:
                self._alarm.ring()

    def _rekey(self, core: StreamSender) -> None:
        core.rekey(self._network.random_bytes(KEY_BYTES), self._loop.time())
        self._alarm.ring()

    # What comes over sessions; `multicast.invitations` makes an app call these

    def joined(self, session: Session[Any], join: Join) -> Invitation:
        """Let a receiver in. Raises `Rejected`."""
        core = self._core
        if core is None or core.is_ending:
            raise Rejected(NO_STREAM)
        members = self._admitted.get(session)
        if members is None or session.closed:
            raise Rejected(NOT_ADMITTED)
        if join.version != wire.VERSION:
            raise Rejected(f"this sender speaks version {wire.VERSION}, not {join.version}")
        if join.start not in ("newest", "oldest"):
            raise Rejected(f"no place to start: {join.start}")
        if len(members) >= self.config.members_per_session or core.members.is_full:
            raise Rejected("too many receivers")
        now = self._loop.time()
        start: Start = "oldest" if join.start == "oldest" else "newest"
        member, sequence = core.admit(start, session.stats.rtt, now)
        members[member.identity] = member
        self._alarm.ring()
        return Invitation(
            core.stream,
            member.identity,
            str(self._target[0]),
            self._target[1],
            core.keys.since(core.keys.epoch - 1),
            sequence,
            member.first_message,
            core.history.next,
            core.members.rtt,
            len(core.members),
        )

    def has_stream(self, stream: bytes) -> bool:
        """Whether this is the stream that is being sent now."""
        return self._core is not None and self._core.stream == stream

    def keys_after(self, session: Session[Any], request: KeysAfter) -> Keys:
        """The keys that a member lacks. Raises `Rejected`."""
        core = self._core
        if core is None:
            raise Rejected(NO_STREAM)
        if request.member not in self._admitted.get(session, {}):
            raise Rejected(EXPELLED)
        return Keys(core.keys.since(request.epoch))

    def reported(self, session: Session[Any], report: Report) -> None:
        """A member tells how it fares."""
        core = self._core
        member = self._admitted.get(session, {}).get(report.member)
        if core is None or member is None or report.stream != core.stream:
            return
        echo = wire.Echo(report.first_missing, report.newest, report.age)
        core.heard(member, echo, self._loop.time())
        member.messages_received = report.messages_received
        member.messages_lost = report.messages_lost
        if self._progress and core.is_complete:
            self._progress.wake()

    def left(self, session: Session[Any], leave: Leave) -> None:
        """A member stops; its session stays admitted."""
        core = self._core
        members = self._admitted.get(session, {})
        if core is None or leave.stream != core.stream or leave.member not in members:
            return
        del members[leave.member]
        self._dismiss(core, leave.member)

    def session_closed(self, session: Session[Any]) -> None:
        """A session has ended: so have its receivers."""
        self._forget(session)

    def _forget(self, session: Session[Any]) -> bool:
        """Withdraw a session's admission. True if it had receivers."""
        members = self._admitted.pop(session, {})
        for identity in members:
            if self._core is not None:
                self._dismiss(self._core, identity)
        return bool(members)

    def _dismiss(self, core: StreamSender, identity: int) -> None:
        core.dismiss(identity)
        self._progress.wake()
        self._alarm.ring()
