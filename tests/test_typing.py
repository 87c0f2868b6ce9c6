"""Types: the files in `typing/` say what must be inferred and what must be refused; here they are checked."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import messagebus

HERE = Path(__file__).parent
PACKAGE = Path(messagebus.__file__).parent

needs_ty = pytest.mark.skipif(find_spec("ty") is None, reason="ty is not installed; it is in the extra lint")
needs_mypy = pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed; it is in the extra lint")


def check(cache: Path, *files: Path) -> str:
    """Return what mypy says of the files, with every warning on and with no configuration but this one."""
    options = ["--strict", "--no-error-summary", "--config-file=", "--follow-imports=silent", f"--cache-dir={cache}"]
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "mypy", "--explicit-package-bases", *options, *map(str, files)]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, encoding="utf-8", check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


@needs_mypy
def test_types_are_inferred_as_the_files_state(cache):
    """The types are part of what users rely on: what is accepted, what is refused, what comes back."""
    files = sorted((HERE / "typing").glob("*.py"))

    said = check(cache, *files)

    assert 2 <= len(files)
    assert "" == said


@needs_mypy
def test_files_would_be_refused_if_they_were_wrong(cache, tmp_path):
    """A wrong type, and a refusal that did not happen, are both errors here."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from typing import assert_type\n"
        "from messagebus import Command, handle_message\n"
        "assert_type(handle_message(Command()), list[int])\n"
        "handle_message(Command())  # type: ignore[arg-type]\n"
    )

    said = check(cache, wrong).splitlines()

    assert 2 == len(said)
    assert "[assert-type]" in said[0]
    assert "[unused-ignore]" in said[1]


def check_by_ty(*files: Path) -> str:
    """Return what ty says of the files where something else is inferred than they state."""
    options = ["--ignore=all", "--error=type-assertion-failure", "--output-format=concise", f"--python={sys.prefix}"]
    command = [sys.executable, "-m", "ty", "check", *options, *map(str, files)]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, encoding="utf-8", check=False)
    return done.stdout


@needs_ty
def test_ty_infers_answers(tmp_path):
    """As mypy does here, and pyright as part of lint; and it says so where it does not."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from typing import assert_type\n"
        "from messagebus import Command, ReturnMessage, ask\n"
        "class Price(ReturnMessage): pass\n"
        "class Quote(Command[Price]): pass\n"
        "assert_type(ask(Quote()), ReturnMessage)\n"
    )

    assert "All checks passed!\n" == check_by_ty(HERE / "typing" / "answers.py")
    assert "type-assertion-failure" in check_by_ty(wrong)
