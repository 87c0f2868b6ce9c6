"""The tables, each measured in a process of its own: ``python -m tests.benchmarks.tables NAME SIZE`` prints JSON."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from messagebus import Command, MessageBus, Registry, ahandle_message, handle_json, handle_message
from tests.benchmarks import imports, records, shop
from tests.benchmarks.measure import (
    SIZES,
    Contender,
    Result,
    Row,
    Size,
    awaiting,
    calling,
    compare,
    measure,
    per_message,
)

__all__ = ["TABLES"]


def command(size: Size) -> list[Result]:
    contenders = [
        Contender("handler", calling(shop.place_order, shop.ORDER)),
        Contender("bus", calling(handle_message, shop.ORDER)),
        Contender("small handler", calling(shop.answer, shop.QUESTION)),
        Contender("small bus", calling(handle_message, shop.QUESTION)),
        Contender("model", calling(_make, shop.PlainOrder)),
        Contender("message", calling(_make, shop.PlaceOrder)),
    ]
    rows = [
        Row("`handle_message(command)` → 1 return message", "the handler", "bus", "handler", 2.5, 2.0),
        Row("the same, messages of one field", "the handler", "small bus", "small handler"),
        Row("making a message", "a pydantic model as strict", "message", "model"),
    ]
    return compare(measure(contenders, size.rounds, size.seconds), rows)


def _make(cls: Callable[..., object]) -> object:
    return cls(order_id="o-1", quantity=2, unit_price=9.5)


def in_json(size: Size) -> list[Result]:
    data = shop.ORDER.model_dump_json()
    payload = b'{"type":"PlaceOrder","data":' + data.encode() + b"}"
    contenders = [
        Contender("by hand", calling(_json_by_hand, data)),
        Contender("bus", calling(handle_json, payload)),
    ]
    what = "JSON in → run → JSON out (`handle_json`)"
    by_hand = "`model_validate_json`, the handler, `model_dump_json`"
    rows = [Row(what, by_hand, "bus", "by hand", 1.6, 1.4)]
    return compare(measure(contenders, size.rounds, size.seconds), rows)


def _json_by_hand(data: str) -> str:
    return shop.place_order(shop.PlaceOrder.model_validate_json(data)).model_dump_json()


def event(size: Size) -> list[Result]:
    contenders = [
        Contender("calls", calling(_three_calls, shop.PLACED)),
        Contender("bus", calling(handle_message, shop.PLACED)),
    ]
    what = "an event with 3 handlers that return nothing"
    rows = [Row(what, "the 3 calls", "bus", "calls", 2.0, 1.2, "overhead")]
    return compare(measure(contenders, size.rounds, size.seconds), rows)


def _three_calls(placed: shop.OrderPlaced) -> None:
    shop.send_mail(placed)
    shop.reserve_stock(placed)
    shop.count_sales(placed)


def awaited(size: Size) -> list[Result]:
    with asyncio.Runner() as runner:
        contenders = [
            Contender("handler", awaiting(runner.run, shop.answer_later, shop.LATER)),
            Contender("bus", awaiting(runner.run, ahandle_message, shop.LATER)),
        ]
        rows = [Row("`await ahandle_message(command)`", "`await handler(command)`", "bus", "handler", 3.0)]
        return compare(measure(contenders, size.rounds, size.seconds), rows)


def classes(size: Size) -> list[Result]:
    few, many = 10, size.classes
    contenders = []
    for number in (few, many):
        registry, messages = _registry_of(number)
        payload = b'{"type":"Command1","data":{"number":1}}'
        contenders += [
            Contender(f"one of {number}", calling(_dispatch, messages[1], registry)),
            Contender(f"each of {number}", per_message(calling(_dispatch_all, messages, registry), number), number),
            Contender(f"JSON of {number}", calling(_from_json, payload, registry)),
        ]
    rows = [
        Row(f"dispatch with {many:,} registered classes", f"with {few}", f"one of {many}", f"one of {few}", 1.1),
        Row("the same, each class in turn", f"with {few}", f"each of {many}", f"each of {few}"),
        Row("the same, from JSON", f"with {few}", f"JSON of {many}", f"JSON of {few}"),
    ]
    return compare(measure(contenders, size.rounds, size.seconds), rows)


def _registry_of(number: int) -> tuple[Registry, list[Any]]:
    registry = Registry()
    messages = []
    for i in range(number):
        cls: Any = type(f"Command{i}", (Command,), {"__annotations__": {"number": int}, "__module__": __name__})
        registry.register(cls, _ignore)
        messages.append(cls(number=i))
    return registry, messages


def _ignore(_message: object) -> None:
    pass


def _dispatch(message: Any, registry: Registry) -> None:
    handle_message(message, registry=registry)


def _dispatch_all(messages: list[Any], registry: Registry) -> None:
    for message in messages:
        handle_message(message, registry=registry)


def _from_json(payload: bytes, registry: Registry) -> None:
    handle_json(payload, registry=registry)


class _Patient(MessageBus):
    max_messages = 10_000_000


def cascade(size: Size) -> list[Result]:
    short, long = 1_000, size.cascade
    contenders = [
        Contender("by hand", per_message(calling(_steps_by_hand, short), short), short),
        Contender("short", per_message(calling(_steps, short), short), short),
        Contender("long", per_message(calling(_steps, long), long), long),
    ]
    rows = [
        Row(f"a cascade of {long:,} messages, per message", f"of {short:,}", "long", "short", 1.15),
        Row(f"a cascade of {short:,} messages, per message", "the handlers, called in a loop", "short", "by hand"),
    ]
    return compare(measure(contenders, size.cascade_rounds, size.seconds * 50), rows)


def _steps(length: int) -> None:
    _Patient(shop.Step(left=length - 1), log_level="disabled", error_log_level="disabled")()


def _steps_by_hand(length: int) -> None:
    step: shop.Step | None = shop.Step(left=length - 1)
    while step is not None:
        step = shop.go_on(step)


TABLES: dict[str, Callable[[Size], list[Result]]] = {
    "command": command,
    "json": in_json,
    "event": event,
    "records": records.records,
    "default-log": records.default_log,
    "classes": classes,
    "cascade": cascade,
    "async": awaited,
    "import": imports.imports,
}


if __name__ == "__main__":
    name, size_name = sys.argv[1:]
    json.dump(TABLES[name](SIZES[size_name]), sys.stdout)
