"""README tells the truth: its links lead somewhere, its code can be read, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_example_is_named() -> None:
    examples = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert sorted(name for name in examples if name not in README) == []


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_can_be_read(number: int) -> None:
    code = BLOCKS[number]
    indented = "".join(f"    {line}\n" for line in code.splitlines())
    compile(f"async def readme():\n{indented}\n    return\n", f"README block {number}", "exec")


def test_every_command_of_aerogram_exists() -> None:
    named = set(re.findall(r"`aerogram (\w+)", README))
    usage = subprocess.run(
        [sys.executable, "-m", "aerogram", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert named
    assert sorted(command for command in named if f" {command} " not in usage) == []


def test_every_benchmark_module_exists() -> None:
    for module in set(re.findall(r"python -m (benchmarks[\w.]*)", README)):
        path = ROOT / Path(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
