"""Plants one fault after another into a copy of the project, and runs the test that should find it.

A program of its own. What takes long to import is imported once; each test then runs in a child forked from here, that
imports the package from the copy in which its fault is planted. Reads JSON from stdin, and writes a line for each job.
"""

import gc
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest

COPIES = 2
OPTIONS = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:hypothesispytest"]
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-k", "not postgres"]
COPIED = ("messagebus", "pyproject.toml", "README.md", "tests", "examples")


def preload():
    """Import what tests import, but neither the package nor tests; what hypothesis finds need not be made small."""
    for name in ("pydantic", "structlog", "asyncio", "sqlite3", "sqlalchemy", "psycopg"):
        with suppress(ImportError):
            __import__(name)
    hypothesis.settings.register_profile("planted", phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
    hypothesis.settings.load_profile("planted")
    gc.freeze()


def copies_of(root, folder, jobs):
    """Copy the project, have all that is to be run compiled, and copy that again."""
    first = folder / "0"
    first.mkdir()
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, first / name, ignore=shutil.ignore_patterns("*.svg", "__pycache__"))
        elif (root / name).exists():
            shutil.copy2(root / name, first / name)
    os.waitpid(fork(first, ["--collect-only", *{test for job in jobs for test in job["tests"]}], folder / "log"), 0)
    return [first, *(shutil.copytree(first, folder / str(number)) for number in range(1, COPIES))]


def fork(place, arguments, log):
    """Start pytest in a child of this process, and return its id."""
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            os._exit(run(place, arguments, log))
        os._exit(70)
    return pid


def run(place, arguments, log):
    """Run tests in this process, and return pytest's exit code."""
    os.chdir(place)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path[:0] = [str(place)]
    os.environ["PYTHONPATH"] = str(place)
    # What is compiled from a fault is never read by another.
    sys.dont_write_bytecode = "--collect-only" not in arguments
    try:
        return int(pytest.main([*OPTIONS, *arguments]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def plant(place, job):
    """Plant the fault of a job; return what makes the file sound again."""
    path = place / "messagebus" / job["file"]
    sound, found = path.read_bytes(), path.stat()
    text = sound.decode()
    if job["right"] not in text:
        return None
    path.write_text(text.replace(job["right"], job["wrong"]), encoding="utf-8")

    def mend():
        path.write_bytes(sound)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    return mend


def say(**facts):
    print(json.dumps(facts), flush=True)


def work(root, jobs, folder):
    free, running = copies_of(root, folder, jobs), {}
    while jobs or running:
        while jobs and free:
            job, place = jobs.pop(0), free.pop()
            mend = plant(place, job) if job["file"] else lambda: None
            if mend is None:
                say(name=job["name"], code=-1, seconds=0, said="the fault no longer fits the code: plant it anew")
                free.append(place)
                continue
            log, started = Path(f"{place}.log"), time.monotonic()
            running[fork(place, job["tests"], log)] = job, place, mend, log, started
        if not running:
            continue
        pid, status = os.wait()
        job, place, mend, log, started = running.pop(pid)
        mend()
        said, seconds = log.read_text(encoding="utf-8", errors="replace"), time.monotonic() - started
        say(name=job["name"], code=os.waitstatus_to_exitcode(status), seconds=round(seconds, 2), said=said[-3_000:])
        free.append(place)


if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(os.path.abspath(__file__))]
    preload()
    with tempfile.TemporaryDirectory() as folder:
        work(Path(sys.argv[1]), json.load(sys.stdin), Path(folder))
