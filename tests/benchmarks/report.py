"""The report: the same figures as a table for the terminal and as Markdown for the README."""

# ruff: noqa: RUF001
from collections.abc import Sequence
from typing import TypedDict

from tests.benchmarks.comparison import Peer, Timing
from tests.benchmarks.measure import Result

__all__ = ["Report", "aligned", "as_markdown", "as_text", "name_of", "piped"]


class Report(TypedDict):
    """All that a run found out."""

    machine: dict[str, str]
    size: str
    tables: dict[str, list[Result]]
    peers: list[Peer]


_HEADS = ("what", "beside", "that, µs (min)", "bus, µs (min)", "ratio (of minima)", "goal", "met")
_PEER_HEADS = ("bus", "messages", "command, µs (min)", "its handler", "× ours", "event, µs (min)", "× ours", "note")


def as_text(report: Report) -> str:
    """Return the report for a terminal."""
    lines = [f"{name:<11}{value}" for name, value in report["machine"].items()]
    lines.append(f"{'size':<11}{report['size']}; CPU time, medians, minima in brackets; ratios of the same rounds")
    parts = ["\n".join(lines)]
    if report["tables"]:
        parts.append(aligned(_HEADS, [[cell.replace("`", "") for cell in row] for row in _rows(report)]))
    if report["peers"]:
        parts.append(aligned(_PEER_HEADS, _peer_rows(report)))
    return "\n\n".join(parts) + "\n"


def as_markdown(report: Report) -> str:
    """Return the report as Markdown."""
    machine = report["machine"]
    about = (
        f"Measured on {machine['date']}: {machine['python']} ({machine['build']}), {machine['packages']}, "
        f"{machine['processor']}, {machine['system']}. Times are CPU times: medians, with minima in brackets; a "
        "ratio is the median of the ratios of the same rounds. Run it yourself: `python -m tests.benchmarks`."
    )
    parts = [about]
    if report["tables"]:
        parts.append(piped(_HEADS, _rows(report)))
    if report["peers"]:
        parts.append(piped(_PEER_HEADS, _peer_rows(report)))
    return "\n\n".join(parts) + "\n"


def _rows(report: Report) -> list[list[str]]:
    return [_row(result) for results in report["tables"].values() for result in results]


def _row(result: Result) -> list[str]:
    goal, aim, shown = result["goal"], result["aim"], f"{result['ratio']:.2f} × ({result['ratio_min']:.2f})"
    value, unit = result["ratio"], "×"
    if result["kind"] == "overhead":
        value, unit, shown = result["overhead"], "µs", f"{_us(result['overhead'])} µs more"
    return [
        result["what"],
        result["floor_is"],
        f"{_us(result['floor'])} ({_us(result['floor_min'])})",
        f"{_us(result['ours'])} ({_us(result['ours_min'])})",
        shown,
        "" if goal is None else f"≤ {goal} {unit}" + (f", aim {aim}" if aim else ""),
        "" if goal is None else "yes" if value <= goal else "no",
    ]


def _peer_rows(report: Report) -> list[list[str]]:
    return [
        [
            name_of(peer),
            peer["messages"],
            _timing(peer["command"]),
            _us(peer["handler"]["median"]) if peer["handler"] else "",
            _times(peer["command"]),
            _timing(peer["event"]),
            _times(peer["event"]),
            peer["note"],
        ]
        for peer in report["peers"]
    ]


def name_of(peer: Peer) -> str:
    """Return name and version as readers see them."""
    return f"{peer['name']} {peer['version']}".strip() + (", async" if peer["is_async"] else "")


def _timing(timing: Timing | None) -> str:
    return f"{_us(timing['median'])} ({_us(timing['min'])})" if timing else "–"


def _times(timing: Timing | None) -> str:
    return f"{timing['times_ours']:.2f}" if timing else "–"


def _us(microseconds: float) -> str:
    """Write about three digits."""
    digits = 2 if abs(microseconds) < 100 else 0
    return f"{microseconds:,.{digits}f}"


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def piped(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
