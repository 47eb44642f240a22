"""README tells the truth: its links lead somewhere, its code can be read, its commands exist."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aerogram import App, Message, Session, connect, serve
from aerogram.lab import Link, Network, simulate

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


def section(title: str) -> str:
    """The Python of a section."""
    [text] = re.findall(rf"^## {title}\n(.*?)^## ", README, flags=re.MULTILINE | re.DOTALL)
    [code] = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return str(code)


def test_groups_do_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"App": App, "Message": Message, "Session": Session}
    exec(section("Groups"), names)
    app, line = names["app"], names["Line"]

    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01))
        watching = asyncio.create_task(names["watch"]())
        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network) as ada,
        ):
            await ada.deliver(line("first"))
            async with connect(server.address, network=network) as ben:
                await ben.deliver(line("hello"))
                assert await ada.receive(line, timeout=1) == line("hello")
        watching.cancel()

    simulate(main())
    printed = capsys.readouterr().out.splitlines()
    assert printed[:1] == ["0 hear 'first', 0 are too slow"]
    assert "1 hear 'hello', 0 are too slow" in printed
    assert [text.split()[-1] for text in printed if "(" in text] == ["joined"] * 2 + ["left"] * 2


def test_the_clock_is_shown_as_in_its_example() -> None:
    example = (ROOT / "examples" / "shared_clock.py").read_text(encoding="utf-8")
    lines = [line.strip() for line in example.splitlines()]
    for line in section("One clock").splitlines():
        assert line.strip() in lines


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
