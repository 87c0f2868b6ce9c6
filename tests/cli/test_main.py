"""The command as a whole: help, version, usage errors, and what it costs to ask."""

import subprocess
import sys

import pytest

COMMANDS = [
    (),
    *((name,) for name in ["handle", "list", "check", "send", "work", "stats", "failed", "waiting", "tree"]),
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_an_example(command_line, command, option):
    """Each command has its own."""
    done = command_line.run(*command, option)

    told = done.stdout.decode()
    assert (0, b"") == (done.returncode, done.stderr)
    assert f"  messagebus {command[0] if command else 'handle'} " in told.partition("example:\n")[2].replace("| ", " ")


def test_handle_says_its_exit_codes(command_line):
    """They are a contract."""
    done = command_line.run("handle", "--help")

    codes = "0 all lines were handled, 1 a handler failed, 2 the call itself is wrong, 3 a payload was refused"
    assert f"exit code: {codes}\n" in done.stdout.decode()


def test_the_version_is_one_line(command_line):
    """That of the installed distribution, if it is one."""
    done = command_line.run("--version")

    assert (0, b"") == (done.returncode, done.stderr)
    assert done.stdout.startswith(b"messagebus ")
    assert 1 == done.stdout.count(b"\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("handel",), "invalid choice: 'handel'"),
        (("handle",), "the following arguments are required: TARGET"),
        (("handle", "shop", "--log-level", "loud"), "argument --log-level: invalid choice: 'loud'"),
        (("handle", "shop", "--log", "info"), "unrecognized arguments: --log info"),
        (("handle", "shop", "--max-bytes", "0"), "argument --max-bytes: '0' is no number of bytes above 0"),
        (("handle", "shop", "--max-bytes", "1e6"), "argument --max-bytes: '1e6' is no number of bytes above 0"),
        (("list", "shop", "more"), "unrecognized arguments: more"),
        (("check", "--json", "shop"), "unrecognized arguments: --json"),
        (("send", "shop", "--delay", "soon"), "argument --delay: 'soon' is no duration: write 30s, 5m, 2h or 1d"),
        (("work", "shop", "--batch", "0"), "argument --batch: '0' is no number above 0"),
        (("failed",), "the following arguments are required: VERB"),
        (("failed", "lose"), "invalid choice: 'lose'"),
        (("waiting", "cancel"), "the following arguments are required: ID"),
        (("waiting", "move", "m-1"), "one of the arguments --delay --at is required"),
        (
            ("waiting", "move", "m-1", "--at", "2026-12-24T18:00"),
            "argument --at: '2026-12-24T18:00' is no time with an",
        ),
    ],
)
def test_a_wrong_call_is_exit_code_2(command_line, arguments, reason):
    """What is wrong, and how it is called."""
    done = command_line.run(*arguments)

    told = done.stderr.decode()
    assert (2, b"") == (done.returncode, done.stdout)
    assert told.startswith("usage: messagebus")
    assert reason in told


@pytest.mark.parametrize("places", ["{shop} {file} {option}", "{option} {shop} {file}", "{shop} {option} {file}"])
def test_options_may_stand_anywhere(command_line, json_lines, places):
    """Also between TARGET and FILE."""
    (command_line.directory / "in.jsonl").write_bytes(json_lines(("PlaceOrder", {"order_id": "o-1"})))

    call = places.format(shop="shop", file="in.jsonl", option="--log-level disabled")
    done = command_line.run("handle", *call.split())

    assert (0, b"") == (done.returncode, done.stderr)
    assert b"o-1" in done.stdout


def test_help_loads_argparse_and_the_package_only(command_line):
    """So that asking is fast: nothing beyond what ``import messagebus`` and argparse load."""
    script = "import sys; out, before = sys.stdout, set(sys.modules)\n{}\nprint(*({{*sys.modules}} - before), file=out)"
    ask = "import io; from messagebus.cli import main; sys.stdout = io.StringIO(); main(['-h'])"
    base = "import argparse, messagebus; argparse.ArgumentParser().format_help()"

    loaded, needed = (
        set(
            subprocess.run(
                [sys.executable, "-c", script.format(text)],
                env=command_line.environment,
                cwd=command_line.directory,
                capture_output=True,
                check=True,
                text=True,
            ).stdout.split()
        )
        for text in (ask, base)
    )

    assert needed <= loaded
    assert set() == {name for name in loaded - needed if not name.startswith("messagebus.cli")}
