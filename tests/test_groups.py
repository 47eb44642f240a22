"""Groups: who is in, who joins and leaves, and what a message to many does to slow members."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import pytest

from aerogram import (
    App,
    Channel,
    ClosedByPeer,
    Config,
    Group,
    InvalidMessage,
    Message,
    MessageTooLarge,
    Presence,
    PresenceEvent,
    QueueFull,
    Session,
    connect,
    delivery,
    serve,
)
from aerogram import messages as codec
from aerogram.groups import BACKLOG_LIMIT, MEMBERS_PER_TURN
from aerogram.lab import Link, Network, simulate

KEY = bytes(range(32))
SMALL_QUEUE = Config(send_queue_messages=4)
SMALL_WINDOW = Config(channel_window_bytes=4096)
"""A client that takes no messages with this stalls its channel after four of `LINE`."""
LINE = b"x" * 900


class Say(Message, tag=1):
    text: str


class Place(Message, tag=2, delivery=delivery.latest(key=lambda place: place.of)):
    of: str
    at: int


class House:
    """An app whose sessions are all in one group, on a simulated network."""

    def __init__(self, config: Config = SMALL_QUEUE) -> None:
        self.network = Network(seed=1, link=Link(delay=0.01))
        self.app = App()
        self.config = config
        self.group = self.app.group("all")
        self._stack = AsyncExitStack()
        self._address = ""

        @self.app.on_open
        async def join(session: Session[None]) -> None:
            self.group.add(session)

    async def __aenter__(self) -> Self:
        server = await self._stack.enter_async_context(
            serve(self.app, "server", 1, psk=KEY, network=self.network, config=self.config)
        )
        self._address = server.address
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def guest(
        self, config: Config | None = None, app: App[Any, Any] | None = None
    ) -> Session[Any]:
        """A client that is in the group."""
        session = await self._stack.enter_async_context(
            connect(self._address, app=app, psk=KEY, network=self.network, config=config)
        )
        await session.ping(timeout=10)
        return session

    @property
    def newest(self) -> Session[None]:
        """The server's side of the guest that came last."""
        return self.group.sessions[-1]


@asynccontextmanager
async def stalled(house: House) -> AsyncIterator[tuple[Session[Any], Session[Any]]]:
    """A guest who takes no messages and whose queue at the server is full, and its server side."""
    slow = await house.guest(SMALL_WINDOW)
    served = house.newest
    with contextlib.suppress(QueueFull):
        while True:
            served.send_nowait(LINE)
            await served.ping(timeout=10)
    yield slow, served


async def everything(session: Session[Any], seconds: float = 1.0) -> list[Any]:
    """What comes within some seconds."""
    found: list[Any] = []
    with contextlib.suppress(TimeoutError):
        while True:
            found.append(await session.receive(timeout=seconds))
    return found


# Who is in


async def test_members_join_once_and_leave_by_themselves() -> None:
    app = App()
    group = app.group("room")
    async with serve(app) as server:
        async with connect(server.address) as client:
            await client.ping(timeout=5)
            [member] = server.sessions
            group.add(member)
            group.add(member)
            assert (len(group), group.sessions, list(group)) == (1, [member], [member])
            assert member in group
            served = member
        await asyncio.wait_for(served.wait_closed(), 5)
        assert served not in group
        group.add(served)
        assert group.sessions == []


async def test_the_same_name_is_the_same_group_while_it_has_members() -> None:
    app = App()
    async with serve(app) as server, connect(server.address) as client:
        await client.ping(timeout=5)
        [member] = server.sessions
        app.group("room", messages_per_second=5).add(member)
        gc.collect()
        assert app.group("room").sessions == [member]
        app.group("room").discard(member)
        assert member not in app.group("room")


def test_names_that_nobody_is_in_cost_no_memory() -> None:
    async def main() -> None:
        async with House() as house:
            await house.guest()
            member = house.newest
            gc.collect()
            before = len(gc.get_objects())
            for number in range(100_000):
                group = house.app.group(f"room {number}", bytes_per_second=1000.0)
                if number % 10 == 0:
                    group.add(member)
                    group.discard(member)
            del group
            assert len(gc.get_objects()) < before + 100

    simulate(main())


# Presence


async def test_presence_tells_who_joins_and_who_leaves() -> None:
    app = App()
    group = app.group("room")
    async with serve(app) as server:
        async with connect(server.address) as client:
            await client.ping(timeout=5)
            [member] = server.sessions
            presence = group.presence()
            group.add(member)
            group.add(member)
            group.discard(member)
            group.add(member)
        seen = [await asyncio.wait_for(anext(presence), 5) for _ in range(4)]
        assert seen == [PresenceEvent(member, joined) for joined in (True, False, True, False)]
        presence.close()
        assert [event async for event in presence] == []


async def test_presence_that_nobody_reads_is_bounded_and_counted() -> None:
    app = App()
    async with serve(app) as server, connect(server.address) as client:
        await client.ping(timeout=5)
        [member] = server.sessions
        presence = app.group("room").presence(limit=3)
        for _ in range(5):
            app.group("room").add(member)
            app.group("room").discard(member)
        presence.close()
        assert [event.joined async for event in presence] == [False, True, False]
        assert presence.dropped == 7
        with pytest.raises(ValueError, match="at least 1"):
            app.group("room").presence(limit=0)


def test_presence_that_is_let_go_leaves_nothing() -> None:
    async def main() -> None:
        app = App()

        async def follow(ready: asyncio.Event) -> None:
            presence: Presence[None] = app.group("room").presence()
            ready.set()
            async for _ in presence:
                pass

        ready = asyncio.Event()
        following = asyncio.create_task(follow(ready))
        await ready.wait()
        assert len(app._groups) == 1
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        del following
        await asyncio.sleep(0)  # the exception lives in the step that it came in
        gc.collect()
        assert len(app._groups) == 0

    simulate(main())


# Sending


def test_a_message_is_encoded_once_and_goes_to_those_it_is_meant_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[object] = []
    encode = codec.encode

    def counted(message: object) -> bytes:
        encoded.append(message)
        return encode(message)

    monkeypatch.setattr(codec, "encode", counted)

    async def main() -> None:
        async with House(Config()) as house:
            guests = [await house.guest() for _ in range(6)]
            members = house.group.sessions
            here = {session: index for index, session in enumerate(members)}

            assert (await house.group.send(Say("all"))).sent == 6
            assert encoded == [Say("all")]
            assert (await house.group.send(Say("but 0"), exclude=members[0])).sent == 5
            assert (await house.group.send(Say("but 0-2"), exclude=members[:3])).sent == 3
            even = await house.group.send(Say("even"), where=lambda s: here[s] % 2 == 0)
            assert (even.sent, even.queued, even.missed) == (3, 3, [])
            assert (await house.group.emit("topic", [1], exclude={members[5]})).sent == 5

            for index, guest in enumerate(guests):
                wanted = ["all"] + ["but 0"] * (index > 0) + ["but 0-2"] * (index > 2)
                wanted += ["even"] * (index % 2 == 0)
                heard = [await guest.receive(Say, timeout=1) for _ in wanted]
                assert [say.text for say in heard] == wanted
                assert len(await everything(guest)) == (index < 5)

    simulate(main())


def test_a_message_goes_by_the_channel_and_deadline_of_its_sender() -> None:
    async def main() -> None:
        urgent = Channel("urgent", delivery.reliable())
        async with House(Config()) as house:
            client = App()
            heard: list[Message] = []

            @client.on(Place)
            async def move(session: Session[None], place: Place) -> None:
                heard.append(place)

            @client.on(Say)
            async def hear(session: Session[None], say: Say) -> None:
                heard.append(say)

            for _ in range(2):
                await house.guest(app=client)
            for number in range(5):
                await house.group.send(Place("here", number))
            assert (await house.group.send(Say("by the way"), via=urgent)).sent == 2
            await asyncio.sleep(1)
            assert heard == [Place("here", 4), Say("by the way")] * 2
            assert [member.stats.messages_superseded for member in house.group] == [4, 4]

            house.network.partition("client-1", "server")
            assert (await house.group.send(Say("now or never"), deadline=0.5)).sent == 2
            await asyncio.sleep(5)
            assert [member.stats.messages_expired for member in house.group] == [1, 0]

    simulate(main())


def test_what_cannot_be_sent_is_an_error_and_a_bad_choice_too() -> None:
    async def main() -> None:
        async with House() as house:
            await house.guest(Config(max_record_bytes=1000))
            await house.guest()
            small = house.group.sessions[0]
            with pytest.raises(InvalidMessage):
                await house.group.send(object())
            outcome = await house.group.send(b"x" * 5000)
            assert (outcome.sent, outcome.dropped, outcome.missed) == (1, 1, [small])
            house.group.discard(house.newest)
            with pytest.raises(MessageTooLarge):
                await house.group.send(b"x" * 5000)
            with pytest.raises(ZeroDivisionError):
                await house.group.send(b"", where=lambda _: 1 / 0)
            wrong: Any = "shout"
            with pytest.raises(ValueError, match="wait, skip, close"):
                await house.group.send(b"", when_full=wrong)
            with pytest.raises(ValueError, match="wait, drop"):
                house.app.group("all", messages_per_second=1, over_rate=wrong)
            with pytest.raises(ValueError, match="above 0"):
                house.app.group("all", messages_per_second=0)
            with pytest.raises(ValueError, match="patience"):
                await house.group.send(b"", patience=-1)
            assert (await house.group.send(b"fine")).sent == 1

    simulate(main())


@pytest.mark.parametrize("members_per_turn", [2, MEMBERS_PER_TURN])
def test_all_members_see_one_order_whoever_sends(
    members_per_turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aerogram.groups.MEMBERS_PER_TURN", members_per_turn)

    async def main() -> None:
        async with House(Config(send_queue_messages=2)) as house:
            guests = [await house.guest() for _ in range(5)]
            house.network.link("client-2", "server", Link(delay=0.3, loss=0.2))

            async def talk(name: str) -> None:
                for number in range(8):
                    await house.group.send(Say(f"{name}{number}"), patience=None)

            async with asyncio.TaskGroup() as tasks:
                for name in "abc":
                    tasks.create_task(talk(name))
            heard = [await everything(guest, 30.0) for guest in guests]
            assert len(heard[0]) == 24
            assert all(each == heard[0] for each in heard)

    simulate(main())


def test_what_many_send_to_a_large_group_at_a_time_goes_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aerogram.groups.MEMBERS_PER_TURN", 2)

    async def main() -> None:
        async with House(Config()) as house:
            guests = [await house.guest() for _ in range(6)]
            before = [member.stats.packets_sent for member in house.group]
            outcomes = await asyncio.gather(*(house.group.send(Say(str(i))) for i in range(60)))
            assert [outcome.sent for outcome in outcomes] == [6] * 60
            after = [member.stats.packets_sent for member in house.group]
            assert all(new - old < 20 for old, new in zip(before, after, strict=True))
            for guest in guests:
                heard = [await guest.receive(Say, timeout=1) for _ in range(60)]
                assert [say.text for say in heard] == [str(i) for i in range(60)]

    simulate(main())


def test_one_of_many_senders_that_gives_up_or_fails_hurts_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aerogram.groups.MEMBERS_PER_TURN", 2)

    async def main() -> None:
        async with House(Config()) as house:
            guests = [await house.guest() for _ in range(6)]
            sending = [asyncio.create_task(house.group.send(Say(str(i)))) for i in range(20)]
            failing = asyncio.create_task(house.group.send(b"", where=lambda _: 1 / 0))
            late = asyncio.create_task(house.group.send(Say("late")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            sending[3].cancel()
            late.cancel()
            await asyncio.wait([*sending, failing, late])
            assert sending[3].cancelled() and late.cancelled()
            assert isinstance(failing.exception(), ZeroDivisionError)
            wanted = [str(i) for i in range(20) if i != 3]
            assert all(sending[i].result().sent == 6 for i in range(20) if i != 3)
            for guest in guests:
                heard = [say.fields[0] for say in await everything(guest)]
                assert [text for text in heard if text != "3"] == wanted
            assert (await house.group.send(b"next")).sent == 6

    simulate(main())


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
                connect(house._address, psk=KEY, network=house.network, app=client, config=quiet)
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
    simulate(fan_out_to(500, bytes_for_each=4096))


@pytest.mark.long
def test_a_message_to_ten_thousand_members() -> None:
    simulate(fan_out_to(10_000, bytes_for_each=4096))


def test_a_group_says_what_it_is() -> None:
    assert repr(Group("room")) == "<Group 'room' of 0>"
