"""What the pytest plug-in finds in tests that have passed, and what it takes for planned."""

from __future__ import annotations

import pytest

from tests.lab.inner import run_inner

WORLDS = """
@pytest.mark.aerogram(limit=600.0)
async def test_bad_links(network):
    network.default = Link(
        delay=0.05, jitter=0.1, distribution="skewed", loss=0.1, duplicate=0.1, reorder=0.1,
        burst=Burst(enter=0.05, leave=0.3), longest_loss=3,
        rate_bytes_per_second=50_000, queue_bytes=3000,
    )
    await talk(network, 50)

@pytest.mark.aerogram(limit=600.0)
async def test_corruption(network):
    network.default = Link(delay=0.05, corrupt=0.2)
    await talk(network, 50)

@pytest.mark.aerogram(limit=600.0)
async def test_changes(network):
    network.default = Link(delay=0.05, loss=0.05)
    async with (
        serve(app, "server", 1, network=network) as server,
        connect(server.address, network=network.host("client")) as session,
    ):
        nat = network.nat("client")
        for number in range(60):
            await session.send(b"x")
            await session.receive(bytes)
            match number:
                case 10: nat.rebind_port()
                case 20: nat.rebind_address()
                case 30: network.partition("client")
            await asyncio.sleep(0.5) if number == 30 else None
            network.repair()

@pytest.mark.aerogram(limit=600.0)
async def test_crash(network):
    async def program():
        async with serve(app, "server", 1, network=host):
            await asyncio.Event().wait()

    host = network.host("server")
    task = host.run(program)
    await asyncio.sleep(1.0)
    host.crash()
    await asyncio.sleep(1.0)
    [task] = host.restart()
    await asyncio.sleep(1.0)
    task.cancel()
"""


def test_what_the_network_does_is_planned(pytester: pytest.Pytester) -> None:
    run_inner(pytester, WORLDS, "--aerogram-seeds", "5").assert_outcomes(passed=4 * 5)


FAULTS = {
    "mailbox": """
    async with (
        serve(app, "server", 1, network=network, config=Config(mailbox_bytes=1000)) as server,
        connect(server.address, network=network) as session,
    ):
        for _ in range(20):
            await session.send(Tick(bytes(500)))
            await asyncio.sleep(0.01)
        await asyncio.sleep(60.0)
""",
    "handler error": """
    async with (
        serve(app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        await session.deliver("oh")
""",
    "receive buffer": """
    small = dict(local_address=("0.0.0.0", 5), receive_buffer_bytes=1000)
    host = network.host("small")
    receiver, _ = await host.create_datagram_endpoint(asyncio.DatagramProtocol, **small)
    sender, _ = await network.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_address=("0.0.0.0", 0)
    )
    for _ in range(3):
        sender.sendto(bytes(900), (host.ipv4, 5))
    await asyncio.sleep(1.0)
""",
    "receive queue": """
    small = Config(receive_queue_datagrams=2)
    async with (
        open_endpoint("10.0.0.9", 5, network=network, config=small),
        open_endpoint(network=network) as sender,
    ):
        for _ in range(5):
            await sender.send(b"x", ("10.0.0.9", 5))
        await asyncio.sleep(1.0)
""",
    "malformed": """
    async with serve(app, "server", 1, network=network) as server:
        stranger, _ = await network.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_address=("0.0.0.0", 0)
        )
        stranger.sendto(b"hello", server.local_address)
        await asyncio.sleep(1.0)
""",
    "limit": """
    config = Config(sessions_limit=1)
    async with (
        serve(app, "server", 1, network=network, config=config) as server,
        connect(server.address, network=network),
    ):
        with pytest.raises(TimeoutError):
            async with connect(server.address, network=network):
                pass
""",
    "ledger": """
    async with (
        serve(app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        await session.deliver(b"x")
        session._inner.connection.stats.messages_delivered += 1
""",
    "left over": """
    server = await serve(app, "server", 1, network=network)
""",
}
TEXTS = {
    "mailbox": "  mailbox: 1* at server, 10.0.0.1 port 1",
    "handler error": "  handler error: 1 at server, 10.0.0.1 port 1",
    "receive buffer": "  receive buffer: 2 dropped by the network",
    "receive queue": "  receive queue: 3 at 10.0.0.9, 10.0.0.9 port 5",
    "malformed": "  malformed: 1 at server, 10.0.0.1 port 1",
    "limit": "  limit: [1-9]* at server, 10.0.0.1 port 1",
    "ledger": "  ledger: 1 messages sent, but 2 delivered, 0 lost* at client-1, 0.0.0.0 port 49152",
    "left over": "  left over: the socket at server, 10.0.0.1 port 1 was never closed",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_a_test_unless_it_is_expected(pytester: pytest.Pytester, fault: str) -> None:
    body = FAULTS[fault]
    code = f"""
@pytest.mark.aerogram
async def test_unplanned(network):
{body}

@pytest.mark.aerogram
async def test_on_a_network_of_its_own():
    network = Network(5)
{body}

@pytest.mark.aerogram
async def test_expected(network):
    network.expect({fault!r})
{body}

@pytest.mark.aerogram(expect=[{fault!r}])
async def test_marked(network):
{body}
"""
    result = run_inner(pytester, code)
    result.assert_outcomes(failed=2, passed=2)
    heading = "the test has passed, but nobody planned this:"
    result.stdout.fnmatch_lines([heading, TEXTS[fault], f"*network.expect({fault!r})*"] * 2)
    result.stdout.fnmatch_lines(
        ["repeat it with: pytest test_it.py::test_unplanned --aerogram-seed 0"]
    )


def test_tasks_and_timers_left_over_fail_a_test_unless_it_expects_them(
    pytester: pytest.Pytester,
) -> None:
    code = """
    async def linger():
        asyncio.create_task(asyncio.sleep(100.0), name="lazy")
        asyncio.get_running_loop().call_later(99.0, print)
        await asyncio.sleep(1.0)
        return 5

    @pytest.mark.aerogram
    async def test_unplanned():
        await linger()

    @pytest.mark.aerogram(expect=["left over"])
    def test_marked(simulate):
        assert simulate(linger) == 5

    @pytest.mark.aerogram
    async def test_expected(network):
        network.expect("left over")
        await linger()
    """
    result = run_inner(pytester, code)
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["E*LeftOver: *", "E*lazy: *", "E*TimerHandle when=99.0*"])


def test_a_session_that_is_open_still_has_a_ledger(pytester: pytest.Pytester) -> None:
    code = """
    @pytest.mark.aerogram(expect=["left over"])
    async def test_it(network):
        server = await serve(app, "server", 1, network=network)
        session = await connect(server.address, network=network).__aenter__()
        await session.send(b"x")
        session._inner.connection.stats.messages_sent += 1
    """
    result = run_inner(pytester, code)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["  ledger: 2 messages sent, but 1 delivered, *0 in flight with *10.0.0.1*"]
    )


def test_a_server_in_a_fixture_of_real_time_is_not_left_over(pytester: pytest.Pytester) -> None:
    code = """
    @pytest.fixture
    async def server(network):
        async with serve(app, "server", 1, network=network) as server:
            yield server

    async def test_it(server, network):
        async with connect(server.address, network=network) as session:
            await session.deliver(b"x")
    """
    run_inner(pytester, code).assert_outcomes(passed=1)


def test_a_failure_of_the_test_itself_comes_first(pytester: pytest.Pytester) -> None:
    code = f"""
@pytest.mark.aerogram
async def test_it(network):
{FAULTS["malformed"]}
    assert network is None

@pytest.mark.aerogram
@pytest.mark.xfail(strict=True)
async def test_known(network):
{FAULTS["malformed"]}
"""
    result = run_inner(pytester, code)
    result.assert_outcomes(failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["E*assert <Network*", "repeat it with: *"])
    result.stdout.no_fnmatch_line("*nobody planned*")
