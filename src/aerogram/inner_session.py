"""What the library itself knows of a session and does with it; users hold a `Session`.

Rules: the parts of a session know each other by this object, and hand its `public` side to what the
user wrote, and nothing else. It lasts as long as anything of the session does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aerogram.answering import Answering
from aerogram.core.events import RefuseCode
from aerogram.core.ledger import Ledger, SessionStats
from aerogram.dispatch import Mailboxes
from aerogram.errors import SessionClosed
from aerogram.inbox import Inbox
from aerogram.lifecycle import Lifecycle
from aerogram.outbox import Outbox
from aerogram.pings import Pings
from aerogram.requests import OWN_CHANNELS, Requests, take_answers
from aerogram.shell import Shell

if TYPE_CHECKING:
    from aerogram.app import App
    from aerogram.channels import Channels
    from aerogram.core.channel import ReceiveChannel, Run
    from aerogram.core.connection import Connection
    from aerogram.groups import Group
    from aerogram.session import Session


class InnerSession:
    """A peer, with everything that a session is made of."""

    __slots__ = (
        "answering",
        "app",
        "config",
        "connection",
        "counts",
        "error",
        "groups",
        "inbox",
        "is_client",
        "life",
        "mailboxes",
        "memory",
        "outbox",
        "pings",
        "public",
        "requests",
        "shell",
        "time",
    )

    def __init__(
        self,
        shell: Shell,
        connection: Connection,
        channels: Channels,
        app: App[Any, Any] | None,
        *,
        is_client: bool,
    ) -> None:
        self.public: Session[Any]
        """What users hold; whoever makes this object sets it."""
        self.shell = shell
        self.connection = connection
        self.config = shell.config
        self.memory = connection.receiver.memory
        """What the peer has sent that nobody has taken; no handler's concern."""
        self.app = app
        self.is_client = is_client
        self.time = shell.time
        """The endpoint's clock, in seconds."""
        self.counts = Ledger()
        """What is counted above the protocol core."""
        self.error: SessionClosed | None = None
        """Why the session ended."""
        self.outbox = Outbox(shell, connection, channels)
        self.requests = Requests(self)
        self.answering = Answering(self)
        self.mailboxes = Mailboxes(self)
        self.inbox = Inbox(self, self.mailboxes)
        self.life = Lifecycle(self, shell, self.mailboxes)
        """Its beginning and its end."""
        self.pings = Pings(connection, shell)
        self.groups: dict[Group[Any], None] = {}
        """Those that it has joined."""

    # -- looking

    @property
    def address(self) -> tuple[Any, ...]:
        """The peer's address; it may change while the session lives."""
        return self.connection.path.address

    @property
    def peer_key(self) -> bytes | None:
        """The peer's public key, where the handshake proved one."""
        return self.connection.peer_key

    @property
    def ready(self) -> bool:
        """True once `on_open` has run: handlers may."""
        return self.life.ready

    @property
    def closed(self) -> bool:
        """True once the session has ended."""
        return self.error is not None

    @property
    def stats(self) -> SessionStats:
        """A snapshot of all counters."""
        rtt = self.connection.rtt
        stats = SessionStats(rtt=rtt.smoothed, rtt_variation=rtt.variation)
        stats.add(self.connection.stats)
        stats.add(self.counts)
        # The core is ahead by what it has not handed over in this turn of the loop.
        stats.messages_received = self.counts.messages_received
        stats.messages_handled += self.mailboxes.handled_uncounted
        stats.messages_waiting = self.mailboxes.waiting + self.inbox.waiting
        stats.messages_in_flight = self.connection.messages_in_flight
        return stats

    # -- what the manager tells

    def arrived(self, channel: ReceiveChannel, runs: list[Run]) -> None:
        """A channel has released messages."""
        for _, run, _ in runs:
            self.counts.messages_received += len(run)
        if channel.name in OWN_CHANNELS:
            take_answers(self, channel, runs)
        elif self.app is None:
            self.inbox.put(channel, runs)
        else:
            rest = self.inbox.sort(channel, runs) if self.inbox.reads else runs
            self.mailboxes.put(channel, rest)

    def ended(self, error: SessionClosed) -> None:
        """The connection has ended."""
        self.error = error
        self.requests.fail(error)
        self.answering.end()
        self.outbox.end(error)
        self.pings.fail(error)
        self.inbox.wake()
        for group in [*self.groups]:
            group.discard(self.public)
        self.life.end(error)

    # -- what its parts need

    def consumed(self, channel: ReceiveChannel, cost: int) -> None:
        """Handlers are done with messages of this cost."""
        if channel.resends:
            self.connection.consumed(channel, cost)
            if channel.credit_due and not self.shell.flush_scheduled:
                self.shell.schedule_flush()

    def give_back(self, size: int) -> None:
        """Memory that was lent for what a handler takes piece by piece is free again."""
        self.connection.receiver.take_back(size)
        self.connection.touch()
        self.shell.schedule_flush()

    def refuse(self, channel: ReceiveChannel, number: int, code: RefuseCode, reason: str) -> None:
        """Tell the peer that a message was not taken."""
        self.connection.stats.messages_received_refused += 1
        if number >= 0 and self.error is None:
            self.connection.refuse(channel, number, code, reason)
            self.shell.schedule_flush()

    def handler_failed(self, name: str, error: BaseException) -> None:
        """A handler raised: log it; the session lives."""
        self.shell.log_handler_error(self, name, error)

    def poll(self) -> None:
        """Deal with what has happened in this turn of the loop."""
        self.shell.poll()

    def raise_if_closed(self) -> None:
        """Raise why the session has ended, if it is known to have."""
        if self.error is not None:
            raise self.error

    def cut(self, reason: str, *, code: int) -> None:
        """Close the session at once; what is queued or on its way is lost."""
        self.connection.close(code, str(reason), self.shell.time())
        self.shell.schedule_flush()
        self.shell.poll()
