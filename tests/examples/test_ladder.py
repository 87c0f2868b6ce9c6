"""Every example runs alone, and prints what its docstring says."""

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from examples import orders
from messagebus import handle_json

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RUNGS = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))


def run(arguments: Sequence[str], warnings: str = "error") -> subprocess.CompletedProcess[str]:
    """Run Python at the top of the repository, with every warning an error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", warnings, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False
    )


def stated_output(path: Path) -> str:
    """Return the block that follows ``Output::`` in the docstring of a module."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return dedent(docstring.partition("Output::\n\n")[2]) + "\n"


def test_ladder_has_eleven_rungs():
    """No rung is missing, and so the tests below have something to run."""
    assert sorted({name[:2] for name in RUNGS}) == ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11"]


@pytest.mark.parametrize("name", RUNGS)
def test_rung_prints_what_it_says(name):
    """What a newcomer reads in an example is what it prints; it prints nothing else."""
    done = run([f"examples/{name}"])

    assert (done.stdout, done.stderr, done.returncode) == (stated_output(EXAMPLES / name), "", 0)


@pytest.mark.parametrize(("module", "file"), [("allocation", "__main__.py"), ("allocation.durable", "durable.py")])
def test_allocation_prints_what_it_says(module, file):
    """The large example keeps its word like the small ones, in process and durable."""
    done = run(["-m", f"examples.{module}"])

    assert (done.stdout, done.stderr, done.returncode) == (stated_output(EXAMPLES / "allocation" / file), "", 0)


@pytest.mark.parametrize("way", ["by_hand", "with_svcs", "with_dishka", "with_fast_depends"])
def test_way_to_inject_prints_what_it_says(way):
    """What a handler needs beside its message can come from the library an application has already."""
    pytest.importorskip(way.removeprefix("with_") if way != "by_hand" else "functools")

    done = run(["-m", f"examples.injection.{way}"], warnings="ignore")  # Of what the library imports.

    assert (done.stdout, done.stderr, done.returncode) == (
        stated_output(EXAMPLES / "injection" / f"{way}.py"),
        "",
        0,
    )


def test_first_rung_has_at_most_fifteen_lines_of_code():
    """A first application is seen at a glance."""
    tree = ast.parse((EXAMPLES / "01_hello.py").read_text(encoding="utf-8"))
    code = ast.unparse(tree.body[1:])

    assert len([line for line in code.splitlines() if line]) <= 15


def test_rung_about_testing_is_a_file_of_tests():
    """What it shows is run by pytest as it stands."""
    done = run(["-m", "pytest", "-p", "no:cacheprovider", "-q", "examples/08_testing_your_application.py"])

    assert (done.returncode, "6 passed" in done.stdout) == (0, True)


def test_every_order_in_the_file_is_confirmed():
    """README's command line has four good lines to work on, and no bad one."""
    before = orders.stock.copy()
    lines = (EXAMPLES / "orders.jsonl").read_bytes().splitlines()

    results = [handle_json(line, registry=orders.registry) for line in lines]

    assert results == [
        b'[{"type":"Confirmation","data":{"order_id":"o-1"}}]',
        b'[{"type":"Confirmation","data":{"order_id":"o-2"}}]',
        b'[{"type":"Confirmation","data":{"order_id":"o-3"}}]',
        b'[{"type":"Confirmation","data":{"order_id":"o-4"}}]',
    ]
    assert before - orders.stock == {"lamp": 4, "chair": 2}


def test_orders_have_nothing_to_complain_about():
    """The application that README shows passes its own check."""
    assert orders.registry.check() == []
