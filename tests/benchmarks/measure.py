"""Measuring: contenders take turns, round after round, and are compared within the same rounds."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from time import process_time
from typing import Any, Literal, TypedDict

__all__ = ["SIZES", "Contender", "Result", "Row", "Size", "awaiting", "calling", "compare", "measure", "per_message"]


@dataclass(frozen=True)
class Size:
    """How long a measurement takes, and how large the large things in it are."""

    rounds: int
    seconds: float
    """So long one contender runs within one round: time on the processor, as all times here.

    What else the machine does meanwhile does not count.
    """
    classes: int
    cascade: int
    cascade_rounds: int
    imports: int


SIZES = {
    "full": Size(rounds=60, seconds=0.02, classes=10_000, cascade=1_000_000, cascade_rounds=7, imports=40),
    "quick": Size(rounds=15, seconds=0.005, classes=10_000, cascade=1_000_000, cascade_rounds=2, imports=10),
    "smoke": Size(rounds=2, seconds=0.0005, classes=200, cascade=2_000, cascade_rounds=1, imports=1),
}


@dataclass(frozen=True)
class Contender:
    """Something to be measured."""

    name: str
    run: Callable[[int], float]
    """Do it so many times, and return the seconds that took."""
    step: int = 1
    """It is done so many times at once."""


@dataclass(frozen=True)
class Row:
    """One line of a table: ``ours`` beside ``floor``, two contenders of the same rounds."""

    what: str
    floor_is: str
    ours: str
    floor: str
    goal: float | None = None
    aim: float | None = None
    kind: Literal["ratio", "overhead"] = "ratio"
    """What the goal limits: the ratio to the floor, or the microseconds above it."""


class Result(TypedDict):
    """A row, measured; times in microseconds."""

    what: str
    floor_is: str
    floor: float
    floor_min: float
    ours: float
    ours_min: float
    ratio: float
    ratio_min: float
    overhead: float
    kind: str
    goal: float | None
    aim: float | None


def calling(function: Callable[..., object], *args: Any) -> Callable[[int], float]:
    """Return what measures calls of ``function``."""

    def run(times: int) -> float:
        started = process_time()
        for _ in repeat(None, times):
            function(*args)
        return process_time() - started

    return run


def awaiting(
    runner: Callable[[Coroutine[Any, Any, float]], float], function: Callable[..., Coroutine[Any, Any, Any]], *args: Any
) -> Callable[[int], float]:
    """Return what measures ``await function(...)`` on a loop that runs already; ``runner`` enters the loop."""

    async def turn(times: int) -> float:
        started = process_time()
        for _ in repeat(None, times):
            await function(*args)
        return process_time() - started

    return lambda times: runner(turn(times))


def per_message(run: Callable[[int], float], length: int) -> Callable[[int], float]:
    """Measure by the message what does so many at once; the contender's step has to be ``length``."""
    return lambda times: run(times // length)


def measure(contenders: Sequence[Contender], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return for each contender its seconds for one time, a figure for each round; A, B, C, A, B, C, …

    The garbage collector stays on: what an allocation costs in the end is part of the price.
    """
    times = {contender.name: _calibrate(contender, seconds) for contender in contenders}
    figures: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            figures[contender.name].append(contender.run(times[contender.name]) / times[contender.name])
    return figures


def _calibrate(contender: Contender, seconds: float) -> int:
    """Return how often it can be done in so many seconds. What is made once, at the first time, is not counted."""
    contender.run(contender.step)
    times = contender.step
    while (taken := contender.run(times)) < seconds / 2:
        times *= 2
    return max(contender.step, round(times * seconds / taken / contender.step) * contender.step)


def compare(figures: Mapping[str, list[float]], rows: Iterable[Row]) -> list[Result]:
    """Return the rows with medians and minima; a ratio is the median of the ratios of all rounds."""
    return [_result(row, figures[row.floor], figures[row.ours]) for row in rows]


def _result(row: Row, floor: list[float], ours: list[float]) -> Result:
    pairs = list(zip(ours, floor, strict=True))
    return Result(
        what=row.what,
        floor_is=row.floor_is,
        floor=median(floor) * 1e6,
        floor_min=min(floor) * 1e6,
        ours=median(ours) * 1e6,
        ours_min=min(ours) * 1e6,
        ratio=median(mine / its for mine, its in pairs),
        ratio_min=min(ours) / min(floor),
        overhead=median(mine - its for mine, its in pairs) * 1e6,
        kind=row.kind,
        goal=row.goal,
        aim=row.aim,
    )
