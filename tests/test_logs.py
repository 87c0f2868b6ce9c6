"""Logs: where records go when nobody, structlog or logging is configured; what they hold; what no record can break."""

import asyncio
import errno
import io
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, get_contextvars, merge_contextvars
from structlog.testing import CapturingLogger, capture_logs

from messagebus import (
    AsyncMessageBus,
    CascadeLimitError,
    Command,
    ConfigurationError,
    Event,
    Message,
    MessageBus,
    Registry,
    ReturnMessage,
    ahandle_message,
    handle_json,
    handle_message,
)


class PlaceOrder(Command):
    order_id: str


class OrderPlaced(Event):
    order_id: str


class StockReserved(Event):
    order_id: str


class Confirmation(ReturnMessage):
    order_id: str


class Countdown(Command):
    left: int


class Refused(Exception):
    """What a handler of these tests raises."""


class Like:
    """Equals each string that fits a pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.fullmatch(self.pattern, other) is not None

    def __repr__(self) -> str:
        return f"Like({self.pattern!r})"


class Duration:
    """Equals each number of milliseconds."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and other >= 0


ID = Like("[0-9a-f]{32}")
TIMESTAMP = Like(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)")
DURATION = Duration()
ORDER = PlaceOrder(order_id="o-1")


def place(command: PlaceOrder) -> Iterator[Message]:
    yield OrderPlaced(order_id=command.order_id)
    yield Confirmation(order_id=command.order_id)


def reserve(event: OrderPlaced) -> StockReserved:
    return StockReserved(order_id=event.order_id)


def refuse(message: Message) -> None:
    raise Refused("the shelf is empty")


def ignore(message: Message) -> None:
    """Do nothing."""


def count_down(command: Countdown) -> Countdown:
    if command.left == 0:
        raise Refused("nothing left")
    return Countdown(left=command.left - 1)


def name_of(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def shop() -> Registry:
    """A command that leads to an event, which leads to another, which nobody handles; and a return message."""
    registry = Registry()
    registry.register(PlaceOrder, place)
    registry.register(OrderPlaced, reserve)
    return registry


def holding(message_class: type[Message], *handlers: Any) -> Registry:
    registry = Registry()
    for handler in handlers:
        registry.register(message_class, handler)
    return registry


def run(message: Message, registry: Registry, **settings: Any) -> list[ReturnMessage] | Refused:
    """Return what the message came to: its return messages, or what its handler raised."""
    try:
        return MessageBus(message, registry=registry, **settings)()
    except Refused as error:
        return error


async def arun(message: Message, registry: Registry, **settings: Any) -> list[ReturnMessage] | Refused:
    try:
        return await AsyncMessageBus(message, registry=registry, **settings)()
    except Refused as error:
        return error


# L18: where records go

SHOP = """
    import logging, sys
    from messagebus import Command, MessageBus, Registry

    class PlaceOrder(Command):
        order_id: str

    class Refuse(Command):
        pass

    def refuse(command):
        raise LookupError("the shelf is empty")

    registry = Registry()
    registry.register(PlaceOrder, lambda command: None)
    registry.register(Refuse, refuse)
"""


def test_import_configures_nothing(fresh_python):
    """[L18] To import a library is not to configure logging."""
    script = """
        import logging, warnings
        before = [*warnings.filters]
        import messagebus, structlog
        print(structlog.is_configured(), logging.root.handlers, logging.root.level, warnings.filters == before)
    """

    done = fresh_python(script)

    assert ("False [] 30 True\n", "") == (done.stdout, done.stderr)


def test_run_configures_nothing(fresh_python):
    """[L18] Nor is to use it."""
    script = f"""{SHOP}
    import structlog
    MessageBus(PlaceOrder(order_id="o-1"), registry=registry)()
    named = logging.getLogger("messagebus")
    print(structlog.is_configured(), logging.root.handlers, named.handlers, named.level, named.propagate)
    """

    done = fresh_python(script)

    assert "False [] [] 0 True\n" == done.stdout


def test_writes_json_lines_to_stderr_when_nothing_is_configured(fresh_python):
    """[L18] stdout belongs to data."""
    script = f"""{SHOP}
    MessageBus(PlaceOrder(order_id="o-1"), registry=registry)()
    try:
        MessageBus(Refuse(), registry=registry)()
    except LookupError:
        pass
    """

    done = fresh_python(script)

    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert "" == done.stdout
    assert ["command.handled", "message.failed"] == [record["event"] for record in records]


HOST = """
    import structlog

    def mark(logger, name, record):
        return {**record, "host": "ours"}

    def configure():
        structlog.configure(
            processors=[mark, structlog.processors.JSONRenderer()],
            wrapper_class=structlog.make_filtering_bound_logger(THRESHOLD),
            logger_factory=structlog.PrintLoggerFactory(),
        )
        return dict(structlog.get_config())
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_host_structlog_configured_before_or_after_import_is_used_and_kept(fresh_python, order):
    """[L18] The logger is found when a bus is made, so that the order of imports means nothing."""
    host = HOST.replace("THRESHOLD", "20") + "\n    CONFIGURE\n"
    before, after = (host.replace("CONFIGURE", "config = configure()"), "")
    if order == "after":
        before, after = (host.replace("CONFIGURE", ""), "config = configure()")
    script = f"""{before}{SHOP}
    {after}
    MessageBus(PlaceOrder(order_id="o-1"), registry=registry)()
    print(config == structlog.get_config())
    """

    done = fresh_python(script)

    line, kept = done.stdout.splitlines()
    assert ("command.handled", "ours") == (json.loads(line)["event"], json.loads(line)["host"])
    assert ("True", "") == (kept, done.stderr)


def test_threshold_of_host_structlog_holds(host_structlog):
    """[L18] [L19] A host that wants warnings gets failures and nothing else, whatever the bus is told."""
    sink = CapturingLogger()
    host_structlog(
        processors=[structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=lambda *args: sink,
    )

    for level in ("info", "warning", "error"):
        run(ORDER, holding(PlaceOrder, refuse), log_level="debug", error_log_level=level)
    run(ORDER, shop(), log_level="info")

    assert ["warning", "error"] == [call.method_name for call in sink.calls]


def test_bus_keeps_the_logger_that_it_found_when_it_was_made(host_structlog, records):
    """[L18] A run does not change its logger half-way."""
    bus = MessageBus(ORDER, registry=shop())
    sink = CapturingLogger()
    host_structlog(processors=[structlog.processors.KeyValueRenderer()], logger_factory=lambda *args: sink)

    bus()

    assert 3 == len(records())
    assert [] == sink.calls


def test_named_logger_with_a_handler_is_used(host_logger, capsys):
    """[L18] Who gives a handler to the logger named after us gets us there, in his own format."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s|%(name)s|%(message)s"))
    host_logger.addHandler(handler)

    run(ORDER, holding(PlaceOrder, refuse))

    level, name, text = stream.getvalue().split("|", 2)
    assert ("ERROR", "messagebus", "message.failed") == (level, name, json.loads(text)["event"])
    assert ("", "") == capsys.readouterr()


def test_named_logger_with_a_level_is_used(host_logger, capsys):
    """[L18] So does who gives it a level; the records go on to the handlers above it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    host_logger.setLevel(logging.INFO)

    try:
        run(ORDER, holding(PlaceOrder, ignore), log_level="info")
    finally:
        logging.getLogger().removeHandler(handler)

    assert "command.handled" == json.loads(stream.getvalue())["event"]
    assert ("", "") == capsys.readouterr()


def test_threshold_of_the_named_logger_holds(host_logger, caplog):
    """[L18] [L19] Its level is a threshold here as for every other logger."""
    host_logger.setLevel(logging.WARNING)

    run(ORDER, holding(PlaceOrder, refuse), log_level="info", error_log_level="error")
    run(ORDER, shop(), log_level="info")

    assert [("messagebus", logging.ERROR)] == [(record.name, record.levelno) for record in caplog.records]


def test_handlers_of_the_root_logger_do_not_take_the_records(fresh_python):
    """[L18] Only a logger named after us was meant for us."""
    script = f"""{SHOP}
    logging.basicConfig(level="DEBUG", stream=sys.stdout)
    MessageBus(PlaceOrder(order_id="o-1"), registry=registry)()
    """

    done = fresh_python(script)

    assert "" == done.stdout
    assert "command.handled" == json.loads(done.stderr)["event"]


def test_structlog_comes_before_the_named_logger(host_structlog, host_logger, caplog):
    """[L18] The order is pinned: the host's structlog, then the host's logging."""
    sink = CapturingLogger()
    host_structlog(processors=[structlog.processors.KeyValueRenderer()], logger_factory=lambda *args: sink)
    host_logger.setLevel(logging.DEBUG)

    run(ORDER, shop())

    assert 3 == len(sink.calls)
    assert [] == caplog.records


@pytest.mark.parametrize("kind", ["bound", "proxy"])
def test_structlog_logger_that_is_given_wins(host_structlog, capsys, kind):
    """[L18] What is said explicitly beats what is found."""
    found, given = CapturingLogger(), CapturingLogger()
    chain = [structlog.processors.KeyValueRenderer(key_order=["event"])]
    host_structlog(processors=chain, logger_factory=lambda *args: found)
    logger = structlog.wrap_logger(given, processors=chain)

    run(ORDER, shop(), logger=logger.bind(tenant="acme") if kind == "bound" else logger)

    assert [] == found.calls
    assert ["event='command.handled'", "event='event.handled'", "event='event.unhandled'"] == [
        call.args[0].split()[0] for call in given.calls
    ]
    assert [kind == "bound"] * 3 == ["tenant='acme'" in call.args[0] for call in given.calls]
    assert ("", "") == capsys.readouterr()


def test_standard_logger_that_is_given_wins(host_structlog, caplog):
    """[L18] A plain `logging.Logger` is taken as well as one of structlog."""
    found = CapturingLogger()
    host_structlog(processors=[structlog.processors.KeyValueRenderer()], logger_factory=lambda *args: found)
    logger = logging.getLogger("tests.shop")
    caplog.set_level("INFO", logger="tests.shop")

    handle_message(ORDER, registry=shop(), log_level="info", logger=logger)

    assert [] == found.calls
    assert ["tests.shop"] * 3 == [record.name for record in caplog.records]
    assert "command.handled" == json.loads(caplog.records[0].getMessage())["event"]


def test_capture_logs_sees_the_records(host_structlog):
    """[L18] structlog's own means of testing works on us without any configuration."""
    with capture_logs() as captured:
        run(ORDER, shop())

    assert ["command.handled", "event.handled", "event.unhandled"] == [record["event"] for record in captured]
    assert ["info"] * 3 == [record["log_level"] for record in captured]


def test_caplog_sees_the_records_when_a_level_is_set(host_logger, caplog):
    """[L18] `caplog.set_level(..., logger="messagebus")` names us, which is enough."""
    caplog.set_level("DEBUG", logger="messagebus")

    run(ORDER, shop(), log_level="info")

    events = [json.loads(record.getMessage())["event"] for record in caplog.records]
    assert ["command.handled", "event.handled", "event.unhandled"] == events


def test_formatter_of_structlog_on_a_standard_handler_gets_whole_records(host_structlog):
    """[L18] The chain that structlog recommends beside logging: wrap_for_formatter, ProcessorFormatter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=structlog.processors.JSONRenderer()))
    logger = logging.getLogger("messagebus")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    host_structlog(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )

    try:
        run(ORDER, holding(PlaceOrder, refuse), log_level="debug")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)

    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert ["handler.failed", "message.failed"] == [record["event"] for record in written]
    assert {"messagebus"} == {record["logger"] for record in written}


def test_records_can_become_the_extra_of_a_standard_record(host_structlog, caplog):
    """[L18] structlog's render_to_log_kwargs hands every key to `logging`, which takes no "message", "name", "args"."""
    host_structlog(
        processors=[structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    caplog.set_level("DEBUG")

    run(ORDER, shop(), log_level="debug")
    run(ORDER, holding(PlaceOrder, refuse), log_level="debug")

    assert [
        "handler.finished", "command.handled", "handler.finished", "event.handled", "event.unhandled",
        "handler.failed", "message.failed",
    ] == [record.getMessage() for record in caplog.records]  # fmt: skip


@pytest.mark.parametrize("is_default", [True, False])
def test_console_of_structlog_shows_every_record(host_structlog, capsys, is_default):
    """[L18] What structlog does by default, and what most developers look at; it takes tracebacks as text only."""
    if is_default:
        host_structlog()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
        host_structlog(processors=[structlog.processors.dict_tracebacks, renderer])

    run(ORDER, shop(), log_level="debug")
    run(ORDER, holding(PlaceOrder, refuse), log_level="debug")

    text = capsys.readouterr().out
    events = ("handler.finished", "command.handled", "event.handled", "event.unhandled", "handler.failed")
    assert [2, 1, 1, 1, 1] == [text.count(event) for event in events]
    assert [1, True] == [text.count("message.failed"), "the shelf is empty" in text]


def test_writes_to_what_stderr_is_at_that_moment(monkeypatch):
    """[L18] Test runners, notebooks and services replace sys.stderr when they like."""
    bus = MessageBus(ORDER, registry=shop())
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    bus()

    assert 3 == len(sys.stderr.getvalue().splitlines())


# L19: levels


def test_info_is_one_record_per_message(records):
    """[L19] The default shows each message once."""
    run(ORDER, shop())

    assert [("info", "command.handled"), ("info", "event.handled"), ("info", "event.unhandled")] == [
        (record["level"], record["event"]) for record in records()
    ]


def test_debug_adds_each_handler_and_the_message(records):
    """[L19] Who debugs wants to see what went in, and which handler took it."""
    run(ORDER, shop(), log_level="debug")

    assert [
        ("debug", "handler.finished", None),
        ("debug", "command.handled", {"order_id": "o-1"}),
        ("debug", "handler.finished", None),
        ("debug", "event.handled", {"order_id": "o-1"}),
        ("debug", "event.unhandled", {"order_id": "o-1"}),
    ] == [(record["level"], record["event"], payload_of(record)) for record in records()]


def payload_of(record: dict[str, Any]) -> Any:
    """Return the serialised message in a record, under whatever key it stands there."""
    return next((value for value in record.values() if isinstance(value, dict)), None)


def exceptions_in(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the exception and its causes in a record, under whatever key they stand there."""
    return next(value for value in record.values() if isinstance(value, list) and isinstance(value[0], dict))


def test_disabled_writes_nothing(capsys):
    """[L19] Neither what was done nor what failed."""
    quiet = {"log_level": "disabled", "error_log_level": "disabled"}

    results = run(ORDER, shop(), **quiet)
    failure = run(ORDER, holding(PlaceOrder, refuse), **quiet)

    assert [Confirmation(order_id="o-1")] == results
    assert isinstance(failure, Refused)
    assert ("", "") == capsys.readouterr()


def test_handle_message_is_silent_unless_it_is_told(capsys):
    """[L19] The function is for callers that only want the result."""
    handle_message(ORDER, registry=shop())
    asyncio.run(ahandle_message(ORDER, registry=shop()))
    handle_json(b'{"type": "PlaceOrder", "data": {"order_id": "o-1"}}', registry=shop())
    with suppress(Refused):
        handle_message(ORDER, registry=holding(PlaceOrder, refuse))

    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_failures_are_written_at_their_own_level(records, level):
    """[L19] error_log_level names the level of failures, log_level that of activity."""
    run(ORDER, holding(PlaceOrder, refuse), log_level="disabled", error_log_level=level)

    assert [(level, "message.failed")] == [(record["level"], record["event"]) for record in records()]


def test_activity_is_written_while_failures_are_disabled(records):
    """[L19] Each of the two levels stands alone."""
    run(ORDER, shop(), error_log_level="disabled")
    run(ORDER, holding(PlaceOrder, refuse), error_log_level="disabled")

    assert ["command.handled", "event.handled", "event.unhandled"] == [record["event"] for record in records()]


TAKES_LOG_LEVEL = (
    "it takes 'debug', 'info', 'disabled'. Choose one of these. Failures have a level of their own: error_log_level."
)
TAKES_ERROR_LOG_LEVEL = "it takes 'info', 'warning', 'error', 'disabled'. Choose one of these."
WRONG_LEVELS: list[tuple[dict[str, Any], str]] = [
    ({"log_level": "warn"}, f"Cannot set log_level to 'warn': {TAKES_LOG_LEVEL}"),
    ({"log_level": "error"}, f"Cannot set log_level to 'error': {TAKES_LOG_LEVEL}"),
    ({"log_level": "INFO"}, f"Cannot set log_level to 'INFO': {TAKES_LOG_LEVEL}"),
    ({"log_level": 10, "error_log_level": "disabled"}, f"Cannot set log_level to 10: {TAKES_LOG_LEVEL}"),
    ({"error_log_level": "critical"}, f"Cannot set error_log_level to 'critical': {TAKES_ERROR_LOG_LEVEL}"),
    ({"error_log_level": "debug"}, f"Cannot set error_log_level to 'debug': {TAKES_ERROR_LOG_LEVEL}"),
    (
        {"log_level": "disabled", "error_log_level": None},
        f"Cannot set error_log_level to None: {TAKES_ERROR_LOG_LEVEL}",
    ),
]


@pytest.mark.parametrize(("levels", "text"), WRONG_LEVELS)
def test_wrong_level_is_refused_when_the_bus_is_made(levels, text):
    """[L19] The text is pinned: it says what the argument takes."""
    for make in (MessageBus, AsyncMessageBus, handle_message):
        with pytest.raises(ConfigurationError) as caught:
            make(ORDER, registry=shop(), **levels)

        assert text == str(caught.value)


class Untouchable:
    """Raises at whatever is done with it."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"touched: {name}")


class Unprintable(Refused):
    def __str__(self) -> str:
        raise AssertionError("formatted")

    __repr__ = __str__


class Unserialisable(Command):
    order_id: str

    def model_dump(self, **settings: Any) -> Any:
        raise AssertionError("serialised")

    __repr_args__ = model_dump


def refuse_unprintably(message: Message) -> None:
    raise Unprintable


@pytest.mark.parametrize("handler", [ignore, refuse_unprintably])
def test_disabled_formats_nothing(handler):
    """[L19] Disabled costs a check for None: no logger is looked at, no message serialised, no error made text."""
    registry = holding(Unserialisable, handler)
    quiet = {"log_level": "disabled", "error_log_level": "disabled", "logger": Untouchable()}

    with suppress(Unprintable):
        MessageBus(Unserialisable(order_id="o-1"), registry=registry, **quiet)()


# L20: what a record holds


def test_records_of_a_run_are_exactly_these(records):
    """[L20] One record per message, when it is done: whole dicts, so that a key more or less is seen."""
    run(ORDER, shop())

    placed, handled, unhandled = got = records()
    assert [
        {
            "event": "command.handled",
            "level": "info",
            "logger": "messagebus",
            "timestamp": TIMESTAMP,
            "message_type": "PlaceOrder",
            "message_id": ID,
            "correlation_id": placed["message_id"],
            "causation_id": None,
            "handlers": [name_of(place)],
            "duration_ms": DURATION,
            "emitted": 2,
        },
        {
            "event": "event.handled",
            "level": "info",
            "logger": "messagebus",
            "timestamp": TIMESTAMP,
            "message_type": "OrderPlaced",
            "message_id": ID,
            "correlation_id": placed["message_id"],
            "causation_id": placed["message_id"],
            "handlers": [name_of(reserve)],
            "duration_ms": DURATION,
            "emitted": 1,
        },
        {
            "event": "event.unhandled",
            "level": "info",
            "logger": "messagebus",
            "timestamp": TIMESTAMP,
            "message_type": "StockReserved",
            "message_id": ID,
            "correlation_id": placed["message_id"],
            "causation_id": handled["message_id"],
            "handlers": [],
            "duration_ms": DURATION,
            "emitted": 0,
        },
    ] == got
    assert 3 == len({placed["message_id"], handled["message_id"], unhandled["message_id"]})


def test_records_of_an_async_run_are_the_same(records):
    """[L20] [L23] The driver makes no difference to what is recorded."""
    run(ORDER, shop(), log_level="debug")
    of_sync = records()
    asyncio.run(arun(ORDER, shop(), log_level="debug"))
    of_async = records()

    varying = {"message_id", "correlation_id", "causation_id", "duration_ms", "timestamp"}
    steady = [[{k: v for k, v in one.items() if k not in varying} for one in each] for each in (of_sync, of_async)]
    assert 5 == len(steady[0])
    assert steady[0] == steady[1]


def test_debug_records_are_exactly_these(records):
    """[L20] The record of a handler names it and the attempt."""
    run(OrderPlaced(order_id="o-1"), holding(OrderPlaced, ignore, refuse), log_level="debug")

    finished, failed, _ = records()
    common = {
        "level": "debug",
        "logger": "messagebus",
        "timestamp": TIMESTAMP,
        "message_id": ID,
        "correlation_id": finished["message_id"],
        "causation_id": None,
        "attempt": 1,
    }
    assert {**common, "event": "handler.finished", "handler": name_of(ignore)} == finished
    assert {**common, "event": "handler.failed", "handler": name_of(refuse), "error": name_of(Refused)} == failed


def test_record_of_a_failure_is_exactly_this(records):
    """[L20] It lists the handlers that failed, and the traceback as data: no locals, no text to parse."""
    run(OrderPlaced(order_id="o-1"), holding(OrderPlaced, ignore, refuse))

    (record,) = records()
    (exception,) = exceptions_in(record)
    note = f"while handling {name_of(OrderPlaced)} {record['message_id']} in {name_of(refuse)} ("
    assert {
        "event": "message.failed",
        "level": "error",
        "logger": "messagebus",
        "timestamp": TIMESTAMP,
        "message_type": "OrderPlaced",
        "message_id": ID,
        "correlation_id": record["message_id"],
        "causation_id": None,
        "handlers": [name_of(refuse)],
        "duration_ms": DURATION,
        "emitted": 0,
    } == {key: value for key, value in record.items() if value != [exception]}
    assert ("Refused", "the shelf is empty") == (exception["exc_type"], exception["exc_value"])
    assert [True] == [text.startswith(note) for text in exception["exc_notes"]]
    assert {"filename": __file__, "lineno": refuse.__code__.co_firstlineno + 1, "name": "refuse"} == exception[
        "frames"
    ][-1]


def test_command_that_nobody_handles_is_no_event_in_the_records(records):
    """[L20] An override that swallows what is raised leaves a record of a message skipped."""

    class Careless(MessageBus):
        def message_dispatcher(self, message):
            with suppress(LookupError):
                self.dispatch_message(message)

    Careless(PlaceOrder(order_id="o-1"), registry=Registry())()

    assert ["message.skipped"] == [record["event"] for record in records()]


def test_message_that_was_not_dispatched_is_recorded_as_skipped(records):
    """[L20] An override that leaves a message out leaves a record of that."""

    class Picky(MessageBus):
        def message_dispatcher(self, message):
            if not isinstance(message, OrderPlaced):
                self.dispatch_message(message)

    Picky(ORDER, registry=shop())()

    placed, skipped = records()
    assert {
        "event": "message.skipped",
        "level": "info",
        "logger": "messagebus",
        "timestamp": TIMESTAMP,
        "message_type": "OrderPlaced",
        "message_id": ID,
        "correlation_id": placed["message_id"],
        "causation_id": placed["message_id"],
        "handlers": [],
        "duration_ms": DURATION,
        "emitted": 0,
    } == skipped


def test_record_has_the_wire_name(records):
    """[L20] The type is what other programs call it."""

    class Pinned(Event, name="shop.order_shipped"):
        pass

    run(Pinned(), Registry())

    assert ["shop.order_shipped"] == [record["message_type"] for record in records()]


def test_record_has_the_ids_that_came_with_the_message(records):
    """[L20] [L22] A CloudEvent keeps its id, and what it leads to its correlation."""
    payload = {"id": "e-1", "source": "/shop", "correlationid": "c-1", "causationid": "p-1", "specversion": "1.0"}
    payload |= {"type": "PlaceOrder", "data": {"order_id": "o-1"}}

    handle_json(json.dumps(payload), registry=shop(), log_level="info")

    ids = [(one["message_id"], one["correlation_id"], one["causation_id"]) for one in records()]
    assert [("e-1", "c-1", "p-1"), (ID, "c-1", "e-1"), (ID, "c-1", ids[1][0])] == ids


def test_records_of_a_run_within_a_handler_join_its_ids(records):
    """[L20] [L22] A run started inside a handler is part of the same story."""

    def start_another(command):
        run(OrderPlaced(order_id="o-2"), Registry())

    run(ORDER, holding(PlaceOrder, start_another))

    inner, outer = records()
    assert ("event.unhandled", "command.handled") == (inner["event"], outer["event"])
    assert (outer["message_id"], outer["message_id"]) == (inner["correlation_id"], inner["causation_id"])


def test_failure_in_a_cascade_of_depth_50_is_one_record(records):
    """[L16] [L20] Nothing of the way down is unwound, so nothing is reported twice."""
    registry = holding(Countdown, count_down)

    run(Countdown(left=50), registry)
    of_sync = records()
    asyncio.run(arun(Countdown(left=50), registry))
    of_async = records()

    for got in (of_sync, of_async):
        assert ["command.handled"] * 50 + ["message.failed"] == [record["event"] for record in got]


def test_cascade_without_end_is_one_failure_record(records):
    """[L12] [L20] The limit is one failure, of the message that went over it."""

    class Small(MessageBus):
        max_messages = 20

    with pytest.raises(CascadeLimitError):
        Small(Countdown(left=-1), registry=holding(Countdown, count_down))()

    events = [record["event"] for record in records()]
    assert ["command.handled"] * 20 + ["message.failed"] == events


# L20, F57: the context of what handlers write


def keeping_lines(host_structlog) -> list[dict[str, Any]]:
    """Configure structlog as a host does that binds context; return the lines that handlers write with it."""
    lines: list[dict[str, Any]] = []

    def keep(_logger: Any, _method: str, record: dict[str, Any]) -> Any:
        if record["event"].startswith("shop."):
            lines.append(record)
        raise structlog.DropEvent

    host_structlog(processors=[merge_contextvars, keep])
    return lines


def write_line(message: Message) -> None:
    structlog.get_logger().info("shop.line")


def test_lines_of_handlers_carry_the_ids(host_structlog):
    """[L20] A handler's own records are found by the id of its message."""
    lines = keeping_lines(host_structlog)
    registry = Registry()
    registry.register(PlaceOrder, place)
    registry.register(OrderPlaced, write_line)

    run(ORDER, registry)
    asyncio.run(arun(ORDER, registry))

    assert {"event", "message_id", "correlation_id", "causation_id"} == lines[0].keys() & {*lines[0]}
    assert [{"message_id": ID, "correlation_id": ID, "causation_id": ID, "event": "shop.line"}] * 2 == lines
    assert [True, True] == [line["causation_id"] == line["correlation_id"] != line["message_id"] for line in lines]


@pytest.mark.parametrize("handler", [ignore, refuse])
def test_context_of_the_host_comes_back_after_the_run(host_structlog, handler):
    """[L20] Ids are bound only while a message is handled; what the host had bound, by the same name too, returns."""
    keeping_lines(host_structlog)
    bind_contextvars(request="r-1", message_id="the host's own")
    before = get_contextvars()

    run(ORDER, holding(PlaceOrder, handler))
    asyncio.run(arun(ORDER, holding(PlaceOrder, handler)))

    assert before == get_contextvars()


def test_context_of_a_message_ends_with_it(host_structlog):
    """[F57] What a handler binds does not colour the messages after it, nor what follows the run."""
    lines = keeping_lines(host_structlog)
    bind_contextvars(request="r-1")

    def bind(command):
        bind_contextvars(order_id=command.order_id, request="r-2")
        return OrderPlaced(order_id=command.order_id)

    registry = Registry()
    registry.register(PlaceOrder, bind)
    registry.register(OrderPlaced, write_line)
    run(ORDER, registry)

    (line,) = lines
    assert ("r-1", None) == (line["request"], line.get("order_id"))
    assert {"request": "r-1"} == get_contextvars()


def test_binding_of_a_suspended_generator_does_not_show_in_other_messages(host_structlog):
    """[F57] A handler that yields within its binding is run to its end before the next message is looked at."""
    lines = keeping_lines(host_structlog)

    def place_within(command):
        with bound_contextvars(step="placing"):
            yield OrderPlaced(order_id="o-1")
            yield OrderPlaced(order_id="o-2")

    registry = Registry()
    registry.register(PlaceOrder, place_within)
    registry.register(OrderPlaced, write_line)
    run(ORDER, registry)

    assert [False, False] == ["step" in line for line in lines]


def test_handlers_line_never_carries_the_id_of_another_message(host_structlog):
    """[F57] Not in a thread that is used again, nor in a task beside another."""
    pairs: list[tuple[str, str]] = []

    def keep(_logger: Any, _method: str, record: dict[str, Any]) -> Any:
        if "order_id" in record:
            pairs.append((record["order_id"], record["message_id"]))
        raise structlog.DropEvent

    host_structlog(processors=[merge_contextvars, keep])

    async def write_twice(command: PlaceOrder) -> None:
        for _ in range(2):
            structlog.get_logger().info("shop.line", order_id=command.order_id)
            await asyncio.sleep(0)

    registry = holding(PlaceOrder, write_twice)

    async def several(first: int) -> None:
        await asyncio.gather(*(arun(PlaceOrder(order_id=f"o-{first + n}"), registry) for n in range(5)))

    def work(first: int) -> None:
        for start in (first, first + 5):
            asyncio.run(several(start))

    threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 80 == len(pairs)
    assert 40 == len({order for order, _ in pairs}) == len({id for _, id in pairs}) == len({*pairs})


# L20: tracebacks as data, bounded


def test_traceback_has_no_locals(records):
    """[L20] Local variables hold what nobody meant to log."""

    def refuse_with_locals(message):
        password = "a-local-value"
        raise Refused(len(password))

    run(ORDER, holding(PlaceOrder, refuse_with_locals))

    (record,) = records()
    assert {("filename", "lineno", "name")} == {tuple(frame) for frame in exceptions_in(record)[0]["frames"]}
    assert "a-local-value" not in json.dumps(record)


def test_causes_are_in_the_record(records):
    """[L20] The chain of causes is part of what happened."""

    def refuse_because(message):
        try:
            raise KeyError("shelf")
        except KeyError as error:
            raise Refused("the shelf is gone") from error

    run(ORDER, holding(PlaceOrder, refuse_because))

    (record,) = records()
    assert ["Refused", "KeyError"] == [one["exc_type"] for one in exceptions_in(record)]


def raise_long_chain(message):
    error = Refused("the first")
    for number in range(2_000):
        try:
            raise Refused(f"number {number}") from error
        except Refused as later:
            error = later
    raise error


def raise_long_text(message):
    raise Refused("x" * 1_000_000)


def raise_many_notes(message):
    error = Refused("noted")
    for number in range(20_000):
        error.add_note(f"note {number}")
    raise error


def raise_long_cause(message):
    raise Refused("short") from Refused("x" * 1_000_000)


def raise_wide_group(message):
    raise Refused("wide") from ExceptionGroup("all", [raised(Refused(f"number {n}")) for n in range(2_000)])


def raise_deep_group(message):
    error: Exception = Refused("the innermost")
    for number in range(300):
        error = ExceptionGroup(f"level {number}", [error])
    raise Refused("deep") from raised(error)


def raise_group_of_long_tracebacks(message):
    group = []
    for _ in range(20):
        try:
            recurse(300)
        except Refused as error:
            group.append(error)
    raise Refused("long") from raised(ExceptionGroup("all", group))


def raise_long_traceback(message):
    recurse(300)


def raise_circle(message):
    first, second = raised(Refused("first")), raised(Refused("second"))
    first.__cause__, second.__cause__ = second, first
    raise first


def recurse(depth: int) -> None:
    if depth == 0:
        raise Refused("at the bottom")
    recurse(depth - 1)


def raised(error: Exception) -> Exception:
    """Return the exception with a traceback, as one has that was raised somewhere."""
    try:
        raise error
    except Exception as got:
        return got


@pytest.mark.parametrize(
    "handler",
    [
        raise_long_chain,
        raise_long_text,
        raise_many_notes,
        raise_long_cause,
        raise_wide_group,
        raise_deep_group,
        raise_group_of_long_tracebacks,
        raise_long_traceback,
        raise_circle,
    ],
)
def test_record_of_a_failure_is_bounded(capsys, handler):
    """[L20] However large an exception is, there is one record of it, and it is no more than 100 kB."""
    outcome = run(ORDER, holding(PlaceOrder, handler))

    (line,) = capsys.readouterr().err.splitlines()
    assert isinstance(outcome, Refused)
    assert "message.failed" == json.loads(line)["event"]
    assert len(line) <= 100_000


def test_failure_with_two_exceptions_shows_both(records):
    """[L14] [L20] The group of two failed handlers is one record with both in it."""

    def break_too(event):
        raise ZeroDivisionError("by zero")

    with suppress(ExceptionGroup):
        run(OrderPlaced(order_id="o-1"), holding(OrderPlaced, refuse, break_too))

    (record,) = records()
    assert [name_of(refuse), name_of(break_too)] == record["handlers"]
    assert [True, True] == [text in json.dumps(exceptions_in(record)) for text in ("shelf is empty", "by zero")]


# F56: what stands in a payload is data

# Whatever ends a line or steers a terminal: as separators, as control characters of seven and of eight bits.
HOSTILE = "a\nb\r\nc\x0bd\x0ce\x1cf\x1dg\x1eh\x85i\u2028j\u2029k\x1b[31ml\x9b31mm\x7fn\x00o"


class Sly(Command):
    """Has a field for each key that a record or a chain of structlog gives a meaning to."""

    event: str = "forged"
    level: str = "forged"
    timestamp: str = "forged"
    logger: str = "forged"
    message: str = "forged"
    message_type: str = "forged"
    message_id: str = "forged"
    handlers: str = "forged"
    exception: str = "forged"
    exc_info: bool = True
    stack_info: bool = True
    positional_args: tuple[str, ...] = ("forged",)
    others: dict[str, str] = {"event": "forged", "a\nb": "forged"}


def raise_payload(command: PlaceOrder) -> None:
    raise Refused(command.order_id)


@pytest.mark.parametrize("kind", ["stderr", "logging"])
def test_every_record_is_one_line_of_json(host_logger, caplog, capsys, kind):
    """[F56] No payload, text of an exception or id from outside ends a line or steers a terminal."""
    if kind == "logging":
        caplog.set_level("DEBUG", logger="messagebus")
    attributes = {"specversion": "1.0", "id": HOSTILE, "source": HOSTILE, "correlationid": HOSTILE}
    payload = json.dumps({**attributes, "type": "PlaceOrder", "data": {"order_id": HOSTILE}})

    with suppress(Refused):
        handle_json(payload, registry=holding(PlaceOrder, raise_payload), log_level="debug", error_log_level="error")

    text = capsys.readouterr().err + "".join(f"{record.getMessage()}\n" for record in caplog.records)
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert ["handler.failed", "message.failed"] == events
    assert set() == {char for char in text if not char.isprintable()} - {"\n"}


def test_payload_in_a_record_is_the_payload(records):
    """[F56] [L19] What is escaped on the way reads back as it was."""
    run(PlaceOrder(order_id=HOSTILE), holding(PlaceOrder, ignore), log_level="debug")

    assert [{"order_id": HOSTILE}] == [payload for payload in map(payload_of, records()) if payload]


@pytest.mark.parametrize("kind", ["stderr", "structlog", "logging"])
def test_keys_of_a_record_cannot_be_forged(host_structlog, host_logger, caplog, capsys, kind):
    """[F56] A payload stands under a key of its own, where no name in it has a meaning to anybody."""
    if kind == "logging":
        caplog.set_level("DEBUG", logger="messagebus")
    if kind == "structlog":
        processors = structlog.processors
        host_structlog(
            processors=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.PositionalArgumentsFormatter(),
                processors.StackInfoRenderer(),
                processors.format_exc_info,
                processors.JSONRenderer(),
            ],
            logger_factory=lambda *args: structlog.WriteLogger(sys.stderr),
        )

    run(Sly(), holding(Sly, ignore), log_level="debug")

    text = capsys.readouterr().err + "".join(f"{record.getMessage()}\n" for record in caplog.records)
    finished, handled = map(json.loads, text.splitlines())
    payload = payload_of(handled)
    others = [value for value in handled.values() if value is not payload]
    assert ("handler.finished", "command.handled") == (finished["event"], handled["event"])
    assert Sly() == Sly.model_validate_json(json.dumps(payload))
    assert "forged" not in json.dumps([finished, others])
    assert set() == handled.keys() & {"exc_info", "stack_info", "stack", "exception", "positional_args", "others"}


def test_what_a_handler_binds_forges_no_key(records):
    """[F56] The keys of a record are the bus's, though a handler binds a payload to its context."""

    def bind_all(command):
        bind_contextvars(**command.model_dump())

    with bound_contextvars():
        run(Sly(), holding(Sly, bind_all))
        structlog.contextvars.clear_contextvars()

    (record,) = records()
    assert ("command.handled", "info", "messagebus", "Sly") == (
        record["event"], record["level"], record["logger"], record["message_type"],
    )  # fmt: skip
    assert (TIMESTAMP, ID, [name_of(bind_all)]) == (record["timestamp"], record["message_id"], record["handlers"])


# What no sink, processor or override can change


class FullDisk:
    """A sink on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        self.write("")


class ClosedPipe(FullDisk):
    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def closed_file() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {"full disk": FullDisk, "closed pipe": ClosedPipe, "closed file": closed_file, "none": lambda: None}


def raise_in_processor(_logger: Any, _method: str, record: Any) -> Any:
    raise RuntimeError("a processor of the host")


def raise_in_factory(*args: Any) -> Any:
    raise RuntimeError("a factory of the host")


def outcomes(bus_class: type[MessageBus] = MessageBus) -> list[Any]:
    """Return what three commands that succeed and three that fail come to."""
    return [run_with(bus_class, registry) for registry in [shop()] * 3 + [holding(PlaceOrder, refuse)] * 3]


def run_with(bus_class: type[MessageBus], registry: Registry) -> Any:
    try:
        return bus_class(ORDER, registry=registry)()
    except Exception as error:
        return type(error), str(error)


EXPECTED = [[Confirmation(order_id="o-1")]] * 3 + [(Refused, "the shelf is empty")] * 3
UNWRITTEN = "A log record could not be written ({}); the message's outcome stands."


@pytest.mark.parametrize("sink", STREAMS)
def test_sink_that_fails_changes_no_outcome(monkeypatch, sink):
    """[F55] Failing records are a warning each of activity and of failures, said once, and nothing else."""
    monkeypatch.setattr(sys, "stderr", STREAMS[sink]())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        got = outcomes()

    cause = {"full disk": "OSError", "closed pipe": "BrokenPipeError", "closed file": "ValueError"}
    said = (UNWRITTEN.format(cause.get(sink, "AttributeError")), RuntimeWarning)
    assert EXPECTED == got
    assert [said] * 2 == [(str(one.message), one.category) for one in caught]


def break_sink(monkeypatch, host_structlog) -> type[MessageBus]:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    return MessageBus


def break_processor(monkeypatch, host_structlog) -> type[MessageBus]:
    host_structlog(processors=[raise_in_chain])
    return MessageBus


def break_factory(monkeypatch, host_structlog) -> type[MessageBus]:
    host_structlog(logger_factory=raise_in_chain)
    return MessageBus


def break_overrides(monkeypatch, host_structlog) -> type[MessageBus]:
    class Broken(MessageBus):
        def log_activity(self, *args):
            raise RuntimeError("in log_activity")

        def log_error(self, msg, exc=None, **kwargs):
            raise RuntimeError("in log_error")

    return Broken


def break_context(monkeypatch, host_structlog) -> type[MessageBus]:
    circle: list[Any] = []
    circle.append(circle)
    bind_contextvars(circle=circle, surrogate="\ud800", deep=nested(2_000), bad=Unrepresentable())
    return MessageBus


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class Unrepresentable:
    def __repr__(self) -> str:
        raise RuntimeError("in __repr__")


def raise_in_chain(*args: Any) -> Any:
    raise RuntimeError("in the host's configuration")


@pytest.mark.parametrize("filter", ["ignore", "default", "always", "error"])
@pytest.mark.parametrize("broken", [break_sink, break_processor, break_factory, break_overrides, break_context])
def test_nothing_in_logging_changes_an_outcome(monkeypatch, host_structlog, broken, filter):
    """[F55] Not the sink, not the host's chain, not the user's own methods; also where warnings are errors."""
    bus_class = broken(monkeypatch, host_structlog)

    with warnings.catch_warnings(record=True):
        warnings.simplefilter(filter)
        got = outcomes(bus_class)

    assert EXPECTED == got


def test_warning_that_cannot_be_shown_changes_no_outcome(monkeypatch):
    """[F55] A host that shows warnings in its own way may fail at that too."""
    monkeypatch.setattr(sys, "stderr", FullDisk())

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", raise_in_chain)
        got = outcomes()

    assert EXPECTED == got


def test_run_goes_on_after_records_that_could_not_be_written(monkeypatch):
    """[F55] handle_exception gets the handler's own failure, and decides as ever."""
    monkeypatch.setattr(sys, "stderr", FullDisk())
    seen: list[Exception] = []

    class Patient(MessageBus):
        def handle_exception(self, exc, message):
            try:
                super().handle_exception(exc, message)
            except Refused as error:
                seen.append(error)

    registry = shop()
    registry.register(StockReserved, refuse)

    with warnings.catch_warnings(record=True):
        results = Patient(ORDER, registry=registry)()

    assert [Confirmation(order_id="o-1")] == results
    assert ["the shelf is empty"] == [str(error) for error in seen]


class Opaque(Command):
    value: Any = None


@pytest.mark.parametrize("kind", ["circle", "deep", "surrogate", "bad repr", "huge", "tuple keys"])
def test_value_that_cannot_be_shown_leaves_the_record(records, kind):
    """[F55] A record without its value is worth more than none."""
    circle: list[Any] = []
    circle.append(circle)
    value = {
        "circle": circle,
        "deep": nested(2_000),
        "surrogate": "\ud800",
        "bad repr": Unrepresentable(),
        "huge": 10**400,
        "tuple keys": {(1, 2): "a"},
    }[kind]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = run(Opaque(value=value), holding(Opaque, ignore), log_level="debug")

    assert [] == results
    assert ["handler.finished", "command.handled"] == [record["event"] for record in records()]
    assert [] == caught


class Speechless(Refused):
    def __str__(self) -> str:
        raise RuntimeError("in __str__")

    __repr__ = __str__


def test_exception_that_has_no_text_leaves_the_record(records):
    """[F55] The failure is known though it cannot be put into words."""

    def refuse_speechlessly(message):
        raise Speechless

    outcome = run(ORDER, holding(PlaceOrder, refuse_speechlessly))

    assert Speechless is type(outcome)
    assert [("message.failed", "Speechless")] == [
        (record["event"], exceptions_in(record)[0]["exc_type"]) for record in records()
    ]


def test_failing_sink_keeps_the_run_of_the_async_bus(monkeypatch):
    """[F55] The async bus keeps outcomes as the sync one does."""
    monkeypatch.setattr(sys, "stderr", FullDisk())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = asyncio.run(arun(ORDER, shop()))
        failure = asyncio.run(arun(ORDER, holding(PlaceOrder, refuse)))

    assert [Confirmation(order_id="o-1")] == results
    assert isinstance(failure, Refused)


OUTCOMES = f"""{SHOP}
    for _ in range(3):
        print(MessageBus(PlaceOrder(order_id="o-1"), registry=registry)())
    try:
        MessageBus(Refuse(), registry=registry)()
    except LookupError as error:
        print(error)
"""
PRINTED = "[]\n[]\n[]\nthe shelf is empty\n"


@pytest.mark.parametrize("options", [(), ("-W", "error")], ids=["default", "warnings are errors"])
def test_full_disk_under_stderr_changes_nothing(fresh_python, options):
    """[F55] ENOSPC from the real thing, which fails every write."""
    with open("/dev/full", "wb") as full:
        done = fresh_python(OUTCOMES, *options, stderr=full)

    assert PRINTED == done.stdout


@pytest.mark.parametrize("options", [(), ("-W", "error")], ids=["default", "warnings are errors"])
def test_pipe_that_nobody_reads_any_more_changes_nothing(fresh_python, options):
    """[F55] EPIPE, as when the log shipper has died."""
    reader, writer = os.pipe()
    os.close(reader)

    done = fresh_python(OUTCOMES, *options, stderr=writer)

    os.close(writer)
    assert PRINTED == done.stdout


def test_pipe_that_is_full_and_does_not_block_changes_nothing(fresh_python):
    """[F55] EAGAIN: whoever made stderr non-blocking loses records, and no message."""
    script = """
    import os
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.set_blocking(2, False)
    try:
        while True:
            os.write(2, bytes(4096))
    except BlockingIOError:
        pass
    """

    done = fresh_python(script + OUTCOMES, "-W", "ignore")

    assert PRINTED == done.stdout


@pytest.mark.parametrize("gone", ["sys.stderr = None", "sys.stderr.close()", "__import__('os').close(2)"])
def test_stderr_that_is_gone_changes_nothing(fresh_python, gone):
    """[F55] As under pythonw, in a daemon, or after an application closed it."""
    done = fresh_python(OUTCOMES.replace("registry = Registry()", f"registry = Registry(); {gone}"))

    assert PRINTED == done.stdout


# F59, F60: processes that fork, and processes that end


def test_no_child_hangs_when_a_process_forks_while_it_logs(fresh_python):
    """[F59] A lock that another thread holds at the fork stays locked in the child for ever; there is none."""
    script = f"""{SHOP}
    import os, threading, time

    def log_on():
        while not done.is_set():
            MessageBus(PlaceOrder(order_id="o-1"), registry=registry)()

    done = threading.Event()
    threads = [threading.Thread(target=log_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    hung = 0
    for _ in range(20):
        child = os.fork()
        if child == 0:
            MessageBus(PlaceOrder(order_id="o-1"), registry=registry)()
            os._exit(0)
        deadline = time.monotonic() + 60
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                hung += 1
                os.kill(child, 9)
                os.waitpid(child, 0)
                break
            os.sched_yield()
    done.set()
    for thread in threads:
        thread.join()
    print(hung)
    """

    with open(os.devnull, "wb") as nowhere:
        done = fresh_python(script, "-W", "ignore::DeprecationWarning", stderr=nowhere)

    assert ("0\n", 0) == (done.stdout, done.returncode)


def test_last_record_of_a_process_is_written(fresh_python):
    """[F60] Records of exit handlers are there, in order with what the program writes, and nothing is cut off."""
    script = f"""{SHOP}
    import atexit
    atexit.register(lambda: MessageBus(PlaceOrder(order_id="last"), registry=registry, log_level="debug")())
    print("the program's own line", file=sys.stderr)
    MessageBus(PlaceOrder(order_id="first"), registry=registry)()
    """

    done = fresh_python(script)

    own, *others = done.stderr.splitlines()
    assert ("the program's own line", 0) == (own, done.returncode)
    assert ["command.handled", "handler.finished", "command.handled"] == [json.loads(line)["event"] for line in others]


def test_daemon_thread_that_logs_while_the_process_ends_leaves_no_traceback(fresh_python):
    """[F60] The interpreter stops such a thread wherever it is."""
    script = f"""{SHOP}
    import threading
    started = threading.Event()

    def log_on():
        while True:
            MessageBus(PlaceOrder(order_id="o-1"), registry=registry)()
            started.set()

    threading.Thread(target=log_on, daemon=True).start()
    started.wait()
    """

    done = fresh_python(script)

    *lines, _ = done.stderr.split("\n")
    assert 0 == done.returncode
    assert {"command.handled"} == {json.loads(line)["event"] for line in lines}
