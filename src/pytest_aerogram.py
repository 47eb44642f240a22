"""The pytest plug-in of Aerogram: tests on simulated networks, in virtual time, repeated by seed.

Fixtures `network`, `simulate` and `aerogram_seed`, the marker `aerogram`, and the options
`--aerogram-seeds N`, `--aerogram-seed S` and `--aerogram-policy module:name`; each documents itself
below. A test that uses them also fails for what it leaves behind: see `aerogram.lab.faults`.

A module beside the package, because pytest imports it at every start, also for those who have no
such tests, and a module of the package would bring all of it along. Rules: until a fixture is used
it imports nothing but pytest, 7.4 or newer; what is found fails the test and not its teardown.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import os
import shlex
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from aerogram.lab.network import Network
    from aerogram.lab.plugin import LabTest
    from aerogram.lab.simulation import Simulate

_SEEDS_LIMIT: Final = 100_000
"""Of `--aerogram-seeds`: each is a test of its own that pytest holds in memory."""

_DEFAULT_SEED: Final = 0

_MARKER: Final = (
    "aerogram(limit=3600.0, expect=()): run an `async def` test in virtual time, for at most"
    " `limit` seconds of it, and let it pass in spite of the faults named by `expect`. For other"
    " tests the two are what `simulate` and the checks at their end go by."
)


# Options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("aerogram", "tests on simulated networks")
    group.addoption(
        "--aerogram-seeds",
        type=_number_of_seeds,
        metavar="N",
        help="run each test on a simulated network N times, with the seeds 0 to N-1",
    )
    group.addoption(
        "--aerogram-seed",
        type=int,
        metavar="S",
        help="run each test on a simulated network with this seed; a failing test names its own",
    )
    group.addoption(
        "--aerogram-policy",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="examine this aerogram.lab.conformance.Policy: a test for each property; repeatable",
    )


def _number_of_seeds(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _SEEDS_LIMIT:
        raise argparse.ArgumentTypeError(f"1 to {_SEEDS_LIMIT} seeds, not {number}")
    return number


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker. Raises `UsageError` for options that exclude each other."""
    config.addinivalue_line("markers", _MARKER)
    if config.getoption("aerogram_seed") is not None and config.getoption("aerogram_seeds"):
        raise pytest.UsageError("--aerogram-seed is one seed, --aerogram-seeds a number: give one")


# Seeds


@pytest.fixture
def aerogram_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run of the test: `--aerogram-seed`, one of `--aerogram-seeds`, or 0."""
    chosen: int | None = getattr(request, "param", request.config.getoption("aerogram_seed"))
    return _DEFAULT_SEED if chosen is None else chosen


@pytest.hookimpl(trylast=True)  # so that the seed is the last of a test's parameters
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat each test that uses a seed as often as `--aerogram-seeds` says."""
    count = metafunc.config.getoption("aerogram_seeds")
    if not count or "aerogram_seed" not in metafunc.fixturenames:
        return
    for mark in metafunc.definition.iter_markers("parametrize"):
        if "aerogram_seed" in (mark.args[0] if mark.args else mark.kwargs["argnames"]):
            return  # the test has chosen its seeds
    seeds = range(count)
    names = [_seed_name(seed) for seed in seeds]
    metafunc.parametrize("aerogram_seed", seeds, indirect=True, ids=names)


def _seed_name(seed: int) -> str:
    return f"seed-{seed}"


# Fixtures


@pytest.fixture
def _aerogram_test(request: pytest.FixtureRequest, aerogram_seed: int) -> Iterator[LabTest]:
    from aerogram.lab.plugin import LabTest  # noqa: PLC0415  only for tests that use it

    limit, expected = _marked(request.node)
    with LabTest(aerogram_seed, limit, expected).running() as lab_test:
        request.node.stash[_LAB_TEST] = lab_test
        yield lab_test


_LAB_TEST: Final = pytest.StashKey["LabTest"]()


@pytest.fixture
def network(_aerogram_test: LabTest) -> Network:
    """A simulated network of the test's seed, with perfect links: `network.default` changes them.

    What the product drops on it without a plan fails the test, unless `network.expect(...)` names
    it; so it does on every `aerogram.lab.Network` that the test makes itself.
    """
    return _aerogram_test.make_network()


@pytest.fixture
def simulate(_aerogram_test: LabTest) -> Simulate:
    """Run a coroutine or coroutine function in virtual time with the test's seed.

    `simulate(main, limit=60.0)` returns its result; see `aerogram.lab.simulate`. For a plain test:
    an `async def` one is marked with `aerogram` instead.
    """
    return _aerogram_test.simulate


def _marked(item: pytest.Item) -> tuple[float | None, list[str]]:
    """Return the limit of the nearest marker, and all expected faults. Fails for other words."""
    limit: float | None = None
    expected: list[str] = []
    for mark in item.iter_markers("aerogram"):
        if mark.args or mark.kwargs.keys() - {"limit", "expect"}:
            pytest.fail(f"the marker aerogram takes limit= and expect=, not {mark}", pytrace=False)
        limit = mark.kwargs.get("limit") if limit is None else limit
        expected += mark.kwargs.get("expect", ())
    return limit, expected


# Policies


class PolicyItem(pytest.Item):
    """One property of one policy."""

    policy_name = ""
    broken = ""

    def runtest(self) -> None:
        """Fail if the policy breaks this property. It is examined once for all of them."""
        from aerogram.lab.plugin import examined  # noqa: PLC0415  only for those who ask

        for violation in examined(self.policy_name):
            if violation.broken == self.broken:
                text = f"{self.policy_name} {self.broken}: {violation.detail}"
                pytest.fail(text, pytrace=False)

    def reportinfo(self) -> tuple[str, None, str]:
        """Say what this is about."""
        return self.policy_name, None, self.name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the tests of `--aerogram-policy`."""
    names: list[str] = session.config.getoption("aerogram_policy") or []
    if not names:
        return
    from aerogram.lab.conformance import PROPERTIES  # noqa: PLC0415  only for those who ask
    from aerogram.lab.plugin import policy_named  # noqa: PLC0415

    for name in names:
        try:
            policy_named(name)
        except (ImportError, ValueError) as error:
            raise pytest.UsageError(f"--aerogram-policy {name}: {error}") from error
        for broken in PROPERTIES:
            untyped: Any = PolicyItem  # pytest types its constructor loosely
            item: PolicyItem = untyped.from_parent(session, name=f"{name} never {broken}")
            item.policy_name, item.broken = name, broken
            items.append(item)


# Tests that are coroutine functions


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Any:
    """Make a marked coroutine function a plain one, before other plug-ins see it.

    So it needs no agreement with them about who runs it, and on which loop.
    """
    if not inspect.iscoroutinefunction(obj) or not collector.istestfunction(obj, name):
        return None
    marks = [*getattr(obj, "pytestmark", ()), *collector.iter_markers("aerogram")]
    if all(mark.name != "aerogram" for mark in marks):
        return None
    plain = _made_plain(obj)
    setattr(collector.obj, name, plain)  # pytest looks it up again by its name
    return collector.ihook.pytest_pycollect_makeitem(collector=collector, name=name, obj=plain)


def _made_plain(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Return a function with the fixtures of `test`, and `simulate`, that runs it."""
    signature = inspect.signature(test)
    has_own = "simulate" in signature.parameters

    @functools.wraps(test)
    def plain(*args: Any, **fixtures: Any) -> None:
        run: Simulate = fixtures["simulate"] if has_own else fixtures.pop("simulate")
        run(functools.partial(test, *args, **fixtures))

    if not has_own:
        wanted = inspect.Parameter("simulate", inspect.Parameter.KEYWORD_ONLY)
        signature = signature.replace(parameters=[*signature.parameters.values(), wanted])
    vars(plain)["__signature__"] = signature
    return plain


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse to run a marked test in real time."""
    function = getattr(item, "function", None)
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    if item.get_closest_marker("aerogram") and inspect.iscoroutinefunction(inner):
        pytest.fail(
            "the marker aerogram can make only plain `async def` tests and methods run in virtual"
            " time: write a plain test that calls aerogram.lab.simulate",
            pytrace=False,
        )


# At the end of a test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let a test that has passed fail for what it left behind."""
    result = yield
    lab_test = item.stash.get(_LAB_TEST, None)
    faults = lab_test.describe_faults() if lab_test is not None else ""
    if faults:
        pytest.fail(faults, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failed test how to repeat it, and the end of its traces."""
    report = yield
    lab_test = item.stash.get(_LAB_TEST, None)
    if lab_test is not None and report.when == "call" and report.failed:
        text = lab_test.describe_run(_command(item, lab_test.seed))
        report.sections.append(("simulated network", text))
    return report


def _command(item: pytest.Item, seed: int) -> str:
    """Return the line that repeats one run of a test: its other parameters, and this seed."""
    path = os.path.relpath(item.path, item.config.invocation_params.dir)
    node = "::".join([path, *item.nodeid.split("::")[1:]])
    if item.config.getoption("aerogram_seeds"):
        node = _without_seed(node, _seed_name(seed))
    return f"pytest {shlex.quote(node)} --aerogram-seed {seed}"


def _without_seed(node: str, name: str) -> str:
    if node.endswith(f"[{name}]"):
        return node.removesuffix(f"[{name}]")
    return f"{node.removesuffix(f'-{name}]')}]" if node.endswith(f"-{name}]") else node
