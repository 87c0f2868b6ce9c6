"""Ten million runs in one process, with failures and records among them: memory stays as it was."""

import gc
import os
import time
from pathlib import Path
from typing import Annotated

from messagebus import Command, Event, MessageBus, Private, Registry, ReturnMessage, handle_json, handle_message

COUNTS, SHORT, LONG = "runs", 200_000, 10_000_000
WARM_UP = 20_000  # Until caches are filled and the allocator has what it needs.
LIMIT = 1_048_576
ROUND = 20


class PlaceOrder(Command):
    order_id: str
    token: Annotated[str, Private] = "none"


class OrderPlaced(Event):
    order_id: str


class Confirmation(ReturnMessage):
    order_id: str


class OutOfStock(Exception):
    pass


class Null:
    """A logger that renders records and keeps none."""

    def __init__(self):
        self.written = 0

    def info(self, event, **fields):
        self.written += len(repr(fields)) > 0

    debug = warning = error = info


def shop():
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(command):
        if command.order_id == "none left":
            raise OutOfStock(command.token)
        yield OrderPlaced(order_id=command.order_id)
        yield Confirmation(order_id=command.order_id)

    registry.register(OrderPlaced, lambda event: None)
    registry.register(OrderPlaced, lambda event: [])
    return registry


def resident():
    """Return the bytes of this process that are in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def fails(attempt):
    try:
        attempt()
    except (OutOfStock, ValueError):
        return True
    return False


def rounds(registry, logger):
    """Yield after each twenty runs: most silent, some with records, some from JSON, some that fail."""
    number, good = 0, b'{"type":"PlaceOrder","data":{"order_id":"o-1"}}'
    gone = PlaceOrder(order_id="none left", token="a token")
    while True:
        number += 1
        for _ in range(ROUND - 5):
            [reply] = handle_message(PlaceOrder(order_id=f"o-{number}"), registry=registry)
        assert reply.order_id == f"o-{number}"
        MessageBus(PlaceOrder(order_id="o-1"), registry=registry, logger=logger, log_level="debug")()
        assert handle_json(good, registry=registry)
        assert fails(lambda: handle_message(gone, registry=registry))
        assert fails(MessageBus(gone, registry=registry, logger=logger))
        assert fails(lambda: handle_json(b'{"type":"PlaceOrder","data":{"ordr_id":1}}', registry=registry))
        yield


def prove(size, report):
    registry, logger = shop(), Null()
    turns = rounds(registry, logger)
    for _ in range(WARM_UP // ROUND):
        next(turns)
    gc.collect()
    before, objects, started = resident(), len(gc.get_objects()), time.monotonic()
    for number in range(1, size // ROUND + 1):
        next(turns)
        if number % max(size // ROUND // 10, 1) == 0:
            report(f"{number * ROUND:,} runs, {time.monotonic() - started:.0f} s, {_drift(before):+,} bytes")
    gc.collect()
    drift, kept = _drift(before), len(gc.get_objects()) - objects
    assert logger.written > size // ROUND
    assert abs(kept) < 100, f"{kept} objects more than before"
    assert drift <= LIMIT, f"{drift:,} bytes more than before"
    return f"{size:,} runs, {logger.written:,} records: {drift:+,} bytes, {kept:+} objects"


def _drift(before):
    return 0 if before is None else resident() - before
