"""Measuring work that waits for a disk or a server: by the clock, contenders in turns, ratios of the same rounds."""

# ruff: noqa: RUF001
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

__all__ = ["Comparison", "Line", "as_rows", "compare_rates", "measure_rates"]

Rate = Callable[[], float]
"""Does its work once; returns how much of it was done in a second."""


@dataclass(frozen=True)
class Comparison:
    """One line to be: ``ours`` beside ``other``, two names of the same measurement."""

    what: str
    beside: str
    ours: str
    other: str
    goal: float | None = None
    kind: Literal["at least", "within"] = "at least"
    """At least: our rate is to be so many times the other. Within: what ours takes is to be so many times at most."""


@dataclass(frozen=True)
class Line:
    """A line of the table, as it is printed."""

    what: str
    beside: str
    ours: str
    other: str
    ratio: str
    goal: str
    is_met: bool | None
    note: str = ""


def measure_rates(contenders: Mapping[str, Rate], rounds: int) -> dict[str, list[float]]:
    """Return for each contender a rate for each round: A, B, A, B, …; the first of several rounds does not count."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + (rounds > 1)):
        for name, run in contenders.items():
            rate = run()
            if number or rounds == 1:
                figures[name].append(rate)
    return figures


def compare_rates(figures: Mapping[str, Sequence[float]], comparisons: Iterable[Comparison]) -> list[Line]:
    """Return lines with medians; a ratio is the median of the ratios of all rounds."""
    return [_line(one, figures[one.ours], figures[one.other]) for one in comparisons]


def _line(one: Comparison, ours: Sequence[float], other: Sequence[float]) -> Line:
    ratios = [mine / its for mine, its in zip(ours, other, strict=True)]
    ratio = median(ratios) if one.kind == "at least" else median(1 / ratio for ratio in ratios)
    sign, is_met = ("≥", ratio >= (one.goal or 0)) if one.kind == "at least" else ("≤", ratio <= (one.goal or 0))
    return Line(
        what=one.what,
        beside=one.beside,
        ours=f"{median(ours):,.0f}",
        other=f"{median(other):,.0f}",
        ratio=f"{ratio:.2f} ×",
        goal="" if one.goal is None else f"{sign} {one.goal:g} ×",
        is_met=None if one.goal is None else is_met,
        note=f"{min(ratios if one.kind == 'at least' else [1 / r for r in ratios]):.2f} to "
        f"{max(ratios if one.kind == 'at least' else [1 / r for r in ratios]):.2f}",
    )


def as_rows(lines: Iterable[Line]) -> list[list[str]]:
    """Return the cells of a table."""
    verdicts: dict[Any, str] = {None: "", True: "yes", False: "no"}
    return [
        [line.what, line.beside, line.ours, line.other, line.ratio, line.note, line.goal, verdicts[line.is_met]]
        for line in lines
    ]
