"""What ``import messagebus`` costs: CPU time of the import, in processes of their own, their start left out."""

import os
import subprocess
import sys
from collections.abc import Callable
from tempfile import TemporaryDirectory

from tests.benchmarks.machine import ROOT
from tests.benchmarks.measure import Contender, Result, Row, Size, compare, measure

__all__ = ["imports"]

_LAZY = "import pydantic, structlog"
_LOADED = "from pydantic import BaseModel; import structlog"
_USED = f"{_LOADED}\nclass Order(BaseModel): order_id: str"
_OURS = "import messagebus"
_MEASURED = "from time import process_time as now; started = now()\n{}\nprint(now() - started)"


def imports(size: Size) -> list[Result]:
    with TemporaryDirectory() as cache:
        contenders = [Contender(line, _importing(line, cache)) for line in (_LAZY, _LOADED, _USED, _OURS)]
        figures = measure(contenders, size.imports, seconds=0)
    rows = [
        Row(f"`{_OURS}`", f"`{_LOADED}`", _OURS, _LOADED, 1.1),
        Row("the same", f"`{_LAZY}`, which loads no `BaseModel` yet", _OURS, _LAZY),
        Row("the same", "`BaseModel`, structlog and a first model, which loads the rest of pydantic", _OURS, _USED),
    ]
    return compare(figures, rows)


def _importing(line: str, cache: str) -> Callable[[int], float]:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    arguments = [sys.executable, "-c", _MEASURED.format(line)]

    def run(times: int) -> float:
        total = 0.0
        for _ in range(times):
            done = subprocess.run(arguments, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
            total += float(done.stdout)
        return total

    return run
