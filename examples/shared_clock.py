"""Players who start at one moment, whatever their clocks say: `python examples/shared_clock.py`.

The server's clock is the time of all its sessions. Each client knows how far it may be wrong.
"""

from __future__ import annotations

import asyncio

from aerogram import App, Message, Request, Session, connect, serve


class Start(Message, tag=1):
    at: float


class WhenToStart(Request[Start], tag=2):
    pass


class Started(Message, tag=3):
    name: str
    at: float


app = App()
starts: list[float] = []


@app.answers(WhenToStart)
async def when_to_start(session: Session, question: WhenToStart) -> Start:
    if not starts:
        starts.append(session.clock.now() + 0.5)
    return Start(starts[0])


@app.on(Started)
async def started(session: Session, event: Started) -> None:
    late = event.at - starts[0]
    took = session.clock.now() - event.at
    print(f"{event.name} started {late * 1e3:.1f} ms late; to tell it took {took * 1e3:.1f} ms")


async def play(address: str, name: str) -> None:
    async with connect(address) as session:
        clock = session.clock
        await clock.synchronised(error_bound=0.1, timeout=10.0)
        start = await session.request(WhenToStart())
        await asyncio.sleep(clock.until(start.at))
        await session.deliver(Started(name, clock.now()), deadline=clock.until(start.at + 5.0))


async def main() -> None:
    async with serve(app) as server:
        await asyncio.gather(*(play(server.address, name) for name in ("ada", "ben")))


if __name__ == "__main__":
    asyncio.run(main())
