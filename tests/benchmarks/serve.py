"""Serve one driver of ``peers/``: for each line ``what times`` on stdin write the seconds that it took on stdout.

Runs alone, without this package, in the environment of the bus that is measured: ``python -I serve.py DRIVER [PATH]``.
A driver defines ``command`` and ``event``, which make a message; ``handle``, which calls the command's handler without
the bus; ``send`` and ``publish``, which give a message to the bus; ``total``, which finds the total of the confirmation
in what ``send`` returned; and ``seen``, to which each of the event's three handlers appends. Any of the three in the
middle may be async. Where a bus has no events, ``publish`` is a text that says why.
"""

import asyncio
import inspect
import json
import runpy
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from os import _exit
from time import process_time
from typing import Any

_TOTAL = 19.0
_AT_ONCE = 1_000


def _serve(driver: dict[str, Any], runner: asyncio.Runner) -> None:
    for line in sys.stdin:
        what, times = line.split()
        make = driver["event" if what == "publish" else "command"]
        left, taken = int(times), 0.0
        while left:
            messages = [make() for _ in range(min(left, _AT_ONCE))]
            left -= len(messages)
            taken += _run(driver[what], messages, runner)
        print(taken, flush=True)


def _run(function: Callable[..., Any], messages: list[Any], runner: asyncio.Runner) -> float:
    if inspect.iscoroutinefunction(function):
        return runner.run(_awaiting(function, messages))
    started = process_time()
    for message in messages:
        function(message)
    return process_time() - started


async def _awaiting(function: Callable[..., Coroutine[Any, Any, Any]], messages: list[Any]) -> float:
    started = process_time()
    for message in messages:
        await function(message)
    return process_time() - started


def _check(driver: dict[str, Any], runner: asyncio.Runner) -> None:
    """Fail unless the bus does what is to be measured."""
    for what in ("send", "publish"):
        if not callable(driver[what]):
            continue
        outcome = driver[what](driver["event" if what == "publish" else "command"]())
        if inspect.iscoroutine(outcome):
            outcome = runner.run(_result(outcome))
        if what == "send" and driver["total"](outcome) != _TOTAL:
            raise SystemExit(f"a command returned {outcome!r}")
    if callable(driver["publish"]) and len(driver["seen"]) != 3:
        raise SystemExit(f"{len(driver['seen'])} of 3 handlers ran")


async def _result(outcome: Coroutine[Any, Any, Any]) -> Any:
    return await outcome


def main() -> None:
    path, distribution, *paths = sys.argv[1:]
    sys.path[:0] = paths
    driver = runpy.run_path(path)
    with asyncio.Runner() as runner:
        _check(driver, runner)
        without = None if callable(driver["publish"]) else driver["publish"]
        print(json.dumps({"version": None if paths else version(distribution), "without_events": without}), flush=True)
        _serve(driver, runner)
        sys.stdout.flush()
        _exit(0)  # A bus may keep the loop from closing.


if __name__ == "__main__":
    main()
