"""Log records: what the bus adds to a structlog chain, and its own chain beside structlog's."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import getrandbits
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import IO, Any, BinaryIO, TextIO

import structlog
from pydantic_core import to_json
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.processors import JSONRenderer, TimeStamper, add_log_level

from messagebus import MessageBus
from tests.benchmarks import shop
from tests.benchmarks.measure import Contender, Result, Row, Size, calling, compare, measure, per_message

__all__ = ["default_log", "records"]

_STDERR = 2
_CHAIN: list[Any] = [merge_contextvars, add_log_level, TimeStamper(fmt="iso")]


def records(size: Size) -> list[Result]:
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("ab") as file:
        logger = _logger(file, JSONRenderer(), _encode)
        fast = _logger(file, JSONRenderer(serializer=_dump_fast))
        _check_same_fields(Path(file.name), logger)
        runs = {
            "by hand": (_by_hand, shop.ORDER, logger),
            "bus": (_bus, shop.ORDER, logger),
            "bound by hand": (_bound_by_hand, shop.ORDER, logger),
            "fast by hand": (_by_hand, shop.ORDER, fast),
            "fast bus": (_bus, shop.ORDER, fast),
        }
        contenders = [Contender(name, _emptying(file, calling(*run))) for name, run in runs.items()]
        for name, cascade in {"cascade by hand": _cascade_by_hand, "cascade bus": _cascade_bus}.items():
            contenders.append(Contender(name, _emptying(file, per_message(calling(cascade, logger), _LENGTH)), _LENGTH))
        figures = measure(contenders, size.rounds, size.seconds)
    chain = "the handler, and the same record by the same structlog chain"
    bound = "that, with the ids bound for the handler's own records too"
    rows = [
        Row("one JSON record per message, to a file", chain, "bus", "by hand", 1.3),
        Row("the same", bound, "bus", "bound by hand"),
        Row("the same, with a fast serialiser in the chain", chain, "fast bus", "fast by hand"),
        Row(f"the same, {_LENGTH:,} messages in one run, per message", chain, "cascade bus", "cascade by hand", 1.3),
    ]
    return compare(figures, rows)


def _logger(file: BinaryIO, *render: Any) -> Any:
    wrapper = structlog.make_filtering_bound_logger("info")
    logger = structlog.wrap_logger(structlog.BytesLogger(file), [*_CHAIN, *render], wrapper)
    return logger.bind(logger="messagebus")


def _encode(_logger: Any, _level: str, line: str) -> bytes:
    return line.encode()


def _dump_fast(record: Any, **_options: Any) -> bytes:
    return to_json(record)


def _emptying(file: IO[Any], run: Callable[[int], float]) -> Callable[[int], float]:
    """Empty the file after each round."""

    def run_and_empty(times: int) -> float:
        taken = run(times)
        if file.name != os.devnull:
            os.ftruncate(file.fileno(), 0)
        return taken

    return run_and_empty


# The same record, by hand


def _bus(command: shop.PlaceOrder, logger: Any) -> None:
    MessageBus(command, logger=logger)()


def _by_hand(command: shop.PlaceOrder, logger: Any) -> None:
    started = perf_counter()
    message_id = f"{getrandbits(128):032x}"
    shop.place_order(command)
    logger.info(
        "command.handled",
        message_type="PlaceOrder",
        message_id=message_id,
        correlation_id=message_id,
        causation_id=None,
        handlers=["tests.benchmarks.shop.place_order"],
        duration_ms=round((perf_counter() - started) * 1000, 3),
        emitted=1,
    )


def _bound_by_hand(command: shop.PlaceOrder, logger: Any) -> None:
    started = perf_counter()
    message_id = f"{getrandbits(128):032x}"
    with bound_contextvars(message_id=message_id, correlation_id=message_id, causation_id=None):
        shop.place_order(command)
        logger.info(
            "command.handled",
            message_type="PlaceOrder",
            handlers=["tests.benchmarks.shop.place_order"],
            duration_ms=round((perf_counter() - started) * 1000, 3),
            emitted=1,
        )


_LENGTH = 1_000


def _cascade_bus(logger: Any) -> None:
    MessageBus(shop.Step(left=_LENGTH - 1), logger=logger)()


def _cascade_by_hand(logger: Any) -> None:
    correlation_id = cause = None
    step: shop.Step | None = shop.Step(left=_LENGTH - 1)
    while step is not None:
        started = perf_counter()
        message_id = f"{getrandbits(128):032x}"
        correlation_id = correlation_id or message_id
        step = shop.go_on(step)
        logger.info(
            "event.handled",
            message_type="Step",
            message_id=message_id,
            correlation_id=correlation_id,
            causation_id=cause,
            handlers=["tests.benchmarks.shop.go_on"],
            duration_ms=round((perf_counter() - started) * 1000, 3),
            emitted=int(step is not None),
        )
        cause = message_id


def _check_same_fields(log: Path, logger: Any) -> None:
    """Fail if the record by hand is not the record of the bus: the comparison would be none."""
    for write in (_bus, _by_hand, _bound_by_hand):
        write(shop.ORDER, logger)
    for cascade in (_cascade_bus, _cascade_by_hand):
        cascade(logger)
    fields = [sorted(json.loads(line)) for line in log.read_text().splitlines()]
    assert all(each == fields[0] for each in fields), fields[0]
    assert len(fields) == 3 + 2 * _LENGTH, len(fields)


# The chain that the bus uses where nothing is configured


def default_log(size: Size) -> list[Result]:
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("a") as file, Path(os.devnull).open("a") as null:
        contenders = [*_writers("a file", file), *_writers("/dev/null", null)]
        figures = measure(contenders, size.rounds, size.seconds)
    chain = "structlog's `JSONRenderer()` chain"
    run, by_hand = "`MessageBus(command)()`, default log, to a file", "the handler, and structlog's chain"
    rows = [
        Row("a record of the default log, to a file", chain, "bus to a file", "structlog to a file", 0.5),
        Row("the same, to /dev/null", chain, "bus to /dev/null", "structlog to /dev/null", 0.5),
        Row(run, by_hand, "run to a file", "by hand to a file"),
    ]
    return compare(figures, rows)


def _writers(sink: str, file: TextIO) -> list[Contender]:
    fields = _fields()
    wrapper = structlog.make_filtering_bound_logger("info")
    theirs = structlog.wrap_logger(structlog.WriteLogger(file), [*_CHAIN, JSONRenderer()], wrapper)
    theirs = theirs.bind(logger="messagebus")
    runs = {
        "structlog": calling(partial(theirs.info, "command.handled", **fields)),
        "bus": _on_stderr(file, calling(MessageBus(shop.ORDER).log_activity, "command.handled", fields)),
        "by hand": calling(_by_hand, shop.ORDER, theirs),
        "run": _on_stderr(file, calling(_run_with_default_log)),
    }
    return [Contender(f"{name} to {sink}", _emptying(file, run)) for name, run in runs.items()]


def _run_with_default_log() -> None:
    MessageBus(shop.ORDER)()


def _fields() -> dict[str, Any]:
    identity = f"{getrandbits(128):032x}"
    return {
        "message_type": "PlaceOrder",
        "message_id": identity,
        "correlation_id": identity,
        "causation_id": None,
        "handlers": ["tests.benchmarks.shop.place_order"],
        "duration_ms": 0.012,
        "emitted": 1,
    }


def _on_stderr(file: IO[str], run: Callable[[int], float]) -> Callable[[int], float]:
    """Put the file in place of stderr for each round."""

    def redirected(times: int) -> float:
        kept = os.dup(_STDERR)
        os.dup2(file.fileno(), _STDERR)
        try:
            return run(times)
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)

    return redirected
