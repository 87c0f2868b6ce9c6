"""Lines: however the input comes in pieces, and however long it or a line of it is."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies

from messagebus import MessageTooLargeError
from messagebus.cli.lines import read_lines

PEAK = """
import atexit, re
from pathlib import Path
from messagebus import Command, ReturnMessage, handles

class Note(Command):
    text: str

class Noted(ReturnMessage):
    text: str

@handles(Note)
def note(command):
    return Noted(text=command.text)

@atexit.register
def leave_peak():
    status = Path("/proc/self/status").read_text()
    Path("peak").write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read in /proc")


def confirmation(order_id):
    return {"type": "Confirmation", "data": {"order_id": order_id}}


def order(order_id, **fields):
    return ("PlaceOrder", {"order_id": order_id, **fields})


@settings(deadline=None)
@given(
    pieces=strategies.lists(strategies.text(alphabet="ab\n", min_size=1, max_size=12)),
    max_bytes=strategies.integers(1, 8),
)
def test_lines_do_not_depend_on_how_they_arrive(pieces, max_bytes):
    """A pipe gives what it has; the lines are those of the whole, and what is too long is known by its size."""
    todo = [piece.encode() for piece in pieces]
    whole = b"".join(todo)
    reader, writer = os.pipe()
    found = []

    for line in read_lines(reader, max_bytes):
        if line is not None:
            found.append(line)
        elif todo:
            os.write(writer, todo.pop(0))
        else:
            os.close(writer)

    os.close(reader)
    expected = whole.removesuffix(b"\n").split(b"\n") if whole else []
    sizes = [line.size if isinstance(line, MessageTooLargeError) else len(line) for line in found]
    assert [len(line) for line in expected] == sizes
    for line, got in zip(expected, found, strict=True):
        assert got == line or (isinstance(got, MessageTooLargeError) and len(line) > max_bytes)


@needs_proc
def test_memory_does_not_grow_with_the_stream(command_line):
    """300,000 lines take what 3,000 take, though every tenth is refused."""
    command_line.write("peak.py", PEAK)
    given, out, err = (command_line.directory / name for name in ("in.jsonl", "out.jsonl", "err.jsonl"))
    peaks = []

    for count in (3_000, 300_000):
        good = b'{"type":"Note","data":{"text":"%d"}}\n'
        given.write_bytes(b"".join(good % number if number % 10 else b"{}\n" for number in range(count)))
        with given.open() as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
            streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
            done = command_line.run("handle", "peak", "--log-level", "disabled", given=None, **streams)
        assert 3 == done.returncode
        assert (count * 9 // 10, count // 10) == (out.read_bytes().count(b"\n"), err.read_bytes().count(b"\n"))
        peaks.append(int((command_line.directory / "peak").read_text()))

    assert peaks[1] - peaks[0] < 3_000, peaks


@needs_proc
def test_a_line_without_end_is_not_held_in_memory(command_line, records):
    """100 MB in one line are one record that names the size (L4), and the next line is handled."""
    command_line.write("peak.py", PEAK)
    short, size = b'{"type":"Note","data":{"text":"a"}}\n', 100_000_000
    peaks = []

    for middle in (b"", b" " + b"x" * size + b"\n"):
        done = command_line.run("handle", "peak", "--log-level", "disabled", given=short + middle + short)
        peaks.append(int((command_line.directory / "peak").read_text()))

    [record] = records(done.stderr)
    assert 2 == record["line"]
    assert f"{size + 1:,} bytes" in record["reason"]
    assert 2 == done.stdout.count(b"\n")
    assert peaks[1] - peaks[0] < 3_000, peaks


def test_blank_lines_are_skipped_and_counted(command_line, json_lines, records):
    """The number in a record is the one an editor shows."""
    given = b"\n  \t\r\n" + json_lines(order("o-1")).replace(b"\n", b"\r\n") + b"\n{}\n\n"

    done = command_line.run("handle", "shop", "--log-level", "disabled", given=given)

    assert [5] == [record["line"] for record in records(done.stderr)]
    assert [confirmation("o-1")] == records(done.stdout)


def test_the_last_line_needs_no_newline(command_line, json_lines, records):
    """As in many a file."""
    done = command_line.run("handle", "shop", given=json_lines(order("o-1"), order("o-2"))[:-1])

    assert [confirmation("o-1"), confirmation("o-2")] == records(done.stdout)


@pytest.mark.parametrize(
    "bad", [b'{"type": "PlaceOrder", "data": {"order_id": "\xff\xfe"}}', b"\xff", b'{"\xc3\x28": 1}', b"\x00"]
)
def test_a_line_that_is_no_utf_8_is_refused(command_line, json_lines, records, bad):
    """Whatever the bytes, it is one record, and the next line is handled."""
    done = command_line.run("handle", "shop", "--log-level", "disabled", given=bad + b"\n" + json_lines(order("o-2")))

    assert [("line.refused", 1)] == [(record["event"], record["line"]) for record in records(done.stderr)]
    assert [confirmation("o-2")] == records(done.stdout)
    assert 3 == done.returncode


def test_files_are_read_one_after_another(command_line, json_lines, records):
    """Each has its own line numbers, and ``-`` among them is standard input."""
    (command_line.directory / "a.jsonl").write_bytes(json_lines(order("a-1")) + b"{}")
    (command_line.directory / "b.jsonl").write_bytes(b"{}\n" + json_lines(order("b-2")))

    given = b"\n{}\n" + json_lines(order("-3"))

    done = command_line.run("handle", "shop", "a.jsonl", "-", "b.jsonl", "--log-level", "disabled", given=given)

    seen = [(record["file"], record["line"]) for record in records(done.stderr)]
    assert [("a.jsonl", 2), ("-", 2), ("b.jsonl", 1)] == seen
    assert [confirmation("a-1"), confirmation("-3"), confirmation("b-2")] == records(done.stdout)


@pytest.mark.parametrize(
    ("name", "why"),
    [("missing.jsonl", "no such file or directory"), (".", "it is a directory")],
)
def test_a_file_that_cannot_be_read_is_said_before_anything_is_handled(command_line, json_lines, name, why):
    """Exit code 2; a mistake in the second name does not show after an hour with the first."""
    (command_line.directory / "a.jsonl").write_bytes(json_lines(order("a-1")))

    done = command_line.run("handle", "shop", "a.jsonl", name)

    sentence = f"messagebus: Cannot read {name}: {why}. Name files of JSON Lines, or - for standard input.\n"
    assert (2, b"", sentence) == (done.returncode, done.stdout, done.stderr.decode())
