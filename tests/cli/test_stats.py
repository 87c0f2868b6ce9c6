"""stats: the figures of a store, and what is said where there is none."""

import json

import pytest


@pytest.fixture
def busy(command_line, json_lines, store):
    """A store with something in each state."""
    lines = json_lines(("PlaceOrder", {"order_id": "o-1"}), ("BreakDown", {}))
    command_line.run("send", "shop", given=lines)
    command_line.run("work", "shop", "--until-idle", "--attempts", "1")
    command_line.run("send", "shop", given=lines)
    command_line.run("send", "shop", "--delay", "1h", given=lines[: lines.index(b"\n")])
    store.claim(1, 3_600)
    return store


def test_shows_how_many_are_in_which_state(command_line, busy):
    """Names and figures in columns."""
    done = command_line.run("stats")

    figures = dict(line.rsplit(maxsplit=1) for line in done.stdout.decode().splitlines()[:-1])
    assert {"due": "1", "delayed": "1", "in flight": "1", "dead": "1", "finished": "2"} == figures
    assert (0, b"") == (done.returncode, done.stderr)


def test_json_is_one_object(command_line, busy):
    """The same names as in Python."""
    done = command_line.run("stats", "--json")

    figures = json.loads(done.stdout)
    assert 0 < figures.pop("oldest_due")
    assert {"due": 1, "delayed": 1, "in_flight": 1, "dead": 1, "finished": 2} == figures
    assert 1 == done.stdout.count(b"\n")


LOOKING = [
    ("stats",),
    ("failed", "list"),
    ("failed", "show", "1"),
    ("failed", "retry", "--all"),
    ("waiting", "list"),
    ("waiting", "cancel", "m-1"),
    ("tree", "m-1"),
]


@pytest.mark.parametrize("command", LOOKING)
def test_a_file_that_is_not_there_is_not_made(command_line, command):
    """An empty store in its place would say that all is well."""
    done = command_line.run(*command, "--url", "sqlite:///typo.db")

    assert (2, b"") == (done.returncode, done.stdout)
    assert done.stderr.startswith(b"messagebus: Cannot open sqlite:///typo.db: there is no such file. ")
    assert not (command_line.directory / "typo.db").exists()


@pytest.mark.parametrize("command", LOOKING)
def test_without_a_url_it_says_what_to_give(command_line, command):
    """One sentence, exit code 2."""
    done = command_line.run(*command)

    assert 2 == done.returncode
    assert b"no URL is given, and MESSAGEBUS_URL is not set" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("stats", "--url", "mysql://ann:canary@host/db"),
        ("stats", "--url", "ann:canary@host/db"),
        ("stats", "mysql://ann:canary@host/db"),
        ("check", "mysql://ann:can@canary@host/db"),
        ("failed", "show", "mysql://ann:canary@host/db"),
    ],
)
def test_a_password_in_a_url_is_never_shown(command_line, store, arguments):
    """Not even where somebody wrote the URL into the wrong place."""
    done = command_line.run(*arguments)

    assert 2 == done.returncode
    assert b"canary" not in done.stdout + done.stderr
