"""What the tests of delivery share: a place for a store on each engine, and processes."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent

import pytest

PRELUDE = """
    import os, signal, sys
    from messagebus import Registry
    from messagebus.delivery import *
    from messagebus.testing.laws import *
    from messagebus.testing.shop import *
    url, registry = sys.argv[1], Registry()
    quiet = {"log_level": "disabled", "error_log_level": "disabled"}
    def say(*words):
        print(*words, flush=True)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """An empty place for a store, on each of the engines that outlive a process."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bus.db"
    return request.getfixturevalue("postgres").fresh()


@pytest.fixture
def start():
    """A function that starts a script in an interpreter of its own, with pipes; what is left of it is killed."""
    with ExitStack() as processes:

        def start_script(script, *arguments, env=None):
            command = [sys.executable, "-c", dedent(PRELUDE) + dedent(script), *arguments]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
            process = processes.enter_context(subprocess.Popen(command, env=environment, **pipes))
            processes.callback(process.kill)
            return process

        yield start_script
