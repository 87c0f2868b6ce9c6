"""schema, asyncapi, graph: documents on standard output, and an exit code for CI."""

import json

GARDEN = """
from messagebus import Command, Event, Registry

registry = Registry()

class Plant(Command):
    tree: str

class Planted(Event): pass

@registry.handles(Plant)
def plant(command) -> Planted:
    return Planted()

@registry.handles(Planted)
def water(event) -> None: pass
"""


def test_schema_checks_what_a_change_breaks(command_line):
    """Nothing: ok, and 0. A field that is new: one line for each that it breaks, and 1."""
    command_line.write("garden.py", GARDEN)
    document = command_line.run("schema", "garden")
    (command_line.directory / "old.json").write_bytes(document.stdout)

    same = command_line.run("schema", "garden", "--check", "old.json")
    command_line.write("garden.py", GARDEN.replace("tree: str", "tree: str\n    height: int"))
    table = command_line.run("schema", "garden", "--check", "old.json")
    lines = command_line.run("schema", "garden", "--check", "-", "--json", given=document.stdout)

    assert ["Plant", "Planted"] == [*json.loads(document.stdout)["$defs"]]
    assert (0, b"ok\n", b"") == (same.returncode, same.stdout, same.stderr)
    assert [
        "BREAKS        MESSAGE  FIELD   CHANGE",
        "old messages  Plant    height  is new and required",
        "old readers   Plant    height  is new, and unknown fields were refused",
    ] == table.stdout.decode().splitlines()
    assert {
        "message": "Plant",
        "field": "height",
        "change": "is new and required",
        "breaks": "old messages",
    } == json.loads(lines.stdout.splitlines()[0])
    assert (1, 1, b"") == (table.returncode, lines.returncode, lines.stderr)


def test_document_that_cannot_be_read_is_one_sentence(command_line):
    """The call is wrong: 2."""
    command_line.write("garden.py", GARDEN)
    missing = command_line.run("schema", "garden", "--check", "nowhere.json")
    broken = command_line.run("schema", "garden", "--check", "-", given=b'{"oneOf": ')

    assert (2, b"messagebus: Cannot read nowhere.json: No such file or directory. Check the path.\n") == (
        missing.returncode,
        missing.stderr,
    )
    assert broken.stderr.startswith(b"messagebus: Cannot read standard input: it is no JSON document. Write one:")
    assert (2, b"") == (broken.returncode, broken.stdout)


def test_asyncapi_is_written_as_json(command_line):
    """The title is the target, unless told otherwise."""
    command_line.write("garden.py", GARDEN)

    done = command_line.run("asyncapi", "garden", "--api-version", "2.1.0")

    document = json.loads(done.stdout)
    assert ("3.0.0", {"title": "garden", "version": "2.1.0"}) == (document["asyncapi"], document["info"])
    assert ["receive_Plant", "receive_Planted", "send_Planted"] == [*document["operations"]]
    assert (0, b"") == (done.returncode, done.stderr)


def test_graph_is_drawn_from_annotations_and_from_a_store(command_line, json_lines, store):
    """Mermaid by default; DOT with what was recorded."""
    command_line.write("garden.py", GARDEN)
    command_line.run("send", "garden", given=json_lines(("Plant", {"tree": "oak"})))
    command_line.run("work", "garden", "--until-idle")

    plain = command_line.run("graph", "garden")
    counted = command_line.run(
        "graph", "garden", "--format", "dot", "--from-history", command_line.environment["MESSAGEBUS_URL"]
    )

    assert [
        "flowchart LR",
        '    n0["Plant"]',
        '    n1(["Planted"])',
        '    n2{{"garden.plant"}}',
        '    n3{{"garden.water"}}',
        "    n0 --> n2",
        "    n2 --> n1",
        "    n1 --> n3",
    ] == plain.stdout.decode().splitlines()
    assert b'    n2 -> n1 [label="1"];' in counted.stdout
    assert (0, 0, b"") == (plain.returncode, counted.returncode, counted.stderr)
