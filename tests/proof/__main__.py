"""Run harnesses and print one table of what they found; the exit code is 1 if any of them failed."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

from tests.proof import HARNESSES


class Harness(Protocol):
    """What a module of this package offers."""

    COUNTS: str
    SHORT: int
    LONG: int

    def prove(self, size: int, report: Callable[[str], None]) -> str: ...


def load(name: str) -> Harness:
    return cast("Harness", import_module(f"tests.proof.{name}"))


def run(name: str, *, is_long: bool) -> tuple[bool, tuple[str, ...]]:
    """Run one harness; return whether it held, and its row of the table."""
    harness = load(name)
    size = harness.LONG if is_long else harness.SHORT
    started = time.monotonic()
    try:
        result, holds = harness.prove(size, lambda line: print(f"  {name}: {line}", file=sys.stderr)), True
    except AssertionError as error:
        print(f"{name} failed:\n{error}\n{''.join(getattr(error, '__notes__', ()))}", file=sys.stderr)
        result, holds = f"FAILED: {str(error).splitlines()[0] if str(error) else 'an assertion'}", False
    return holds, (name, f"{size:,} {harness.COUNTS}", result, f"{time.monotonic() - started:.1f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(HARNESSES)}; all of them if none is said")
    parser.add_argument("--long", action="store_true", help="as large as the figures in README ask for")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in HARNESSES:
            parser.error(f"there is no harness {name!r}; there are {', '.join(HARNESSES)}")
    ends = [run(name, is_long=options.long) for name in options.names or HARNESSES]
    for row in [("harness", "size", "result", "seconds"), ("---",) * 4, *(row for _, row in ends)]:
        print(f"| {' | '.join(row)} |")
    return 0 if all(holds for holds, _ in ends) else 1


if __name__ == "__main__":
    sys.exit(main())
