"""One run: the order rule, which does no I/O and calls no handler; and what a run records."""

import inspect
from collections import Counter, deque
from collections.abc import AsyncIterable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from time import perf_counter
from typing import Any, cast

from pydantic import BaseModel

from messagebus import logs
from messagebus.envelope import CURRENT, Envelope, traced
from messagebus.errors import (
    AsyncHandlerError,
    CascadeLimitError,
    DispatchError,
    HandlerError,
    NotAMessageError,
    full_name,
)
from messagebus.messages import Command, Event, Message, ReturnMessage
from messagebus.registry import DEFAULT_REGISTRY, Handler, Plan, Registry, Snapshot
from messagebus.tracebacks import describe, mark

__all__ = ["IN_TURN", "Delivery", "Initial", "Run"]

Initial = Command | Event | ReturnMessage

# For so many messages before the limit their types are noted, to name those that repeat.
_WATCHED = 1_000
_NO_HEADERS: Mapping[str, str] = {}

# The stages of a delivery. One whose dispatch was broken off is dispatched again when the run goes on.
_WAITING, IN_TURN, _SETTLED, _BROKEN_OFF = range(4)


class Delivery(Envelope):
    """One message in a run, and how far it has come."""

    __slots__ = ("failure", "left", "plan", "stage")

    def __init__(self, message: Message, plan: Plan, parent: Envelope | None) -> None:
        # Nothing goes through super(): there is one of these for every message.
        self.message = message
        self.plan = plan
        self.left: Sequence[Handler] = plan.handlers  # Those that have not succeeded yet.
        self.failure: Exception | None = None
        self.identity = self._time = None
        self.attempt = self.stage = 0
        if parent is None:
            self.cause = self.correlation = None
            self.headers = _NO_HEADERS
        else:
            self.cause = parent.identify()
            self.correlation = parent.correlation or self.cause
            self.headers = traced(parent.headers) if parent.headers else _NO_HEADERS

    def adopt(self, envelope: Envelope) -> None:
        """Take over what is known of the message from outside."""
        self.identity, self.cause, self.correlation = envelope.identity, envelope.cause, envelope.correlation
        self.headers, self.attempt, self._time = envelope.headers, envelope.attempt - 1, envelope._time

    def join(self, outer: Envelope) -> None:
        """Make this the follow-up of a message in whose handler its run was started, unless it has a past already."""
        if self.correlation is None and self.attempt == 0:
            self.cause = outer.identify()
            self.correlation = outer.correlation or self.cause

    def ids(self) -> tuple[str, str, str | None]:
        """Return the ids of the message, of its correlation and of its cause."""
        own, correlation, cause = self.identify().id, self.correlation, self.cause
        return own, own if correlation is None else correlation.id, None if cause is None else cause.id


# Stands for the queue of a run until there is something to put into one.
_NOTHING = cast("deque[Delivery]", ())


class Run:
    """The messages of one run, what came back, and what of it is recorded.

    The rule is first in, first out, without recursion. What a handler returned waits until all that was returned
    before it has been dispatched. Return messages do not wait: they come back in the order in which they were returned.
    """

    registry: Registry = DEFAULT_REGISTRY
    """The registry of this class of buses; one instance may be given another."""
    max_messages: int = 100_000
    """So many messages one call of the bus may lead to, return messages included."""
    return_messages: list[ReturnMessage]
    """What came back so far."""

    _origin: str | None = None
    """What the first message was received from: "messagebus" is a store, other names are of engines."""
    _activity: logs.Write | None = None
    _errors: logs.Write | None = None
    _scope: logs.Scope
    _in_hand: Delivery | None
    _count = 0
    _recent: Counter[type] | None = None

    def __init__(
        self,
        initial_message: Initial,
        *,
        log_level: logs.LogLevel = "info",
        error_log_level: logs.ErrorLogLevel = "error",
        registry: Registry | None = None,
        logger: Any = None,
        envelope: Envelope | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            initial_message: dispatched first when the bus is called; a return message comes back as it is.
            log_level: the level of one record per message; "debug" adds one per handler, and the message itself.
            error_log_level: the level of records of failures.
            registry: instead of the class's.
            logger: a structlog or standard logger to write to, instead of the one found (law L18).
            envelope: ids and headers with which the message came from outside.

        Raises:
            NotAMessageError: If ``initial_message`` is no message.
            ConfigurationError: If a level is none of those named.
        """
        self._prepare(initial_message, log_level, error_log_level, registry, logger, envelope)

    def _prepare(
        self,
        message: Message,
        log_level: logs.LogLevel,
        error_log_level: logs.ErrorLogLevel,
        registry: Registry | None,
        logger: Any,
        envelope: Envelope | None = None,
    ) -> None:
        if registry is not None:
            self.registry = registry
        self._snapshot: Snapshot = self.registry.snapshot
        try:
            plan = self._snapshot[type(message)]
        except NotAMessageError:
            thing = message if isinstance(message, type) else type(message)
            raise NotAMessageError(full_name(thing), is_class=thing is message) from None
        self._in_hand = delivery = Delivery(message, plan, None)
        self._waiting: deque[Delivery] = _NOTHING
        self.return_messages = []
        self._is_logged = self._is_verbose = False
        if log_level != "disabled" or error_log_level != "disabled":
            self._activity, self._errors = logs.writers(log_level, error_log_level, logger)
            self._is_logged, self._is_verbose = True, log_level == "debug"
        if plan.is_return:
            cast("list[Message]", self.return_messages).append(message)
            self._in_hand = None
        if envelope is not None:
            delivery.adopt(envelope)

    @property
    def pending(self) -> list[Message]:
        """The messages that are still to be dispatched, the next first."""
        in_hand = [self._in_hand] if self._in_hand is not None and self._in_hand.stage != _SETTLED else []
        return [delivery.message for delivery in (*in_hand, *self._waiting)]

    # The order rule

    def _turns(self) -> Generator[Delivery, None, None]:  # noqa: C901 - one rule, in one piece
        """Yield each delivery when its turn has come; and again, settled, if there is something to say of its end.

        The driver dispatches a delivery that is not settled, and keeps what that raised in ``failure``; it closes the
        generator when it is done. A delivery whose dispatch was broken off stays in hand, and comes first when the run
        goes on.
        """
        delivery, outer = self._in_hand, CURRENT.get()
        if delivery is None or delivery.stage or outer is not None:
            delivery = self._begin(outer)
        self._count = 0
        is_logged = self._is_logged
        if is_logged:
            self._scope = logs.Scope()
        token = CURRENT.set(delivery)
        try:
            while delivery is not None:
                if is_logged:
                    self._open(delivery)
                delivery.stage = IN_TURN
                yield delivery
                delivery.stage = _SETTLED
                overflow = self._overflow(delivery) if self._count > 1 else None
                if is_logged or delivery.failure is not None:
                    yield delivery
                if overflow is not None:
                    raise overflow
                if not self._waiting:
                    delivery = self._in_hand = None
                else:
                    delivery = self._in_hand = self._waiting.popleft()
                    CURRENT.set(delivery)
        finally:
            if delivery is not None and delivery.stage == IN_TURN:
                delivery.stage = _BROKEN_OFF
            try:
                CURRENT.reset(token)
                if is_logged:
                    self._scope.close()
            except ValueError:
                pass  # A coroutine that is closed in another context has nothing to give back there.

    def _begin(self, outer: Envelope | None) -> Delivery | None:
        """Return what a run begins with that is no run of its own, or goes on with that was broken off or has failed.

        The message in whose handler a run was started is the cause of its first message.
        """
        delivery = self._in_hand
        if delivery is not None and delivery.stage == IN_TURN:
            why = "this run is under way already"
            raise DispatchError("call the bus", why, "Start a run of its own with handle_message(message).")
        if delivery is None or delivery.stage == _SETTLED:
            delivery = self._in_hand = self._waiting.popleft() if self._waiting else None
        elif delivery.stage == _WAITING and outer is not None:
            delivery.join(outer)
        self._recent = None
        return delivery

    def _overflow(self, delivery: Delivery) -> CascadeLimitError | None:
        """Count types near the limit; beyond it make the error, which is also this message's failure."""
        if self._count <= self.max_messages - _WATCHED:
            return None
        if self._recent is None:
            self._recent = Counter()
        self._recent[type(delivery.message)] += 1
        if self._count <= self.max_messages:
            return None
        names = tuple(f"{full_name(cls)} ({times:,} times)" for cls, times in self._recent.most_common(5))
        error = CascadeLimitError(self.max_messages, names)
        delivery.failure = delivery.failure or error
        return error

    def _check(self, message: Message, *, takes_async: bool) -> Delivery:
        """Return the delivery in hand, if it is of this message and the message can be dispatched."""
        delivery = self._in_hand
        if delivery is None or delivery.message is not message or delivery.stage != IN_TURN:
            why = f"this {full_name(type(message))} is not the message in hand"
            remedy = "Call dispatch_message in message_dispatcher, with its message; elsewhere use handle_message."
            raise DispatchError("dispatch", why, remedy)
        delivery.plan.check(message)
        if delivery.plan.async_handler is not None and not takes_async:
            raise AsyncHandlerError(full_name(type(message)), str(delivery.plan.async_handler))
        return delivery

    def _release(self, delivery: Delivery, handler: Handler, result: Any) -> None:
        """Give the messages that a handler returned their place in the order."""
        plan = self._snapshot.get(type(result))
        if plan is None:
            for message in self._follow_ups(delivery, handler, result):
                self._release(delivery, handler, message)
            return
        if not plan.is_return:
            if self._waiting is _NOTHING:
                self._waiting = deque()
            self._waiting.append(Delivery(result, plan, delivery))
        else:
            if not plan.is_plain:
                plan.check(result)
            self.return_messages.append(result)
        self._count += 1

    def _follow_ups(self, delivery: Delivery, handler: Handler, result: object) -> Sequence[Message]:
        """Return the messages in what a handler returned; of an endless iterable, one more than there may be.

        Raises:
            HandlerError: If there is anything but messages.
            AsyncHandlerError: If it would have to be awaited.
        """
        if inspect.isawaitable(result) or isinstance(result, AsyncIterable):
            if inspect.iscoroutine(result):
                result.close()
            raise AsyncHandlerError(full_name(type(delivery.message)), str(handler))
        wrong: list[object] = [result]
        messages: list[Message] = []
        if isinstance(result, Message):
            messages, wrong = [result], []
        elif isinstance(result, Iterable) and not isinstance(result, str | bytes | Mapping | BaseModel):
            messages = list(islice(result, max(self.max_messages + 1 - self._count, 1)))
            wrong = [item for item in messages if type(item) not in self._snapshot and not isinstance(item, Message)]
        if wrong:
            kind = wrong[0] if isinstance(wrong[0], type) else type(wrong[0])
            what = f"the class {full_name(kind)} itself" if kind is wrong[0] else f"an object of type {full_name(kind)}"
            remedy = "Return None, a message or an iterable of messages; data for the caller goes into a ReturnMessage."
            raise HandlerError(f"take what {handler} returned", f"it is {what}", remedy)
        for message in messages:
            plan = self._snapshot[type(message)]
            if plan.is_return and not plan.is_plain:
                plan.check(message)
        return messages

    # What surrounds a run and a message

    def _put_back(self, delivery: Delivery) -> None:
        """Take back that a message is settled: nothing was decided of its failure."""
        delivery.stage, delivery.failure = _BROKEN_OFF, None

    def _open(self, delivery: Delivery) -> None:
        """Give the records that handlers write the ids of the message, and start its clock."""
        self._ids = delivery.ids()
        self._scope.open(*self._ids)
        self._emitted_before = self._count
        self._started = perf_counter()

    def _failure(self, delivery: Delivery, handler: Handler, error: Exception) -> Exception:
        """Note on a handler's own exception where it was raised, and return it."""
        note = f"while handling {full_name(type(delivery.message))} {delivery.id} in {handler}"
        if delivery.cause is not None:
            cls = delivery.cause.message_class  # Not known of a message that came from outside.
            note += f", caused by {'' if cls is Message else full_name(cls) + ' '}{delivery.cause.id}"
        mark(error, delivery.message)
        with suppress(Exception):  # An exception may refuse attributes.
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        if self._is_verbose:
            self._log_handler(delivery, handler, logs.HANDLER_FAILED, error=full_name(type(error)))
        return error

    # Records

    def log_activity(self, *args: Any) -> None:
        """Write a record of what the bus did. The bus passes the name of the event and a mapping of its fields."""
        if self._activity is not None:
            *texts, fields = args if isinstance(args[-1], dict) else (*args, {})
            try:
                self._activity(*texts, logger=logs.NAME, **fields)
            except Exception as error:  # noqa: BLE001 - whatever a processor or a sink raises
                logs.report_broken(error)

    def log_error(self, msg: str, exc: Exception | None = None, **kwargs: Any) -> None:
        """Write a record of a failure, with ``exc`` as data: no locals, nothing that is private in the message."""
        if self._errors is not None:
            try:
                if exc is not None:
                    kwargs["failure"] = describe(exc, self._in_hand.message if self._in_hand else None)
                self._errors(msg, logger=logs.NAME, **kwargs)
            except Exception as error:  # noqa: BLE001 - whatever a processor or a sink raises
                logs.report_broken(error)

    def _log(self, event: str, fields: dict[str, Any]) -> None:
        try:
            self.log_activity(event, fields)
        except Exception as error:  # noqa: BLE001 - whatever an override raises
            logs.report_broken(error)

    def _log_handler(self, delivery: Delivery, handler: Handler, event: str, **end: Any) -> None:
        ids = dict(zip(logs.ID_NAMES, delivery.ids(), strict=True))
        self._log(event, {**ids, "handler": handler.name, "attempt": delivery.attempt, **end})

    def _log_message(self, delivery: Delivery) -> None:
        """Write the one record of a message that did not fail."""
        plan, left = delivery.plan, delivery.left
        event = logs.COMMAND_HANDLED if plan.is_command else logs.EVENT_HANDLED
        if left or (plan.is_command and not plan.handlers):
            event = logs.MESSAGE_SKIPPED
        elif not plan.handlers:
            event = logs.EVENT_UNHANDLED
        fields = self._fields(delivery, [handler.name for handler in plan.handlers if handler not in left])
        if self._is_verbose:
            fields["data"] = logs.shown(delivery.message)
        self._scope.hide()  # They stand in the record already; a chain that merges the context does it twice.
        self._log(event, fields)

    def _log_failure(self, exc: Exception) -> None:
        delivery = self._in_hand
        fields = {} if delivery is None else self._fields(delivery, [handler.name for handler in delivery.left])
        try:
            self.log_error(logs.MESSAGE_FAILED, exc, **fields)
        except Exception as error:  # noqa: BLE001 - whatever an override raises
            logs.report_broken(error)

    def _fields(self, delivery: Delivery, handlers: list[str]) -> dict[str, Any]:
        message_id, correlation_id, causation_id = self._ids if self._is_logged else delivery.ids()
        return {
            "message_type": delivery.plan.name,
            "message_id": message_id,
            "correlation_id": correlation_id,
            "causation_id": causation_id,
            "handlers": handlers,
            "duration_ms": round((perf_counter() - self._started) * 1000, 3) if self._is_logged else None,
            "emitted": self._count - self._emitted_before if self._is_logged else None,
        }
