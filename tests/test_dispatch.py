"""The order rule: first in, first out, without recursion, bounded, and the same under both drivers."""

import asyncio
import inspect
import itertools
import re
import subprocess
import sys
import traceback
import tracemalloc
from collections import deque
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest
import structlog
from pydantic import BaseModel, ConfigDict
from structlog.testing import LogCapture

import messagebus
from messagebus import (
    AsyncMessageBus,
    CascadeLimitError,
    Command,
    DispatchError,
    Event,
    HandlerError,
    InvalidMessageError,
    Message,
    MessageBus,
    NoHandlerError,
    NotAMessageError,
    Registry,
    ReturnMessage,
)

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}
MEGABYTE = 1_000_000


class ConcurrentBus(AsyncMessageBus):
    concurrent = True


BUSES = [MessageBus, AsyncMessageBus, ConcurrentBus]
every_bus = pytest.mark.parametrize("bus_class", BUSES)


class Start(Command):
    path: str = "0"


class Step(Event):
    path: str = "0"


class Ping(Event):
    pass


class Pong(Event):
    pass


class Reply(ReturnMessage):
    path: str = "0"


class Careful(Command):
    model_config = ConfigDict(revalidate_instances="always")
    code: int


class CarefulReply(ReturnMessage):
    model_config = ConfigDict(revalidate_instances="always")
    code: int


def run(bus):
    """Call a bus of either kind to the end of its run."""
    outcome = bus()
    return asyncio.run(outcome) if inspect.isawaitable(outcome) else outcome


def recorder():
    """Return a logger, and the list of what is written to it."""
    capture = LogCapture()
    return structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger("debug")), capture.entries


def full_name(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


# Order


@every_bus
def test_follow_ups_wait_for_everything_returned_before(bus_class):
    """A tree is handled level by level, at every depth (L10)."""
    order = []
    registry = Registry()

    @registry.handles(Step)
    def grow(message):
        order.append(message.path)
        if len(message.path) < 4:
            return [Step(path=message.path + "a"), Step(path=message.path + "b")]
        return None

    run(bus_class(Step(path=""), registry=registry, **QUIET))

    levels = [["".join(path) for path in itertools.product("ab", repeat=depth)] for depth in range(5)]
    assert list(itertools.chain(*levels)) == order


@every_bus
def test_handlers_run_in_registration_order(bus_class):
    """What one handler returned comes before what the next one returned (L8, L10)."""
    order = []
    registry = Registry()
    registry.register(Start, lambda message: [Ping(), Pong()])
    for name in "abc":
        registry.register(
            Ping, lambda message, name=name: order.append(name) or [Step(path=f"{name}1"), Step(path=name)]
        )
    registry.register(Pong, lambda message: order.append("pong"))
    registry.register(Step, lambda message: order.append(message.path))

    run(bus_class(Start(), registry=registry, **QUIET))

    assert [*order] == ["a", "b", "c", "pong", "a1", "a", "b1", "b", "c1", "c"]


@every_bus
def test_same_instance_returned_twice_is_dispatched_twice(bus_class):
    """A message is no set member: what is said twice happens twice (L10)."""
    seen = []
    step = Step()
    registry = Registry()
    registry.register(Start, lambda message: [step, step])
    registry.register(Step, lambda message: seen.append(message) or Reply())

    results = run(bus_class(Start(), registry=registry, **QUIET))

    assert [step, step] == seen
    assert all(one is step for one in seen)
    assert [Reply(), Reply()] == results


@every_bus
def test_handler_may_return_the_message_it_was_given(bus_class):
    """The instance in hand, returned, waits like any other (L10)."""
    order = []
    turns = iter(range(3))
    registry = Registry()

    @registry.handles(Step)
    def again(message):
        order.append("again")
        return [message, Ping()] if next(turns) < 2 else None

    registry.register(Ping, lambda message: order.append("ping"))

    run(bus_class(Step(), registry=registry, **QUIET))

    assert order == ["again"] * 2 + ["ping", "again", "ping"]


@every_bus
def test_return_messages_come_in_the_order_returned(bus_class):
    """They do not wait for a turn: a late message's reply comes after an early one's (L11)."""
    registry = Registry()
    registry.register(Start, lambda message: [Reply(path="1"), Step(path="3"), Reply(path="2"), Step(path="4")])
    registry.register(Step, lambda message: [Reply(path=message.path), Reply(path=message.path)])

    results = run(bus_class(Start(), registry=registry, **QUIET))

    assert [Reply(path=path) for path in "123344"] == results


@every_bus
def test_equal_return_messages_are_all_returned(bus_class):
    """20,000 equal ones are 20,000; nothing is compared (L11)."""
    registry = Registry()
    registry.register(Start, lambda message: [Reply()] * 20_000)

    results = run(bus_class(Start(), registry=registry, **QUIET))

    assert [Reply()] * 20_000 == results


@every_bus
def test_initial_return_message_comes_back(bus_class):
    """It has no handler, and is for whoever started the run (L11)."""
    reply = Reply()

    bus = bus_class(reply, registry=Registry(), **QUIET)

    assert bus.pending == []
    assert [reply] == run(bus)


@every_bus
def test_pending_holds_the_initial_message_first(bus_class):
    """A bus that has not been called has everything before it (L15)."""
    bus = bus_class(Start(), registry=Registry(), **QUIET)

    assert [Start()] == bus.pending
    assert bus.return_messages == []


@every_bus
def test_finished_bus_called_again_dispatches_nothing(bus_class):
    """Nothing is pending, and so nothing happens twice (L15)."""
    calls = []
    registry = Registry()
    registry.register(Start, lambda message: calls.append(message) or Reply())
    bus = bus_class(Start(), registry=registry, **QUIET)

    first, second = list(run(bus)), run(bus)

    assert [Reply()] == first == second
    assert [Start()] == calls
    assert bus.pending == []


@every_bus
def test_run_sees_the_registry_as_it_was(bus_class):
    """A handler registered while a run is under way serves the next one, however late its turn would come (L9)."""
    calls = []
    registry = Registry()

    @registry.handles(Start)
    def start(message):
        calls.append("start")
        if calls == ["start"]:
            registry.register(Step, lambda message: calls.append("late"))
        return Ping()

    registry.register(Ping, lambda message: Pong())
    registry.register(Pong, lambda message: Step())

    run(bus_class(Start(), registry=registry, **QUIET))
    assert [*calls] == ["start"]

    run(bus_class(Start(), registry=registry, **QUIET))
    assert [*calls] == ["start", "start", "late"]


CHAIN = """
    import asyncio, os, sys
    from messagebus import AsyncMessageBus, Event, MessageBus, Registry, ReturnMessage

    LENGTH, IS_ASYNC = int(sys.argv[1]), sys.argv[2] == "AsyncMessageBus"
    PAGE = os.sysconf("SC_PAGE_SIZE")

    class Step(Event):
        left: int

    class Arrived(ReturnMessage):
        pass

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * PAGE

    def depth():
        frame, frames = sys._getframe(), 0
        while frame := frame.f_back:
            frames += 1
        return frames

    sizes, depths = [], set()

    def step(message):
        if message.left % 10_000 == 0:
            sizes.append(resident())
            depths.add(depth())
        return Step(left=message.left - 1) if message.left else Arrived()

    class Long(AsyncMessageBus if IS_ASYNC else MessageBus):
        max_messages = 2 * LENGTH
        registry = Registry()

    Long.registry.register(Step, step)
    outcome = Long(Step(left=LENGTH - 1), log_level="disabled", error_log_level="disabled")()
    results = asyncio.run(outcome) if IS_ASYNC else outcome
    print(len(results), len(sizes), max(sizes[1:]) - sizes[1], len(depths))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
@pytest.mark.parametrize(("bus", "length"), [("MessageBus", 1_000_000), ("AsyncMessageBus", 300_000)])
def test_long_cascade_needs_constant_stack_and_memory(bus, length):
    """A million messages, one leading to the next, grow neither the stack nor the process by 5 MB (L10)."""
    root = Path(messagebus.__file__).parents[1]
    command = [sys.executable, "-c", dedent(CHAIN), str(length), bus]

    done = subprocess.run(command, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    results, measured, growth, depths = map(int, done.stdout.split())
    assert (1, length // 10_000, 1) == (results, measured, depths)
    assert growth <= 5 * MEGABYTE


# The limit


class Swallowing(MessageBus):
    def handle_exception(self, exc, message):
        self.decided = [*getattr(self, "decided", ()), exc]


class AsyncSwallowing(AsyncMessageBus):
    async def handle_exception(self, exc, message):
        self.decided = [*getattr(self, "decided", ()), exc]


class Silent(MessageBus):
    def message_dispatcher(self, message):
        with suppress(Exception):
            self.dispatch_message(message)


class AsyncSilent(AsyncMessageBus):
    async def message_dispatcher(self, message):
        with suppress(Exception):
            await self.dispatch_message(message)


def ping_pong(registry):
    registry.register(Ping, lambda message: Pong())
    registry.register(Pong, lambda message: Ping())


def fan_out(registry):
    registry.register(Ping, lambda message: [Ping(), Ping()])


def endless_events(registry):
    @registry.handles(Ping)
    def handle(message):
        while True:
            yield Ping()


def endless_replies(registry):
    @registry.handles(Ping)
    def handle(message):
        while True:
            yield Reply()


def endless_repetition(registry):
    registry.register(Ping, itertools.repeat)


def failing_beside_fan_out(registry):
    fan_out(registry)
    registry.register(Ping, lambda message: 1 / 0)


LOOPS = [ping_pong, fan_out, endless_events, endless_replies, endless_repetition]


@pytest.mark.parametrize("endless", LOOPS)
@pytest.mark.parametrize("bus_class", [*BUSES, Swallowing, AsyncSwallowing, Silent, AsyncSilent])
def test_endless_run_is_stopped(bus_class, endless):
    """Neither an override that goes on after failures nor one that hides them makes a run endless (L12)."""
    registry = Registry()
    endless(registry)

    class Limited(bus_class):
        max_messages = 2_000

    with pytest.raises(CascadeLimitError) as caught:
        run(Limited(Ping(), registry=registry, **QUIET))

    assert caught.value.limit == 2_000
    assert full_name(Ping) in str(caught.value)


@pytest.mark.parametrize("bus_class", [Swallowing, AsyncSwallowing, Silent, AsyncSilent])
def test_endless_run_with_failures_is_stopped(bus_class):
    """Failures that an override swallows do not hide that the run has no end (L12)."""
    registry = Registry()
    failing_beside_fan_out(registry)

    class Limited(bus_class):
        max_messages = 2_000

    with pytest.raises(CascadeLimitError):
        run(Limited(Ping(), registry=registry, **QUIET))


@pytest.mark.parametrize("endless", LOOPS)
@every_bus
def test_endless_run_leaves_one_record(bus_class, endless):
    """Who looks into the log finds one failure, with the types, and not a hundred thousand (L12, L20)."""
    logger, records = recorder()
    registry = Registry()
    endless(registry)

    class Limited(bus_class):
        max_messages = 2_000

    with pytest.raises(CascadeLimitError):
        run(Limited(Ping(), registry=registry, logger=logger, log_level="disabled"))

    assert [(one["event"], one["log_level"]) for one in records] == [("message.failed", "error")]
    assert full_name(Ping) in records[0]["failure"][0]["exc_value"]


@pytest.mark.parametrize("bus_class", [Swallowing, AsyncSwallowing])
def test_limit_is_decided_about_once(bus_class):
    """It is the failure of the message that went too far; an override cannot undo it (L12, L15)."""
    registry = Registry()
    ping_pong(registry)

    class Limited(bus_class):
        max_messages = 2_000

    bus = Limited(Ping(), registry=registry, **QUIET)

    with pytest.raises(CascadeLimitError) as caught:
        run(bus)

    assert [caught.value] == bus.decided


@every_bus
def test_limit_names_every_type_of_the_loop(bus_class):
    """The error says which types lead back to each other, and what to do (L12)."""
    registry = Registry()
    ping_pong(registry)

    class Limited(bus_class):
        max_messages = 2_000

    with pytest.raises(CascadeLimitError) as caught:
        run(Limited(Ping(), registry=registry, **QUIET))

    text = str(caught.value)
    assert text.startswith("Cannot go on with this run: it led to more than 2,000 messages, lately ")
    assert full_name(Ping) in text
    assert full_name(Pong) in text
    assert text.endswith(
        "Look for handlers that lead back to each other; if it is meant, raise max_messages of the bus class."
    )


@pytest.mark.parametrize(
    ("bus_class", "endless"), [(MessageBus, ping_pong), (AsyncMessageBus, ping_pong), (MessageBus, fan_out)]
)
def test_endless_run_is_stopped_within_fifty_megabytes(bus_class, endless):
    """With the limit as it comes, a run without end costs little before it is stopped (L12)."""
    registry = Registry()
    endless(registry)

    tracemalloc.start()
    with pytest.raises(CascadeLimitError):
        run(bus_class(Ping(), registry=registry, **QUIET))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak <= 50 * MEGABYTE


@every_bus
def test_run_may_lead_to_as_many_messages_as_the_limit(bus_class):
    """The limit itself is allowed, one more is not (L12)."""
    registry = Registry()

    class Limited(bus_class):
        max_messages = 5

    registry.register(Start, lambda message: [Step()] * int(message.path))

    run(Limited(Start(path="5"), registry=registry, **QUIET))
    with pytest.raises(CascadeLimitError):
        run(Limited(Start(path="6"), registry=registry, **QUIET))


@every_bus
def test_return_messages_count_towards_the_limit(bus_class):
    """A run that answers without end is endless too (L12)."""
    registry = Registry()

    class Limited(bus_class):
        max_messages = 5

    registry.register(Start, lambda message: [Reply()] * int(message.path))

    run(Limited(Start(path="5"), registry=registry, **QUIET))
    with pytest.raises(CascadeLimitError):
        run(Limited(Start(path="6"), registry=registry, **QUIET))


@every_bus
def test_stopped_run_keeps_what_still_waits(bus_class):
    """What was not reached is pending, and another call of the bus goes on with a count of its own (L12, L15)."""
    seen = []
    registry = Registry()

    class Limited(bus_class):
        max_messages = 5

    registry.register(Start, lambda message: [Step(path=str(number)) for number in range(6)])
    registry.register(Step, lambda message: seen.append(message.path))
    bus = Limited(Start(), registry=registry, **QUIET)

    with pytest.raises(CascadeLimitError):
        run(bus)
    assert [str(number) for number in range(6)] == [message.path for message in bus.pending]

    run(bus)
    assert [str(number) for number in range(6)] == seen


# What handlers return


class Deck:
    """An iterable that is no container and no iterator."""

    def __iter__(self):
        return iter((Reply(path="1"), Reply(path="2")))


KINDS = {
    "none": (lambda message: None, []),
    "message": (lambda message: Reply(path="1"), ["1"]),
    "list": (lambda message: [Reply(path="1"), Reply(path="2")], ["1", "2"]),
    "empty list": (lambda message: [], []),
    "tuple": (lambda message: (Reply(path="1"), Reply(path="2")), ["1", "2"]),
    "set": (lambda message: {Reply(path="1")}, ["1"]),
    "frozenset": (lambda message: frozenset({Reply(path="1")}), ["1"]),
    "deque": (lambda message: deque([Reply(path="1"), Reply(path="2")]), ["1", "2"]),
    "generator": (lambda message: (Reply(path=path) for path in "12"), ["1", "2"]),
    "iterator": (lambda message: iter([Reply(path="1"), Reply(path="2")]), ["1", "2"]),
    "map": (lambda message: map(Reply.model_validate, [{"path": "1"}]), ["1"]),
    "iterable": (lambda message: Deck(), ["1", "2"]),
}


@pytest.mark.parametrize("kind", KINDS)
@every_bus
def test_returns_what_handlers_return(bus_class, kind):
    """A handler returns nothing, a message, or an iterable of messages of any kind."""
    handler, expected = KINDS[kind]
    registry = Registry()
    registry.register(Start, handler)

    results = run(bus_class(Start(), registry=registry, **QUIET))

    assert expected == [reply.path for reply in results]


@every_bus
def test_generator_function_is_a_handler(bus_class):
    """Its messages are released when it has finished, in the order in which it yielded them."""
    order = []
    registry = Registry()

    @registry.handles(Start)
    def start(message):
        yield Step(path="1")
        order.append("between")
        yield Step(path="2")

    registry.register(Step, lambda message: order.append(message.path))

    run(bus_class(Start(), registry=registry, **QUIET))

    assert [*order] == ["between", "1", "2"]


class Plain(BaseModel):
    path: str = "0"


WRONG = {
    "str": ("placed", "an object of type str"),
    "empty str": ("", "an object of type str"),
    "bytes": (b"placed", "an object of type bytes"),
    "dict": ({"path": "1"}, "an object of type dict"),
    "empty dict": ({}, "an object of type dict"),
    "int": (7, "an object of type int"),
    "zero": (0, "an object of type int"),
    "bool": (False, "an object of type bool"),
    "class": (Step, f"the class {full_name(Step)} itself"),
    "plain model": (Plain(), f"an object of type {full_name(Plain)}"),
    "nested list": ([[Step()]], "an object of type list"),
    "list with a str": ([Step(), "placed"], "an object of type str"),
    "list with None": ([None], "an object of type NoneType"),
    "list with a class": ([Step], f"the class {full_name(Step)} itself"),
    "list with a model": ([Plain()], f"an object of type {full_name(Plain)}"),
}


@pytest.mark.parametrize("kind", WRONG)
@every_bus
def test_anything_but_messages_is_refused(bus_class, kind):
    """The error names the handler with file and line, says what it returned, and what to return instead."""
    value, what = WRONG[kind]
    registry = Registry()

    def place_order(message):
        return value

    registry.register(Start, place_order)
    bus = bus_class(Start(), registry=registry, **QUIET)

    with pytest.raises(HandlerError) as caught:
        run(bus)

    name, line = full_name(place_order), place_order.__code__.co_firstlineno
    expected = (
        rf"Cannot take what {re.escape(name)} \(.*test_dispatch\.py:{line}\) returned: it is {re.escape(what)}\. "
        r"Return None, a message or an iterable of messages; data for the caller goes into a ReturnMessage\."
    )
    assert re.fullmatch(expected, str(caught.value))
    assert "placed" not in "".join(traceback.format_exception_only(caught.value))
    assert (bus.pending, bus.return_messages) == ([], [])


class Bare(Message):
    """Neither command nor event nor return message."""


@pytest.mark.parametrize("wrong", ["placed", Bare()])
@every_bus
def test_handler_that_returned_something_wrong_releases_nothing(bus_class, wrong):
    """It did not finish well, so that the messages before the wrong one are not released either (L13)."""
    seen = []
    registry = Registry()
    registry.register(Ping, lambda message: [Step(path="lost"), Reply(), wrong])
    registry.register(Ping, lambda message: Step(path="kept"))
    registry.register(Step, lambda message: seen.append(message.path))
    bus = bus_class(Ping(), registry=registry, **QUIET)

    with pytest.raises((HandlerError, NotAMessageError)):
        run(bus)

    assert [] == run(bus)
    assert [*seen] == ["kept"]


@every_bus
def test_raising_while_iterated_is_the_handlers_own_failure(bus_class):
    """What goes wrong in an iterable that was returned comes out as it is (L14)."""
    registry = Registry()
    registry.register(Start, lambda message: map(int, ["x"]))

    with pytest.raises(ValueError, match="invalid literal"):
        run(bus_class(Start(), registry=registry, **QUIET))


# What is dispatched


NO_MESSAGES = {
    "dict": ({"path": "0"}, "an object of type dict"),
    "str": ("Start", "an object of type str"),
    "None": (None, "an object of type NoneType"),
    "int": (7, "an object of type int"),
    "plain model": (Plain(), f"an object of type {full_name(Plain)}"),
    "bare message": (Bare(), f"an object of type {full_name(Bare)}"),
    "class": (Start, f"the class {full_name(Start)} itself"),
}


@pytest.mark.parametrize("kind", NO_MESSAGES)
@pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
def test_what_is_no_message_is_refused_when_the_bus_is_made(bus_class, kind):
    """A dict where a message belongs is met before anything ran, and the sentence says how to make a message."""
    value, what = NO_MESSAGES[kind]

    with pytest.raises(NotAMessageError) as caught:
        bus_class(value, registry=Registry())

    expected = (
        f"Cannot dispatch {what}: it is no Command, Event or ReturnMessage. "
        "Make a message of it first: PlaceOrder(...) in Python, "
        "registry.validate({'type': ..., 'data': ...}) for a mapping, handle_json(payload) for JSON."
    )
    assert expected == str(caught.value)


@every_bus
def test_command_without_handler_raises_when_its_turn_comes(bus_class):
    """What was returned before it has been dispatched; it names the class and what to do (L6)."""
    seen = []
    registry = Registry()
    registry.register(Ping, lambda message: [Step(), Start(), Pong()])
    registry.register(Step, lambda message: seen.append(message))
    bus = bus_class(Ping(), registry=registry, **QUIET)

    with pytest.raises(NoHandlerError) as caught:
        run(bus)

    expected = (
        f"Cannot dispatch {full_name(Start)}: no handler is registered for it. "
        "If its module is not imported yet, import it first."
    )
    assert expected == str(caught.value)
    assert ([Step()], [Pong()]) == (seen, bus.pending)


@every_bus
def test_event_without_handler_is_legal(bus_class):
    """Nobody needs to listen (L7)."""
    assert run(bus_class(Step(), registry=Registry(), **QUIET)) == []


@every_bus
def test_event_without_handler_is_refused_by_a_strict_registry(bus_class):
    """Who wants every event handled is told of the first that is not (L7)."""
    with pytest.raises(NoHandlerError, match=re.escape(full_name(Step))):
        run(bus_class(Step(), registry=Registry(strict=True), **QUIET))


@every_bus
def test_bad_instance_is_refused_if_its_class_asks_for_it(bus_class):
    """An instance that skipped validation does not reach a handler, and its values reach no text (L2, L1)."""
    calls = []
    logger, records = recorder()
    registry = Registry()
    registry.register(Careful, calls.append)
    bad = Careful.model_construct(code="canary")

    with pytest.raises(InvalidMessageError) as caught:
        run(bus_class(bad, registry=registry, logger=logger, log_level="info"))

    assert calls == []
    assert "code" in str(caught.value)
    assert "canary" not in repr(caught.value) + "".join(traceback.format_exception(caught.value)) + repr(records)


@every_bus
def test_bad_follow_up_is_refused_if_its_class_asks_for_it(bus_class):
    """What a handler returned is checked like what came from outside (L2)."""
    calls = []
    registry = Registry()
    registry.register(Start, lambda message: [Careful.model_construct(code="canary"), Careful(code=1)])
    registry.register(Careful, calls.append)
    bus = bus_class(Start(), registry=registry, **QUIET)

    with pytest.raises(InvalidMessageError) as caught:
        run(bus)

    assert calls == []
    assert [Careful(code=1)] == bus.pending
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@every_bus
def test_bad_return_message_is_refused_if_its_class_asks_for_it(bus_class):
    """Every message is checked, also the one that goes to whoever started the run (L2)."""
    registry = Registry()
    registry.register(Start, lambda message: CarefulReply.model_construct(code="canary"))
    bus = bus_class(Start(), registry=registry, **QUIET)

    with pytest.raises(InvalidMessageError) as caught:
        run(bus)

    assert bus.return_messages == []
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@every_bus
def test_good_instance_passes_the_check(bus_class):
    """A class that asks for the check loses nothing by it (L2)."""
    seen = []
    good = Careful(code=1)
    registry = Registry()
    registry.register(Careful, seen.append)

    run(bus_class(good, registry=registry, **QUIET))

    assert [good] == seen


# dispatch_message out of turn


def dispatch(bus, message):
    """Call ``dispatch_message`` of a bus of either kind."""
    outcome = bus.dispatch_message(message)
    if inspect.isawaitable(outcome):
        asyncio.run(outcome)


class Misdirected(MessageBus):
    def message_dispatcher(self, message):
        self.dispatch_message(Step(path="another"))


class AsyncMisdirected(AsyncMessageBus):
    async def message_dispatcher(self, message):
        await self.dispatch_message(Step(path="another"))


@pytest.mark.parametrize("bus_class", [Misdirected, AsyncMisdirected])
def test_dispatching_another_message_is_refused(bus_class):
    """A dispatcher dispatches the message in hand; the sentence names what to use elsewhere (L16)."""
    calls = []
    registry = Registry()
    registry.register(Start, calls.append)
    registry.register(Step, calls.append)

    with pytest.raises(DispatchError) as caught:
        run(bus_class(Start(), registry=registry, **QUIET))

    expected = (
        f"Cannot dispatch: this {full_name(Step)} is not the message in hand. "
        "Call dispatch_message in message_dispatcher, with its message; elsewhere use handle_message."
    )
    assert expected == str(caught.value)
    assert calls == []


@every_bus
def test_dispatching_before_the_run_is_refused(bus_class):
    """Outside a run there is no message in hand; no handler is called (L16)."""
    calls = []
    registry = Registry()
    registry.register(Start, lambda message: calls.append(message) or Reply())
    message = Start()
    bus = bus_class(message, registry=registry, **QUIET)

    with pytest.raises(DispatchError):
        dispatch(bus, message)

    assert ([], [message]) == (calls, bus.pending)


@every_bus
def test_dispatching_after_the_run_is_refused(bus_class):
    """What is done is done (L16)."""
    calls = []
    registry = Registry()
    registry.register(Start, calls.append)
    message = Start()
    bus = bus_class(message, registry=registry, **QUIET)
    run(bus)

    with pytest.raises(DispatchError):
        dispatch(bus, message)

    assert [message] == calls


@every_bus
def test_dispatching_after_a_failure_is_refused(bus_class):
    """A run that stopped goes on when the bus is called, not by the back door (L15, L16)."""
    calls = []
    registry = Registry()
    registry.register(Start, lambda message: calls.append(message) or 1 / 0)
    message = Start()
    bus = bus_class(message, registry=registry, **QUIET)
    with pytest.raises(ZeroDivisionError):
        run(bus)

    with pytest.raises(DispatchError):
        dispatch(bus, message)

    assert [message] == calls


class Repeating(MessageBus):
    def handle_exception(self, exc, message):
        self.dispatch_message(message)


class AsyncRepeating(AsyncMessageBus):
    async def handle_exception(self, exc, message):
        await self.dispatch_message(message)


@pytest.mark.parametrize("bus_class", [Repeating, AsyncRepeating])
def test_dispatching_a_failed_message_again_is_refused(bus_class):
    """Once it is decided about, a message has had its turn; a retry belongs into ``message_dispatcher`` (L15, L16)."""
    calls = []
    registry = Registry()
    registry.register(Start, lambda message: calls.append(message) or 1 / 0)

    with pytest.raises(DispatchError) as caught:
        run(bus_class(Start(), registry=registry, **QUIET))

    assert [Start()] == calls
    assert "message_dispatcher" in str(caught.value)
    assert isinstance(caught.value.__context__, ZeroDivisionError)


@every_bus
def test_dispatching_after_an_interruption_is_refused(bus_class):
    """The message is pending again; its turn comes when the bus is called (L16, L17)."""
    calls = []
    registry = Registry()

    @registry.handles(Start)
    def interrupt(message):
        calls.append(message)
        raise GeneratorExit

    message = Start()
    bus = bus_class(message, registry=registry, **QUIET)
    with pytest.raises(GeneratorExit):
        run(bus)

    with pytest.raises(DispatchError):
        dispatch(bus, message)

    assert ([message], [message]) == (calls, bus.pending)
