"""tree: what a message led to, with what became of each handler."""

import json

import pytest


@pytest.fixture
def worked(command_line, json_lines, store):
    """A function that sends a message, lets a worker handle all, and returns the id."""

    def work(name, data, target="shop"):
        done = command_line.run("send", target, given=json_lines((name, data)))
        command_line.run("work", target, "--until-idle", "--attempts", "1")
        return done.stdout.decode().strip()

    return work


def test_indents_what_a_message_led_to(command_line, worked):
    """Each below its cause, with handler, outcome, attempts and duration."""
    id = worked("PlaceOrder", {"order_id": "o-1"})

    done = command_line.run("tree", id)

    titles, first, second = done.stdout.decode().splitlines()
    assert [
        "MESSAGE",
        "ID",
        "HANDLER",
        "OUTCOME",
        "ATTEMPTS",
        "DURATION",
        "SENT",
        "FINISHED",
        "ERROR",
    ] == titles.split()
    assert ["PlaceOrder", id, "shop.place_order", "done", "1"] == first.split()[:5]
    assert second.startswith("  shop.order_placed ")
    assert ["shop.count", "done", "1"] == second.split()[2:5]
    assert ("ms", 0, b"") == (first.split()[6], done.returncode, done.stderr)


DEEP = """
from messagebus import Command, Event, handles

class Start(Command): pass
class Left(Event): pass
class Right(Event): pass
class Last(Event): pass

@handles(Start)
def start(command): return [Left(), Right()]

@handles(Left)
def one(event): return Last()

@handles(Left)
def two(event): raise RuntimeError("two")

@handles(Last)
def last(event): pass

@handles(Right)
def three(event): pass
"""


def test_a_branch_is_told_to_its_end_before_the_next(command_line, worked):
    """A handler a line; a message without handler is done."""
    command_line.write("deep.py", DEEP)
    id = worked("Start", {}, target="deep")

    done = command_line.run("tree", id)

    rows = done.stdout.decode().splitlines()[1:]
    assert ["Start", "  Left", "", "    Last", "  Right"] == [row[: len("MESSAGE  ")].rstrip() for row in rows]
    assert ["deep.two", "dead", "1"] == rows[2].split()[:3]
    assert rows[2].endswith("  RuntimeError (deep.py:16)")


def test_json_tells_how_deep_each_stands(command_line, worked):
    """One object a message, as in Python."""
    command_line.write("deep.py", DEEP)
    id = worked("Start", {}, target="deep")

    done = command_line.run("tree", id, "--json")

    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(0, "Start"), (1, "Left"), (2, "Last"), (1, "Right")] == [(step["depth"], step["type"]) for step in steps]
    assert [None, id] == [step["causation_id"] for step in steps[:2]]
    failed = steps[1]["outcomes"][1]
    assert ("deep.two", "dead", {"error": "RuntimeError", "text": "two", "place": "deep.py:16"}) == (
        failed["handler"],
        failed["state"],
        failed["failure"],
    )


def test_what_waits_is_shown_as_waiting(command_line, json_lines, store):
    """Nothing has happened to it yet."""
    sent = command_line.run("send", "shop", given=json_lines(("BreakDown", {})))

    done = command_line.run("tree", sent.stdout.decode().strip())

    assert ["-", "waiting", "-", "-"] == done.stdout.split(b"\n")[1].decode().split()[2:6]


def test_causes_that_go_in_a_circle_are_told_once(command_line, store):
    """Ids from outside may say anything."""
    head = {"specversion": "1.0", "source": "/tests", "type": "PlaceOrder", "data": {"order_id": "o-1"}}
    events = [{**head, "id": "e-2", "causationid": "e-1"}, {**head, "id": "e-1", "causationid": "e-2"}]
    command_line.run("send", "shop", given="\n".join(map(json.dumps, events)).encode())

    done = command_line.run("tree", "e-1", "--json")

    assert ["e-1", "e-2"] == [json.loads(line)["id"] for line in done.stdout.splitlines()]


def test_an_unknown_id_is_one_sentence(command_line, store):
    """It was sent elsewhere, or is forgotten."""
    done = command_line.run("tree", "m-1")

    assert (1, b"") == (done.returncode, done.stdout)
    assert done.stderr.startswith(b"messagebus: Cannot show what m-1 led to: the store does not hold it")
