"""One worker process and what waits for it: ``python -m tests.benchmarks.drain WHO URL COMMANDS``.

Prints seconds, and those on the processor. Filling is not measured: what is measured begins when the worker is ready
and ends when nothing is left to handle.
"""

import sys
from time import perf_counter, process_time

from messagebus.delivery import Worker, open_store
from messagebus.logs import ErrorLogLevel, LogLevel
from tests.benchmarks import bare, orders

__all__ = ["BATCH"]

BATCH = 100
_FILLED_AT_ONCE = 1_000

Seconds = tuple[float, float]
"""By the clock, and on the processor."""


def _ours(url: str, commands: int, log_level: LogLevel, errors: ErrorLogLevel) -> Seconds:
    store = open_store(url)
    for begin in range(0, commands, _FILLED_AT_ONCE):
        store.send_many(orders.place_orders(min(_FILLED_AT_ONCE, commands - begin)))
    worker = Worker(store, orders.REGISTRY, batch=BATCH, log_level=log_level, error_log_level=errors)
    started, busy = perf_counter(), process_time()
    settled = worker.run(until_idle=True)
    taken = perf_counter() - started, process_time() - busy
    assert settled == 2 * commands
    assert store.stats().finished == 2 * commands
    store.close()
    return taken


def ours(url: str, commands: int) -> Seconds:
    return _ours(url, commands, "disabled", "disabled")


def logged(url: str, commands: int) -> Seconds:
    """Write a record of each message to standard error, which is a file."""
    return _ours(url, commands, "info", "error")


def _bare(url: str, commands: int, *, sends: bool) -> Seconds:
    queue = bare.Queue(url.removeprefix("sqlite:///"))
    plain = [
        ("PlainOrder", orders.PlainOrder(order_id=f"o-{i}", quantity=2, unit_price=9.5).model_dump_json())
        for i in range(commands)
    ]
    for begin in range(0, commands, _FILLED_AT_ONCE):
        queue.put_many(plain[begin : begin + _FILLED_AT_ONCE])
    handlers = orders.PLAIN_HANDLERS if sends else {}
    started, busy = perf_counter(), process_time()
    count = bare.work(queue, orders.MODELS, handlers, BATCH)
    taken = perf_counter() - started, process_time() - busy
    assert count == (2 if sends else 1) * commands
    queue.close()
    return taken


def prototype(url: str, commands: int) -> Seconds:
    """Only claim, validate and acknowledge: half of the messages, as no handler sends an event."""
    return _bare(url, commands, sends=False)


def same(url: str, commands: int) -> Seconds:
    """Call the handler, store its event in the acknowledging transaction, and handle that as well."""
    return _bare(url, commands, sends=True)


_WHO = {run.__name__: run for run in (ours, logged, prototype, same)}

if __name__ == "__main__":
    who, url, commands = sys.argv[1:]
    print(*_WHO[who](url, int(commands)))
