"""waiting: to list, to cancel and to move what is not finished yet."""

import json
from datetime import UTC, datetime, timedelta

import pytest


@pytest.fixture
def ids(command_line, json_lines, store):
    """The ids of two orders with a key, and of a breakdown without, in a store."""
    orders = json_lines(("PlaceOrder", {"order_id": "o-1"}), ("PlaceOrder", {"order_id": "o-2"}))
    done = command_line.run("send", "shop", "--key", "order_id", given=orders)
    broken = command_line.run("send", "shop", "--delay", "1h", given=json_lines(("BreakDown", {})))
    return (done.stdout + broken.stdout).decode().split()


def listed(command_line, *options):
    """Return what the command lists, as data."""
    done = command_line.run("waiting", "list", "--json", *options)
    assert (0, b"") == (done.returncode, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_lists_what_waits_the_earliest_due_first(command_line, ids):
    """Columns for people."""
    done = command_line.run("waiting", "list")

    titles, *rows = [line.split() for line in done.stdout.decode().splitlines()]
    assert ["ID", "TYPE", "KEY", "SENT", "DUE", "STATE", "RETRIES"] == titles
    assert [
        [ids[0], "PlaceOrder", "o-1", "waiting", "-"],
        [ids[1], "PlaceOrder", "o-2", "waiting", "-"],
        [ids[2], "BreakDown", "-", "waiting", "-"],
    ] == [[*row[:3], *row[5:]] for row in rows]
    assert all(datetime.fromisoformat(row[4]).tzinfo == UTC for row in rows)


def test_json_is_an_object_a_line(command_line, ids):
    """With the names of Python, times in UTC."""
    (found,) = listed(command_line, "--type", "BreakDown")

    sent, due = (datetime.fromisoformat(found.pop(name)) for name in ("sent_at", "due"))
    assert {"id": ids[2], "type": "BreakDown", "key": None, "is_in_flight": False, "retries": {}} == found
    assert 3_600 == round((due - sent).total_seconds())


def test_filters_by_type_and_key(command_line, ids):
    """Both have to fit."""
    by_key = listed(command_line, "--key", "o-2")
    by_both = listed(command_line, "--key", "o-2", "--type", "BreakDown")

    assert [ids[1]] == [found["id"] for found in by_key]
    assert [] == by_both


def test_says_when_more_wait_than_it_shows(command_line, ids):
    """A list that ends is not the whole."""
    done = command_line.run("waiting", "list", "--limit", "2", "--json")
    whole = command_line.run("waiting", "list", "--limit", "3", "--json")

    assert (2, b"messagebus: More than 2 wait: raise --limit to see them.\n") == (done.stdout.count(b"\n"), done.stderr)
    assert (3, b"") == (whole.stdout.count(b"\n"), whole.stderr)


def test_shows_what_is_tried_again(command_line, store, ids):
    """The handler, and how often it has failed."""
    command_line.run("waiting", "move", ids[2], "--delay", "0")
    command_line.run("work", "shop", "--limit", "3")

    (found,) = listed(command_line, "--type", "BreakDown")

    assert {"shop.break_down": 1} == found["retries"]


def test_what_a_key_holds_cannot_command_the_terminal(command_line, json_lines, store):
    """Keys come from outside."""
    given = json_lines(("PlaceOrder", {"order_id": "a\x1b[2Jb\nc"}))
    command_line.run("send", "shop", "--key", "order_id", given=given)

    done = command_line.run("waiting", "list")

    assert b"\x1b" not in done.stdout
    assert 2 == done.stdout.count(b"\n")
    assert rb"a\x1b[2Jb\nc" in done.stdout


def test_a_terminal_of_ascii_shows_all(command_line, json_lines, store):
    """What it has no character for is escaped."""
    command_line.environment["PYTHONIOENCODING"] = "ascii"
    command_line.run("send", "shop", "--key", "order_id", given=json_lines(("PlaceOrder", {"order_id": "Zoë"})))

    done = command_line.run("waiting", "list")

    assert (0, b"") == (done.returncode, done.stderr)
    assert rb"Zo\xeb" in done.stdout


def test_cancels_what_waits(command_line, store, ids):
    """The others stay."""
    done = command_line.run("waiting", "cancel", ids[0], ids[2])

    assert (0, b"cancel: 2 of 2\n", b"") == (done.returncode, done.stdout, done.stderr)
    assert [ids[1]] == [message.id for message in store.waiting()]


@pytest.mark.parametrize("verb", [("cancel",), ("move", "--delay", "1h")])
def test_what_does_not_wait_is_a_sentence_each(command_line, store, ids, verb):
    """Exit code 1, and what can be done is done; options may stand anywhere."""
    store.claim(1, 3_600)

    done = command_line.run("waiting", verb[0], ids[0], "canary", *verb[1:], "--json", ids[1])

    told = [json.loads(line)["done"] for line in done.stdout.splitlines()]
    assert (1, [False, False, True]) == (done.returncode, told)
    assert 2 == done.stderr.count(b": it does not wait (in flight, finished, dead or unknown).\n")


def test_moves_by_a_delay(command_line, store, ids):
    """From now on."""
    done = command_line.run("waiting", "move", "--delay", "2d", ids[0])

    due = next(message.due for message in store.waiting() if message.id == ids[0])
    assert (0, b"move: 1 of 1\n") == (done.returncode, done.stdout)
    assert timedelta(days=1) < due - datetime.now(UTC) <= timedelta(days=2)


def test_moves_to_a_time(command_line, store, ids):
    """With its offset from UTC."""
    done = command_line.run("waiting", "move", ids[0], "--at", "2099-12-24T18:00:00+01:00")

    due = next(message.due for message in store.waiting() if message.id == ids[0])
    assert 0 == done.returncode
    assert datetime(2099, 12, 24, 17, tzinfo=UTC) == due
