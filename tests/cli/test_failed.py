"""failed: dead letters; to count, to show, to retry and to drop them."""

import json
import shutil

import pytest

VAULT = """
from typing import Annotated
from messagebus import Command, Event, Private, handles
from shop import BreakDown, OrderPlaced, PlaceOrder

class Open(Command):
    code: Annotated[str, Private]
    door: str = "front"

class Opened(Event):
    code: Annotated[str, Private]
    door: str

@handles(Open)
def open_(command):
    print("at the door")
    if command.code == "canary-wrong":
        raise PermissionError(f"not {command.code}")
    return Opened(code=command.code, door=command.door)

@handles(Opened)
def ring(event): pass

@handles(Opened)
def light(event): raise ValueError("dark")
"""
GONE = """
from messagebus import Command, handles

class Gone(Command): pass

handles(Gone)(print)
"""


@pytest.fixture(scope="module")
def graveyard(tmp_path_factory):
    """A folder to which the first test that needs dead letters leaves a copy of them for the others."""
    return tmp_path_factory.mktemp("graveyard")


@pytest.fixture
def dead(command_line, json_lines, graveyard, request):
    """A store with five dead letters: of two breakdowns, a door that stays shut, a light, and an unknown type."""
    if not (graveyard / "bus.db").exists():
        bury(command_line, json_lines)
        shutil.copytree(command_line.directory, graveyard, dirs_exist_ok=True)
    shutil.copytree(graveyard, command_line.directory, dirs_exist_ok=True)
    store = request.getfixturevalue("store")
    assert 5 == store.stats().dead
    return store


def bury(command_line, json_lines):
    command_line.write("vault.py", VAULT)
    command_line.write("gone.py", GONE)
    lines = json_lines(
        ("BreakDown", {"order_id": "o-1"}),
        ("BreakDown", {"order_id": "o-2"}),
        ("Open", {"code": "canary-wrong"}),
        ("Opened", {"code": "canary-right", "door": "back"}),
    )
    url = ("--url", "sqlite:///bus.db")
    for target, given in (("vault", lines), ("gone", json_lines(("Gone", {})))):
        assert 0 == command_line.run("send", target, *url, given=given).returncode
    command_line.run("work", "vault", *url, "--until-idle", "--attempts", "1")


def ids(store, **filters):
    return [str(letter.id) for letter in store.dead(**filters)]


def objects(done):
    assert b"canary" not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_counts_by_error_and_place(command_line, dead):
    """The most frequent first, with some of the ids."""
    done = command_line.run("failed", "list")

    titles, first, *rows = [line.split() for line in done.stdout.decode().splitlines()]
    assert ["COUNT", "ERROR", "PLACE", "HANDLER", "OLDEST", "NEWEST", "IDS"] == titles
    assert ["2", "RuntimeError", "shop.py:57", "shop.break_down"] == first[:4]
    assert ["1,", "2"] == first[-2:]
    told = sorted((row[1], row[3]) for row in rows)
    unknown = "messagebus.errors.UnknownMessageError"
    assert [("PermissionError", "vault.open_"), ("ValueError", "vault.light"), (unknown, "-")] == told
    assert (0, b"") == (done.returncode, done.stderr)


def test_json_lists_each_without_what_was_sent(command_line, dead):
    """Ungrouped, and what is private shows nowhere (L21)."""
    found = objects(command_line.run("failed", "list", "--json"))

    door = next(one for one in found if one["handler"] == "vault.open_")
    assert 5 == len(found)
    assert {"error": "PermissionError", "attempts": 1, "type": "Open", "key": None}.items() <= door.items()
    assert {"body", "headers"}.isdisjoint(door)
    assert door["died_at"].endswith("Z")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--type", "BreakDown"), 2),
        (("--handler", "vault.light"), 1),
        (("--error", "PermissionError"), 1),
        (("--error", "UnknownMessageError"), 1),
        (("--error", "PermissionError", "--type", "BreakDown"), 0),
        (("--older-than", "1h"), 0),
        (("--older-than", "0s"), 5),
        (("--limit", "4"), 4),
    ],
)
def test_filters_have_all_to_fit(command_line, dead, options, count):
    """By type, handler, error and age."""
    assert count == len(objects(command_line.run("failed", "list", "--json", *options)))


def test_shows_the_facts_of_one(command_line, dead):
    """Without the classes nobody knows what is private: no payload."""
    (id,) = ids(dead, handler="vault.open_")

    done = command_line.run("failed", "show", id)

    facts = dict(line.split("  ", 1) for line in done.stdout.decode().splitlines())
    assert {"id": id, "type": "Open", "key": "-", "handler": "vault.open_", "error": "PermissionError"} == {
        name: facts[name].strip() for name in ("id", "type", "key", "handler", "error")
    }
    assert "payload" not in facts
    assert b"canary" not in done.stdout
    assert (0, b"") == (done.returncode, done.stderr)


def test_shows_the_payload_with_what_is_private_masked(command_line, dead):
    """The classes of the target say what that is."""
    (id,) = ids(dead, handler="vault.light")

    done = command_line.run("failed", "show", id, "--target", "vault")
    (facts,) = objects(command_line.run("failed", "show", id, "--target", "vault", "--json"))

    assert b'"door": "back"' in done.stdout
    assert b"canary" not in done.stdout
    assert "back" == facts["payload"]["door"]


def test_a_payload_that_fits_no_class_is_not_shown(command_line, dead):
    """It says why, in words that repeat nothing of it."""
    (id,) = ids(dead, handler="vault.open_")

    (facts,) = objects(command_line.run("failed", "show", id, "--target", "gone", "--json"))

    assert facts["payload"].startswith("(not shown, since it fits no class of gone: Cannot read a message: ")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("show", "99"), 1, "Cannot find dead letter 99: there is none with this id"),
        (("show", "first"), 2, "Cannot use 'first' as the id of a dead letter"),
        (("retry", "99"), 1, "Cannot find dead letter 99"),
        (("retry",), 2, "it is not said which dead letters are meant"),
        (("drop",), 2, "it is not said which dead letters are meant"),
        (("drop", "1", "--all"), 2, "ids, filters and --all exclude each other"),
        (("drop", "1", "--type", "BreakDown"), 2, "ids, filters and --all exclude each other"),
        (("retry", "--all", "--error", "ValueError"), 2, "ids, filters and --all exclude each other"),
        (("retry", "1", "2", "--dry-run", "--target", "vault"), 2, "it is for one dead letter"),
        (("retry", "--all", "--dry-run", "--target", "vault"), 2, "it is for one dead letter"),
        (("retry", "1", "--payload", "-"), 2, "Add --target TARGET."),
        (("retry", "1", "--target", "vault"), 2, "Add --payload or --dry-run."),
    ],
)
def test_what_cannot_be_done_is_one_sentence(command_line, dead, arguments, code, sentence):
    """And nothing is changed."""
    done = command_line.run("failed", *arguments)

    told = done.stderr.decode()
    assert (code, 1) == (done.returncode, told.count("\n"))
    assert sentence in told
    assert 5 == dead.stats().dead


def test_retries_the_one_handler(command_line, dead):
    """Its sibling does not run again (D4)."""
    command_line.write("vault.py", VAULT.replace('raise ValueError("dark")', "print('lit')").replace(": pass", ": 1/0"))
    (id,) = ids(dead, handler="vault.light")

    done = command_line.run("failed", "retry", id)
    worked = command_line.run("work", "vault", "--until-idle", "--log-level", "disabled")

    assert (0, b"retry: 1 of 1\n", b"") == (done.returncode, done.stdout, done.stderr)
    assert b"lit\n" == worked.stderr
    assert 4 == dead.stats().dead


def test_retries_what_a_filter_chooses(command_line, dead):
    """In the order in which it died."""
    chosen = ids(dead, type="BreakDown")

    done = command_line.run("failed", "retry", "--error", "RuntimeError", "--json")

    assert [{"id": int(id), "done": True} for id in chosen] == objects(done)
    assert 3 == dead.stats().dead


def test_drops_all_of_many(command_line, dead, json_lines):
    """However many there are: more than are looked at together."""
    lines = json_lines(*[("BreakDown", {})] * 700)
    command_line.run("send", "vault", given=lines)
    command_line.run("work", "vault", "--until-idle", "--attempts", "1", "--error-log-level", "disabled")

    done = command_line.run("failed", "drop", "--all")

    assert (0, b"drop: 705 of 705\n") == (done.returncode, done.stdout)
    assert 0 == dead.stats().dead


def test_one_that_is_not_there_keeps_no_other(command_line, dead):
    """Exit code 1; options may stand between ids."""
    first, second, *_ = ids(dead)

    done = command_line.run("failed", "drop", first, "--json", "99", second)

    assert [True, False, True] == [one["done"] for one in objects(done)]
    assert (1, 3) == (done.returncode, dead.stats().dead)
    assert done.stderr.startswith(b"messagebus: Cannot find dead letter 99: ")


@pytest.mark.parametrize("name", ["new.json", "-"])
def test_retries_with_another_payload(command_line, dead, name):
    """From a file or a pipe, on one line or many; the handler gets that."""
    payload = json.dumps({"type": "Open", "data": {"code": "canary-right"}}, indent=1)
    command_line.write("new.json", payload)
    (id,) = ids(dead, handler="vault.open_")

    options = ("--payload", name, "--target", "vault")
    done = command_line.run("failed", "retry", id, *options, given=payload.encode() if name == "-" else b"")
    command_line.run("work", "vault", "--until-idle")

    assert (0, b"retry: 1 of 1\n", b"") == (done.returncode, done.stdout, done.stderr)
    assert [] == ids(dead, handler="vault.open_")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"type": "Open", "data": {"code": ["canary"]}}, "Cannot read vault.Open: code: "),
        ({"type": "BreakDown", "data": {}}, "Cannot store shop.BreakDown: the store holds another message"),
        ({"type": "Close", "data": {}}, "no message class with the wire name 'Close' is registered"),
    ],
)
def test_another_payload_has_to_fit_its_class(command_line, dead, data, reason):
    """Exit code 3, and the dead letter stays as it was."""
    (id,) = ids(dead, handler="vault.open_")

    options = ("--payload", "-", "--target", "vault")
    done = command_line.run("failed", "retry", id, *options, given=json.dumps(data).encode())

    assert (3, b"") == (done.returncode, done.stdout)
    assert reason in done.stderr.decode()
    assert b"canary" not in done.stderr
    assert [id] == ids(dead, handler="vault.open_")


def test_a_dry_run_shows_what_would_be_sent_and_keeps_nothing(command_line, dead):
    """Here with another payload; what is private is masked, and what the handler prints is no data."""
    payload = json.dumps({"type": "Open", "data": {"code": "canary-right", "door": "side"}}).encode()
    (id,) = ids(dead, handler="vault.open_")

    options = ("--dry-run", "--payload", "-", "--target", "vault")
    done = command_line.run("failed", "retry", id, *options, given=payload)
    (sent,) = objects(command_line.run("failed", "retry", id, *options, "--json", given=payload))

    assert (0, b"at the door\n") == (done.returncode, done.stderr)
    assert done.stdout.startswith(b"would send Opened {")
    assert b"canary" not in done.stdout
    assert ("Opened", "side") == (sent["type"], sent["data"]["door"])
    assert (5, 0) == (dead.stats().dead, dead.stats().due)


def test_a_dry_run_of_what_would_fail_again_says_so(command_line, dead):
    """Exit code 1, without what is private in the error."""
    (id,) = ids(dead, handler="vault.open_")

    done = command_line.run("failed", "retry", id, "--dry-run", "--target", "vault")

    printed, sentence = done.stderr.decode().splitlines()
    assert (1, b"", "at the door") == (done.returncode, done.stdout, printed)
    assert sentence.startswith("messagebus: vault.open_ would fail again: PermissionError: not ")
    assert "vault.py:18" in sentence
    assert "canary" not in sentence
    assert 5 == dead.stats().dead


def test_a_dry_run_of_one_that_sends_nothing_says_so(command_line, dead):
    """So that silence means nothing."""
    command_line.write("vault.py", VAULT.replace('raise ValueError("dark")', "pass"))
    (id,) = ids(dead, handler="vault.light")

    done = command_line.run("failed", "retry", id, "--dry-run", "--target", "vault")

    assert (0, b"would send nothing\n", b"") == (done.returncode, done.stdout, done.stderr)


def test_nothing_failed_is_a_list_without_rows(command_line, store):
    """Exit code 0."""
    done = command_line.run("failed", "list")
    as_json = command_line.run("failed", "list", "--json")

    assert (0, 1, b"") == (done.returncode, done.stdout.count(b"\n"), as_json.stdout)
