"""Results: when they are written, and what becomes of them when somebody or something stops the process."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ENDING = """
import os, signal
from messagebus import Command, handles
from shop import PlaceOrder

class End(Command):
    how: str

@handles(End)
{kind}def end(command):
    if command.how == "crash":
        os._exit(9)
    os.kill(os.getpid(), getattr(signal, command.how))
{wait}
"""
SYNC = {"kind": "", "wait": ""}
# On the event loop the first SIGINT is a cancellation, which is delivered where something is awaited.
ASYNC = {"kind": "async ", "wait": "    import asyncio\n    await asyncio.sleep(3600)"}


def first_line(process):
    """Return the first line of the process's output, which has to come while its input is still open."""
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, "no result came"
    return process.stdout.readline()


def until_it_waits(process):
    """Return when the process sleeps, which it does as soon as it waits for input."""
    status = Path(f"/proc/{process.pid}/stat")
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "S":
        pass


@pytest.mark.parametrize("kind", ["", "async "])
def test_a_result_is_on_the_pipe_before_the_next_line_is_read(command_line, json_lines, kind):
    """So that a program can ask, wait for the answer, and ask again."""
    shop = (command_line.directory / "shop.py").read_text()
    command_line.write("ashop.py", shop.replace("def count", f"{kind}def count"))

    with command_line.start("handle", "ashop", stderr=subprocess.DEVNULL) as process:
        for number in range(3):
            process.stdin.write(json_lines(("PlaceOrder", {"order_id": f"o-{number}"})))
            process.stdin.flush()
            assert f"o-{number}".encode() in first_line(process)
        process.stdin.close()
        assert 0 == process.wait(60)


def test_a_result_is_in_a_file_before_the_next_line_is_waited_for(command_line, json_lines):
    """A file is written in large pieces, but never later than when there is nothing else to do."""
    out = command_line.directory / "out.jsonl"
    with out.open("wb") as stdout, command_line.start("handle", "shop", stdout=stdout) as process:
        process.stdin.write(json_lines(("PlaceOrder", {"order_id": "o-1"})))
        process.stdin.flush()
        handled = [process.stderr.readline(), process.stderr.readline()]
        process.stdin.write(json_lines(("PlaceOrder", {"order_id": "o-2"})))
        process.stdin.flush()
        handled += [process.stderr.readline(), process.stderr.readline()]
        # Line 2 has been read, and before that the results of line 1 were written.
        written = out.read_bytes()
        process.communicate(timeout=60)

    assert all(b"handled" in record for record in handled)
    assert b"o-1" in written


def test_a_crash_takes_no_result_with_it_on_a_pipe(command_line, json_lines, records):
    """Each result is written before the next line is handled."""
    command_line.write("ending.py", ENDING.format(**SYNC))
    given = json_lines(("PlaceOrder", {"order_id": "o-1"}), ("End", {"how": "crash"}))

    done = command_line.run("handle", "ending", given=given)

    assert 9 == done.returncode
    assert ["o-1"] == [result["data"]["order_id"] for result in records(done.stdout)]


@pytest.mark.parametrize("form", [SYNC, ASYNC], ids=["sync", "async"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_the_run_and_keeps_the_results(command_line, json_lines, records, form, name, code):
    """Also those that are still buffered for a file; the exit code is the one that shells use, with no traceback."""
    command_line.write("ending.py", ENDING.format(**form))
    given = json_lines(("PlaceOrder", {"order_id": "o-1"}), ("End", {"how": name}), ("PlaceOrder", {"order_id": "o-3"}))

    with (command_line.directory / "out.jsonl").open("wb") as stdout:
        done = command_line.run("handle", "ending", "--log-level", "disabled", given=given, stdout=stdout)

    results = records((command_line.directory / "out.jsonl").read_bytes())
    assert (code, b"") == (done.returncode, done.stderr)
    assert ["o-1"] == [result["data"]["order_id"] for result in results]


@pytest.mark.parametrize("kind", ["", "async "])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_wait_for_input(command_line, json_lines, kind, number, code):
    """Ctrl-C is heard while nothing comes in, on the event loop too."""
    shop = (command_line.directory / "shop.py").read_text()
    command_line.write("ashop.py", shop.replace("def count", f"{kind}def count"))

    with command_line.start("handle", "ashop", "--log-level", "disabled") as process:
        process.stdin.write(json_lines(("PlaceOrder", {"order_id": "o-1"})))
        process.stdin.flush()
        first_line(process)
        until_it_waits(process)
        process.send_signal(number)
        got = process.wait(60)
        err = process.stderr.read()

    assert (code, b"") == (got, err)


def test_ctrl_c_is_heard_though_no_async_handler_ever_waits(command_line, json_lines):
    """The first one, after the line in hand: the loop has its turn between two lines."""
    command_line.write("ending.py", ENDING.format(kind="async ", wait=""))
    given = json_lines(("End", {"how": "SIGINT"}), *[("PlaceOrder", {"order_id": "o-2"})] * 3)

    done = command_line.run("handle", "ending", "--log-level", "disabled", given=given)

    assert (130, b"", b"") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("command", [("handle", "shop", "--log-level", "disabled", "in.jsonl"), ("list", "shop")])
def test_a_reader_that_goes_away_ends_the_run_quietly(command_line, json_lines, command):
    """As in ``messagebus handle … | head -1``: 128 + SIGPIPE, and nothing on standard error."""
    lines = json_lines(*[("PlaceOrder", {"order_id": f"o-{number}"}) for number in range(20_000)])
    (command_line.directory / "in.jsonl").write_bytes(lines)
    reader, writer = os.pipe()
    with command_line.start(*command, stdout=writer) as process:
        os.close(writer)
        if command[0] == "handle":
            assert b"o-0" in os.read(reader, 60)
        os.close(reader)
        _, err = process.communicate(timeout=60)

    assert (141, b"") == (process.returncode, err)


def test_head_takes_one_line(command_line, json_lines):
    """In a shell, the whole pipeline."""
    lines = json_lines(*[("PlaceOrder", {"order_id": f"o-{number}"}) for number in range(20_000)])
    (command_line.directory / "in.jsonl").write_bytes(lines)

    done = command_line.shell("messagebus handle shop --log-level disabled in.jsonl | head -n 1; echo ${PIPESTATUS[0]}")

    assert b'{"type":"Confirmation","data":{"order_id":"o-0"}}\n141\n' == done.stdout
    assert b"" == done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full is /dev/full")
def test_a_full_disk_is_one_sentence(command_line, json_lines):
    """No further line is handled whose results could not be kept."""
    with open("/dev/full", "wb") as full:
        done = command_line.run(
            "handle", "shop", given=json_lines(*[("PlaceOrder", {"order_id": "o-1"})] * 9), stdout=full
        )

    *records, sentence = done.stderr.decode().splitlines()
    assert 1 == done.returncode
    assert "messagebus: Cannot go on: [Errno 28] No space left on device." == sentence
    assert {1} == {json.loads(record)["line"] for record in records}


def test_a_file_that_may_not_grow_is_one_sentence(command_line, json_lines):
    """Also if it is the very last write that fails: exit code 0 says that every result is where it belongs."""
    line = json_lines(("PlaceOrder", {"order_id": "o" * 5_000}))[:-1]
    (command_line.directory / "in.jsonl").write_bytes(line)

    done = command_line.shell("ulimit -f 1; messagebus handle shop in.jsonl --log-level disabled >out.jsonl")

    assert 1 == done.returncode
    assert done.stderr.startswith(b"messagebus: Cannot go on: [Errno 27] File too large.\n")


def test_closed_standard_output_is_said_at_once(command_line):
    """Nothing is handled whose results go nowhere."""
    command_line.write("in.jsonl", "{}")

    done = command_line.shell("messagebus handle shop in.jsonl >&-")

    sentence = b"messagebus: Cannot write results: standard output is closed. Send it to a file or /dev/null.\n"
    assert (2, sentence) == (done.returncode, done.stderr)


def test_closed_standard_input_is_said_at_once(command_line):
    """There is nothing to read."""
    done = command_line.shell("messagebus handle shop <&-")

    assert (2, b"") == (done.returncode, done.stdout)
    assert done.stderr.startswith(b"messagebus: Cannot read -: standard input is closed. ")


@pytest.mark.parametrize("reader", ["2>&-", "2> >(exit)"])
def test_without_a_reader_of_the_records_the_work_goes_on(command_line, json_lines, reader):
    """The outcome stands, and the exit code still tells."""
    lines = b"{}\n" + json_lines(*[("PlaceOrder", {"order_id": "o-1"})] * 2_000, ("BreakDown", {}))
    (command_line.directory / "in.jsonl").write_bytes(lines)

    done = command_line.shell(f"messagebus handle shop in.jsonl {reader}")

    assert (1, 2_000, b"") == (done.returncode, done.stdout.count(b"o-1"), done.stderr)


def test_a_program_of_ones_own_may_call_main(command_line, json_lines):
    """``main`` returns the exit code, and writes to what is standard output then, also if that is no file."""
    (command_line.directory / "in.jsonl").write_bytes(json_lines(("PlaceOrder", {"order_id": "o-1"})))
    program = """
        import io, sys
        from messagebus.cli import main

        sys.stdout = caught = io.TextIOWrapper(io.BytesIO())
        calls = ["handle shop --log-level disabled in.jsonl", "list nowhere", "nothing"]
        codes = [main(call.split()) for call in calls]
        sys.stdout = sys.__stdout__
        print(codes, caught.buffer.getvalue().decode())
    """
    command_line.write("program.py", program)

    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=command_line.directory,
        env=command_line.environment,
        capture_output=True,
        check=False,
    )

    assert b'[0, 2, 2] {"type":"Confirmation","data":{"order_id":"o-1"}}\n\n' == done.stdout
