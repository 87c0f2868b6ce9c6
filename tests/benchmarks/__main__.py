"""The command line: ``python -m tests.benchmarks``, from the root of the repository."""

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.comparison import compare_peers
from tests.benchmarks.machine import ROOT, describe_machine
from tests.benchmarks.measure import SIZES, Result
from tests.benchmarks.report import Report, as_markdown, as_text
from tests.benchmarks.tables import TABLES

_PEERS = "peers"


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser("python -m tests.benchmarks", description="Measure what the bus costs.")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", dest="size", action="store_const", const="quick", help="fewer rounds")
    sizes.add_argument("--smoke", dest="size", action="store_const", const="smoke", help="hardly any: only see it run")
    parser.set_defaults(size="full")
    parser.add_argument("--only", metavar="NAME", action="append", choices=[*TABLES, _PEERS], help="this table alone")
    help_peers = "compare with other buses; an environment for each is made in DIR, if it is not there"
    parser.add_argument("--peers", metavar="DIR", type=Path, help=help_peers)
    parser.add_argument("--json", metavar="FILE", type=Path, help="keep the figures")
    help_markdown = "print Markdown, or write it to FILE"
    parser.add_argument("--markdown", metavar="FILE", type=Path, nargs="?", const=Path("-"), help=help_markdown)
    parser.add_argument("--chart", metavar="FILE.svg", type=Path, help="draw the comparison with other buses")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    names = options.only or [*TABLES, *([_PEERS] if options.peers or options.chart else [])]
    report = Report(machine=describe_machine(), size=options.size, tables={}, peers=[])
    for name in names:
        print(f"measuring {name} …", file=sys.stderr)
        if name == _PEERS:
            report["peers"] = compare_peers(options.peers, SIZES[options.size])
        else:
            report["tables"][name] = _measured_apart(name, options.size)
    if options.json:
        rounded = json.loads(json.dumps(report), parse_float=lambda digits: round(float(digits), 3))
        options.json.write_text(json.dumps(rounded, indent=1, ensure_ascii=False) + "\n")
    if options.markdown and options.markdown != Path("-"):
        options.markdown.write_text(as_markdown(report))
    if options.chart:
        from tests.benchmarks import chart  # noqa: PLC0415 - only a chart needs matplotlib

        chart.draw(report["peers"], options.chart)
    print(as_markdown(report) if options.markdown == Path("-") else as_text(report), end="")


def _measured_apart(name: str, size: str) -> list[Result]:
    """Measure a table in a process of its own."""
    arguments = [sys.executable, "-m", "tests.benchmarks.tables", name, size]
    done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    results: list[Result] = json.loads(done.stdout)
    return results


if __name__ == "__main__":
    main()
