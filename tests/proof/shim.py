"""Stands between SQLite and its files: writes down what is done to them, and lets calls fail.

It is C, loaded before the C library, and compiled when it is first needed: so it is under the very SQLite that users
run, whichever that is. A VFS of another package would bring an SQLite of its own, and prove that one.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

__all__ = [
    "FOREVER", "LOCK", "MAP", "OPEN", "READ", "SYNC", "TRUNCATE", "WRITE", "arm", "calls", "disarm", "loaded",
]  # fmt: skip

READ, WRITE, SYNC, TRUNCATE, LOCK, OPEN, MAP = (2**number for number in range(7))
FOREVER = 2**62


@contextmanager
def loaded(folder: Path, log: int | None = None) -> Iterator[Mapping[str, str]]:
    """Lend the environment of a process that is watched: what it does to the files of a folder."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler here (or no Linux), with which to see what SQLite writes")
    with TemporaryDirectory(prefix="messagebus-") as place:
        library = Path(place) / "shim.so"
        source = Path(__file__).with_suffix(".c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        hooks = {"LD_PRELOAD": str(library), "SHIM_FOLDER": str(folder)}
        yield {**os.environ, **hooks, **({} if log is None else {"SHIM_LOG": str(log)})}


# In the process that is watched


def arm(kinds: int, first: int, times: int, error: int) -> None:
    """Let calls of these kinds fail, from the first on, counted from now; a read with no error finds no more bytes."""
    ctypes.CDLL(None).shim_arm(*map(ctypes.c_int64, (kinds, first, times, error)))


def disarm() -> None:
    """Let everything succeed."""
    arm(0, 0, 0, 0)


def calls() -> int:
    """Return how many calls of these kinds there have been."""
    library = ctypes.CDLL(None)
    library.shim_calls.restype = ctypes.c_int64
    count: int = library.shim_calls()
    return count
