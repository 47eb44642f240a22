"""`MulticastReceiver`: a program that joins a stream over its session, and iterates over it.

The protocol is `stream.receiver`; here are its socket, its timer and its tasks. Rules: what the
network brings raises nothing; messages and gaps come out in one iteration, so that nothing is lost
in silence; new keys are asked for over the session when packets come that need them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from aerogram import messages as codec
from aerogram.errors import (
    ClosedByPeer,
    ClosedLocally,
    DecodeError,
    EndpointClosed,
    Rejected,
    RequestFailed,
    SessionClosed,
)
from aerogram.io.arrivals import Waiters
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.multicast import InterfaceName
from aerogram.io.network import Network, SocketNetwork
from aerogram.io.sockets import Address
from aerogram.lan.alarm import Alarm, cancel
from aerogram.lan.errors import Expelled, StreamLost
from aerogram.lan.group_socket import LOCAL_NETWORK_TTL, open_group
from aerogram.lan.invitations import Invitation, Join, KeyRecord, KeysAfter, Leave, Report
from aerogram.lan.sending import DATAGRAMS_PER_TURN, EXPELLED
from aerogram.lan.stream import wire
from aerogram.lan.stream.assembly import Gap, GapReason
from aerogram.lan.stream.config import MulticastConfig
from aerogram.lan.stream.keys import KEY_BYTES, GroupKeys
from aerogram.lan.stream.receiver import Order, ReceiverStats, StreamReceiver
from aerogram.lan.stream.sender import Start
from aerogram.messages import Decoder, RoutingKey
from aerogram.session import Session

KEY_TIMEOUT_SECONDS: Final = 5.0
KEY_WAIT_SECONDS_MIN: Final = 0.1
KEY_WAIT_SECONDS_MAX: Final = 5.0
"""Between two requests for keys that bring none: packets that name others may be forged."""
RTT_SECONDS_LIMIT: Final = 3600.0
"""A round trip that a sender may speak of; what is used of it is bounded by the config."""
LEAVE_SECONDS: Final = 1.0
"""Saying goodbye takes no longer."""
SILENT: Final = "nothing has come from the sender; does the network carry multicast?"


class MulticastReceiver:
    """Receives a stream: `async with MulticastReceiver.join(session) as stream`.

    `async for message in stream` gives messages, and a `Gap` wherever some are lost for good. It
    ends when the sender ends the stream or one side closes the session; it raises `Expelled` or
    `StreamLost`, or what else ended the session, after it has shown all that came before.
    """

    def __init__(
        self,
        session: Session[Any],
        name: str,
        *,
        kinds: Iterable[type] = (),
        order: Order = "ordered",
        start: Start = "newest",
        interface: InterfaceName | None = None,
        timeout: float | None = 10.0,
        config: MulticastConfig | None = None,
        network: Network | None = None,
    ) -> None:
        self.config = config or MulticastConfig()
        self._session = session
        self._name = name
        self._order: Order = order
        self._start: Start = start
        self._interface = interface
        self._timeout = timeout
        self._network = network or SocketNetwork()
        self._decoders: dict[RoutingKey, Decoder] = {
            codec.type_key(kind): codec.decoder_for(kind) for kind in kinds
        }
        self._stack = contextlib.AsyncExitStack()
        self._core: StreamReceiver
        self._endpoint: DatagramEndpoint
        self._target: Address
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._key_wait = KEY_WAIT_SECONDS_MIN
        self._wants_report = False
        self._is_silent = False
        self._has_left = False
        self._finished = False
        self._error: Exception | None = None

    @classmethod
    def join(
        cls,
        session: Session[Any],
        name: str = "",
        *,
        kinds: Iterable[type] = (),
        order: Order = "ordered",
        start: Start = "newest",
        interface: InterfaceName | None = None,
        timeout: float | None = 10.0,
        config: MulticastConfig | None = None,
        network: Network | None = None,
    ) -> Self:
        """Join the stream of that name at the other end of a session.

        `kinds` are the message classes to decode; what is of no such class comes as
        `session.receive()` gives it. `order` is "ordered", or "as it arrives" for messages that are
        shown as soon as they are whole. `start` is "newest", or "oldest" for all that the sender
        still holds. `interface` is what to listen on (default: the system chooses).

        Raises `ValueError` or `InvalidMessage` here; on entering `Rejected` by a sender that does
        not let the session in, `RequestFailed` where no sender is, `RequestTimeout` after `timeout`
        seconds, `SessionClosed`, or `OSError`.
        """
        if order not in ("ordered", "as it arrives"):
            raise ValueError(f"order is 'ordered' or 'as it arrives', not {order!r}")
        if start not in ("newest", "oldest"):
            raise ValueError(f"start is 'newest' or 'oldest', not {start!r}")
        return cls(
            session,
            name,
            kinds=kinds,
            order=order,
            start=start,
            interface=interface,
            timeout=timeout,
            config=config,
            network=network,
        )

    # What it knows

    @property
    def stats(self) -> ReceiverStats:
        """What has been counted since it was entered."""
        return self._core.stats

    @property
    def missing(self) -> int:
        """Packets that are known to be missing now, and may still come."""
        return self._core.missing

    @property
    def rtt(self) -> float:
        """The round trip of the group in seconds, as the sender says."""
        return self._core.rtt

    # Receiving

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        """The next message or gap."""
        while (item := self._core.take()) is None:
            if self._finished:
                if self._error is None:
                    raise StopAsyncIteration
                raise self._error
            await self._arrived.wait()
        if isinstance(item, Gap):
            return item
        try:
            return self._decode(item.payload)
        except DecodeError:
            self._core.stats.messages_undecodable += 1
            return Gap(item.number, item.number, 1, GapReason.UNDECODABLE)

    def _decode(self, payload: bytes) -> object:
        decode = self._decoders.get(payload[0]) or self._decoders.get(codec.routing_key(payload))
        return codec.decode_any(payload) if decode is None else decode(payload)

    # Opening and closing

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as opening:
            invitation = await self._session.request(
                Join(self._name, wire.VERSION, self._start), timeout=self._timeout
            )
            opening.push_async_callback(self._leave, invitation)
            self._endpoint = await opening.enter_async_context(
                open_group(
                    invitation.group,
                    invitation.port,
                    interface=self._interface,
                    send_by=self._interface,
                    ttl=LOCAL_NETWORK_TTL,
                    network=self._network,
                )
            )
            self._target = (invitation.group, invitation.port)
            self._loop = asyncio.get_running_loop()
            self._alarm = Alarm()
            self._arrived = Waiters(self._loop)
            self._core = self._new_receiver(invitation)
            for work in (self._receive, partial(self._talk, invitation)):
                task = self._loop.create_task(self._guard(work))
                opening.push_async_callback(cancel, task)
            self._flush()
            self._stack = opening.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finish(None)
        await self._stack.aclose()

    def _new_receiver(self, invitation: Invitation) -> StreamReceiver:
        now = self._loop.time()
        _check(invitation)
        keys = GroupKeys(invitation.stream, invitation.member, self.config.old_key_seconds)
        for key in invitation.keys:
            keys.install(*key, now)
        chance = random.Random(self._network.random_bytes(16))  # noqa: S311  spreads, guards nothing
        return StreamReceiver(
            self.config,
            keys,
            invitation.stream,
            invitation.member,
            sequence=invitation.sequence,
            message=invitation.message,
            next_sequence=invitation.next_sequence,
            rtt=invitation.rtt,
            members=invitation.members,
            order=self._order,
            uniform=chance.random,
            now=now,
        )

    async def _leave(self, invitation: Invitation) -> None:
        """Tell the sender, once, if it still listens."""
        if self._has_left or self._session.closed:
            return
        with contextlib.suppress(SessionClosed, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._session.send(Leave(invitation.stream, invitation.member))
                self._has_left = True

    def _finish(self, error: Exception | None) -> None:
        """Nothing more will come: let readers take what is there, and then the error."""
        if self._finished:
            return
        self._finished = True
        self._error = error
        if self._timer is not None:
            self._timer.cancel()
        self._core.abandon()
        self._arrived.wake()
        self._alarm.ring()

    # Timer and tasks

    def _flush(self, not_before: float = 0.0) -> None:
        """Do what is due, and come back when more is. A timer may fire before its time has come."""
        core = self._core
        if self._finished:
            return
        now = max(self._loop.time(), not_before)
        for datagram in core.poll_transmit(now):
            # Without room it is lost, as it may be on the way.
            with contextlib.suppress(OSError, EndpointClosed):
                self._endpoint.send_nowait(datagram, self._target)
        if core.report_due(now):
            self._wants_report = True
        if core.needs_key or self._wants_report:
            self._alarm.ring()
        if core.has_ended:
            self._finish(None)
        elif self._session.closed:
            self._finish(_end_of(self._session))
        elif now >= core.silent_at:
            self._is_silent = True
            self._alarm.ring()
        else:
            self._arm(core.poll_timeout())

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            if self._loop.time() < self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._flush, when)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """Let readers know of what breaks a task."""
        try:
            await work()
        except SessionClosed:
            self._finish(_end_of(self._session))
        except Exception as error:  # the socket broke
            self._finish(error)

    async def _receive(self) -> None:
        while not self._finished:
            datagrams = await self._endpoint.receive_many()
            for start in range(0, len(datagrams), DATAGRAMS_PER_TURN):
                now = self._loop.time()
                for datagram in datagrams[start : start + DATAGRAMS_PER_TURN]:
                    self._core.receive_datagram(datagram.data, now)
                self._flush()
                self._arrived.wake()
                await asyncio.sleep(0)

    async def _talk(self, invitation: Invitation) -> None:
        """What goes over the session: reports, requests for keys, and the goodbye at the end."""
        while not self._finished:
            await self._alarm.wait()
            if self._wants_report:
                self._wants_report = False
                await self._report()
            if (self._core.needs_key or self._is_silent) and not self._finished:
                await self._ask_for_keys()
        await self._leave(invitation)

    async def _report(self) -> None:
        core = self._core
        await self._session.send(
            Report(
                core.stream,
                core.identity,
                *core.echo(self._loop.time()),
                core.stats.messages_received,
                core.stats.messages_lost,
            )
        )

    async def _ask_for_keys(self) -> None:
        core = self._core
        await asyncio.sleep(core.spread())
        request = KeysAfter(core.stream, core.identity, core.keys.epoch)
        is_new = False
        try:
            answer = await self._session.request(request, timeout=KEY_TIMEOUT_SECONDS)
            if all(map(_is_key, answer.keys)):
                is_new = core.install_keys(answer.keys, self._loop.time())
        except Rejected as refusal:
            lost = Expelled if refusal.reason == EXPELLED else StreamLost
            self._finish(lost(refusal.reason))
            return
        except RequestFailed:
            pass
        if self._is_silent and not is_new and self._loop.time() >= core.silent_at:
            self._finish(StreamLost(SILENT))
        self._is_silent = False
        self._flush()
        self._arrived.wake()
        if is_new:
            self._key_wait = KEY_WAIT_SECONDS_MIN
            return
        await asyncio.sleep(self._key_wait)
        self._key_wait = min(2 * self._key_wait, KEY_WAIT_SECONDS_MAX)


def _check(invitation: Invitation) -> None:
    """Raise `StreamLost` for an invitation that no sender of ours makes."""
    numbers = (invitation.sequence, invitation.message, invitation.next_sequence)
    if (
        len(invitation.stream) != wire.STREAM_BYTES
        or not invitation.keys
        or not all(map(_is_key, invitation.keys))
        or not all(0 <= number < wire.NUMBERS_LIMIT for number in numbers)
        or not 0 < invitation.member < 1 << 32
        or not 0.0 <= invitation.rtt <= RTT_SECONDS_LIMIT
        or not 0 <= invitation.members < 1 << 32
    ):
        raise StreamLost("the sender has sent an invitation that cannot be")


def _is_key(record: KeyRecord) -> bool:
    epoch, secret, start = record
    return 0 <= epoch < 1 << 32 and len(secret) == KEY_BYTES and 0 <= start < wire.NUMBERS_LIMIT


def _end_of(session: Session[Any]) -> Exception | None:
    """What iteration raises after the session has ended; nothing if one side has closed it."""
    return None if isinstance(session.error, ClosedByPeer | ClosedLocally) else session.error
