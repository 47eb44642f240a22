"""One time at both ends of a session, with a bound that holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aerogram import App, Message, Outcome, Session, connect, serve
from aerogram.lab import Link, Network, simulate
from benchmarks.clocks import ClockWorld, FalseClock


class Stamp(Message):
    sent_at: float


def stamping_app() -> App[None, None]:
    app = App()

    @app.on(Stamp)
    async def compare(session: Session[None], stamp: Stamp) -> None:
        await session.send(Stamp(session.clock.now()))

    return app


async def test_both_ends_agree_on_loopback() -> None:
    async with serve(stamping_app()) as server, connect(server.address) as session:
        assert session.clock.error_bound == float("inf")
        await session.clock.synchronised(timeout=10)
        [peer] = server.sessions
        here, there = session.clock.now(), peer.clock.now()
        assert abs(there - here) <= session.clock.error_bound + 0.5
        assert peer.clock.is_synchronised
        assert (peer.clock.offset, peer.clock.error_bound) == (0.0, 0.0)


def test_the_bound_holds_on_an_unequal_path() -> None:
    async def main() -> None:
        network = Network(seed=3)
        there = Link(delay=0.010, jitter=0.01, loss=0.1)
        back = Link(delay=0.040, jitter=0.02, loss=0.1)
        loop = asyncio.get_running_loop()
        async with serve(stamping_app(), "server", 1, network=network) as server:
            network.link("client-1", "server", there, both_ways=False)
            network.link("server", "client-1", back, both_ways=False)
            async with connect(server.address, network=network) as session:
                clock = session.clock
                await clock.synchronised(0.06, timeout=60)
                for _ in range(200):
                    await asyncio.sleep(0.1)
                    # In a simulation both ends have the same clock: the true offset is 0.
                    assert abs(clock.offset) <= clock.error_bound
                    assert abs(clock.now() - loop.time()) <= clock.error_bound
                assert clock.steps == 0
                assert clock.error_bound < 0.06

    simulate(main(), limit=200.0)


UPTIME = 1000.0
LOCAL_PATH = {
    "there": Link(delay=0.0001, jitter=0.0001, loss=0.05),
    "back": Link(delay=0.0002, jitter=0.0001, loss=0.05),
}
FAR_PATH = {
    "there": Link(delay=0.010, jitter=0.010, loss=0.05),
    "back": Link(delay=0.040, jitter=0.010, loss=0.05),
}
CLOCKS = [
    FalseClock(UPTIME + 30, 1e-3),
    FalseClock(UPTIME - 30, -1e-3),
    FalseClock(UPTIME, 20e-6, drifts={50.0: 520e-6, 100.0: -480e-6}),
]


@pytest.mark.parametrize("clock", CLOCKS, ids=["fast", "slow", "slewed"])
@pytest.mark.parametrize("path", [LOCAL_PATH, FAR_PATH], ids=["local", "far"])
def test_the_bound_holds_whatever_the_clocks_do(clock: FalseClock, path: dict[str, Link]) -> None:
    for seed, (client, server) in enumerate(
        [(FalseClock(UPTIME), clock), (clock, FalseClock(UPTIME))]
    ):
        world = ClockWorld(client, server, seed=seed, **path)
        samples = world.run(120.0, every=0.2)
        assert len(samples) > 550
        assert [sample for sample in samples if not sample.held] == []
        assert world.clock.steps == 0
        assert world.clock.error_bound < 0.050


@pytest.mark.parametrize("step", [5.0, -5.0])
@pytest.mark.parametrize("path", [LOCAL_PATH, FAR_PATH], ids=["local", "far"])
def test_a_step_is_known_with_the_next_answer(step: float, path: dict[str, Link]) -> None:
    for seed in range(2):
        server = FalseClock(UPTIME, 50e-6, steps={50.0: step})
        world = ClockWorld(FalseClock(UPTIME), server, seed=seed, **path)
        samples = world.run(90.0, every=0.2)
        broken = [sample.at for sample in samples if not sample.held]
        assert all(50.0 <= at < 56.0 for at in broken)
        assert world.clock.steps == 1
        settled = [sample for sample in samples if sample.at > 57.0]
        assert max(abs(sample.offset_error) for sample in settled) < 0.035
        assert samples[-1].bound < 0.050


def test_an_answer_that_is_lost_is_asked_for_anew() -> None:
    world = ClockWorld(there=Link(delay=0.01, loss=0.5), back=Link(delay=0.01))
    samples = world.run(60.0)
    # Half of the questions are lost. Without an answer for 8 s the bound would be above 18 ms.
    assert max(sample.bound for sample in samples if sample.at > 10.0) < 0.020


def test_all_clients_of_a_server_share_its_time() -> None:
    async def main() -> None:
        network = Network(seed=4, link=Link(delay=0.02, jitter=0.01))
        async with (
            serve(stamping_app(), "server", 1, network=network) as server,
            connect(server.address, network=network) as ada,
            connect(server.address, network=network) as ben,
        ):
            await asyncio.gather(*(s.clock.synchronised(0.04, timeout=60) for s in (ada, ben)))
            apart = abs(ada.clock.now() - ben.clock.now())
            assert apart <= ada.clock.error_bound + ben.clock.error_bound

    simulate(main(), limit=100.0)


def test_a_message_lives_until_a_moment_of_the_shared_time() -> None:
    async def main() -> None:
        network = Network(seed=6, link=Link(delay=0.02, jitter=0.01))
        loop = asyncio.get_running_loop()
        async with (
            serve(stamping_app(), "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            with pytest.raises(RuntimeError, match="synchronised"):
                session.clock.until(0.0)
            await session.clock.synchronised(0.04, timeout=10)
            moment = session.clock.now() + 5.0
            network.partition("client-1", "server")
            receipt = await session.send(Stamp(0.0), deadline=session.clock.until(moment))
            assert await receipt is Outcome.EXPIRED
            assert abs(loop.time() - moment) <= session.clock.error_bound + 0.1
            late = await session.send(Stamp(0.0), deadline=session.clock.until(moment - 1.0))
            assert await late is Outcome.EXPIRED

    simulate(main(), limit=100.0)


def test_when_a_message_was_sent_tells_how_long_it_took_each_way() -> None:
    there, back = 0.010, 0.040

    async def main() -> None:
        network = Network(seed=7)
        app, took = App(), []

        @app.on(Stamp)
        async def compare(session: Session[None], stamp: Stamp) -> None:
            took.append(session.clock.now() - stamp.sent_at)
            await session.send(Stamp(session.clock.now()))

        async with serve(app, "server", 1, network=network) as server:
            network.link("client-1", "server", Link(delay=there), both_ways=False)
            network.link("server", "client-1", Link(delay=back), both_ways=False)
            async with connect(server.address, network=network) as session:
                clock = session.clock
                await clock.synchronised(0.03, timeout=60)
                for _ in range(20):
                    await session.send(Stamp(clock.now()))
                    answer = await session.receive(Stamp, timeout=5)
                    error = clock.error_bound
                    assert abs(clock.now() - answer.sent_at - back) <= error
                    assert abs(took[-1] - there) <= error
                    assert error < 0.03

    simulate(main(), limit=100.0)


def test_a_bound_that_no_path_allows_is_a_timeout() -> None:
    async def main() -> None:
        network = Network(seed=5, link=Link(delay=0.05))
        async with (
            serve(stamping_app(), "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            with pytest.raises(TimeoutError):
                await session.clock.synchronised(0.001, timeout=30)

    simulate(main(), limit=100.0)


async def test_moments_convert_both_ways() -> None:
    async with serve(stamping_app()) as server, connect(server.address) as session:
        await session.clock.synchronised(timeout=10)
        shared: Any = session.clock.from_local(12.0)
        assert session.clock.to_local(shared) == pytest.approx(12.0, abs=1e-3)
        await session.send(Stamp(session.clock.now()))
        answered = await session.receive(Stamp, timeout=5)
        assert answered.sent_at <= session.clock.now() + 2 * session.clock.error_bound
