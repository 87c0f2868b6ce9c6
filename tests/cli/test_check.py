"""check: every problem is a line, and the exit code tells a script."""

import pytest


def test_a_sound_application_is_ok(command_line):
    """Exit code 0."""
    command_line.write(
        "sound.py",
        """
        from messagebus import Command, handles

        class Open(Command): pass

        @handles(Open)
        def open_gate(command): ...
        """,
    )

    done = command_line.run("check", "sound")

    assert (0, b"ok\n", b"") == (done.returncode, done.stdout, done.stderr)


def test_each_problem_is_a_line(command_line):
    """A command without handler, an event that nobody handles, a field of a secret type."""
    command_line.write(
        "poor.py",
        """
        from messagebus import Command, Event, Registry
        from pydantic import SecretStr

        registry = Registry()

        class Open(Command):
            password: SecretStr

        class Opened(Event): pass

        registry.register(Open)
        registry.register(Opened)
        """,
    )

    done = command_line.run("check", "poor")

    problems = done.stdout.decode().splitlines()
    assert (1, b"") == (done.returncode, done.stderr)
    assert 3 == len(problems)
    expected = ("poor.Open is a command without", "poor.Open.password is of a secret type", "poor.Opened is an event")
    for words in expected:
        assert 1 == sum(problem.startswith(words) for problem in problems)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "class Open(Command, name='PlaceOrder'): pass\nregister(Open)",
            "wrong.py:5: Cannot register wrong.Open (wrong.py:4) under the wire name 'PlaceOrder'",
        ),
        (
            "class Open(Command):\n    done: Callable[[], int]\nregister(Open)",
            "wrong.py:6: Cannot register wrong.Open: the type of done has no JSON form.",
        ),
        ("register(shop.PlaceOrder, print)", "wrong.py:4: Cannot register builtins.print"),
        ("register(shop.OrderPlaced, lambda: None)", "wrong.py:4: Cannot use wrong.<lambda>"),
    ],
)
def test_what_registering_refuses_is_a_problem_too(command_line, text, problem):
    """With the place in the application, though the registry raised it on import."""
    lines = ["from collections.abc import Callable", "from messagebus import Command, handles", "import shop"]
    text = text.replace("register(", "handles.__self__.register(")
    command_line.write("wrong.py", "\n".join([*lines, text, ""]))

    done = command_line.run("check", "wrong")

    told = done.stdout.decode()
    assert (1, b"", 1) == (done.returncode, done.stderr, told.count("\n"))
    assert told.startswith(problem)


def test_an_empty_registry_is_a_problem(command_line):
    """The word ok would say that something was looked at; mostly the registry goes by another name."""
    command_line.write("hidden.py", "from messagebus import Registry\nmine = Registry()\n")

    done = command_line.run("check", "hidden")

    sentence = "No message is registered in hidden. If it has a registry of its own, write module:registry.\n"
    assert (1, sentence) == (done.returncode, done.stdout.decode())


def test_a_version_that_could_not_be_read_is_a_problem(command_line):
    """A check finds the gap before the first old message does."""
    command_line.write(
        "gap.py",
        """
        from messagebus import Command, handles, upcasts

        class Open(Command, version=3): pass

        handles(Open)(print)

        @upcasts(Open, from_version=2)
        def mend(data): return data
        """,
    )

    done = command_line.run("check", "gap")

    told = done.stdout.decode()
    assert (1, b"", 1) == (done.returncode, done.stderr, told.count("\n"))
    assert told.startswith("Cannot read older versions of gap.Open (gap.py:4): it is version 3, and no upcaster takes ")
