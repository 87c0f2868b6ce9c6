"""A registry whose handlers report what they sent and wrote, and how they ended: that is how a worker's bus sees it."""

from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from messagebus import logs, telemetry
from messagebus.delivery.entries import Sending
from messagebus.delivery.sending import prepare
from messagebus.delivery.store import WORK, Store, Transaction
from messagebus.envelope import Envelope
from messagebus.errors import DispatchError
from messagebus.messages import Message, to_json
from messagebus.registry import Handler, Plan, Registry, Snapshot

if TYPE_CHECKING:
    from messagebus.delivery.handling import Handling

__all__ = ["HandlerWork", "Reporting"]


class Reporting:
    """A registry as a bus of the worker sees it: each handler reports what it sent, and how it ended."""

    def __init__(self, registry: Registry, *, is_async: bool) -> None:
        self._registry, self.is_async = registry, is_async
        self._made: tuple[Snapshot, _Reporting] | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The handlers as they are now."""
        made, source = self._made, self._registry.snapshot
        if made is None or made[0] is not source:
            made = self._made = source, _Reporting(source, is_async=self.is_async)
        return made[1]


class _Reporting(Snapshot):
    def __init__(self, source: Snapshot, *, is_async: bool) -> None:
        super().__init__(source.handlers, source.names, source.upcasters, strict=source.strict)
        self._source, self._is_async = source, is_async

    def __missing__(self, cls: type) -> Plan:
        plan = self._source[cls]
        wrap = _reporting_later if self._is_async else _reporting
        handlers = tuple(wrap(handler) for handler in plan.handlers)
        made = self[cls] = replace(plan, handlers=handlers)
        return made


def _reporting(handler: Handler) -> Handler:
    function = handler.function

    def run(message: Message) -> None:
        work = HandlerWork(WORK.get(), handler)
        token = WORK.set(work)
        try:
            work.take(function(message))
        except BaseException as error:
            work.fail(error)
            raise
        finally:
            WORK.reset(token)
        work.finish()

    return replace(handler, function=run)


def _reporting_later(handler: Handler) -> Handler:
    async def run(message: Message) -> None:
        work = HandlerWork(WORK.get(), handler)
        token = WORK.set(work)
        try:
            work.take(await work.handling.call(handler, message))
        except BaseException as error:
            work.fail(error)
            raise
        finally:
            WORK.reset(token)
        work.finish()

    return replace(handler, function=run, is_async=True, is_coroutine=True, is_blocking=False)


class HandlerWork:
    """What one handler sends and writes while it runs: kept if it finishes."""

    __slots__ = ("_savepoint", "_started", "duration_ms", "handler", "handling", "results", "sends")

    def __init__(self, outer: Any, handler: Handler) -> None:
        self.handling: Handling = outer.handling
        self.handler = handler
        self.sends: list[Sending] = []
        self.results: list[bytes] = []
        self._savepoint: AbstractContextManager[None] | None = None
        self._started = perf_counter()

    @property
    def store(self) -> Store:
        return self.handling.rules.store

    def add(self, sending: Sending) -> None:
        self.sends.append(sending)

    def transaction(self) -> Transaction:
        transaction = self.handling.desk.transaction_for(self.handling.stored.seq)
        if self._savepoint is None:
            if self.handling.has_savepoint:
                why = "another handler of this message, which runs at the same time, is using it"
                remedy = "Let one handler of a concurrent bus write, or run them one after another."
                raise DispatchError("call current_transaction()", why, remedy)
            self._savepoint = transaction.savepoint()
            self._savepoint.__enter__()
            self.handling.has_savepoint = True
        return transaction

    async def turn(self) -> None:
        await self.handling.desk.turn()

    def take(self, result: Any) -> None:
        """Make of what a handler returned what will be stored; whatever is wrong with it is the handler's failure."""
        if result is None:
            return
        bus: Any = self.handling.bus
        plan = bus._snapshot.get(type(result))
        if plan is not None and plan.handlers:  # One message: there is nothing to take apart, nor to look at.
            self._keep(result)
            bus._count += 1
            return
        messages = bus._follow_ups(bus._in_hand, self.handler, result)
        for message in messages:
            plan = bus._snapshot[type(message)]
            if plan.is_return:
                self.results.append(to_json(message))
            elif self._is_wanted(plan, type(message)):
                self._keep(message)
            else:
                self._note_unhandled(bus, message)
        bus._count += len(messages)

    @telemetry.sends("send")
    def _keep(self, message: Message) -> str:
        """Have a message stored if the handler finishes; its id is not made before it is needed."""
        self.sends.append(prepare(message))
        return ""

    def _is_wanted(self, plan: Plan, cls: type) -> bool:
        """Say whether a message is to be stored: what nobody handles here, others may, if there is an engine."""
        snapshot: Snapshot = self.handling.bus._snapshot  # type: ignore[union-attr]
        is_known = plan.is_command or snapshot.strict or cls in snapshot.handlers
        return bool(plan.handlers) or is_known or self.handling.rules.carrier is not None

    def _note_unhandled(self, bus: Any, message: Message) -> None:
        """Record an event of a class that is not registered: nobody could read it again, and nobody has to (law L7)."""
        if bus._is_logged:
            sending = prepare(message)
            ids = dict(zip(logs.ID_NAMES, _ids(sending.envelope), strict=True))
            fields = {"handlers": [], "duration_ms": 0.0, "emitted": 0}
            bus._log(logs.EVENT_UNHANDLED, {"message_type": sending.envelope.type, **ids, **fields})

    def finish(self) -> None:
        self._leave(None)
        # Not this itself, which refers to the handling: what goes round in a circle waits for the garbage collector.
        self.handling.finished[self.handler.name] = self.duration_ms, self.sends, self.results

    def fail(self, error: BaseException) -> None:
        self._leave(error)
        if isinstance(error, SystemExit):
            self.handling.has_exited = True
        if isinstance(error, Exception):
            self.handling.failed[self.handler.name] = error, self.duration_ms

    def _leave(self, error: BaseException | None) -> None:
        self.duration_ms = (perf_counter() - self._started) * 1000
        if self._savepoint is None:
            return
        savepoint, self._savepoint = self._savepoint, None
        self.handling.has_savepoint = False
        if error is None:
            savepoint.__exit__(None, None, None)
        else:
            with suppress(type(error)):  # It passes on by itself.
                savepoint.__exit__(type(error), error, error.__traceback__)


def _ids(envelope: Envelope) -> tuple[str, str, str | None]:
    return envelope.id, envelope.correlation_id, envelope.causation_id
