"""How much memory a worker takes while messages pass through it: ``python -m tests.benchmarks.memory URL`` works."""

import subprocess
import sys
import time
from pathlib import Path

from messagebus.delivery import Worker, open_store
from tests.benchmarks import orders
from tests.benchmarks.machine import ROOT

__all__ = ["grow"]

_BACKLOG = 20_000
_AT_ONCE = 1_000


def grow(url: str, messages: int) -> tuple[float, float]:
    """Return the megabytes of a worker process after a tenth of so many messages, and after all; half are events."""
    store = open_store(url)
    worker = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.memory", url], cwd=ROOT)
    sent, begin = 0, 0.0
    try:
        while True:
            stats = store.stats()
            waiting = stats.due + stats.in_flight
            if not begin and 2 * (sent - waiting) >= messages // 10:
                begin = _megabytes(worker.pid)
            if 2 * sent < messages and waiting < _BACKLOG:
                store.send_many(orders.place_orders(_AT_ONCE))
                sent += _AT_ONCE
            elif 2 * sent >= messages and not waiting:
                return begin, _megabytes(worker.pid)
            else:
                time.sleep(0.05)
            if worker.poll() is not None:
                raise RuntimeError("the worker has ended")
    finally:
        worker.terminate()
        worker.wait()
        store.close()


def _megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1_024


if __name__ == "__main__":
    store = open_store(sys.argv[1], retention=1.0)
    Worker(store, orders.REGISTRY, log_level="disabled", error_log_level="disabled").run()
    store.close()
