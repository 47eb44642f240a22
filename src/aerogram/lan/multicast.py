"""Multicast sessions: one sender to many receivers, each message sent once for all of them.

The sender's packets go to a multicast group, sealed with a key that each receiver gets over a
session of its own, as does whoever may join. Receivers notice what they lack and ask the group for
it; the sender repairs by multicast. A receiver that has asked is heard by the others, which then do
not ask; so requests stay few, however many receivers there are.

    app = App()
    sender = MulticastSender("239.1.2.3", 5000)
    multicast.invitations(app, sender, admit=lambda session: True)
    async with serve(app, ...), sender:
        await sender.send(Tick("ACME", 100))

    async with connect(...) as session:
        async with MulticastReceiver.join(session, kinds=[Tick]) as stream:
            async for message in stream:
                ...  # a Tick, or a Gap where some are lost for good

What it promises: each message comes once, in order if that is wanted, unless it is lost to a
receiver because the sender no longer holds it (`MulticastConfig.buffer_bytes`); then a `Gap` says
which. A bad receiver slows the others only as far as `hold_seconds` allows. What it does not:
congestion control.
The rate is fixed (`rate_bytes_per_second`), so this is for networks whose capacity is known.

Who has no key can neither read, forge nor replay. Who has it can pass for the sender among the
group: let in only who may be trusted that far. After a member has left or was expelled, the others
get a new key, which it does not get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aerogram.app import App
from aerogram.errors import Rejected
from aerogram.lan.errors import Expelled, MulticastError, StreamLost
from aerogram.lan.invitations import Invitation, Join, Keys, KeysAfter, Leave, Report
from aerogram.lan.receiving import MulticastReceiver
from aerogram.lan.sending import NO_STREAM, MemberStats, MulticastSender
from aerogram.lan.stream.assembly import Gap, GapReason
from aerogram.lan.stream.config import MulticastConfig
from aerogram.lan.stream.receiver import Order, ReceiverStats
from aerogram.lan.stream.sender import SenderStats, Start
from aerogram.session import Session

__all__ = [
    "Expelled",
    "Gap",
    "GapReason",
    "MemberStats",
    "MulticastConfig",
    "MulticastError",
    "MulticastReceiver",
    "MulticastSender",
    "Order",
    "ReceiverStats",
    "SenderStats",
    "Start",
    "StreamLost",
    "invitations",
]


def invitations(
    app: App[Any, Any],
    *senders: MulticastSender,
    admit: Callable[[Session[Any]], bool] | None = None,
) -> None:
    """Let an app answer those who want to join the streams of these senders.

    Each session that `admit` accepts may join, besides those for which `MulticastSender.admit` was
    called. Call it once for an app; its middleware sees these requests as others. Raises
    `ValueError` for two senders of one name.
    """
    by_name = {sender.name: sender for sender in senders}
    if len(by_name) != len(senders):
        raise ValueError("senders of one app differ by name")

    _answer_requests(app, by_name, admit)
    _take_messages(app, senders)


def _answer_requests(
    app: App[Any, Any],
    senders: Mapping[str, MulticastSender],
    admit: Callable[[Session[Any]], bool] | None,
) -> None:
    @app.answers(Join)
    async def join(session: Session[Any], request: Join) -> Invitation:
        sender = senders.get(request.name)
        if sender is None:
            raise Rejected(NO_STREAM)
        if admit is not None and admit(session):
            sender.admit(session)
        return sender.joined(session, request)

    @app.answers(KeysAfter)
    async def keys_after(session: Session[Any], request: KeysAfter) -> Keys:
        for sender in senders.values():
            if sender.has_stream(request.stream):
                return sender.keys_after(session, request)
        raise Rejected(NO_STREAM)


def _take_messages(app: App[Any, Any], senders: Sequence[MulticastSender]) -> None:
    @app.on(Report)
    async def report(session: Session[Any], message: Report) -> None:
        for sender in senders:
            sender.reported(session, message)

    @app.on(Leave)
    async def leave(session: Session[Any], message: Leave) -> None:
        for sender in senders:
            sender.left(session, message)

    @app.on_close
    async def closed(session: Session[Any], _error: Exception | None) -> None:
        for sender in senders:
            sender.session_closed(session)
