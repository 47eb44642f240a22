"""`pytest --aerogram-policy module:name`: one test for each property of a policy."""

from __future__ import annotations

import pytest

POLICIES = """
from aerogram.delivery import Delivery, InOrder
from aerogram.lab.conformance import Policy, Promises

class Twice:
    def arrived(self, sequence, message):
        return (message, message)

good = Policy(Delivery(InOrder), Promises(order="strict", reliable=True))
bad = Policy(Delivery(Twice), Promises(reliable=True))
nothing = 7
"""


@pytest.fixture(autouse=True)
def quiet(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")


def test_a_good_policy_passes_every_property(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(policies=POLICIES)
    result = pytester.runpytest_inprocess("--aerogram-policy", "policies:good", "-q")
    result.assert_outcomes(passed=7)


def test_a_bad_policy_fails_by_the_name_of_what_it_breaks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(policies=POLICIES)
    result = pytester.runpytest_inprocess("--aerogram-policy", "policies:bad", "-q")
    assert result.parseoutcomes()["failed"] >= 1
    result.stdout.fnmatch_lines(["*policies:bad delivers twice*"])


def test_a_preset_goes_by_its_name(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--aerogram-policy", "sequenced", "-q")
    result.assert_outcomes(passed=7)


@pytest.mark.parametrize("name", ["policies:nothing", "policies:absent", "no_module:x", "what"])
def test_what_is_no_policy_is_a_usage_error(pytester: pytest.Pytester, name: str) -> None:
    pytester.makepyfile(policies=POLICIES)
    result = pytester.runpytest_inprocess("--aerogram-policy", name)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--aerogram-policy {name}:*"])
