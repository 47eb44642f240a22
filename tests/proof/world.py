"""A world: one server and some clients of the real library on a simulated network, and a model.

A driver, be it a test, a state machine or the sweep, lets them speak and breaks the network, then
calls `settle`. Rules: all that is wrong ends up in `violations`; a world draws nothing from outside
its seed; after `settle` the network is healed for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from aerogram import App, Config, ConnectFailed, Session, SessionClosed, connect, serve
from aerogram.core.keys import Identity
from aerogram.lab import Host, Link, Nat, Network
from tests.proof.checks import check_endpoint, check_session, check_trace
from tests.proof.model import Line
from tests.proof.notes import Kind, kinds

PORT = 1
HEALED = Link(delay=0.005)
LIVE_WITHIN_SECONDS = 10.0
"""After the network has healed, all that has to arrive does within this."""

ATTEMPT_PAUSE_SECONDS = 0.2
LOOKS_SECONDS = 0.05
TRACE_ENTRIES = 1000
SERVER = "server: _serve"
"""The name that `Host.run` gives to the server's task."""

_QUIET = logging.getLogger("aerogram.proof")
_QUIET.disabled = True


@dataclass
class Lane:
    """Says things on one kind of channel, one after the other."""

    line: Line
    session: Session[Any]
    waiting: deque[tuple[int, float | None]] = field(default_factory=deque)
    worker: asyncio.Task[None] | None = None

    def say(self, size: int, deadline: float | None) -> None:
        """Say a note of this size once those before it have found room."""
        self.waiting.append((size, deadline))
        if self.worker is None:
            self.worker = asyncio.get_running_loop().create_task(self._speak())

    async def _speak(self) -> None:
        try:
            while self.waiting:
                size, deadline = self.waiting.popleft()
                note = self.line.next_note(size, has_deadline=deadline is not None)
                receipt = await self.session.send(note, deadline=deadline)
                self.line.said[note.number].receipt = receipt
        except SessionClosed:
            self.waiting.clear()
            if self.line.said and self.line.said[-1].receipt is None:
                self.line.said.pop()
        finally:
            self.worker = None

    @property
    def is_done(self) -> bool:
        """Whether all has been said."""
        return self.worker is None


class Side:
    """One end of a session."""

    def __init__(self, session: Session[Any], name: str, violations: list[str]) -> None:
        self.session = session
        self.lanes = {
            kind.name: Lane(Line(name, kind, violations), session) for kind in World.kinds
        }


@dataclass
class Talk:
    """A session, both ends of it."""

    client: Side
    server: Side | None = None
    """None until the server knows of it."""

    @property
    def sides(self) -> list[Side]:
        """Those that there are."""
        return [side for side in (self.client, self.server) if side is not None]

    @property
    def is_open(self) -> bool:
        """Whether both ends are."""
        return self.server is not None and not any(side.session.closed for side in self.sides)


class Peer:
    """A client: connects, and connects again whenever a session has ended."""

    def __init__(self, world: World, name: str, *, behind_nat: bool) -> None:
        self.name = name
        self.world = world
        self.host: Host = world.network.host(name)
        self.nat: Nat | None = world.network.nat(self.host) if behind_nat else None
        self.app = world.app_for(is_server=False)
        self.hangs_up = asyncio.Event()
        self.talk: Talk | None = None
        self.attempts_failed = 0

    async def run(self) -> None:
        """Be a program of the host."""
        while not self.world.is_over:
            try:
                await self._one_session()
            except ConnectFailed:
                self.attempts_failed += 1
            await asyncio.sleep(ATTEMPT_PAUSE_SECONDS)

    async def _one_session(self) -> None:
        self.hangs_up.clear()
        client = connect(
            self.world.address,
            app=self.app,
            config=self.world.client_config,
            network=self.host,
            logger=_QUIET,
            **self.world.client_security,
        )
        async with client as session:
            self.talk = self.world.opened_by_client(session, self)
            ended = asyncio.ensure_future(session.wait_closed())
            told = asyncio.ensure_future(self.hangs_up.wait())
            try:
                await asyncio.wait([ended, told], return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended.cancel()
                told.cancel()


class World:
    """Everything together. Make it in a running loop, `start` it, and `settle` it in the end."""

    kinds: Sequence[Kind] = kinds()

    def __init__(
        self,
        seed: int,
        *,
        clients: int = 1,
        behind_nat: Sequence[bool] = (),
        link: Link = HEALED,
        server_config: Config | None = None,
        client_config: Config | None = None,
        psk: bytes | None = None,
        handler_seconds: float = 0.0,
    ) -> None:
        self.network = Network(seed, link, trace_entries=TRACE_ENTRIES, keep_packets=True)
        self.server_config = server_config or Config()
        self.client_config = client_config or self.server_config
        self.handler_seconds = handler_seconds
        self.violations: list[str] = []
        self.excuses: set[str] = set()
        """What was done to the network or its hosts, by name: it explains ends and drops."""
        self.talks: list[Talk] = []
        self.is_over = False
        self.ended_at = 0.0
        self._by_id: dict[bytes, Talk] = {}
        self._early: dict[bytes, Session[Any]] = {}
        self._close_server = asyncio.Event()
        self._programs: list[asyncio.Task[None]] = []
        self._undoing: list[asyncio.TimerHandle] = []
        self._works: set[asyncio.Task[None]] = set()
        self.host = self.network.host("server")
        self._identity = Identity.from_private_bytes(self.host.random_bytes(32))
        self._psk = psk
        self.app = self.app_for(is_server=True)
        nats = [*behind_nat, *[False] * clients]
        self.peers = [Peer(self, f"client-{i}", behind_nat=nats[i]) for i in range(clients)]

    # Both ends

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return f"aerogram://{self.host.ipv4}:{PORT}/"

    @property
    def client_security(self) -> dict[str, Any]:
        """How clients recognise the server."""
        if self._psk is not None:
            return {"psk": self._psk}
        return {"server_key": self._identity.public_bytes}

    def app_for(self, *, is_server: bool) -> App[Any, Any]:
        """Make an app that hears every kind of note."""
        app: App[Any, Any] = App()
        for kind in self.kinds:
            app.on(kind.note)(self._hearer(kind.name, is_server=is_server))
        if is_server:
            app.on_open(self._opened_by_server)
        return app

    def _hearer(self, kind: str, *, is_server: bool) -> Any:
        async def hear(session: Session[Any], note: Any) -> None:
            if self.handler_seconds:
                await asyncio.sleep(self.handler_seconds)
            talk = self._by_id.get(_id_of(session, is_server=is_server))
            said_by = None if talk is None else talk.client if is_server else talk.server
            if said_by is None:
                self.violations.append(f"{kind} {note.number} came from nobody")
            else:
                said_by.lanes[kind].line.hear(note)

        return hear

    def opened_by_client(self, session: Session[Any], peer: Peer) -> Talk:
        """Remember a session."""
        identity = _id_of(session, is_server=False)
        talk = Talk(Side(session, f"{peer.name} #{len(self.talks)} >", self.violations))
        self.talks.append(talk)
        self._by_id[identity] = talk
        if identity in self._early:
            self._add_server(talk, self._early.pop(identity))
        return talk

    async def _opened_by_server(self, session: Session[Any]) -> None:
        identity = _id_of(session, is_server=True)
        talk = self._by_id.get(identity)
        if talk is None:
            self._early[identity] = session
        else:
            self._add_server(talk, session)

    def _add_server(self, talk: Talk, session: Session[Any]) -> None:
        name = talk.client.lanes[self.kinds[0].name].line.name.replace(">", "<")
        talk.server = Side(session, name, self.violations)

    # Running

    async def _serve(self) -> None:
        security: dict[str, Any] = {"identity": self._identity}
        if self._psk is not None:
            security = {"psk": self._psk}
        async with serve(
            self.app,
            self.host.ipv4,
            PORT,
            config=self.server_config,
            network=self.host,
            logger=_QUIET,
            **security,
        ):
            await self._close_server.wait()

    async def start(self) -> None:
        """Start the server and the clients; wait for nobody."""
        self._programs.append(self.host.run(self._serve))
        for peer in self.peers:
            self._programs.append(peer.host.run(peer.run))

    def say(
        self,
        talk: Talk,
        kind: str,
        size: int,
        *,
        by_server: bool = False,
        deadline: float | None = None,
    ) -> None:
        """Say something, unless that end is not there."""
        side = talk.server if by_server else talk.client
        if side is not None and not side.session.closed:
            side.lanes[kind].say(size, deadline)

    def crash_server(self) -> None:
        """Let the server lose everything."""
        self.excuses.add("crash")
        self.host.crash()

    def restart(self, host: Host) -> None:
        """Start what `Host.crash` has ended."""
        if host.is_down and not self.is_over:
            self._programs += host.restart()

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something happen that takes a while; `settle` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    async def repeat(self, count: int) -> None:
        """Let a stranger send again what was on the network last, from an address of its own."""
        self.excuses.add("rebind")
        transport, _ = await self.network.host("stranger").create_datagram_endpoint(
            asyncio.DatagramProtocol, local_address=("0.0.0.0", 0)
        )
        for entry in self.network.trace.entries[-count:]:
            if entry.data is not None and ":" not in entry.destination[0]:
                transport.sendto(entry.data, entry.destination)
        transport.close()

    def undo_after(self, seconds: float, undo: Callable[[], Any]) -> None:
        """Undo a fault after a while, unless the network heals before."""
        self._undoing.append(asyncio.get_running_loop().call_later(seconds, undo))

    # The end

    def heal(self) -> None:
        """Make the network good, and start whatever is down."""
        for timer in self._undoing:
            timer.cancel()
        self.network.default = HEALED
        for peer in self.peers:
            self.network.link(peer.host, None, HEALED)
        self.network.repair()
        self.network.release()
        for host in self.network.hosts:
            if host.is_paused:
                host.resume()
            self.restart(host)

    async def settle(self) -> None:
        """Heal, wait for all that has to arrive, close everything and look at what is left."""
        self.heal()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LIVE_WITHIN_SECONDS
        while (unsettled := self.unsettled()) and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LOOKS_SECONDS)
        self.violations += [
            f"{what}, {LIVE_WITHIN_SECONDS:g} s after healing" for what in unsettled
        ]
        for talk in self.talks:
            if talk.is_open and not unsettled:
                self._check_outcomes(talk, while_open=True)
        await self._end()

    def unsettled(self) -> list[str]:
        """What still has to happen."""
        waits: list[str] = []
        for peer in self.peers:
            talk = peer.talk
            if talk is None or not talk.is_open:
                waits.append(f"{peer.name} has no session")
                continue
            for side in talk.sides:
                waits += _unsettled(side)
        return waits

    def _check_outcomes(self, talk: Talk, *, while_open: bool) -> None:
        for side in talk.sides:
            for lane in side.lanes.values():
                lane.line.check_outcomes(while_open=while_open)

    async def _end(self) -> None:
        self.is_over = True
        for talk in self.talks:
            for side in talk.sides:
                for violation in check_session(side.session, self.excuses):
                    self.violations.append(
                        f"{side.lanes[self.kinds[0].name].line.name} {violation}"
                    )
        for peer in self.peers:
            peer.hangs_up.set()
        managers = {id(s.session._shell): s.session._shell for t in self.talks for s in t.sides}
        clients = [task for task in self._programs if task.get_name() != SERVER]
        await asyncio.wait([*clients, *self._works])
        self._close_server.set()
        await asyncio.wait(self._programs)
        for manager in managers.values():
            self.violations += check_endpoint(manager)
        for talk in self.talks:
            for side in talk.sides:
                if not side.session.stats.balanced or side.session.stats.messages_in_flight:
                    self.violations.append(f"the ledger does not balance: {side.session.stats}")
        self.ended_at = self.network.now()
        self.violations += check_trace(self.network.trace, self.excuses)


def _unsettled(side: Side) -> list[str]:
    waits: list[str] = []
    for kind, lane in side.lanes.items():
        missing = lane.line.missing()
        name = f"{lane.line.name} {kind}"
        if not lane.is_done:
            waits.append(f"{name} still waits for room")
        elif missing:
            waits.append(f"{name} {missing[:5]} of {len(lane.line.said)} did not come")
    in_flight = side.session._inner.connection.messages_in_flight
    if not waits and in_flight:
        waits.append(f"{in_flight} messages without an outcome")
    return waits


def _id_of(session: Session[Any], *, is_server: bool) -> bytes:
    """What both ends know a session by: the connection id that the client has chosen."""
    connection = session._inner.connection
    identity: bytes = connection.remote_cid if is_server else connection.local_cid
    return identity
