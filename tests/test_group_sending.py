"""What a message to many does to slow members, rates, the loop and memory."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aerogram import App, Channel, ClosedByPeer, Config, Session, connect, delivery
from aerogram import messages as codec
from aerogram.groups import BACKLOG_LIMIT, MEMBERS_PER_TURN
from aerogram.lab import simulate
from tests.house import KEY, LINE, SMALL_WINDOW, House, everything, stalled

# Slow members


def test_a_slow_member_holds_up_nobody_else() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with House() as house, stalled(house) as (_, slow):
            quick = await house.guest()
            began = loop.time()
            sending = asyncio.create_task(house.group.send(b"first"))
            assert await quick.receive(bytes, timeout=1) == b"first"
            assert loop.time() - began < 0.05
            outcome = await sending
            assert (outcome.sent, outcome.dropped, outcome.missed) == (1, 1, [slow])
            assert 0.99 < loop.time() - began < 1.01

            # Its patience is used up: nobody waits for it again until it has room.
            began = loop.time()
            for _ in range(100):
                assert (await house.group.send(b"more")).dropped == 1
                await asyncio.sleep(0.01)
            assert loop.time() - began < 1.01

    simulate(main())


def test_a_member_that_gets_room_in_time_misses_nothing() -> None:
    async def main() -> None:
        async with House() as house, stalled(house) as (guest, _):
            sending = asyncio.create_task(house.group.send(b"late"))
            await asyncio.sleep(0.5)
            received: list[Any] = []
            while b"late" not in received:
                received.append(await guest.receive(timeout=1))
            outcome = await sending
            assert (outcome.sent, outcome.waited, outcome.dropped) == (0, 1, 0)
            assert (await house.group.send(b"again")).sent == 1
            assert await guest.receive(timeout=1) == b"again"

    simulate(main())


def test_a_member_that_gets_room_after_the_deadline_misses_the_message() -> None:
    """It is worth nothing any more, and its seconds do not begin anew with the room."""

    async def main() -> None:
        async with House() as house, stalled(house) as (guest, slow):
            sending = [
                asyncio.create_task(house.group.send(payload, deadline=deadline))
                for payload, deadline in ((b"too late", 0.3), (b"in time", 5.0))
            ]
            await asyncio.sleep(0.5)
            received: list[Any] = []
            while b"in time" not in received:
                received.append(await guest.receive(timeout=1))
            late, timely = [await task for task in sending]
            assert b"too late" not in received
            assert (late.waited, late.missed) == (0, [slow])
            assert (timely.waited, timely.missed) == (1, [])

    simulate(main())


def test_a_slow_member_can_be_skipped_or_closed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with House() as house, stalled(house) as (guest, slow):
            began = loop.time()
            outcome = await house.group.send(b"skipped", when_full="skip")
            assert (outcome.dropped, outcome.missed) == (1, [slow])
            outcome = await house.group.send(b"closed", when_full="close")
            assert (outcome.closed, outcome.missed) == (1, [slow])
            assert loop.time() == began
            assert slow.closed
            assert len(house.group) == 0
            await guest.wait_closed()
            assert isinstance(guest.error, ClosedByPeer)
            assert guest.error.reason == "too slow"

    simulate(main())


@pytest.mark.parametrize("when_full", ["error", "drop_newest", "drop_oldest"])
def test_nobody_waits_on_a_channel_that_does_not_block(when_full: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        news = Channel("news", delivery.reliable(), queue_messages=2, when_full=when_full)
        async with House(Config()) as house:
            await house.guest(SMALL_WINDOW)
            began, outcomes = loop.time(), []
            for _ in range(30):
                outcomes.append(await house.group.send(LINE, via=news))
                await asyncio.sleep(0.1)
            assert loop.time() - began < 3.1
            assert all(outcome.sent + outcome.dropped == 1 for outcome in outcomes)
            taken = sum(outcome.sent for outcome in outcomes)
            assert taken == 30 if when_full == "drop_oldest" else 4 < taken < 10

    simulate(main())


def test_a_member_that_ends_while_it_is_waited_for_is_counted() -> None:
    async def main() -> None:
        async with House() as house, stalled(house) as (guest, slow):
            sending = asyncio.create_task(house.group.send(b"late", patience=None))
            await asyncio.sleep(5)
            assert not sending.done()
            await guest.close()
            outcome = await sending
            assert (outcome.closed, outcome.queued, outcome.missed) == (1, 0, [slow])

    simulate(main())


def test_a_cancelled_send_waits_for_nobody() -> None:
    async def main() -> None:
        async with House() as house, stalled(house) as (guest, _):
            sending = asyncio.create_task(house.group.send(b"cancelled", patience=None))
            await asyncio.sleep(0.1)
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            received = await everything(guest)
            assert received == [LINE] * len(received)
            assert (await house.group.send(b"next")).sent == 1

    simulate(main())


# Rates


def test_a_group_keeps_to_its_messages_per_second() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with House(Config()) as house:
            await house.guest()
            house.app.group("all", messages_per_second=10)
            await asyncio.sleep(10)
            began = loop.time()
            for _ in range(60):
                assert (await house.group.send(b"x")).sent == 1
            # What a silent group may say at once is a second's worth.
            assert 4.8 < loop.time() - began < 5.2
            house.group.limit_rate()
            began = loop.time()
            await asyncio.gather(*(house.group.send(b"x") for _ in range(60)))
            assert loop.time() == began

    simulate(main())


def test_a_group_keeps_to_its_bytes_per_second() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with House(Config()) as house:
            for _ in range(3):
                await house.guest()
            house.app.group("all", bytes_per_second=1000, messages_per_second=1000)
            size = len(codec.encode(bytes(500)))
            began = loop.time()
            for _ in range(20):
                assert (await house.group.send(bytes(500))).sent == 3
            elapsed = loop.time() - began
            assert 20 * size / 1000 - 2 < elapsed <= 20 * size / 1000

    simulate(main())


def test_what_is_over_the_limit_can_be_dropped() -> None:
    async def main() -> None:
        async with House(Config()) as house:
            guest = await house.guest()
            house.app.group("all", messages_per_second=10, over_rate="drop")
            sent = 0
            for _ in range(1000):
                outcome = await house.group.send(b"x")
                assert outcome.over_rate == (outcome.sent == 0)
                sent += outcome.sent
                await asyncio.sleep(0.01)
            assert 100 <= sent <= 112
            assert len(await everything(guest)) == sent

    simulate(main())


def test_those_who_wait_for_their_turn_are_bounded() -> None:
    async def main() -> None:
        async with House(Config()) as house:
            await house.guest()
            house.app.group("all", messages_per_second=1)
            count = 1 + BACKLOG_LIMIT + 100
            outcomes = await asyncio.gather(*(house.group.send(b"x") for _ in range(count)))
            assert sum(outcome.over_rate for outcome in outcomes) == 100
            assert sum(outcome.sent for outcome in outcomes) == 1 + BACKLOG_LIMIT

    simulate(main())


# Many


async def fan_out_to(count: int, *, bytes_for_each: int) -> None:
    """Send to so many members: the loop goes on in between, and memory is bounded."""
    loop = asyncio.get_running_loop()
    quiet = Config(keepalive_seconds=0, idle_timeout_seconds=3600)
    async with House(quiet) as house, AsyncExitStack() as stack:
        heard: list[bytes] = []
        client = App()

        @client.on(bytes)
        async def hear(session: Session[None], data: bytes) -> None:
            heard.append(data)

        async def join() -> None:
            await stack.enter_async_context(
                connect(house.address, psk=KEY, network=house.network, app=client, config=quiet)
            )

        for _ in range(0, count, 50):
            await asyncio.gather(*(join() for _ in range(50)))
        await asyncio.sleep(1)
        assert len(house.group) == count
        assert (await house.group.send(b"opens the channels")).sent == count
        await asyncio.sleep(1)
        heard.clear()

        turn = 0
        offered: Counter[int] = Counter()

        def next_turn() -> None:
            nonlocal turn, ticking
            turn += 1
            ticking = loop.call_soon(next_turn)

        def note(session: Session[None]) -> bool:
            offered[turn] += 1
            return True

        ticking = loop.call_soon(next_turn)
        tracemalloc.start()
        outcome = await house.group.send(bytes(64), where=note)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        ticking.cancel()
        assert (outcome.sent, outcome.missed) == (count, [])
        assert max(offered.values()) <= MEMBERS_PER_TURN
        assert len(offered) == -(-count // MEMBERS_PER_TURN)
        assert peak < count * bytes_for_each
        await asyncio.sleep(1)
        assert heard == [bytes(64)] * count


def test_the_loop_goes_on_between_the_members() -> None:
    simulate(fan_out_to(200, bytes_for_each=4096))


@pytest.mark.long
def test_a_message_to_ten_thousand_members() -> None:
    simulate(fan_out_to(10_000, bytes_for_each=4096))
