"""list: every registered message, for eyes and for programs."""

import json

PARK = """
from messagebus import Command, Event, Registry, ReturnMessage

registry = Registry()

class Open(Command, name="park.open"): pass
class Opened(Event): pass
class LateOpened(Opened): pass
class Ticket(ReturnMessage): pass

registry.register(Ticket)
registry.register(LateOpened)

@registry.handles(Open)
async def open_gate(command): ...

@registry.handles(Opened, subclasses=True)
def tell(event): ...

@registry.handles(Opened)
def count(event): ...
"""


def test_the_table_is_aligned(command_line):
    """Kind, wire name, class, handlers with file and line; a handler per line, in the order in which they run."""
    command_line.write("park.py", PARK)

    done = command_line.run("list", "park")

    assert [
        "KIND     NAME        CLASS            HANDLER",
        "command  park.open   park.Open        park.open_gate (park.py:14), async",
        "event    LateOpened  park.LateOpened  park.tell (park.py:17)",
        "event    Opened      park.Opened      park.tell (park.py:17)",
        "                                      park.count (park.py:20)",
        "return   Ticket      park.Ticket      -",
    ] == done.stdout.decode().splitlines()
    assert (0, b"") == (done.returncode, done.stderr)


def test_json_says_the_same(command_line):
    """One array, an object per message."""
    command_line.write("park.py", PARK)

    done = command_line.run("list", "--json", "park")

    rows = json.loads(done.stdout)
    assert ["park.open", "LateOpened", "Opened", "Ticket"] == [row["name"] for row in rows]
    assert {
        "kind": "command",
        "name": "park.open",
        "class": "park.Open",
        "handlers": [{"name": "park.open_gate", "place": "park.py:14", "is_async": True}],
    } == rows[0]


def test_an_empty_registry_is_an_empty_list(command_line):
    """Nothing to show is no error."""
    command_line.write("empty.py", "from messagebus import Registry\nregistry = Registry()\n")

    table, array = command_line.run("list", "empty"), command_line.run("list", "empty", "--json")

    assert b"KIND  NAME  CLASS  HANDLER\n" == table.stdout
    assert [] == json.loads(array.stdout)


def test_what_is_printed_on_import_is_no_part_of_it(command_line):
    """Standard output belongs to data."""
    command_line.write("talking.py", "import shop\nprint('hello')\n")

    done = command_line.run("list", "talking", "--json")

    assert json.loads(done.stdout)
    assert b"hello\n" == done.stderr
