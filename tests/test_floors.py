"""The house: which module imports which, how large files and functions are, and what the core never does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import messagebus

PACKAGE = Path(messagebus.__file__).parent

# From the ground up. A module imports only from floors strictly below its own; within a package it is free.
FLOORS = [
    ["messagebus.errors"],
    ["messagebus.shapes"],
    ["messagebus.messages"],
    ["messagebus.logs", "messagebus.envelope", "messagebus.tracebacks"],
    ["messagebus.versions"],
    ["messagebus.door"],
    ["messagebus.registry"],
    ["messagebus.dispatch"],
    ["messagebus.bus"],
    ["messagebus.ask"],
    ["messagebus"],
    ["messagebus.delivery"],
    ["messagebus.brokers", "messagebus.http"],
    ["messagebus.testing"],
    ["messagebus.cli"],
    ["messagebus.__main__"],
]
ROOF = FLOORS.index(["messagebus"])
CORE = sorted(f"{name.partition('.')[2] or '__init__'}.py" for floor in FLOORS[: ROOF + 1] for name in floor)
MAX_LINES = 400
MAX_LINES_OF_A_FUNCTION = 40
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "importlib", "runpy", "imp", "yaml", "dill", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}

ALL_FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def read(file: str) -> str:
    return (PACKAGE / file).read_text(encoding="utf-8")


def module_of(file: str) -> str:
    parts = Path("messagebus", file).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int:
    """Return the floor of a module: its own, or that of the package that it is in."""
    homes = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    while module not in homes:
        outer = module.rpartition(".")[0]
        assert outer != "messagebus", f"{module} is not in the plan of the house"
        module = outer
    return homes[module]


def home_of(module: str) -> str:
    """Return the module, or the package below messagebus that it is in."""
    return ".".join(module.split(".")[:2])


def imports_of(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the full name of every module that is imported, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module if is_package else module.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            # `from messagebus import logs` imports a module, `from messagebus import Command` from the package.
            names = {f"{base}.{alias.name}" for alias in node.names}
            modules = {name for name in names if (PACKAGE.parent / name.replace(".", "/")).with_suffix(".py").exists()}
            yield from modules or [base]


def imports_upwards(source: str, module: str, *, is_package: bool) -> list[str]:
    return [
        name
        for name in imports_of(source, module, is_package=is_package)
        if name.split(".")[0] == "messagebus"
        and home_of(name) != home_of(module)
        and floor_of(name) >= floor_of(module)
    ]


@pytest.mark.parametrize("file", ALL_FILES)
def test_module_imports_only_from_floors_below(file):
    """The house stands because nothing leans on what is above it."""
    upwards = imports_upwards(read(file), module_of(file), is_package=file.endswith("__init__.py"))

    assert [] == upwards


def test_import_upwards_is_seen():
    """The check above sees each way to write an import, also within a function."""
    wrong = [
        "import messagebus.bus",
        "from messagebus.bus import MessageBus",
        "from messagebus import bus",
        "from messagebus import MessageBus",
        "from . import bus",
        "from .bus import MessageBus",
        "def f():\n    from messagebus.cli.handle import main",
    ]

    seen = [len(imports_upwards(source, "messagebus.registry", is_package=False)) for source in wrong]

    assert [1] * len(wrong) == seen


def test_core_is_these_files():
    """A new file in the core is a decision: put it on its floor."""
    found = sorted(path.name for path in PACKAGE.glob("*.py"))

    assert CORE == [name for name in found if name not in {"__main__.py", "testing.py"}]


@pytest.mark.parametrize("file", ALL_FILES)
def test_file_is_short(file):
    """A file is read in one sitting."""
    assert len(read(file).splitlines()) <= MAX_LINES


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has, from its `def` on, without its docstring."""
    assert function.end_lineno is not None
    total = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        total -= first.end_lineno - first.lineno + 1
    return total


@pytest.mark.parametrize("file", ALL_FILES)
def test_functions_are_short(file):
    """A function fits on a screen."""
    functions = [
        node for node in ast.walk(ast.parse(read(file))) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert [] == [function.name for function in functions if lines_of(function) > MAX_LINES_OF_A_FUNCTION]


@pytest.mark.parametrize("file", CORE)
def test_core_hides_nothing_from_the_type_checkers(file):
    """What a checker does not see, a user finds."""
    assert [] == re.findall(r"#\s*(?:type:\s*ignore|pyright:\s*ignore|mypy:).*", read(file))


@pytest.mark.parametrize("file", CORE)
def test_core_makes_no_code_from_data(file):
    """[L1] No pickle, no import by name, no eval: a payload can only become a message."""
    tree = ast.parse(read(file))

    modules = {name.split(".")[0] for name in imports_of(read(file), module_of(file), is_package=False)}
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}

    assert set() == modules & FORBIDDEN_MODULES
    assert set() == calls & FORBIDDEN_CALLS
    assert "ImportString" not in read(file)


# What changes the logging of the whole process, as an attribute or a name.
CONFIGURES = {
    "configure", "configure_once", "reset_defaults", "basicConfig", "dictConfig", "fileConfig", "captureWarnings",
    "addHandler", "setLevel", "addFilter", "setLoggerClass", "addLevelName", "simplefilter", "filterwarnings",
}  # fmt: skip


@pytest.mark.parametrize("file", [file for file in ALL_FILES if not file.startswith("cli/")])
def test_library_configures_no_logging(file):
    """[L18] Only the command is an application; nothing else may decide where an application logs."""
    tree = ast.parse(read(file))

    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}

    assert set() == names & CONFIGURES


@pytest.mark.parametrize("file", ALL_FILES)
def test_file_begins_with_a_sentence(file):
    """The first line says what lives here."""
    sentence = (ast.get_docstring(ast.parse(read(file))) or "").partition("\n")[0]

    assert re.fullmatch(r".+ .+[.]", sentence)


def test_import_loads_pydantic_structlog_and_no_third_package(fresh_python):
    """`import messagebus` costs what its two dependencies cost."""
    script = """
        import sys
        {}
        third = {{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names
        print(*sorted(name for name in third if not name.startswith("_")))
    """
    floor = "import pydantic, structlog; type('Model', (pydantic.BaseModel,), {})"

    of_dependencies = fresh_python(script.format(floor)).stdout.split()
    of_us = fresh_python(script.format("import messagebus")).stdout.split()

    assert "messagebus" in of_us
    assert [] == sorted({*of_us} - {*of_dependencies, "messagebus"})
