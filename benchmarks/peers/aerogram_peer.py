"""Aerogram: reliable, ordered, encrypted; a typed message to a typed coroutine handler.

Counted are calls of the handler that `@app.on` registers, with the message decoded and validated.
The message is encoded for each send, as any program does.
"""

from __future__ import annotations

from aerogram import App, Message, Session, connect, serve
from benchmarks.control import Control
from benchmarks.work import MESSAGE, Load, Tally, Work

ENVELOPE_BYTES = 4
"""Around the payload: array, tag, and the two bytes before a byte string."""


class Sample(Message, tag=1):
    """64 bytes when encoded. Without a delivery of its own it is ordered and reliable."""

    payload: bytes


SAMPLE = Sample(MESSAGE[ENVELOPE_BYTES:])


async def run_receiver(control: Control, work: Work) -> None:
    tally = Tally()
    app = App()

    if work.echoes:

        @app.on(Sample)
        async def echo(session: Session, sample: Sample) -> None:
            tally.take()
            await session.send(sample)
    else:

        @app.on(Sample)
        async def count(session: Session, sample: Sample) -> None:
            tally.take()

    async with serve(app, "127.0.0.1", 0) as server:
        await control.receive(tally, server.address)


async def run_sender(control: Control, work: Work) -> None:
    address = await control.hear()
    load = Load(work)
    app = App()

    @app.on(Sample)
    async def take_echo(session: Session, sample: Sample) -> None:
        load.echoed()

    async with connect(address, app=app) as session:

        async def send(message: bytes) -> None:
            await session.send(SAMPLE)

        await control.send(load, send)
