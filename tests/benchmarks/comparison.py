"""The comparison: other buses, each in an environment of its own, in turns with this one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import Any, TypedDict

from tests.benchmarks.machine import ROOT, own_version
from tests.benchmarks.measure import Contender, Size, measure

__all__ = ["Peer", "Timing", "compare_peers", "environment"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class _Subject:
    distribution: str
    driver: str
    messages: str
    """What its messages are made of in the driver: what its documentation makes them of."""
    is_async: bool = False
    is_ours: bool = False


_OURS = _Subject("pydantic-messagebus", "ours", "pydantic", is_ours=True)
_SUBJECTS = (
    _OURS,
    _Subject("pydantic-messagebus", "ours_async", "pydantic", is_async=True, is_ours=True),
    _Subject("bus-ride", "bus_ride", "attrs"),
    _Subject("kerux", "kerux", "dataclasses"),
    _Subject("mediatr", "mediatr", "plain classes"),
    _Subject("pymessagebus", "pymessagebus", "named tuples"),
    _Subject("lato", "lato", "pydantic"),
    _Subject("messagebus", "messagebus", "pydantic"),
    _Subject("bubus", "bubus", "pydantic", is_async=True),
)


class Timing(TypedDict):
    """Microseconds, and how often ours goes into them, round by round."""

    median: float
    min: float
    times_ours: float


class Peer(TypedDict):
    """One bus, measured, or with a note that says why not."""

    name: str
    version: str
    messages: str
    is_async: bool
    is_ours: bool
    command: Timing | None
    handler: Timing | None
    """The command's handler, called without the bus."""
    event: Timing | None
    note: str


class _Driver:
    """The process of one bus."""

    note = ""

    def __init__(self, subject: _Subject, python: Path | None) -> None:
        script = [str(_HERE / "serve.py"), str(_HERE / "peers" / f"{subject.driver}.py"), subject.distribution]
        arguments = [sys.executable, "-I", *script, str(ROOT)] if python is None else [str(python), "-I", *script]
        self._errors = TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=self._errors, text=True)
        try:
            answer = self._ask("")
        except ValueError:
            self.close()
            raise
        self.version = answer["version"] or own_version()
        self.note = answer["without_events"] or ""
        self.has_events = answer["without_events"] is None

    def _ask(self, question: str) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(question)
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            self._errors.seek(0)
            raise ValueError(f"does not run: {_reason(self._errors.read())}")
        return json.loads(answer)

    def run(self, what: str, times: int) -> float:
        """Return the seconds it took, infinitely many if the bus fails."""
        try:
            return float(self._ask(f"{what} {times}\n"))
        except (OSError, ValueError) as error:
            self.note = self.note or str(error)
            return inf

    def close(self) -> None:
        """End the process, also one that would not end by itself."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def compare_peers(folder: Path | None, size: Size) -> list[Peer]:
    """Measure ours and, if there is a folder for their environments, the others. What is not there is installed."""
    drivers: dict[_Subject, _Driver] = {}
    notes: dict[_Subject, str] = {}
    subjects = [subject for subject in _SUBJECTS if folder or subject.is_ours]
    with ExitStack() as stack:
        for subject in subjects:
            try:
                python = environment(subject.distribution, folder) if folder and not subject.is_ours else None
                drivers[subject] = _Driver(subject, python)
            except ValueError as error:
                if subject.is_ours:
                    raise
                notes[subject] = str(error)
            else:
                stack.callback(drivers[subject].close)
        figures = measure(list(_contenders(drivers)), size.rounds, size.seconds)
    return [_peer(subject, drivers.get(subject), notes.get(subject, ""), figures) for subject in subjects]


def environment(distribution: str, folder: Path, *extras: str) -> Path:
    """Return the Python of the environment in which the distribution is."""
    python = folder / distribution / "bin" / "python"
    if not python.exists():
        print(f"installing {distribution} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder / distribution)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", distribution, *extras]
        done = subprocess.run(pip, check=False, capture_output=True, text=True)
        if done.returncode:
            python.unlink()  # So that the next run tries again.
            raise ValueError(f"cannot be installed: {_reason(done.stderr)}")
    return python


def _reason(text: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.strip()]
    telling = [line.rpartition(": ")[2] for line in lines if "Requires-Python" in line]
    return (telling or lines or ["it says nothing"])[-1][:200]


def _contenders(drivers: dict[_Subject, _Driver]) -> Iterator[Contender]:
    for what in ("send", "handle", "publish"):
        for subject, driver in drivers.items():
            if what != "publish" or driver.has_events:
                yield Contender(f"{subject.driver} {what}", partial(driver.run, what))


def _peer(subject: _Subject, driver: _Driver | None, note: str, figures: dict[str, list[float]]) -> Peer:
    return Peer(
        name=subject.distribution,
        version=driver.version if driver else "",
        messages=subject.messages,
        is_async=subject.is_async,
        is_ours=subject.is_ours,
        command=_timing(subject, "send", figures),
        handler=_timing(subject, "handle", figures),
        event=_timing(subject, "publish", figures),
        note=driver.note if driver else note,
    )


def _timing(subject: _Subject, what: str, figures: dict[str, list[float]]) -> Timing | None:
    its, ours = figures.get(f"{subject.driver} {what}", [inf]), figures[f"{_OURS.driver} {what}"]
    if inf in its:
        return None
    ratio = median(one / mine for one, mine in zip(its, ours, strict=True))
    return Timing(median=median(its) * 1e6, min=min(its) * 1e6, times_ours=ratio)
