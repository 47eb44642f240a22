"""Groups: who is in, who joins and leaves, and whom a message reaches in which order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest

from aerogram import (
    App,
    Channel,
    Config,
    Group,
    InvalidMessage,
    Message,
    MessageTooLarge,
    Presence,
    PresenceEvent,
    Session,
    connect,
    delivery,
    serve,
)
from aerogram import messages as codec
from aerogram.groups import MEMBERS_PER_TURN
from aerogram.lab import Link, simulate
from tests.house import House, Place, Say, everything

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


async def test_who_is_no_member_does_not_leave() -> None:
    app = App()
    presence = app.group("room").presence()
    async with serve(app) as server, connect(server.address) as client:
        await client.ping(timeout=5)
        [member] = server.sessions
        app.group("room").discard(member)
        app.group("room").add(member)
        app.group("room").discard(member)
        app.group("room").discard(member)
    presence.close()
    assert [event.joined async for event in presence] == [True, False]


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


def test_who_leaves_while_a_message_goes_round_does_not_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aerogram.groups.MEMBERS_PER_TURN", 2)

    async def main() -> None:
        async with House(Config()) as house:
            guests = [await house.guest() for _ in range(5)]
            leaving = house.newest
            sending = asyncio.create_task(house.group.send(Say("news")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # the first members have been offered it
            house.group.discard(leaving)
            assert (await sending).sent == 4
            heard = [len(await everything(guest)) for guest in guests]
            assert heard == [1, 1, 1, 1, 0]

    simulate(main())


@pytest.mark.parametrize("steps", [1, 2])
def test_senders_do_not_wait_for_a_round_that_was_cancelled(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aerogram.groups.MEMBERS_PER_TURN", 2)

    async def main() -> None:
        async with House(Config()) as house:
            for _ in range(5):
                await house.guest()
            before = asyncio.all_tasks()
            sending = asyncio.create_task(house.group.send(Say("news")))
            for _ in range(steps):
                await asyncio.sleep(0)  # after one it has not even begun
            for task in asyncio.all_tasks() - before - {sending}:
                task.cancel()  # as a program does that cancels all that it does not know
            await asyncio.wait([sending], timeout=5)
            assert sending.cancelled()
            assert (await house.group.send(b"next")).sent == 5

    simulate(main())


def test_a_group_says_what_it_is() -> None:
    assert repr(Group("room")) == "<Group 'room' of 0>"
