"""What the pytest plug-in does once a test wants a simulated network; the rest is pytest's.

`pytest_aerogram`, which pytest imports at every start, has the options, the fixtures and the hooks,
and imports this module when a test first uses them. Rules: nothing of pytest is imported here; a
test is told what it left behind in one text, which names the way to say that it was meant.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from aerogram.lab.audit import Audit
from aerogram.lab.conformance import PRESETS, Policy, Violation, examine
from aerogram.lab.errors import LeftOver
from aerogram.lab.network import Network
from aerogram.lab.simulation import LIMIT_SECONDS, simulate

_ResultT = TypeVar("_ResultT")

_ENTRIES_SHOWN: Final = 20
"""Of each network's trace, below a test that has failed."""


class LabTest:
    """One run of one test with one seed.

    `limit` is in virtual seconds; `expected` are names of faults that the test means. Raises
    `ValueError` for a name that is no fault.
    """

    def __init__(self, seed: int, limit: float | None, expected: Iterable[str]) -> None:
        self.seed = seed
        self._limit = LIMIT_SECONDS if limit is None else limit
        self._audit = Audit(expected)

    @contextmanager
    def running(self) -> Generator[LabTest]:
        """Know of all networks that are made for as long as the context lasts."""
        with self._audit.watching():
            yield self

    def make_network(self) -> Network:
        """Return a network that the seed decides, with perfect links."""
        return Network(self.seed)

    def simulate(
        self,
        main: Coroutine[Any, Any, _ResultT] | Callable[[], Coroutine[Any, Any, _ResultT]],
        *,
        limit: float | None = None,
    ) -> _ResultT:
        """Run a coroutine, or what a coroutine function returns, in virtual time.

        The seed and, unless given here, the limit are those of the test. Raises as
        `aerogram.lab.simulate`, but no `LeftOver` in a test that expects "left over".
        """
        try:
            return simulate(main, limit=self._limit if limit is None else limit, seed=self.seed)
        except LeftOver as error:
            if not self._audit.expects("left over"):
                raise
            result: _ResultT = error.result
            return result

    def describe_faults(self) -> str:
        """Return what the test left behind and did not expect, or nothing."""
        findings = self._audit.findings
        if not findings:
            return ""
        name = findings[0].fault
        return "\n".join(
            [
                "the test has passed, but nobody planned this:",
                *(f"  {finding}" for finding in findings),
                f"a test that means it says network.expect({name!r}), or by its marker",
                f"@pytest.mark.aerogram(expect=[{name!r}])",
            ]
        )

    def describe_run(self, command: str) -> str:
        """Return what a failing test shows: how to repeat it, and the end of each trace."""
        parts = [f"repeat it with: {command}"]
        for network in self._audit.networks:
            shown = min(_ENTRIES_SHOWN, len(network.trace.entries))
            heading = f"{network!r}, the last {shown} entries of its trace:"
            parts += [heading, network.trace.as_text(last=_ENTRIES_SHOWN).rstrip()]
        return "\n".join(parts)


def policy_named(text: str) -> Policy:
    """The `Policy` that `module:name` names, or one of our presets by its name alone.

    Modules are also looked for in the current folder. Raises `ImportError`, or `ValueError` for
    what is no policy.
    """
    if text in PRESETS:
        return PRESETS[text]
    module_name, separator, name = text.partition(":")
    if not separator:
        raise ValueError(f"name a policy as module:name, or one of {', '.join(PRESETS)}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: object = getattr(importlib.import_module(module_name), name, None)
    if not isinstance(found, Policy):
        raise ValueError("that is no aerogram.lab.conformance.Policy")  # noqa: TRY004
    return found


@functools.cache
def examined(text: str) -> list[Violation]:
    """What the policy with this name breaks; examined once."""
    return examine(policy_named(text))
