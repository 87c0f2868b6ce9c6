"""The bus: one run of a message and all it leads to, by a sync and an async driver of the same order rule."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from contextlib import suppress
from inspect import isawaitable
from itertools import islice, zip_longest
from time import perf_counter
from typing import Any, Literal, TypedDict, Unpack, final

from structlog.contextvars import bind_contextvars, reset_contextvars

from messagebus import logs
from messagebus.dispatch import Delivery, Run
from messagebus.envelope import CURRENT, Envelope
from messagebus.errors import AsyncHandlerError
from messagebus.messages import Command, Event, Message, ReturnMessage, full_name, private_values, to_json
from messagebus.registry import DEFAULT_REGISTRY, MAX_BYTES, Handler, Registry

__all__ = ["AsyncMessageBus", "MessageBus", "ahandle_json", "ahandle_message", "handle_json", "handle_message"]

Initial = Command | Event | ReturnMessage
LogLevel = Literal["debug", "info", "disabled"]
ErrorLogLevel = Literal["info", "warning", "error", "disabled"]


class _Bus(Run):
    """What the two drivers share: how a bus is set up, and what it records."""

    registry: Registry = DEFAULT_REGISTRY
    """The registry of this class of buses; one instance may be given another."""

    _activity: logs.Write | None = None
    _errors: logs.Write | None = None
    _is_verbose = False
    _tokens: Mapping[str, Any] | None = None

    def __init__(
        self,
        initial_message: Initial,
        *,
        log_level: LogLevel = "info",
        error_log_level: ErrorLogLevel = "error",
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
        if registry is not None:
            self.registry = registry
        self._snapshot = snapshot = self.registry.snapshot
        self._in_hand = delivery = Delivery(initial_message, snapshot[type(initial_message)])
        self._waiting = deque()
        self.return_messages = []
        if delivery.plan.is_return:
            self.return_messages.append(initial_message)
            self._in_hand = None
        if envelope is not None:
            delivery.adopt(envelope)
        if log_level != "disabled":
            self._activity = logs.writer("log_level", log_level, logger)
            self._is_verbose = log_level == "debug"
            self._is_logged = True
        if error_log_level != "disabled":
            self._errors = logs.writer("error_log_level", error_log_level, logger)
            self._is_logged = True

    # What the two drivers share

    def _enter(self, outer: Envelope) -> None:
        """Make the message in whose handler this run was started the cause of a run that has no other."""
        delivery = self._in_hand
        if delivery is not None and delivery.correlation is None and delivery.attempt == 0:
            delivery.cause = outer.identify()
            delivery.correlation = outer.correlation or delivery.cause

    def _leave(self) -> None:
        if self._tokens is not None:
            with suppress(ValueError):  # A coroutine that is closed in another context has nothing to take back there.
                reset_contextvars(**self._tokens)
            self._tokens = None

    def _open(self, delivery: Delivery) -> None:
        """Give the records that handlers write the ids of the message, and start its clock."""
        tokens = bind_contextvars(**_ids(delivery))
        self._tokens = self._tokens or tokens
        delivery.started = perf_counter()

    def _failed(self, delivery: Delivery, handler: Handler, error: Exception) -> Exception:
        """Note on a handler's own exception where it was raised, and return it."""
        note = f"while handling {full_name(type(delivery.message))} {delivery.id} in {handler}"
        if delivery.cause is not None:
            note += f", caused by {full_name(delivery.cause.message_class)} {delivery.cause.id}"
        with suppress(Exception):  # An exception may refuse attributes.
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        if self._is_verbose:
            self._log_handler(delivery, handler, logs.HANDLER_FAILED, error=full_name(type(error)))
        return error

    def _log_handler(self, delivery: Delivery, handler: Handler, event: str, **end: Any) -> None:
        fields = {**_ids(delivery), "handler": handler.name, "attempt": delivery.attempt, **end}
        logs.guarded(self.log_activity, event, fields)

    def _log_message(self, delivery: Delivery) -> None:
        """Write the one record of a message that did not fail."""
        event = logs.COMMAND_HANDLED if isinstance(delivery.message, Command) else logs.EVENT_HANDLED
        if delivery.left():
            event = logs.MESSAGE_SKIPPED
        elif not delivery.plan.handlers:
            event = logs.EVENT_UNHANDLED
        fields = _fields(delivery, delivery.done or ())
        if self._is_verbose:
            fields["message"] = logs.shown(delivery.message)
        logs.guarded(self.log_activity, event, fields)

    def _log_failure(self, exc: Exception) -> None:
        fields = _fields(self._in_hand, self._in_hand.left()) if self._in_hand else {}
        logs.guarded(self.log_error, logs.MESSAGE_FAILED, exc, **fields)

    # Overridable

    def log_activity(self, *args: Any) -> None:
        """Write a record of what the bus did. The bus passes the name of the event and a mapping of its fields."""
        if self._activity is not None:
            *texts, fields = args if isinstance(args[-1], Mapping) else (*args, {})
            logs.guarded(self._activity, *texts, **fields)

    def log_error(self, msg: str, exc: Exception | None = None, **kwargs: Any) -> None:
        """Write a record of a failure, with ``exc`` as data: no locals, nothing that is private in the message."""
        if self._errors is not None:
            if exc is not None:
                private = private_values(self._in_hand.message) if self._in_hand else []
                kwargs["exception"] = logs.describe(exc, private)
            logs.guarded(self._errors, msg, **kwargs)


def _ids(delivery: Delivery) -> dict[str, str | None]:
    return {
        "message_id": delivery.id,
        "correlation_id": delivery.correlation_id,
        "causation_id": delivery.causation_id,
    }


def _fields(delivery: Delivery, handlers: Sequence[Handler]) -> dict[str, Any]:
    return {
        "message_type": delivery.type,
        **_ids(delivery),
        "handlers": [handler.name for handler in handlers],
        "duration_ms": round((perf_counter() - delivery.started) * 1000, 3),
        "emitted": delivery.emitted,
    }


def _one(failures: list[Exception], message: Message) -> Exception:
    """Return the one failure as it is, or all of them as a group."""
    if len(failures) == 1:
        return failures[0]
    return ExceptionGroup(f"{len(failures)} handlers of {full_name(type(message))} failed", failures)


class MessageBus(_Bus):
    """One run on the calling thread: ``MessageBus(message)()``.

    A subclass is the configuration (``registry``, ``max_messages``, overridden methods); an instance is one run, which
    sees the registry as it was when the instance was made. Runs are independent: any number, in any threads.

    Source: *Architecture Patterns with Python*, ch. 8 and 9.
    """

    def __call__(self) -> list[ReturnMessage]:
        """Dispatch the message and everything it leads to; after a failure, go on with what is ``pending``.

        Returns:
            The ``return_messages``: all of them, equal ones too, in the order in which they were returned.

        Raises:
            Exception: What a handler raised, as it is; an ExceptionGroup if several handlers of an event failed.
            CascadeLimitError: If this call led to more than ``max_messages`` messages.
        """
        outer = CURRENT.get()
        if outer is not None:
            self._enter(outer)
        try:
            for delivery in self._turns():
                if delivery.is_settled:
                    if delivery.failure is None:
                        self._log_message(delivery)
                    else:
                        self.handle_exception(delivery.failure, delivery.message)
                    continue
                if self._is_logged:
                    self._open(delivery)
                try:
                    self.message_dispatcher(delivery.message)
                except Exception as exc:  # noqa: BLE001 - handle_exception decides, in a moment
                    delivery.failure = exc
        finally:
            CURRENT.set(outer)
            if self._tokens is not None:
                self._leave()
        return self.return_messages

    def message_dispatcher(self, message: Message) -> None:
        """Dispatch one message; override it to retry around ``self.dispatch_message(message)``."""
        self.dispatch_message(message)

    @final
    def dispatch_message(self, message: Message) -> None:
        """Call the handlers of the message in hand; called again, those of them that have not succeeded.

        Raises:
            Exception: What a handler raised, when all have run; an ExceptionGroup if several failed.
        """
        delivery = self._take(message)
        if delivery.plan.has_async:
            handler = next(handler for handler in delivery.plan.handlers if handler.is_async)
            raise AsyncHandlerError(full_name(type(message)), str(handler))
        failures, done = [], list(delivery.done)
        try:
            for handler in delivery.left():
                try:
                    result = handler.function(message)
                    if result is not None:
                        self._release(delivery, handler, result)
                except Exception as exc:  # noqa: BLE001 - its siblings run all the same, and then it is raised
                    failures.append(self._failed(delivery, handler, exc))
                else:
                    done.append(handler)
        finally:
            delivery.done = done
        if failures:
            raise _one(failures, message)

    def handle_exception(self, exc: Exception, message: Message) -> None:  # noqa: ARG002 - overrides need it
        """Decide about a message that failed. The default logs and raises; if an override returns, the run goes on."""
        self._log_failure(exc)
        raise exc


class AsyncMessageBus(_Bus):
    """One run on the event loop: ``await AsyncMessageBus(message)()``; in all else as `MessageBus`.

    Takes ``async def`` handlers and plain ones. The handlers of an event run one after another; with
    ``concurrent = True`` in a subclass at the same time, their follow-ups still in the order of registration.
    """

    concurrent = False

    async def __call__(self) -> list[ReturnMessage]:
        """Dispatch the message and everything it leads to; see `MessageBus.__call__`."""
        outer = CURRENT.get()
        if outer is not None:
            self._enter(outer)
        try:
            for delivery in self._turns():
                if delivery.is_settled:
                    if delivery.failure is None:
                        self._log_message(delivery)
                    else:
                        await self.handle_exception(delivery.failure, delivery.message)
                    continue
                if self._is_logged:
                    self._open(delivery)
                try:
                    await self.message_dispatcher(delivery.message)
                except Exception as exc:  # noqa: BLE001 - handle_exception decides, in a moment
                    delivery.failure = exc
        finally:
            CURRENT.set(outer)
            if self._tokens is not None:
                self._leave()
        return self.return_messages

    async def message_dispatcher(self, message: Message) -> None:
        """Dispatch one message; override it to retry around ``await self.dispatch_message(message)``."""
        await self.dispatch_message(message)

    @final
    async def dispatch_message(self, message: Message) -> None:
        """Call the handlers of the message in hand; called again, those of them that have not succeeded.

        Raises:
            Exception: What a handler raised, when all have run; an ExceptionGroup if several failed.
        """
        delivery = self._take(message)
        handlers = delivery.left()
        tasks = await self._together(delivery, handlers) if self.concurrent and len(handlers) > 1 else []
        failures = []
        for handler, task in zip_longest(handlers, tasks):
            try:
                self._accept(delivery, handler, await (task or self._call(handler, message)))
            except Exception as exc:  # noqa: BLE001 - its siblings run all the same, and then it is raised
                failures.append(self._failed(delivery, handler, exc))
            else:
                if self._is_verbose:
                    self._log_handler(delivery, handler, logs.HANDLER_FINISHED)
        if failures:
            raise _one(failures, message)

    async def _call(self, handler: Handler, message: Message) -> object:
        """Call a handler of any kind; return what it returned, with nothing left to wait for."""
        if handler.is_blocking:
            return await asyncio.to_thread(_call_blocking, handler, message, self.max_messages + 1)
        result = handler.function(message)
        if result is None or type(result) in self._snapshot:
            return result
        if isinstance(result, AsyncIterable):
            return await _collect(result, self.max_messages + 1)
        return await result if isawaitable(result) else result

    async def _together(self, delivery: Delivery, handlers: Sequence[Handler]) -> list[asyncio.Task[object]]:
        """Run the handlers at the same time; return when all have ended, also if this is cancelled meanwhile."""
        tasks = [asyncio.create_task(self._call(handler, delivery.message)) for handler in handlers]
        is_cancelled = False
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            is_cancelled = True
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not is_cancelled and not any(task.cancelled() for task in tasks):
            return tasks
        for handler, task in zip(handlers, tasks, strict=True):
            if not task.cancelled() and task.exception() is None:
                with suppress(Exception):  # It runs again when the run goes on.
                    self._accept(delivery, handler, task.result())
        raise asyncio.CancelledError

    async def handle_exception(self, exc: Exception, message: Message) -> None:  # noqa: ARG002 - overrides need it
        """Decide about a message that failed. The default logs and raises; if an override returns, the run goes on."""
        self._log_failure(exc)
        raise exc


def _call_blocking(handler: Handler, message: Message, limit: int) -> object:
    result = handler.function(message)
    return list(islice(result, limit)) if isinstance(result, Iterator) else result


async def _collect(source: AsyncIterable[object], limit: int) -> list[object]:
    items: list[object] = []
    async for item in source:
        items.append(item)
        if len(items) >= limit:
            break
    return items


# In one call


class _Options(TypedDict, total=False):
    log_level: LogLevel
    error_log_level: ErrorLogLevel
    logger: Any


_SILENT: _Options = {"log_level": "disabled", "error_log_level": "disabled"}


def handle_message(
    message: Initial,
    *,
    log_level: LogLevel = "disabled",
    error_log_level: Literal["warning", "error", "disabled"] = "disabled",
    registry: Registry | None = None,
    logger: Any = None,
) -> list[ReturnMessage]:
    """Run ``message`` and everything it leads to, and return the return messages; see `MessageBus`."""
    return MessageBus(
        message, log_level=log_level, error_log_level=error_log_level, registry=registry, logger=logger
    )()


async def ahandle_message(
    message: Initial,
    *,
    log_level: LogLevel = "disabled",
    error_log_level: Literal["warning", "error", "disabled"] = "disabled",
    registry: Registry | None = None,
    logger: Any = None,
) -> list[ReturnMessage]:
    """Run ``message`` and everything it leads to, and return the return messages; see `AsyncMessageBus`."""
    return await AsyncMessageBus(
        message, log_level=log_level, error_log_level=error_log_level, registry=registry, logger=logger
    )()


def handle_json(
    payload: bytes | str, *, max_bytes: int = MAX_BYTES, registry: Registry | None = None, **options: Unpack[_Options]
) -> bytes:
    """Validate a payload into a message, run it, and write the return messages as a JSON array.

    Args:
        payload: the wire form or a CloudEvent, of at most ``max_bytes`` bytes.
        max_bytes: more are refused before they are parsed.
        registry: instead of the default one.
        options: ``log_level``, ``error_log_level`` and ``logger`` as in `handle_message`.

    Raises:
        InvalidMessageError: If the payload fits no registered class, or a return message has no JSON.
        Exception: What a handler raised.
    """
    message, envelope = (registry or DEFAULT_REGISTRY).read_json(payload, max_bytes=max_bytes)
    return to_json(MessageBus(message, registry=registry, envelope=envelope, **{**_SILENT, **options})())


async def ahandle_json(
    payload: bytes | str, *, max_bytes: int = MAX_BYTES, registry: Registry | None = None, **options: Unpack[_Options]
) -> bytes:
    """Do as `handle_json`, with an `AsyncMessageBus`."""
    message, envelope = (registry or DEFAULT_REGISTRY).read_json(payload, max_bytes=max_bytes)
    return to_json(await AsyncMessageBus(message, registry=registry, envelope=envelope, **{**_SILENT, **options})())
