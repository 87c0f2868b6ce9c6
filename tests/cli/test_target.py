"""TARGET: which registry it names, and one clear sentence where it names none."""

import sys

import pytest

SHELF = """
from messagebus import Command, Registry

class Stock(Command): pass
class Count(Command): pass

registry = Registry()
registry.register(Stock)
other = Registry()
other.register(Count)

class Shop:
    registry = other

number = 3
"""


@pytest.mark.parametrize(
    ("target", "name"),
    [("shelf", "Stock"), ("shelf:registry", "Stock"), ("shelf:other", "Count"), ("shelf:Shop.registry", "Count")],
)
def test_a_target_names_a_module_and_maybe_a_registry_in_it(command_line, target, name):
    """Without a name it is the one called ``registry``."""
    command_line.write("shelf.py", SHELF)

    done = command_line.run("list", target)

    assert name in done.stdout.decode()
    assert 0 == done.returncode


@pytest.mark.parametrize("line", ["", "registry = None", "registry = {}"])
def test_without_a_registry_of_its_own_it_is_the_default_one(command_line, line):
    """Also if something else goes by that name."""
    command_line.write("plain.py", f"import shop\n{line}\n")

    done = command_line.run("list", "plain")

    assert b"PlaceOrder" in done.stdout


def test_the_current_directory_comes_first(command_line):
    """Before a module of the same name that is installed; as ``python -m`` does it."""
    (command_line.directory / "shop").mkdir()
    command_line.write("shop/__init__.py", "")
    command_line.write("shop/orders.py", SHELF)

    done = command_line.run("list", "shop.orders")

    assert b"shop.orders.Stock" in done.stdout


@pytest.mark.parametrize(("option", "code"), [("-u", 0), ("-P", 2)])
def test_the_installed_script_looks_there_too(command_line, option, code):
    """Though Python puts the directory of the script on the path instead; and not if it is told to be safe."""
    (command_line.directory / "bin").mkdir()
    command_line.write("bin/messagebus", "import sys\nfrom messagebus.cli import main\nsys.exit(main())\n")

    done = command_line.shell(f'"{sys.executable}" {option} bin/messagebus list shop')

    assert (code, code == 0) == (done.returncode, b"shop.PlaceOrder" in done.stdout)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("shelff", "import shelff: there is no module shelff in {here} nor anywhere else on the path of imports. "),
        ("shelf.sub", "import shelf.sub: there is no module shelf.sub in {here} nor anywhere else"),
        (
            "shelf:nothing",
            "use shelf:nothing as TARGET: shelf has no attribute nothing. Registries there: shelf:registry, ",
        ),
        ("shelf:number", "use shelf:number as TARGET: it is no Registry but an object of type int. Registries there: "),
        ("messagebus:nothing", "For the default registry write messagebus."),
        (
            "./shelf.py",
            "use './shelf.py' as TARGET: it is no dotted name. Write package.module or package.module:registry.",
        ),
        ("", "use '' as TARGET: it is no dotted name. "),
    ],
)
def test_a_target_that_names_nothing_is_one_sentence(command_line, target, sentence):
    """Exit code 2, no traceback, nothing on standard output."""
    command_line.write("shelf.py", SHELF)

    done = command_line.run("list", target)

    told = done.stderr.decode()
    assert (2, b"", 1) == (done.returncode, done.stdout, told.count("\n"))
    assert told.startswith("messagebus: Cannot ")
    assert sentence.format(here=command_line.directory) in told


@pytest.mark.parametrize(
    ("text", "raised"),
    [
        ("import os\n\nos.environ['SHOP_URL_NOT_SET']", "KeyError: 'SHOP_URL_NOT_SET' (at broken.py:3)"),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing' (at broken.py:1)"),
        ("from shop import NoSuchOrder", "ImportError: cannot import name 'NoSuchOrder' from 'shop'"),
        ("\nx = = 1", "SyntaxError: invalid syntax (at broken.py:2)"),
        ("import json\njson.loads('{')", "JSONDecodeError: Expecting property name"),
        ("raise ValueError('one\\ntwo')", "ValueError: one two (at broken.py:1)"),
        ("import sys\nsys.exit(0)", "SystemExit: 0 (at broken.py:2)"),
    ],
)
def test_what_a_module_raises_on_import_is_shown_with_its_place(command_line, text, raised):
    """Type, text, file and line: in the application's own code, where it can be mended."""
    command_line.write("broken.py", text)

    done = command_line.run("check", "broken")

    told = done.stderr.decode()
    assert (2, b"", 1) == (done.returncode, done.stdout, told.count("\n"))
    assert told.startswith(f"messagebus: Cannot import broken: it raised {raised}")
    assert "(at broken.py:" in told


@pytest.mark.parametrize("command", ["handle", "list", "check"])
def test_every_command_says_what_is_wrong_with_its_target(command_line, command):
    """In the same words, before anything else happens."""
    command_line.write("broken.py", "1 / 0")

    done = [command_line.run(command, target, given=b"{}") for target in ("broken", "nowhere")]

    assert [(2, b"")] * 2 == [(one.returncode, one.stdout) for one in done]
    raised = b"it raised ZeroDivisionError: division by zero (at broken.py:1). Mend what is at that place.\n"
    assert b"messagebus: Cannot import broken: " + raised == done[0].stderr
    assert done[1].stderr.startswith(b"messagebus: Cannot import nowhere: there is no module nowhere in ")
