"""The bus beside an interpreter of eighty lines, on random applications: each sees, says and leaves the same."""

import asyncio
import itertools
import json
import random
import re
from contextvars import ContextVar

import hypothesis
from hypothesis import HealthCheck, given, reject, settings
from structlog.contextvars import get_contextvars

from messagebus import AsyncMessageBus, Command, Event, MessageBus, Registry, ReturnMessage, current_envelope
from tests.proof.graphs import BASES, JUNK, Interruption, Named, Sent, called, graphs
from tests.proof.reference_bus import ReferenceRun

COUNTS, SHORT, LONG = "graphs", 330, 21_000
BUSES = ("sync", "async", "concurrent")
CALLS = 4  # So often a bus is called, to go on after a failure.
MAX_CALLS = 200  # Of handlers; a larger application is left out.


class C0(Command):
    n: int


class C1(Command):
    n: int


class E0(Event):
    n: int


class E1(E0):
    pass


class E2(E1):
    pass


class R0(ReturnMessage):
    n: int


CLASSES = {cls.__name__: cls for cls in (C0, C1, E0, E1, E2, R0)}
THROWN = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit, "CancelledError": asyncio.CancelledError}


class Boom(Exception):
    """What a handler raises."""


class Other(Exception):
    """What an override of `handle_exception` raises instead."""


def facts(error):
    """Return what is known of an error: class, text, notes, the parts of a group, the cause."""
    if error is None:
        return None
    return {
        **head_of(called(error), str(error), getattr(error, "__notes__", ())),
        "parts": [facts(part) for part in getattr(error, "exceptions", ())],
        "cause": facts(error.__cause__),
    }


def head_of(name, text, notes):
    own = name in {"Boom", "Other", "ExceptionGroup"}  # What the library's own errors say is tested elsewhere.
    return {"called": name, "text": clean(text) if own else "", "notes": [*map(clean, notes)]}


def clean(text):
    """Leave out of a text what is not the model's business: the module, and places in files."""
    return re.sub(rf" \([^()]*:\d+\)|{re.escape(__name__)}\.| \(\d+ sub-exceptions?\)", "", text)


def canonical(seen):
    """Number the ids in what was seen, in the order in which they are met."""
    numbers = {}
    text = json.dumps(seen, sort_keys=True)
    return json.loads(re.sub("[0-9a-f]{32}", lambda id: numbers.setdefault(id[0], f"#{len(numbers)}"), text))


# What should be


class TooLarge(BaseException):
    """The runs within the runs of a graph have become too many."""


class World:
    """Plays the handlers and overrides of a graph for the reference."""

    def __init__(self, graph):
        self.graph, self.registered = graph, [*graph.handlers]
        self.strict, self.max_messages, self.concurrent = graph.strict, graph.max_messages, graph.concurrent
        self.numbers, self.calls = itertools.count(1), 0

    def new_id(self):
        return f"{next(self.numbers):032x}"

    def bases(self, kind):
        return BASES.get(kind, ())

    def dispatch(self, dispatch):
        for attempt in range(1, self.graph.tries + 1):
            try:
                dispatch()
            except Exception:
                if attempt == self.graph.tries and not self.graph.swallows:
                    raise
            else:
                if not self.graph.goes_on_trying:
                    return

    def decide(self, run, message, failure, record):
        decision = self.graph.decisions[message.n % len(self.graph.decisions)]
        about = head_of(called(failure), str(failure), failure.__notes__ if hasattr(failure, "__notes__") else ())
        if decision == "raise":
            run.records.append({**record, "failure": about})
            raise failure
        if decision == "log":
            run.records.append({"event": "message.failed", "failure": about})
        elif decision == "other":
            raise Named("Other", "in its place") from failure
        elif decision == "interrupt":
            raise Interruption("Stop")

    def act(self, run, spec, letter):
        """Return what a handler yields, or what it raises."""
        step, message = spec.step(letter.attempt), letter.message
        if spec.kind == "sneaky" and not run.is_async:
            return Named("AsyncHandlerError")
        run.trace.append([spec.name, *message, letter.attempt, letter.ids])
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise TooLarge
        try:
            if step.registers:
                self.register(*step.registers)
            if step.inner(message):
                inner = ReferenceRun(self, step.inner(message), spec.kind in {"async", "sneaky"}, letter)
                self.run_within(run, inner, step)
        except TooLarge:
            raise
        except BaseException as error:
            return error
        limit = self.max_messages + 1 if run.is_async else max(self.max_messages + 1 - run.count, 1)
        found = step.emitted(message) * (limit + 1 if spec.is_endless_at(step) else 1)
        if step.raises_at is not None and (min(step.raises_at, len(found)) < limit or not spec.is_lazy_at(step)):
            return fault(self.graph, spec, step, message, letter.attempt)
        return found

    def run_within(self, run, inner, step):
        seen = []
        run.trace.append(seen)
        try:
            inner()
        except Exception:
            if not step.catches:
                raise
        finally:
            seen.append(observed_of(inner))

    def register(self, kind, spare):
        if kind.startswith("C") and kind in dict(self.registered):
            raise Named("DuplicateHandlerError")
        spec = self.graph.spares[spare]
        self.registered.append((kind, spec._replace(name=f"{spec.name}.{len(self.registered)}")))

    def cut(self, run, end):
        """Return no more of what a handler yielded than may be; an error if that is no message."""
        if isinstance(end, BaseException):
            return end
        end = end[: max(self.max_messages + 1 - run.count, 1)]
        return Named("HandlerError") if JUNK in end else end


def fault(graph, spec, step, message, attempt):
    """Return the error that a handler raises at an attempt."""
    if step.interrupts:
        return Interruption(graph.interruption)
    return Named("Boom", f"{spec.name} {message.kind} {message.n} {attempt}")


def observed_of(run, end=None):
    pending = [letter.message for letter in run.queue]
    return {"end": facts(end), "pending": pending, "trace": run.trace, "records": run.records, "back": run.back}


def expected(graph, *, is_async):
    run, seen = ReferenceRun(World(graph), graph.initial, is_async), []
    for _ in range(CALLS):
        end = None
        try:
            run()
        except TooLarge:
            reject()
        except BaseException as error:
            end = error
        seen.append(json.loads(json.dumps(observed_of(run, end))))
    return canonical(seen)


# What is


TRACE = ContextVar("trace")


class Recorder:
    """A logger that keeps records as data."""

    def __init__(self):
        self.records = []

    def debug(self, event, *, logger, **fields):
        fields.pop("duration_ms", None)
        if "failure" in fields:
            first = fields["failure"][0]
            fields["failure"] = head_of(first["exc_type"], first["exc_value"], first["exc_notes"])
        if "error" in fields:
            fields["error"] = fields["error"].rpartition(".")[2]
        for name in {"handlers", "handler"} & fields.keys():
            fields[name] = json.loads(clean(json.dumps(fields[name])))
        self.records.append({"event": event, **fields})

    info = error = debug


class Observed:
    """Overrides of the bus as a graph wants them, and what there is to see of a run."""

    def __init__(self, application, message):
        self.application, self.graph, self.trace, self.recorder = application, application.graph, [], Recorder()
        levels = {"log_level": "debug", "error_log_level": "error"}
        super().__init__(message, registry=application.registry, logger=self.recorder, **levels)
        self.max_messages = self.graph.max_messages

    def seen(self, end=None):
        pending, back = ([sent(message) for message in some] for some in (self.pending, self.return_messages))
        return {
            "end": facts(end), "pending": pending, "trace": self.trace, "records": self.recorder.records, "back": back,
        }  # fmt: skip

    def decide(self, exc, message):
        """Return whether the default is to decide."""
        decision = self.graph.decisions[message.n % len(self.graph.decisions)]
        if decision == "log":
            self.log_error("message.failed", exc)
        elif decision == "other":
            raise Other("in its place") from exc
        elif decision == "interrupt":
            raise Interruption("Stop")
        return decision == "raise"


class SyncBus(Observed, MessageBus):
    def message_dispatcher(self, message):
        for attempt in range(1, self.graph.tries + 1):
            try:
                self.dispatch_message(message)
            except Exception:
                if attempt == self.graph.tries and not self.graph.swallows:
                    raise
            else:
                if not self.graph.goes_on_trying:
                    return

    def handle_exception(self, exc, message):
        if self.decide(exc, message):
            super().handle_exception(exc, message)


class AsyncBus(Observed, AsyncMessageBus):
    async def message_dispatcher(self, message):
        for attempt in range(1, self.graph.tries + 1):
            try:
                await self.dispatch_message(message)
            except Exception:
                if attempt == self.graph.tries and not self.graph.swallows:
                    raise
            else:
                if not self.graph.goes_on_trying:
                    return

    async def handle_exception(self, exc, message):
        if self.decide(exc, message):
            await super().handle_exception(exc, message)


class ConcurrentBus(AsyncBus):
    concurrent = True


def sent(message):
    return Sent(type(message).__name__, message.n)


class Application:
    """A graph as a registry of real handlers."""

    def __init__(self, graph):
        self.graph, self.registry, self.registered = graph, Registry(strict=graph.strict), len(graph.handlers)
        self.async_bus = ConcurrentBus if graph.concurrent else AsyncBus
        for kind, spec in graph.handlers:
            self.add(kind, spec)

    def add(self, kind, spec):
        options = {"subclasses": spec.takes_subclasses and kind.startswith("E"), "blocking": spec.kind == "blocking"}
        handler = getattr(self, "lazily_async" if spec.kind == "async" and spec.is_lazy else spec.kind)(spec)
        handler.__module__, handler.__qualname__ = __name__, spec.name
        self.registry.register(CLASSES[kind], handler, **options)

    def begin(self, spec, message):
        """Note that a handler was called, with the ids that its own records would have."""
        envelope = current_envelope()
        ids = {name: id for name, id in get_contextvars().items() if name.endswith("_id")}
        assert ids["message_id"] == envelope.id
        assert message is envelope.message
        trace, step = TRACE.get(), spec.step(envelope.attempt)
        trace.append([spec.name, *sent(message), envelope.attempt, ids])
        if step.registers:
            kind, spare = step.registers
            named = self.graph.spares[spare]._replace(name=f"{self.graph.spares[spare].name}.{self.registered}")
            self.add(kind, named)
            self.registered += 1
        inner, seen = step.inner(sent(message)), []
        if inner:
            trace.append(seen)
        return step, inner and CLASSES[inner.kind](n=inner.n), seen

    def items(self, spec, step, message):
        """Yield what a handler yields at this attempt, and raise what it raises."""
        others = {JUNK: JUNK, sent(message): message}
        found = [others.get(one) or CLASSES[one.kind](n=one.n) for one in step.emitted(sent(message))]
        error = fault(self.graph, spec, step, sent(message), current_envelope().attempt)
        error = Boom(str(error)) if isinstance(error, Named) else THROWN.get(error.called, lambda: error)()
        for index, one in enumerate(itertools.cycle(found) if spec.is_endless_at(step) else found):
            if index == step.raises_at:
                raise error
            yield one
        if step.raises_at is not None:
            raise error

    def body(self, spec, message):
        step, inner, seen = self.begin(spec, message)
        if inner:
            bus = SyncBus(self, inner)
            token = TRACE.set(bus.trace)
            try:
                bus()
            except Exception:
                if not step.catches:
                    raise
            finally:
                seen.append(bus.seen())
                TRACE.reset(token)
        yield from self.items(spec, step, message)

    async def async_body(self, spec, message):
        step, inner, seen = self.begin(spec, message)
        for _ in range(step.waits):
            await asyncio.sleep(0)
        if inner:
            bus = self.async_bus(self, inner)
            token = TRACE.set(bus.trace)
            try:
                await bus()
            except Exception:
                if not step.catches:
                    raise
            finally:
                seen.append(bus.seen())
                TRACE.reset(token)
        for one in self.items(spec, step, message):
            yield one

    # The kinds of handlers

    def plain(self, spec):
        def handle(message):
            step, body = spec.step(current_envelope().attempt), self.body(spec, message)
            if spec.is_lazy_at(step):
                return body if step.form == "generator" else itertools.chain(body)
            found = [*body]
            return found[0] if found and step.form == "one" else tuple(found) if step.form == "tuple" else found or None

        return handle

    blocking = plain

    def lazily_async(self, spec):
        async def handle(message):
            async for one in self.async_body(spec, message):
                yield one

        return handle

    def run_async(self, spec):
        async def handle(message):
            found = [one async for one in self.async_body(spec, message)]
            step = spec.step(current_envelope().attempt)
            return found[0] if found and step.form == "one" else tuple(found) if step.form == "tuple" else found or None

        return handle

    def sneaky(self, spec):
        handle = self.run_async(spec)
        return lambda message: handle(message)


setattr(Application, "async", Application.run_async)


async def act_out(graph, bus_class):
    """Run a graph, and return what was seen after each call of the bus."""
    initial = CLASSES[graph.initial.kind](n=graph.initial.n)
    bus, seen = bus_class(Application(graph), initial), []
    token = TRACE.set(bus.trace)
    for _ in range(CALLS):
        end = None
        try:
            results = bus()
            results = await results if asyncio.iscoroutine(results) else results
            assert results is bus.return_messages
        except BaseException as error:
            end = error
        seen.append(json.loads(json.dumps(bus.seen(end))))
    TRACE.reset(token)
    assert {} == get_contextvars(), "what a run binds to the context is taken back"
    return canonical(seen)


def compare(graph, runner, bus):
    bus_class = {"sync": SyncBus, "async": AsyncBus, "concurrent": ConcurrentBus}[bus]
    should, does = expected(graph, is_async=bus != "sync"), runner.run(act_out(graph, bus_class))
    for call, (one, other) in enumerate(zip(should, does, strict=True), 1):
        for name in one:
            assert one[name] == other[name], f"call {call} of the {bus} bus, {name}:\n{one[name]}\nbut\n{other[name]}"
    return len(should[-1]["records"])


def check(bus, examples, seed, runner, seen):
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    options = {"deadline": None, "database": None, "suppress_health_check": quiet}

    @hypothesis.seed(seed)
    @settings(max_examples=examples, **options)
    @given(graphs(bus))
    def holds(graph):
        seen.append(compare(graph, runner, bus))

    holds()


def prove(size, report):
    seed, seen = random.randrange(2**32) if size > SHORT else 0, []
    with asyncio.Runner() as runner:
        for bus in BUSES:
            report(f"{bus}: {size // len(BUSES):,} graphs from seed {seed}")
            check(bus, size // len(BUSES), seed, runner, seen)
    return f"{len(seen):,} graphs, {sum(seen):,} records: order, results, errors, pending and records are the same"
