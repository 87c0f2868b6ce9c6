"""The benchmarks run and report all that they promise. How fast anything is, no test says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_ROWS = {
    "command": ["handle_message(command) → 1 return message", "messages of one field", "making a message"],
    "json": ["handle_json"],
    "event": ["an event with 3 handlers that return nothing"],
    "records": [
        "one JSON record per message, to a file",
        "the ids bound",
        "a fast serialiser",
        "1,000 messages in one run",
    ],
    "default-log": ["a record of the default log, to a file", "to /dev/null", "MessageBus(command)(), default log"],
    "classes": ["registered classes", "each class in turn", "from JSON"],
    "cascade": ["a cascade of 2,000 messages", "a cascade of 1,000 messages"],
    "async": ["await ahandle_message(command)"],
    "import": ["import messagebus", "which loads no BaseModel yet", "a first model"],
}


_DELIVERY_ROWS = [
    "send, SQLite",
    "send_many of 100",
    "asend from 100 tasks",
    "messages handled",
    "with their events",
    "a second of the processor",
    "a record of each",
    "waiting without keys",
    "waiting with 500 keys",
    "behind one key",
    "memory of a worker",
]


def _run(*arguments: str, module: str = "tests.benchmarks") -> str:
    command = [sys.executable, "-m", module, "--smoke", *arguments]
    return subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True).stdout


def test_prints_every_row(tmp_path: Path) -> None:
    """A row that is lost would never be missed by those who read the README's table."""
    kept = tmp_path / "figures.json"

    printed = _run("--json", str(kept))

    tables = json.loads(kept.read_text())["tables"]
    assert {name: len(rows) for name, rows in _ROWS.items()} == {name: len(rows) for name, rows in tables.items()}
    assert [row for rows in _ROWS.values() for row in rows if row not in printed] == []
    assert all(result["ours"] > 0 and result["floor"] > 0 for results in tables.values() for result in results)


def test_compares_and_draws_without_date_or_path(tmp_path: Path) -> None:
    """The chart is kept beside the code: the same figures make the same file on every machine."""
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "chart.svg"

    printed = _run("--only", "peers", "--markdown", "--chart", str(drawn))

    assert "| pydantic-messagebus" in printed
    assert ", async |" in printed
    assert drawn.read_text().count("pydantic-messagebus") >= 2
    assert [word for word in ("<dc:date>", str(_ROOT), sys.prefix) if word in drawn.read_text()] == []


def test_prints_every_row_about_stored_messages(tmp_path: Path) -> None:
    """As above; what other engines and servers are needed for is measured where they are."""
    written = tmp_path / "table.md"

    printed = _run("--long", "--markdown", str(written), module="tests.benchmarks.delivery")

    assert [row for row in _DELIVERY_ROWS if row not in printed] == []
    assert len(_DELIVERY_ROWS) == written.read_text().count(" | yes |") + written.read_text().count(" | no |") + 2
