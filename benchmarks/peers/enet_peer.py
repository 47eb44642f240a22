"""ENet in C through pyenet: reliable and ordered, not encrypted, no loop of asyncio.

Counted are messages that `host.service` hands over. There is no coroutine handler and no queue
before one, so ENet is measured without a cost that every asyncio peer here bears.
"""

from __future__ import annotations

import enet

from benchmarks.control import Control, Patience
from benchmarks.work import Load, Tally, Work

BURST = 256
"""Packets between two calls of `service`, which sends them and reads what came."""

IN_TRANSIT_BYTES_MAX = 48 * 1024
"""ENet queues without end; below its 64 KiB window the queue stays short."""

WAIT_MILLISECONDS = 1


async def run_receiver(control: Control, work: Work) -> None:
    host, port = _host_on_a_free_port()
    tally = Tally()
    control.tell(("127.0.0.1", port))
    expected = None
    patience = Patience(tally)
    while expected is None or (tally.count < expected and not patience.is_over()):
        _receive(host, tally, echo=work.echoes)
        if expected is None:
            expected = control.hear_now()
            patience = Patience(tally)
    control.tell(tally.report())
    while control.hear_now() is None:
        host.service(WAIT_MILLISECONDS)


def _host_on_a_free_port() -> tuple[enet.Host, int]:
    host = enet.Host(enet.Address(b"127.0.0.1", 0), 1, 1)
    return host, host.address.port


def _receive(host: enet.Host, tally: Tally, *, echo: bool) -> None:
    """Wait for an event, then take all that are ready, and send the echoes."""
    event = host.service(WAIT_MILLISECONDS)
    for _ in range(BURST * 16):
        if event is None or event.type == enet.EVENT_TYPE_NONE:
            break
        if event.type == enet.EVENT_TYPE_RECEIVE:
            tally.take()
            if echo:
                event.peer.send(0, enet.Packet(event.packet.data, enet.PACKET_FLAG_RELIABLE))
        event = host.check_events()
    if echo:
        host.flush()


async def run_sender(control: Control, work: Work) -> None:
    address, port = await control.hear()
    host = enet.Host(None, 1, 1)
    peer = host.connect(enet.Address(address.encode(), port), 1)
    while peer.state != enet.PEER_STATE_CONNECTED:
        host.service(WAIT_MILLISECONDS)
    load = Load(work)
    for message in load.messages():
        peer.send(0, enet.Packet(message, enet.PACKET_FLAG_RELIABLE))
        if load.full:
            host.flush()
            while load.full:
                _take_echoes(host, load)
        elif not load.window and load.sent % BURST == 0:
            host.service(0)
            while peer.reliableDataInTransit > IN_TRANSIT_BYTES_MAX:
                host.service(WAIT_MILLISECONDS)
    patience = Patience(load.echoes)
    while load.window and load.outstanding and not patience.is_over():
        _take_echoes(host, load)
    control.tell(load.report())
    while control.hear_now() is None:
        host.service(WAIT_MILLISECONDS)


def _take_echoes(host: enet.Host, load: Load) -> None:
    event = host.service(WAIT_MILLISECONDS)
    while event is not None and event.type == enet.EVENT_TYPE_RECEIVE:
        load.echoed()
        event = host.check_events()
