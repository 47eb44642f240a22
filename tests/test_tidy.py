"""House rules that no linter has: bans, lengths, and commands that must agree.

Each test lists every place that breaks its rule, so that one run shows all the work.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "benchmarks", "examples")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

CORE_BANS = {
    "datetime.now": "take `now` as an argument",
    "datetime.utcnow": "take `now` as an argument",
    "os.urandom": "take the bytes as an argument",
    "random": "take the number as an argument",
    "secrets": "take the bytes as an argument",
    "time.monotonic": "take `now` as an argument",
    "time.perf_counter": "take `now` as an argument",
    "time.time": "take `now` as an argument",
}
"""Time and randomness are arguments of the protocol core, so that a seed replays a run."""

UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|raise NotImplemented" + "Error")
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|work|Users)/\w|[A-Z]:\\Users")


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found, folders
    return found


def text_files() -> list[Path]:
    suffixes = {".md", ".py", ".toml", ".lua", ".json", ".txt"}
    inside = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    top = [ROOT / "README.md", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    return top + [path for path in inside if path.suffix in suffixes]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node.lineno


def test_only_the_command_line_prints() -> None:
    faults = [
        place(path, line)
        for path in python_files("src")
        if "cli" not in path.relative_to(ROOT / "src").with_suffix("").parts
        for name, line in calls(parsed(path))
        if name in {"print", "breakpoint"}
    ]
    assert faults == []


def test_the_core_takes_time_and_randomness_as_arguments() -> None:
    faults = [
        f"{place(path, line)} {name}: {advice}"
        for path in python_files("src/aerogram/core")
        for name, line in calls(parsed(path))
        for banned, advice in CORE_BANS.items()
        if name == banned or name.startswith(f"{banned}.") or name.endswith(f".{banned}")
    ]
    assert faults == []


def test_nothing_is_left_unfinished() -> None:
    faults = [
        place(path, number)
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert faults == []


def test_no_path_of_one_machine_is_written_down() -> None:
    faults = [
        place(path, number)
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert faults == []


def test_a_file_can_be_read_in_one_sitting() -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(*FOLDERS)
    }
    faults = [
        f"{path.relative_to(ROOT)}: {length} lines"
        for path, length in lengths.items()
        if length > FILE_LINES_MAX
    ]
    assert faults == []


def test_a_function_fits_on_a_screen() -> None:
    faults = [
        f"{place(path, node.lineno)} {node.name}"
        for path in python_files(*FOLDERS)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno is not None and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert faults == []


def test_every_module_says_why_it_exists() -> None:
    faults = [
        str(path.relative_to(ROOT))
        for path in python_files("src", "benchmarks", "examples")
        if ast.get_docstring(parsed(path)) is None
    ]
    assert faults == []


def test_readme_and_ci_run_the_same_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    [command] = re.findall(r"^test_command='(.+)'$", script, flags=re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert command in [line.strip().strip("`") for line in readme]


def test_readme_starts_the_demo_in_one_line() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    command = "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/aerogram demo"
    assert command in [line.strip().strip("`") for line in readme]
