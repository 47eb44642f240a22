"""How fast virtual time passes: `python -m benchmarks.lab crowd`, or `hours`.

Both run the whole library, encrypted, in one process on the simulated network, and both sides of
each session say one message a second. `crowd` is 1 000 clients for 10 minutes with 2 % loss;
`hours` is 10 clients for an hour with 5 %, whose trace hash is the same on every Python version. A
message that does not arrive, arrives twice or out of order, or a ledger that does not balance is an
error.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import platform
import pstats
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any

from aerogram import App, Message, Session, connect, serve
from aerogram.lab import Link, Network, simulate

SETTLING_SECONDS = 5.0
"""After the last message, for what was lost to arrive."""


class Tick(Message, tag=1):
    number: int


@dataclass(frozen=True)
class Scene:
    """What is run."""

    clients: int
    seconds: int
    loss: float


SCENES = {"crowd": Scene(1000, 600, 0.02), "hours": Scene(10, 3600, 0.05)}


@dataclass
class Ear:
    """What one end of a session has heard."""

    last: int = -1
    wrong: list[int] = field(default_factory=list)

    def hear(self, number: int) -> None:
        if number != self.last + 1:
            self.wrong.append(number)
        self.last = number


class Crowd:
    """A server and its clients."""

    def __init__(self, scene: Scene, network: Network) -> None:
        self.scene = scene
        self.network = network
        self.ears: list[Ear] = []
        self.unbalanced = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.app = self._app()

    def _app(self) -> App[Any, Ear]:
        app: App[Any, Ear] = App(session_state=self._new_ear)

        @app.on(Tick)
        async def hear(session: Session[Ear], tick: Tick) -> None:
            session.state.hear(tick.number)

        return app

    def _new_ear(self) -> Ear:
        ear = Ear()
        self.ears.append(ear)
        return ear

    async def run(self) -> None:
        @self.app.on_open
        async def greet(session: Session[Ear]) -> None:
            task = asyncio.create_task(self._talk(session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        async with (
            serve(self.app, "server", 1, network=self.network) as server,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self.scene.clients):
                group.create_task(self._client(number, server.address))

    async def _client(self, number: int, address: str) -> None:
        await asyncio.sleep(10.0 * number / self.scene.clients)
        app = self._app()
        async with connect(address, app=app, network=self.network) as session:
            await self._talk(session)
            await asyncio.sleep(SETTLING_SECONDS)

    async def _talk(self, session: Session[Ear]) -> None:
        for number in range(self.scene.seconds):
            await session.send(Tick(number))
            await asyncio.sleep(1.0)
        await asyncio.sleep(SETTLING_SECONDS / 2)
        stats = session.stats
        if not stats.balanced or stats.messages_delivered != self.scene.seconds:
            self.unbalanced += 1

    def check(self) -> None:
        """Raise `RuntimeError` if a promise was broken."""
        whole = [ear for ear in self.ears if ear.last == self.scene.seconds - 1 and not ear.wrong]
        if len(whole) != 2 * self.scene.clients or self.unbalanced:
            raise RuntimeError(f"only {len(whole)} ends heard all; {self.unbalanced} unbalanced")


async def run_scene(scene: Scene) -> Network:
    network = Network(link=Link(delay=0.015, jitter=0.005, loss=scene.loss), trace_entries=100)
    crowd = Crowd(scene, network)
    await crowd.run()
    crowd.check()
    return network


def measure(name: str, scene: Scene, seed: int) -> None:
    began, began_cpu = perf_counter(), process_time()
    network = simulate(run_scene(scene), seed=seed, limit=2.0 * scene.seconds + 60.0)
    wall, cpu = perf_counter() - began, process_time() - began_cpu
    packets = network.trace.sent
    print(
        f"{name}: {scene.clients} clients x {scene.seconds} virtual s, {scene.loss:.0%} loss, "
        f"{2 * scene.clients * scene.seconds} messages, {packets} packets\n"
        f"{wall:.1f} s wall, {cpu:.1f} s CPU, {cpu / packets * 1e6:.0f} us a packet, "
        f"Python {platform.python_version()}, trace {network.trace.hash}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=__doc__)
    parser.add_argument("scene", choices=[*SCENES])
    parser.add_argument("--clients", type=int)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="say where the time went")
    options = parser.parse_args()
    usual = SCENES[options.scene]
    scene = Scene(options.clients or usual.clients, options.seconds or usual.seconds, usual.loss)
    if not options.profile:
        measure(options.scene, scene, options.seed)
        return
    with cProfile.Profile() as profile:
        measure(options.scene, scene, options.seed)
    pstats.Stats(profile).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()
