"""Documentation: README's code and the examples in docstrings run, and print what they say."""

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest

import messagebus

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)

# Runs blocks one after another in the namespace of a program, and tells what each of them printed.
RUNNER = """
import contextlib, io, json, sys

blocks, namespace, printed = json.load(sys.stdin), {"__name__": "__main__"}, []
for line, code in blocks:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile("\\n" * line + code, "README.md", "exec"), namespace)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def blocks_of(text: str) -> list[tuple[str, str, int]]:
    """Return language, content and first line (counted from 0) of each block of code."""
    return [(match[1], match[2], text.count("\n", 0, match.start(2))) for match in BLOCK.finditer(text)]


def examples_in(text: str) -> list[tuple[int, str, str | None]]:
    """Return the place and code of each block of Python, and what it says that it prints: a block of text after it."""
    examples: list[tuple[int, str, str | None]] = []
    before = ""
    for language, content, line in blocks_of(text):
        if language == "python":
            examples.append((line, content, None))
        elif language == "text" and before == "python":
            place, code, _ = examples[-1]
            examples[-1] = (place, code, content)
        before = language
    return examples


def test_examples_are_found_with_what_they_print():
    """A check that finds no blocks would be green for ever."""
    with_output = "```python\nprint(1)\n```\n\nAnd so:\n\n```text\n1\n```\n"
    others = "```bash\nls\n```\n\n```text\nls\n```\n"
    without_output = "```python title\nx = 1\n```\n"

    examples = examples_in(with_output + others + without_output)

    assert [(1, "print(1)\n", "1\n"), (17, "x = 1\n", None)] == examples


def test_readme_runs_and_prints_what_it_says(fresh_python, tmp_path):
    """What a newcomer copies has to work: all of README in order, in one fresh interpreter."""
    if not README.exists():
        pytest.skip("there is no README.md beside the tests")
    examples = examples_in(README.read_text(encoding="utf-8"))
    blocks = tmp_path / "blocks.json"
    blocks.write_text(json.dumps([(line, code) for line, code, _ in examples]), encoding="utf-8")

    with blocks.open() as stdin:
        done = fresh_python(RUNNER, "-W", "error", stdin=stdin)

    assert "" == done.stderr
    printed = json.loads(done.stdout)
    assert [expected or "" for _, _, expected in examples] == printed
    assert any(printed)


def modules() -> list[str]:
    names = [info.name for info in pkgutil.walk_packages(messagebus.__path__, "messagebus.")]
    return ["messagebus", *(name for name in names if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name):
    """An example in a docstring is read before README is."""
    try:
        module = importlib.import_module(name)
    except (ImportError, messagebus.ConfigurationError) as error:
        pytest.skip(f"an extra is not installed: {error}")

    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)

    assert 0 == result.failed
