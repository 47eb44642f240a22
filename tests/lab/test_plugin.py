"""The pytest plug-in, as whoever runs pytest meets it: inner test files that pass or fail."""

from __future__ import annotations

import re
from collections.abc import Callable

# Here, so that the inner runs, which forget what they import, find them in memory.
import hypothesis.strategies  # noqa: F401
import pytest

import aerogram.lab.plugin  # noqa: F401

Run = Callable[..., pytest.RunResult]

HEAD = """
import asyncio
import pytest
from aerogram import App, Config, Message, connect, delivery, serve
from aerogram.lab import Burst, Link, Network, VirtualLoop

app = App()

class Tick(Message, tag=1, delivery=delivery.unreliable()):
    data: bytes

@app.on(bytes)
async def echo(session, data):
    await session.send(data)

@app.on(Tick)
async def slow(session, tick):
    await asyncio.sleep(1.0)

@app.on(str)
async def broken(session, text):
    raise KeyError(text)

async def talk(network, count=20, pause=0.0):
    async with (
        serve(app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        for number in range(count):
            await session.send(b"%d" % number)
            assert await session.receive(bytes) == b"%d" % number
            await asyncio.sleep(pause)
"""

OPTIONS = """
[pytest]
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = function
addopts = --strict-markers
filterwarnings = error
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run a file with this test code, after HEAD, and return what came of it."""

    def run_code(code: str, *arguments: str, mode: str = "auto") -> pytest.RunResult:
        pytester.makeini(OPTIONS.format(mode=mode))
        pytester.makepyfile(test_it=HEAD + code)
        return pytester.runpytest(*arguments)

    return run_code


# The fixtures, and tests that are coroutine functions


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_a_marked_coroutine_runs_once_and_in_virtual_time(run: Run, mode: str) -> None:
    code = """
    @pytest.mark.aerogram(limit=5000.0)
    async def test_function(network):
        assert isinstance(asyncio.get_running_loop(), VirtualLoop)
        await asyncio.sleep(4000.0)
        await talk(network)

    @pytest.mark.aerogram
    class TestClass:
        @pytest.mark.parametrize("number", [1, 2])
        async def test_method(self, number, network):
            assert number in (1, 2)
            await talk(network)
    """
    run(_dedented(code), mode=mode).assert_outcomes(passed=3)


def test_unmarked_coroutines_stay_with_other_plug_ins(run: Run) -> None:
    code = """
    async def test_in_real_time(network):
        assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
        await talk(network)
    """
    run(_dedented(code)).assert_outcomes(passed=1)


def test_a_plain_test_simulates_as_often_as_it_likes(run: Run) -> None:
    code = """
    @pytest.mark.aerogram(limit=50.0)
    def test_it(simulate, network, aerogram_seed):
        async def main():
            await talk(network)
            return network.seed

        assert simulate(main) == simulate(main()) == aerogram_seed == 0
        simulate(asyncio.sleep(60.0), limit=70.0)
        simulate(asyncio.sleep(60.0))
    """
    result = run(_dedented(code))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*SimulationTimeout: the limit of 50 s has passed*"])


@pytest.mark.parametrize(
    ("decorators", "signature"),
    [("@staticmethod", "network"), ("@given(number=integers())", "self, number")],
)
def test_what_cannot_run_in_virtual_time_is_refused(
    run: Run, decorators: str, signature: str
) -> None:
    code = f"""
    from hypothesis import given
    from hypothesis.strategies import integers

    @pytest.mark.aerogram
    class TestClass:
        {decorators}
        async def test_it({signature}):
            pass
    """
    result = run(_dedented(code))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*only plain `async def` tests*"])


def test_the_marker_takes_known_words_only(run: Run) -> None:
    code = """
    @pytest.mark.aerogram(limits=5.0)
    async def test_misspelt():
        pass

    @pytest.mark.aerogram(expect=["malibox"])
    async def test_misspelt_fault():
        pass

    @pytest.mark.aerogram
    async def test_misspelt_in_the_call(network):
        network.expect("malibox")
    """
    result = run(_dedented(code))
    result.assert_outcomes(errors=2, failed=1)
    result.stdout.fnmatch_lines_random(
        ["*takes limit= and expect=, not*limits*", "E*no fault is named 'malibox'; there are: *"]
    )


# Seeds


SEEDED = """
@pytest.mark.aerogram
async def test_it(network):
    await talk(network)
    assert network.seed != 2

@pytest.mark.aerogram
@pytest.mark.parametrize("letter", ["a", "b"])
async def test_each(letter, network):
    network.default = Link(delay=0.1, loss=0.3)
    await talk(network)
    assert (letter, network.seed) != ("b", 1)

@pytest.mark.parametrize("aerogram_seed", [50, 60])
def test_own_seeds(aerogram_seed, network):
    assert network.seed in (50, 60)

def test_without_a_network():
    pass
"""


def test_each_test_runs_with_so_many_seeds(run: Run) -> None:
    result = run(SEEDED, "--aerogram-seeds", "3", "-v")
    result.assert_outcomes(passed=2 + 5 + 2 + 1, failed=2)
    result.stdout.fnmatch_lines(["*::test_it?seed-2? FAILED*", "*::test_each?a-seed-0? PASSED*"])
    result.stdout.fnmatch_lines(["repeat it with: pytest test_it.py::test_it --aerogram-seed 2"])
    result.stdout.fnmatch_lines(
        ["repeat it with: pytest 'test_it.py::test_each?b?' --aerogram-seed 1"]
    )


def test_the_line_of_a_failure_repeats_it_with_the_same_trace(
    run: Run, pytester: pytest.Pytester
) -> None:
    failed = run(SEEDED, "--aerogram-seeds", "3", "-k", "test_each").stdout.str()
    [arguments] = re.findall(r"repeat it with: pytest '(.+)' --aerogram-seed (\d+)", failed)
    repeated = pytester.runpytest(arguments[0], "--aerogram-seed", arguments[1])
    repeated.assert_outcomes(failed=1)
    [before] = re.findall(r"^hash \w{32}$", failed, flags=re.MULTILINE)
    repeated.stdout.fnmatch_lines(
        ["*simulated network*", "*the last 20 entries*", "*server 10.0.0.1:1*", before]
    )


def test_the_line_of_a_failure_counts_from_where_pytest_was_started(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = pytester.mkdir("inner")
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    (inner / "test_it.py").write_text("def test_it(network):\n    assert network is None\n")
    monkeypatch.chdir(inner)
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["repeat it with: pytest test_it.py::test_it --aerogram-seed 0"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--aerogram-seeds", "0"], "*1 to 100000 seeds, not 0*"),
        (["--aerogram-seeds", "some"], "*invalid * value: 'some'*"),
        (["--aerogram-seeds", "2", "--aerogram-seed", "0"], "*give one*"),
    ],
)
def test_wrong_options_are_refused(run: Run, arguments: list[str], text: str) -> None:
    result = run(SEEDED, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([text])


# What fails a test that has passed


WORLDS = """
@pytest.mark.aerogram(limit=600.0)
async def test_bad_links(network):
    network.default = Link(
        delay=0.05, jitter=0.1, distribution="skewed", loss=0.1, duplicate=0.1, reorder=0.1,
        burst=Burst(enter=0.05, leave=0.3), rate_bytes_per_second=50_000, queue_bytes=3000,
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


def test_what_the_network_does_is_planned(run: Run) -> None:
    run(WORLDS, "--aerogram-seeds", "5").assert_outcomes(passed=4 * 5)


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
        session.connection.stats.messages_delivered += 1
""",
    "left over": """
    server = await serve(app, "server", 1, network=network)
""",
}
TEXTS = {
    "mailbox": "  mailbox: 1* at server, 10.0.0.1 port 1",
    "handler error": "  handler error: 1 at server, 10.0.0.1 port 1",
    "receive buffer": "  receive buffer: 2 dropped by the network",
    "malformed": "  malformed: 1 at server, 10.0.0.1 port 1",
    "limit": "  limit: [1-9]* at server, 10.0.0.1 port 1",
    "ledger": "  ledger: 1 messages sent, but 2 delivered, 0 lost* at client-1, 0.0.0.0 port 49152",
    "left over": "  left over: the socket at server, 10.0.0.1 port 1 was never closed",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_a_test_unless_it_is_expected(run: Run, fault: str) -> None:
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
    result = run(code)
    result.assert_outcomes(failed=2, passed=2)
    heading = "the test has passed, but nobody planned this:"
    result.stdout.fnmatch_lines([heading, TEXTS[fault], f"*network.expect({fault!r})*"] * 2)
    result.stdout.fnmatch_lines(
        ["repeat it with: pytest test_it.py::test_unplanned --aerogram-seed 0"]
    )


def test_tasks_and_timers_left_over_fail_a_test_unless_it_expects_them(run: Run) -> None:
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
    result = run(_dedented(code))
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["E*LeftOver: *", "E*lazy: *", "E*TimerHandle when=99.0*"])


def test_a_session_that_is_open_still_has_a_ledger(run: Run) -> None:
    code = """
    @pytest.mark.aerogram(expect=["left over"])
    async def test_it(network):
        server = await serve(app, "server", 1, network=network)
        session = await connect(server.address, network=network).__aenter__()
        await session.send(b"x")
        session.connection.stats.messages_sent += 1
    """
    result = run(_dedented(code))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["  ledger: 2 messages sent, but 1 delivered, *0 in flight with *10.0.0.1*"]
    )


def test_a_server_in_a_fixture_of_real_time_is_not_left_over(run: Run) -> None:
    code = """
    @pytest.fixture
    async def server(network):
        async with serve(app, "server", 1, network=network) as server:
            yield server

    async def test_it(server, network):
        async with connect(server.address, network=network) as session:
            await session.deliver(b"x")
    """
    run(_dedented(code)).assert_outcomes(passed=1)


def test_a_failure_of_the_test_itself_comes_first(run: Run) -> None:
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
    result = run(code)
    result.assert_outcomes(failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["E*assert <Network*", "repeat it with: *"])
    result.stdout.no_fnmatch_line("*nobody planned*")


# Beside other tests


def test_nothing_is_imported_for_tests_that_do_not_use_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_it():
            found = {name for name in sys.modules if name.partition(".")[0] == "aerogram"}
            assert found == set() and "pytest_aerogram" in sys.modules
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_options_fixtures_and_the_marker_document_themselves(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.runpytest("--help").stdout.fnmatch_lines(["*--aerogram-seeds=N*"])
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.aerogram(limit=*"])
    pytester.runpytest("--fixtures").stdout.fnmatch_lines(
        ["network*", "*A simulated network of the test's seed*"]
    )


def _dedented(code: str) -> str:
    return re.sub(r"^ {4}", "", code, flags=re.MULTILINE)
