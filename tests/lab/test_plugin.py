"""The pytest plug-in, as whoever runs pytest meets it: inner test files that pass or fail."""

from __future__ import annotations

import re

import pytest

from tests.lab.inner import run_inner

# The fixtures, and tests that are coroutine functions


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_a_marked_coroutine_runs_once_and_in_virtual_time(
    pytester: pytest.Pytester, mode: str
) -> None:
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
    run_inner(pytester, code, mode=mode).assert_outcomes(passed=3)


def test_unmarked_coroutines_stay_with_other_plug_ins(pytester: pytest.Pytester) -> None:
    code = """
    async def test_in_real_time(network):
        assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
        await talk(network)
    """
    run_inner(pytester, code).assert_outcomes(passed=1)


def test_a_plain_test_simulates_as_often_as_it_likes(pytester: pytest.Pytester) -> None:
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
    result = run_inner(pytester, code)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*SimulationTimeout: the limit of 50 s has passed*"])


@pytest.mark.parametrize(
    ("decorators", "signature"),
    [("@staticmethod", "network"), ("@given(number=integers())", "self, number")],
)
def test_what_cannot_run_in_virtual_time_is_refused(
    pytester: pytest.Pytester, decorators: str, signature: str
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
    result = run_inner(pytester, code)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*only plain `async def` tests*"])


def test_the_marker_takes_known_words_only(pytester: pytest.Pytester) -> None:
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
    result = run_inner(pytester, code)
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


def test_each_test_runs_with_so_many_seeds(pytester: pytest.Pytester) -> None:
    result = run_inner(pytester, SEEDED, "--aerogram-seeds", "3", "-v")
    result.assert_outcomes(passed=2 + 5 + 2 + 1, failed=2)
    result.stdout.fnmatch_lines(["*::test_it?seed-2? FAILED*", "*::test_each?a-seed-0? PASSED*"])
    result.stdout.fnmatch_lines(["repeat it with: pytest test_it.py::test_it --aerogram-seed 2"])
    result.stdout.fnmatch_lines(
        ["repeat it with: pytest 'test_it.py::test_each?b?' --aerogram-seed 1"]
    )


def test_the_line_of_a_failure_repeats_it_with_the_same_trace(pytester: pytest.Pytester) -> None:
    failed = run_inner(pytester, SEEDED, "--aerogram-seeds", "3", "-k", "test_each").stdout.str()
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
def test_wrong_options_are_refused(
    pytester: pytest.Pytester, arguments: list[str], text: str
) -> None:
    result = run_inner(pytester, SEEDED, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([text])


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
