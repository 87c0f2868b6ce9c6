"""The progress line: on a real terminal, of real files, and out of the way of everything else."""

import json
import re

import pytest

STATE = re.compile(r"([\d,]+) lines, ([\d.]+) of ([\d.]+) MB \((\d+)%\), ([\d,]+) lines/s")
SILENT = ("--log-level", "disabled", "--error-log-level", "disabled")


def seen(written):
    """Return the lines on the screen in the end: a carriage return goes back, and what follows overwrites."""
    lines = []
    for line in written.split("\n"):
        cells = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


@pytest.fixture
def orders(command_line, json_lines):
    """A file of 2,000 orders, every hundredth refused."""
    lines = [("PlaceOrder", {"order_id": f"o-{n}", "quantity": n % 100}) for n in range(2_000)]
    path = command_line.directory / "in.jsonl"
    path.write_bytes(json_lines(*lines))
    return path


def test_the_last_state_stands_when_all_is_done(in_terminal, orders):
    """All lines, all bytes, and a rate; the terminal's next line is free."""
    done, written = in_terminal("handle", "shop", "in.jsonl", *SILENT)

    state, rest = seen(written)
    size = f"{orders.stat().st_size / 1e6:.1f}"
    assert ("2,000", size, size, "100") == STATE.fullmatch(state).groups()[:4]
    assert "" == rest
    assert 3 == done.returncode
    assert 1_980 <= done.stdout.count(b"\n")


def test_send_shows_it_too(in_terminal, orders, store):
    """What is read is what counts; the ids are on standard output."""
    done, written = in_terminal("send", "shop", "in.jsonl")

    *_, state, rest = seen(written)
    size = f"{orders.stat().st_size / 1e6:.1f}"
    assert ("2,000", size, size, "100") == STATE.fullmatch(state).groups()[:4]
    assert "" == rest
    assert 1_980 == done.stdout.count(b"\n") == store.stats().due


def test_records_and_the_progress_line_do_not_garble_each_other(in_terminal, orders):
    """Above the last line there are records and nothing else, each whole."""
    _, written = in_terminal("handle", "shop", "--log-level", "disabled", "in.jsonl", columns=500)

    *lines, state, rest = seen(written)
    assert list(range(1, 2_000, 100)) == [json.loads(line)["line"] for line in lines]
    assert STATE.fullmatch(state)
    assert "" == rest
    # After each record the progress line is drawn again.
    assert 20 <= len(STATE.findall(written))


def test_what_handlers_print_stands_above_the_progress_line(in_terminal, command_line, json_lines):
    """Whole lines and pieces of lines, from Python and from logging."""
    command_line.write(
        "talking.py",
        """
        import logging, sys
        from messagebus import Command, handles

        class Talk(Command): pass
        logging.basicConfig(format="logged %(message)s")

        @handles(Talk)
        def talk(command):
            print("printed")
            print("in ", end="", flush=True)
            print("pieces", file=sys.stderr)
            logging.error("x")
        """,
    )
    (command_line.directory / "in.jsonl").write_bytes(json_lines(("Talk", {}), ("Talk", {})))

    _, written = in_terminal("handle", "talking", "--log-level", "disabled", "in.jsonl")

    *lines, state, rest = seen(written)
    assert ["printed", "in pieces", "logged x"] * 2 == lines
    assert STATE.fullmatch(state)
    assert "" == rest


def test_an_open_line_is_left_alone(in_terminal, command_line, json_lines):
    """The progress line comes back when the line that a handler began is at its end, or the work is."""
    command_line.write(
        "dotting.py",
        """
        import time
        from messagebus import Command, handles

        class Dot(Command): pass

        @handles(Dot)
        def dot(command):
            print(".", end="", flush=True)
            end = time.monotonic() + 0.15
            while time.monotonic() < end:
                pass
        """,
    )
    (command_line.directory / "in.jsonl").write_bytes(json_lines(*[("Dot", {})] * 3))

    _, written = in_terminal("handle", "dotting", "--log-level", "disabled", "in.jsonl")

    dots, state, rest = seen(written)
    assert "..." == dots
    assert STATE.fullmatch(state)
    assert "" == rest


def test_results_on_the_same_terminal_are_whole(in_terminal, orders):
    """Where standard output is the terminal too, the progress line makes way for it."""
    _, written = in_terminal("handle", "shop", "--log-level", "disabled", "in.jsonl", is_all=True, columns=500)

    *lines, state, rest = seen(written)
    found = [json.loads(line) for line in lines]
    assert 20 == sum("event" in line for line in found)
    assert 1_980 <= sum("type" in line for line in found)
    assert STATE.fullmatch(state)
    assert "" == rest


def test_a_narrow_terminal_does_not_wrap_it(in_terminal, orders):
    """A line that wraps could not be taken away again."""
    _, written = in_terminal("handle", "shop", "in.jsonl", *SILENT, columns=20)

    assert max(len(line) for line in re.split(r"[\r\n]", written)) < 20
    assert seen(written)[0].startswith("2,000 lines")


def test_a_redirected_file_has_one_too(in_terminal, orders):
    """``messagebus handle shop <in.jsonl``: the end is known."""
    with orders.open("rb") as stdin:
        _, written = in_terminal("handle", "shop", "--log-level", "disabled", given=None, stdin=stdin)

    assert STATE.search(written)


@pytest.mark.parametrize("arguments", [("in.jsonl", "--no-progress"), ("-",), ("in.jsonl", "-")])
def test_there_is_none_where_it_is_not_wanted_or_the_end_not_known(in_terminal, orders, arguments):
    """With ``--no-progress``, and where a pipe is among the inputs."""
    _, written = in_terminal("handle", "shop", *SILENT, *arguments)

    assert "" == written


def test_there_is_none_in_a_pipe(command_line, orders):
    """Records only, for whatever reads them."""
    done = command_line.run("handle", "shop", "--log-level", "disabled", "in.jsonl")

    assert 20 == len([json.loads(line) for line in done.stderr.splitlines()])
    assert b"\r" not in done.stderr


def test_a_handler_may_give_standard_error_to_a_process(in_terminal, command_line, json_lines):
    """It is still a file with a descriptor."""
    command_line.write(
        "calling.py",
        """
        import subprocess, sys
        from messagebus import Command, handles

        class Call(Command): pass

        @handles(Call)
        def call(command):
            subprocess.run(["echo", "called"], stdout=sys.stderr, check=True)
            assert sys.stderr.isatty()
        """,
    )
    (command_line.directory / "in.jsonl").write_bytes(json_lines(("Call", {})))

    done, written = in_terminal("handle", "calling", "--log-level", "disabled", "in.jsonl")

    assert 0 == done.returncode
    assert "called" in written
