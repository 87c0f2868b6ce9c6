"""The chart: microseconds per command, this bus beside the others, as SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from tests.benchmarks.comparison import Peer
from tests.benchmarks.report import name_of

__all__ = ["draw"]

_OURS, _OTHERS, _TEXT = "#0b6e4f", "#b8c0c8", "#24292f"


def draw(peers: Sequence[Peer], path: Path) -> None:
    """Draw a bar for each bus that was measured. The same figures make the same file."""
    bars = sorted(((peer["command"]["median"], peer) for peer in peers if peer["command"]), key=lambda bar: -bar[0])
    settings: Any = {
        "svg.hashsalt": "messagebus",
        "svg.fonttype": "path",
        "font.family": "DejaVu Sans",
        "text.color": _TEXT,
    }
    with rc_context(settings):
        figure = Figure(figsize=(8, 0.6 + 0.42 * len(bars)), layout="constrained")
        axes = figure.subplots()
        names = [f"{name_of(peer)} ({peer['messages']})" for _, peer in bars]
        colors = [_OURS if peer["is_ours"] else _OTHERS for _, peer in bars]
        drawn = axes.barh(names, [value for value, _ in bars], color=colors, height=0.66)
        axes.bar_label(drawn, [_label(value) for value, _ in bars], padding=5, color=_TEXT)
        figure.suptitle("One command, its handler and its result, logs off", x=0.01, ha="left", fontweight="bold")
        axes.set_xlabel("CPU time in µs, on a logarithmic scale; less is better", color=_TEXT)
        axes.set_xscale("log")
        axes.margins(x=0.12)
        axes.spines[:].set_visible(False)
        axes.tick_params(left=False, bottom=False, which="both", labelbottom=False, colors=_TEXT)
        for label, (_, peer) in zip(axes.get_yticklabels(), bars, strict=True):
            label.set_fontweight("bold" if peer["is_ours"] else "normal")
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _label(microseconds: float) -> str:
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:.1f}"
