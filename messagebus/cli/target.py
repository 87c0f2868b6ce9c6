"""TARGET on the command line: from ``package.module:registry`` to the registry."""

import os
import re
import sys
from argparse import ArgumentParser
from contextlib import redirect_stdout
from importlib import import_module
from operator import attrgetter
from os.path import dirname, relpath
from traceback import extract_tb
from types import ModuleType

from messagebus import ConfigurationError, Registry
from messagebus.registry import DEFAULT_REGISTRY

__all__ = ["ImportFailedError", "add_target", "load"]

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_FORM = re.compile(f"{_DOTTED}(:{_DOTTED})?")
_LIBRARIES = re.compile(
    rf"<frozen |({re.escape(dirname(os.__file__))}|{re.escape(dirname(dirname(__file__)))}|.*(site|dist)-packages)[\\/]"
)
_MAX_TEXT = 500
_HELP = """\
a module that registers the handlers, as in shop.orders: its attribute "registry" if it has one, else the default
registry; or module and registry, as in shop.orders:registry. The current directory is searched first"""


class ImportFailedError(ConfigurationError):
    """The module of the target raised something while it was imported."""

    def __init__(self, module: str, error: BaseException) -> None:
        place = _place(error)
        text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())[:_MAX_TEXT]
        why = f"it raised {type(error).__qualname__}{text and f': {text}'} (at {place})"
        super().__init__(f"import {module}", why.rstrip("."), "Mend what is at that place.")
        self.module, self.error, self.place = module, error, place


def add_target(parser: ArgumentParser) -> None:
    """Let a command take a target."""
    parser.add_argument("target", metavar="TARGET", help=_HELP)


def load(target: str) -> Registry:
    """Import the module of a target, and return the registry that the target names.

    What the module prints on import goes to standard error: standard output belongs to data.

    Raises:
        ImportFailedError: If the import itself raised something.
        ConfigurationError: If there is no such module, or no registry of that name in it.
    """
    if not _FORM.fullmatch(target):
        why, remedy = "it is no dotted name", "Write package.module or package.module:registry."
        raise ConfigurationError(f"use {target!r} as TARGET", why, remedy)
    name, _, path = target.partition(":")
    here = os.getcwd()
    if not sys.flags.safe_path and sys.path[:1] not in ([""], [here]):
        sys.path.insert(0, here)
    with redirect_stdout(sys.stderr):
        module = _import(name, here)
    if not path:
        registry = getattr(module, "registry", None)
        return registry if isinstance(registry, Registry) else DEFAULT_REGISTRY
    return _attribute(module, path)


def _import(name: str, here: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ImportFailedError(name, error) from error
        why = f"there is no module {error.name} in {here} nor anywhere else on the path of imports"
        raise ConfigurationError(f"import {name}", why, "Check the spelling and the current directory.") from None
    except (Exception, SystemExit) as error:
        raise ImportFailedError(name, error) from error


def _attribute(module: ModuleType, path: str) -> Registry:
    try:
        found = attrgetter(path)(module)
    except AttributeError:
        why = f"{module.__name__} has no attribute {path}"
    else:
        if isinstance(found, Registry):
            return found
        why = f"it is no Registry but an object of type {type(found).__qualname__}"
    names = [f"{module.__name__}:{name}" for name, value in vars(module).items() if isinstance(value, Registry)]
    remedy = f"Registries there: {', '.join(names)}." if names else f"For the default registry write {module.__name__}."
    raise ConfigurationError(f"use {module.__name__}:{path} as TARGET", why, remedy)


def _place(error: BaseException) -> str:
    """Return ``path/to/file.py:12`` of what can be mended: the last frame outside the libraries, if there is one."""
    frames = [(frame.filename, frame.lineno) for frame in extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
    own = [(path, line) for path, line in frames if not _LIBRARIES.match(path)]
    for path, line in reversed(own or frames):
        shown = relpath(path)
        return f"{path if shown.startswith('..') else shown}:{line}"
    return "a place unknown"
