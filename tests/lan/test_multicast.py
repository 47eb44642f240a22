"""Multicast sessions between hosts of a simulated network, over real sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aerogram import App, Message, Session, connect, serve
from aerogram.errors import EndpointClosed, InvalidAddress, MessageTooLarge, Rejected, RequestFailed
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.lab import Link, Network
from aerogram.lan import multicast
from aerogram.lan.invitations import Invitation, Join
from aerogram.lan.multicast import (
    Expelled,
    Gap,
    GapReason,
    MulticastConfig,
    MulticastReceiver,
    MulticastSender,
    StreamLost,
)
from tests.lan.streams import DELAY, GROUP, PORT, Receiver, Tick, lossy, receiving, streaming, ticks


@pytest.mark.aerogram(limit=120.0)
async def test_all_complete_in_spite_of_independent_losses(network: Network) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network) as (server, sender):
        receivers = [Receiver(network, f"r{n}", server) for n in range(8)]
        for receiver in receivers:
            lossy(network, receiver, 0.05)
        async with receiving(*receivers):
            for tick in ticks(1000):
                await sender.send(tick)
            await sender.drain(timeout=30)
            assert [member.messages_lost for member in sender.members] == [0] * 8
            assert {member.first_missing for member in sender.members} == {sender.next_packet}
            assert sender.stats.packets_repaired < 0.45 * sender.stats.packets_sent
            await sender.__aexit__(None, None, None)
        for receiver in receivers:
            assert receiver.numbers == [*range(1000)]
            assert receiver.gaps == []
        await sender.__aenter__()


@pytest.mark.aerogram(limit=120.0)
async def test_one_bad_member_gets_everything_too(network: Network) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network) as (server, sender):
        bad, *others = [Receiver(network, f"r{n}", server) for n in range(8)]
        async with receiving(bad, *others):
            lossy(network, bad, 0.6)
            for receiver in others:
                lossy(network, receiver, 0.05)
            for tick in ticks(500):
                await sender.send(tick)
            await sender.drain(timeout=60)
            repaired = {member.identity: member.repairs for member in sender.members}
            assert max(repaired.values()) == repaired[1]
            assert sender.stats.packets_repaired < 2 * sender.stats.packets_sent
            for receiver in (bad, *others):
                receiver.stop.set()
        assert all(receiver.numbers == [*range(500)] for receiver in (bad, *others))


@pytest.mark.aerogram(limit=60.0)
async def test_a_stream_that_ends_ends_its_iterations(network: Network) -> None:
    network.default = Link(delay=DELAY)
    receivers: list[Receiver] = []
    async with streaming(network) as (server, sender):
        receivers += [Receiver(network, f"r{n}", server) for n in range(3)]
        async with receiving(*receivers):
            for receiver in receivers:
                lossy(network, receiver, 0.2)
            for tick in ticks(100):
                await sender.send(tick)
            await sender.__aexit__(None, None, None)
            with pytest.raises(EndpointClosed):
                await sender.send(b"too late")
        await sender.__aenter__()
    assert all(receiver.numbers == [*range(100)] for receiver in receivers)


@pytest.mark.aerogram(limit=60.0)
async def test_a_late_receiver_starts_at_the_oldest_or_the_newest(network: Network) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network) as (server, sender):
        early = Receiver(network, "early", server)
        async with receiving(early):
            for tick in ticks(100):
                await sender.send(tick)
            await sender.drain(timeout=10)
            oldest = Receiver(network, "oldest", server, start="oldest")
            newest = Receiver(network, "newest", server)
            async with receiving(oldest, newest):
                for tick in ticks(50, first=100):
                    await sender.send(tick)
                await sender.drain(timeout=10)
                for receiver in (oldest, newest, early):
                    receiver.stop.set()
        assert early.numbers == oldest.numbers == [*range(150)]
        assert newest.numbers == [*range(100, 150)]


@pytest.mark.aerogram(limit=60.0)
async def test_who_is_expelled_reads_nothing_more_and_the_others_lose_nothing(
    network: Network,
) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network) as (server, sender):
        receivers = [Receiver(network, f"r{n}", server) for n in range(4)]
        async with receiving(*receivers) as tasks:
            for tick in ticks(100):
                await sender.send(tick)
            await sender.drain(timeout=10)
            session = sender.members[0].session
            sender.expel(session)
            assert sender.epoch == 1
            assert not session.closed
            with pytest.raises(Rejected, match="not admitted"):
                sender.joined(session, multicast.Join("", 1, "newest"))
            for tick in ticks(100, first=100):
                await sender.send(tick)
            await sender.drain(timeout=10)
            await asyncio.wait([tasks[0]])
            with pytest.raises(Expelled):
                tasks[0].result()
            assert len(sender.members) == 3
            for receiver in receivers[1:]:
                receiver.stop.set()
        assert receivers[0].numbers == [*range(100)]
        for receiver in receivers[1:]:
            assert receiver.numbers == [*range(200)]


@pytest.mark.aerogram(limit=60.0)
@pytest.mark.parametrize("how", ["stops", "closes its session"])
async def test_a_member_that_goes_brings_a_new_key(network: Network, how: str) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network) as (server, sender):
        gone, left = Receiver(network, "gone", server), Receiver(network, "left", server)
        async with receiving(gone, left):
            await sender.send(Tick(0))
            await sender.drain(timeout=10)
            if how == "stops":
                gone.stop.set()
            else:
                await gone.session.close()
            async with asyncio.timeout(10):
                while sender.epoch == 0:  # noqa: ASYNC110  nothing tells when
                    await asyncio.sleep(0.01)
            assert len(sender.members) == 1
            for tick in ticks(50, first=1):
                await sender.send(tick)
            await sender.drain(timeout=10)
            left.stop.set()
        assert gone.numbers == [0]
        assert left.numbers == [*range(51)]
        assert left.gaps == []


@pytest.mark.aerogram(limit=60.0)
async def test_what_strangers_send_to_the_group_changes_nothing(network: Network) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network) as (server, sender):
        receiver = Receiver(network, "r", server)
        stranger = network.host("stranger")
        protocol = Recorder()
        transport, _ = await stranger.create_datagram_endpoint(
            lambda: protocol, local_address=(GROUP, PORT)
        )
        transport.join_group(GROUP)
        async with receiving(receiver):
            for tick in ticks(100):
                await sender.send(tick)
                await asyncio.sleep(0.001)
                for datagram in protocol.heard[-3:]:
                    transport.sendto(datagram, (GROUP, PORT))
                    transport.sendto(datagram[:-1] + b"!", (GROUP, PORT))
                    transport.sendto(datagram[9:], (GROUP, PORT))
            await sender.drain(timeout=10)
            receiver.stop.set()
        transport.close()
        assert receiver.numbers == [*range(100)]
        assert receiver.stream.stats.dropped_unauthentic > 300
        assert receiver.stream.stats.dropped_foreign > 100


class Recorder(asyncio.DatagramProtocol):
    """Hears a group without a key."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard.append(data)


@pytest.mark.aerogram(limit=60.0)
async def test_a_sender_that_starts_anew_is_another_stream(network: Network) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network, config=MulticastConfig(linger_seconds=0.1)) as (server, sender):
        old = Receiver(network, "old", server)
        async with receiving(old) as [task]:
            await sender.send(Tick(1))
            await sender.drain(timeout=10)
            network.partition("server", "old")
            await sender.__aexit__(None, None, None)  # and nobody is told
            network.repair()
            await sender.__aenter__()
            new = Receiver(network, "new", server)
            async with receiving(new):
                await sender.send(Tick(2))
                await sender.drain(timeout=10)
                new.stop.set()
            await asyncio.wait([task])
            with pytest.raises(StreamLost):
                task.result()
        assert old.numbers == [1]
        assert old.stream.stats.dropped_foreign > 0
        assert new.numbers == [2]


@pytest.mark.aerogram(limit=60.0)
async def test_a_network_without_multicast_is_told_from_a_quiet_stream(network: Network) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network) as (server, _):
        network.host("far", address="192.168.7.1/24")
        near, far = Receiver(network, "near", server), Receiver(network, "far", server)
        async with receiving(near, far) as tasks:
            await asyncio.wait([tasks[1]])
            with pytest.raises(StreamLost, match="multicast"):
                tasks[1].result()
            assert not tasks[0].done()
            near.stop.set()


@pytest.mark.aerogram(limit=60.0)
async def test_only_the_admitted_join(network: Network) -> None:
    async with streaming(network, admit=None) as (server, sender):
        host = network.host("client")
        async with connect(server.address, network=host) as session:
            with pytest.raises(Rejected, match="not admitted"):
                async with MulticastReceiver.join(session, network=host):
                    pass
            with pytest.raises(Rejected, match="no such stream"):
                async with MulticastReceiver.join(session, "other", network=host):
                    pass
            [there] = server.sessions
            sender.admit(there)
            async with MulticastReceiver.join(session, network=host) as stream:
                await sender.send(b"welcome")
                assert await anext(stream) == b"welcome"
        sender.admit(there)  # it is closed by now
        assert sender.members == []


@pytest.mark.aerogram(limit=60.0)
async def test_receivers_are_limited(network: Network) -> None:
    config = MulticastConfig(members_limit=3, members_per_session=2)
    async with streaming(network, config=config) as (server, _):
        hosts = [network.host(f"c{n}") for n in range(5)]
        async with connect(server.address, network=hosts[0]) as session:
            join = MulticastReceiver.join
            async with join(session, network=hosts[1]), join(session, network=hosts[2]):
                with pytest.raises(Rejected, match="too many"):
                    async with join(session, network=hosts[3]):
                        pass
                async with (
                    connect(server.address, network=hosts[3]) as other,
                    join(other, network=hosts[3]),
                ):
                    with pytest.raises(Rejected, match="too many"):
                        async with join(other, network=hosts[4]):
                            pass


@pytest.mark.aerogram(limit=60.0)
async def test_a_server_without_a_sender_says_so(network: Network) -> None:
    host = network.host("client")
    async with (
        serve(App(), "server", 9000, network=network.host("server")) as server,
        connect(server.address, network=host) as session,
    ):
        with pytest.raises(RequestFailed):
            async with MulticastReceiver.join(session, network=host):
                pass


GOOD: dict[str, Any] = {
    "stream": b"12345678",
    "member": 1,
    "group": GROUP,
    "port": PORT,
    "keys": [(0, bytes(32), 0)],
    "sequence": 0,
    "message": 0,
    "next_sequence": 0,
    "rtt": 0.1,
    "members": 1,
}


@pytest.mark.aerogram(limit=60.0)
@pytest.mark.parametrize(
    "wrong",
    [
        {"stream": b""},
        {"member": 0},
        {"member": 1 << 32},
        {"group": "10.0.0.1"},
        {"port": 0},
        {"keys": []},
        {"keys": [(-1, bytes(32), 0)]},
        {"keys": [(0, bytes(31), 0)]},
        {"keys": [(0, bytes(32), -1)]},
        {"sequence": -1},
        {"message": 1 << 63},
        {"rtt": float("nan")},
        {"members": -1},
    ],
)
async def test_an_invitation_that_cannot_be_is_refused(
    network: Network, wrong: dict[str, Any]
) -> None:
    app = App()

    @app.answers(Join)
    async def join(session: Session, request: Join) -> Invitation:
        return Invitation(**(GOOD | wrong))

    host = network.host("client")
    async with (
        serve(app, "server", 9000, network=network.host("server")) as server,
        connect(server.address, network=host) as session,
    ):
        with pytest.raises((StreamLost, InvalidAddress)):
            async with MulticastReceiver.join(session, network=host):
                pass


@pytest.mark.aerogram(limit=60.0)
async def test_a_sender_is_opened_once(network: Network) -> None:
    async with streaming(network) as (_, sender):
        with pytest.raises(RuntimeError, match="already"):
            await sender.__aenter__()


@pytest.mark.aerogram(limit=60.0)
async def test_sending_waits_for_the_rate(network: Network) -> None:
    config = MulticastConfig(rate_bytes_per_second=100_000, send_queue_bytes=10_000)
    loop = asyncio.get_running_loop()
    async with streaming(network, config=config) as (server, sender):
        receiver = Receiver(network, "r", server)
        async with receiving(receiver):
            started = loop.time()
            numbers = [await sender.send(tick) for tick in ticks(200)]
            assert loop.time() - started > 1.5
            assert numbers == [*range(200)]
            await sender.drain(timeout=10)
            receiver.stop.set()
        assert receiver.numbers == [*range(200)]


@pytest.mark.aerogram(limit=60.0)
async def test_what_cannot_be_sent_is_refused_at_its_caller(network: Network) -> None:
    async with streaming(network) as (_, sender):
        with pytest.raises(TypeError):
            await sender.send(object())
        with pytest.raises(MessageTooLarge):
            await sender.send(bytes(sender.config.max_message_bytes + 1))
        await sender.send(bytes(sender.config.max_message_bytes - 1))


@pytest.mark.aerogram(limit=60.0)
async def test_draining_takes_no_longer_than_one_likes(network: Network) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network, config=MulticastConfig(linger_seconds=0.1)) as (server, sender):
        receiver = Receiver(network, "r", server)
        async with receiving(receiver):
            lossy(network, receiver, 1.0)
            await sender.send(Tick(1))
            with pytest.raises(TimeoutError):
                await sender.drain(timeout=1.0)
            lossy(network, receiver, 0.0)
            await sender.drain(timeout=5.0)
            receiver.stop.set()


class Unknown(Message, tag=9):
    text: str


class Broken(Message, tag=1):
    number: str


@pytest.mark.aerogram(limit=60.0)
async def test_messages_of_other_kinds_come_as_they_are(network: Network) -> None:
    async with streaming(network) as (server, sender):
        receiver = Receiver(network, "r", server)
        async with receiving(receiver):
            for message in (b"bytes", {"plain": 1}, Unknown("x"), Broken("not a number"), Tick(5)):
                await sender.send(message)
            await sender.drain(timeout=10)
            receiver.stop.set()
        plain, untyped, gap = receiver.items[0:2], receiver.items[2], receiver.items[3]
        assert plain == [b"bytes", {"plain": 1}]
        assert getattr(untyped, "fields", None) == ["x"]
        assert gap == Gap(3, 3, 1, GapReason.UNDECODABLE)
        assert receiver.numbers == [5]
        assert receiver.stream.stats.messages_undecodable == 1


@pytest.mark.aerogram(limit=60.0)
async def test_one_app_has_several_streams_and_clients_have_handlers(network: Network) -> None:
    there, here = network.host("server"), network.host("client")
    one = MulticastSender(GROUP, PORT, name="one", network=there)
    two = MulticastSender("239.1.2.4", PORT, name="two", network=there)
    app, client_app = App(), App()
    multicast.invitations(app, one, two, admit=lambda session: True)
    with pytest.raises(ValueError, match="name"):
        multicast.invitations(App(), one, one)
    said: list[str] = []

    @client_app.on(str)
    async def hear(session: Session, text: str) -> None:
        said.append(text)

    async with (
        serve(app, "server", 9000, network=there) as server,
        one,
        two,
        connect(server.address, app=client_app, network=here) as session,
        MulticastReceiver.join(session, "one", network=here) as first,
        MulticastReceiver.join(session, "two", network=here) as second,
    ):
        await server.sessions[0].send("by the session")
        await one.send(b"1")
        await two.send(b"2")
        assert await anext(first) == b"1"
        assert await anext(second) == b"2"
        one.expel(server.sessions[0])
        with pytest.raises(Expelled):
            await anext(first)
        await two.send(b"still there")
        assert await anext(second) == b"still there"
        assert said == ["by the session"]


@pytest.mark.aerogram(limit=60.0)
async def test_a_stream_ends_with_its_session(network: Network) -> None:
    network.default = Link(delay=DELAY)
    async with streaming(network) as (server, sender):
        receiver = Receiver(network, "r", server)
        async with receiving(receiver):
            await sender.send(Tick(1))
            await sender.drain(timeout=10)
            await server.sessions[0].close("enough")
        assert receiver.numbers == [1]


@pytest.mark.aerogram(limit=60.0)
async def test_that_nothing_can_be_sent_is_told_once_until_it_can_again(
    network: Network, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with streaming(network) as (server, sender):
        receiver = Receiver(network, "r", server)
        async with receiving(receiver):
            with monkeypatch.context() as patched:
                patched.setattr(DatagramEndpoint, "send", unreachable)
                for tick in ticks(3):
                    await sender.send(tick)
                    await asyncio.sleep(1)
            await sender.drain(timeout=10)
            receiver.stop.set()
        assert receiver.numbers == [0, 1, 2]
    assert sender.stats.sends_failed > 1
    warnings = [record.message for record in caplog.records if record.name == "aerogram.lan"]
    assert warnings == [f"nothing can be sent to {GROUP} now: [Errno 101] unreachable"]


async def unreachable(*arguments: object, **options: object) -> None:
    raise OSError(101, "unreachable")


@pytest.mark.parametrize("wrong", [{"order": "sorted"}, {"start": "middle"}])
def test_a_receiver_is_checked_before_it_asks(wrong: dict[str, str]) -> None:
    session: Session = object()  # type: ignore[assignment]  it is not used
    with pytest.raises(ValueError, match="is '"):
        MulticastReceiver.join(session, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", [("10.0.0.1", 5000), (GROUP, 0), ("nonsense", 5000)])
def test_a_sender_needs_a_group_and_a_port(address: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=r"group|port"):
        MulticastSender(*address)
