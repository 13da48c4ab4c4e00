"""The table in tests/BEHAVIOURS.md names tests that exist, and run as it says."""

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# What a test that goes through eager mode, nn.jit and plain jax.jit takes them as.
WAYS = {"run", "way"}
REASONS = {"all", "text", "host", "jits", "transform", "nn.jit", "-"}


def rows():
    """Each row of the page: its section, behaviour, PyTorch's tests, ours, and how it runs where a column says so."""
    section = ""
    for line in (TESTS / "BEHAVIOURS.md").read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| behaviour"):
            behaviour, theirs, ours, *runs = [cell.strip() for cell in line.strip("|").split("|")]
            names = [re.findall(r"`([^`]+)`", cell) for cell in (theirs, ours)]
            yield section, behaviour, *names, runs[0] if runs else None


ROWS = list(rows())


@functools.cache
def functions(file):
    """The test functions of a file, each with its arguments."""
    tree = ast.parse((TESTS / file).read_text())
    return {
        node.name: {argument.arg for argument in node.args.args}
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_the_table_names_exists():
    named = {test for row in ROWS for test in row[3]}
    assert len(named) > 150
    missing = [test for test in sorted(named) if test.split("::")[1] not in functions(test.split("::")[0])]
    assert not missing


def test_every_row_names_a_test_or_says_why_there_is_none():
    for section, behaviour, theirs, ours, _ in ROWS:
        assert section.startswith("test/") and (theirs or ours), behaviour
        assert bool(ours) != behaviour.startswith(("does not apply: ", "parity: ")), behaviour


@pytest.mark.parametrize(
    "section", ["test_module_hooks.py", "test_parametrization.py", "test_pruning.py", "test_dropout.py"]
)
def test_what_runs_in_every_way_takes_the_way_as_a_parameter(section):
    chosen = [row for row in ROWS if row[0].endswith(section)]
    assert len(chosen) > 10
    for _, behaviour, _, ours, runs in chosen:
        assert runs in REASONS and (runs == "-") == (not ours), behaviour
        for test in ours if runs == "all" else ():
            file, name = test.split("::")
            assert functions(file)[name] & WAYS, test


FILES = [
    *("core/test_hook_behaviours.py", "transforms/test_hooks_under_jit.py"),
    *(f"utils/test_{name}.py" for name in ("parametrize", "parametrize_rules", "parametrizations", "orthogonal")),
]


@pytest.mark.parametrize("file", FILES)
def test_what_does_not_run_in_every_way_is_in_the_table_with_its_reason(file):
    named = {test for row in ROWS for test in row[3]}
    for name, arguments in functions(file).items():
        assert arguments & WAYS or f"{file}::{name}" in named, name
